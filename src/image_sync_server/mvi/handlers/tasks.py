"""``/dltasks`` and ``/bgtasks``."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import structlog

from image_sync_server.mvi.answers import Failure, success
from image_sync_server.mvi.query import ordered, page
from image_sync_server.mvi.records import datasets, labels, models, tasks
from image_sync_server.mvi.request import Request

_log = structlog.stdlib.get_logger(__name__)
MIN_CATEGORIES, MIN_PICTURES = 2, 5
"""What IBM's documentation asks of a classification: so many categories, so many images in each.

A detection needs so many images that show a label; labels with fewer are not learned, and the task names them."""
_CLASSIFY = ("create", "create-cic-task")
_DETECT = "create-cod-task"
_DETECTORS = (
    "frcnn", "tiny_yolo_v2", "frcnn_mrcnn", "ssd", "hires_detectron", "yolo_v3", "tiny_yolo_v3", "detectron2",
)  # fmt: skip
_SECONDS_A_PICTURE = {tasks.CATEGORIES: 0.05, tasks.BOXES: 0.2}


def create(request: Request) -> dict[str, Any]:
    """``POST /dltasks``: what cannot be trained is refused here, not later."""
    action = request.text("action")
    known = (*_CLASSIFY, _DETECT, "create-act-task", "pre-analysis", "pre-analysis-cod")
    if action not in known:
        raise Failure(400, f"There is no action {action!r}. Known: {', '.join(known)}.")
    dataset = datasets.find(request.store, request.text("dataset_id"))
    usage, nn_arch = _usage(request, action)
    summary = _with_labels(request, dataset["id"]) if usage == tasks.BOXES else _with_categories(request, dataset["id"])
    if action.startswith("pre-analysis"):
        minutes = summary["total_file_count"] * _SECONDS_A_PICTURE[usage] / 60
        return success(estimated_time=max(1, round(minutes)))
    strategy = request.fields.get("strategy")
    if strategy is None:
        strategy = {}
    if not isinstance(strategy, dict):
        raise Failure(400, "strategy must be a JSON object.")
    if request.text("userdnn_id", ""):
        raise Failure(400, "This server has no custom networks.")
    base = request.text("pretrained_model", "")
    if base and (found := models.find(request.store, base)["usage"]) != usage:
        raise Failure(400, f"The model to continue from is of usage {found}, but this training is of usage {usage}.")
    task_id = tasks.create(
        request.store, request.user, request.text("name"), dataset["id"], usage=usage, strategy=strategy,
        nn_arch=nn_arch, base=base, project_group_id=dataset["project_group_id"], summary=summary,
    )  # fmt: skip
    request.server.jobs.train(task_id)
    if rare := summary.get("rare_labels"):
        named = ", ".join(f"{name}: {n}" for name, n in rare.items())
        _log.warning("training.rare_labels", task=task_id, labels=rare)
        return success(
            task_id=task_id, warning=f"Labels with fewer than {MIN_PICTURES} images are not learned: {named}."
        )
    return success(task_id=task_id)


def _usage(request: Request, action: str) -> tuple[str, str]:
    """What shall be trained, and the network asked for: this server has one for each usage, whatever its name."""
    usage, nn_arch = request.text("usage", ""), request.text("nn_arch", "")
    if "act" in {usage, action.partition("-")[2].partition("-")[0]}:
        raise Failure(400, "This server trains image classification and object detection, no action detection.")
    if "cod" not in action and usage != tasks.BOXES and nn_arch not in _DETECTORS:
        return tasks.CATEGORIES, nn_arch
    if nn_arch and nn_arch not in _DETECTORS:
        raise Failure(400, f"nn_arch {nn_arch[:60]!r} is not a detection network. Known: {', '.join(_DETECTORS)}.")
    return tasks.BOXES, nn_arch or _DETECTORS[0]


def _with_categories(request: Request, dataset_id: str) -> dict[str, Any]:
    counts = {name: n for name, n in datasets.count_pictures(request.store, dataset_id).items() if n}
    found = ", ".join(f"{name}: {n}" for name, n in counts.items()) or "none"
    if len(counts) < MIN_CATEGORIES:
        raise Failure(400, f"A classification needs {MIN_CATEGORIES} categories with images; found {found}.")
    if short := [name for name, n in counts.items() if n < MIN_PICTURES]:
        raise Failure(400, f"Each category needs {MIN_PICTURES} images; {', '.join(short)} has fewer (found {found}).")
    return {"total_file_count": sum(counts.values()), "categories": counts}


def _with_labels(request: Request, dataset_id: str) -> dict[str, Any]:
    pictures = labels.boxes(request.store, dataset_id).values()
    if not pictures:
        raise Failure(400, "The dataset has no object labels; detection cannot be trained from it.")
    counts = Counter(name for boxes in pictures for name in {name for name, _ in boxes})
    found = ", ".join(f"{name}: {n}" for name, n in sorted(counts.items()))
    rare = {name: n for name, n in sorted(counts.items()) if n < MIN_PICTURES}
    if len(rare) == len(counts):
        raise Failure(400, f"A label needs {MIN_PICTURES} images to be learned, and none has as many (found {found}).")
    summary = {"total_file_count": len(pictures), "labels": dict(sorted(counts.items()))}
    return summary | ({"rare_labels": rare} if rare else {})


def _shown(request: Request, row: Any) -> dict[str, Any]:
    return tasks.as_json(row, request.server.jobs.curve(row["id"]))


def listing(request: Request) -> list[dict[str, Any]]:
    found = tasks.listing(request.store)
    if status := request.query.get("status"):
        found = [one for one in found if one["status"] in status.split(",")]
    if groups := request.query.get("pg_id"):
        found = [one for one in found if one.get("project_group_id") in groups.split(",")]
    for one in found:
        one["status_data"] = []  # a list of long curves would be megabytes; one task shows its own
    return ordered(found, request.query.get("sortby", ""))


def show(request: Request) -> dict[str, Any]:
    return _shown(request, tasks.find(request.store, request.path["task"]))


def status(request: Request) -> dict[str, Any]:
    """``GET /dltasks/{id}/status``: with the curve once there is one."""
    shown = _shown(request, tasks.find(request.store, request.path["task"]))
    if shown["status"] not in tasks.ACTIVE and request.server.faults.stumbles(shown["_id"]):
        raise Failure(500, "The status cannot be told just now. This failure was asked for.")
    answer = success(status=shown["status"])
    if shown["status_data"]:
        answer["data"] = shown["status_data"]
    if "fault" in shown:
        answer["fault"] = shown["fault"]
    return answer


def delete(request: Request) -> dict[str, Any]:
    """``DELETE /dltasks/{id}``: a training under way is stopped first; a trained model stays."""
    row = tasks.find(request.store, request.path["task"])
    if row["status"] in tasks.ACTIVE:
        try:
            request.server.jobs.abort(row["id"])
        except Failure as failure:
            if failure.status == 404:  # noqa: PLR2004 - it ended between the look and the stop: go on
                raise
    request.store.run("DELETE FROM tasks WHERE id = ?", row["id"])
    return success(code=200)


def act(request: Request) -> dict[str, Any]:
    """``POST /dltasks/{id}/action``, and ``GET`` with a body: rename, stop."""
    row = tasks.find(request.store, request.path["task"])
    match request.text("action"):
        case "rename":
            request.store.run("UPDATE tasks SET name = ? WHERE id = ?", request.text("data"), row["id"])
            return success()
        case "stop":
            request.server.jobs.abort(row["id"])
            return success()
        case action:
            raise Failure(400, f"A training task has no action {action!r}. Known: rename, stop.")


def _stamp(text: str) -> int:
    try:
        return round(datetime.strptime(text, "%Y/%m/%d-%H:%M:%S").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise Failure(400, "A time must be written as yyyy/MM/dd-HH:mm:ss, in UTC.") from None


def _background(request: Request) -> tuple[str, list[Any]]:
    words: list[str] = ["1"]
    values: list[Any] = []
    for name, condition in (("newer_than", "updated_at > ?"), ("older_than", "updated_at < ?")):
        if text := request.query.get(name):
            words.append(condition)
            values.append(_stamp(text))
    for name, condition in (("task_type", "event_type = ?"), ("status", "status = ?")):
        if text := request.query.get(name):
            words.append(condition)
            values.append(text)
    return " AND ".join(words), values


def list_background(request: Request) -> dict[str, Any]:
    condition, values = _background(request)
    limit, skip = page(request.query)
    return {"task_list": tasks.list_background(request.store, condition, values, limit, skip)}


def delete_background(request: Request) -> dict[str, Any]:
    """``DELETE /bgtasks``: without a status only what is over."""
    condition, values = _background(request)
    if not request.query.get("status"):
        condition, values = f"{condition} AND status <> ?", [*values, tasks.WORKING]
    return success(success_count=request.store.run(f"DELETE FROM bgtasks WHERE {condition}", *values))
