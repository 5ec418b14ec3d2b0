"""``/dltasks`` and ``/bgtasks``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from image_sync.mvi_server import mishaps
from image_sync.mvi_server.answers import Failure, success
from image_sync.mvi_server.call import Call
from image_sync.mvi_server.query import ordered, page
from image_sync.mvi_server.records import background, categories, datasets, labels, models, tasks

MIN_CATEGORIES, MIN_PICTURES = 2, 5
"""What IBM's documentation asks of a classification: so many categories, so many images in each."""
_CLASSIFY = ("create", "create-cic-task")
_DETECTORS = frozenset(
    {"frcnn", "tiny_yolo_v2", "frcnn_mrcnn", "ssd", "hires_detectron", "yolo_v3", "tiny_yolo_v3", "detectron2"}
)
_SECONDS_A_PICTURE = 0.05


def create(call: Call) -> dict[str, Any]:
    """``POST /dltasks``: what cannot be trained is refused here, not later."""
    action = call.text("action")
    known = (*_CLASSIFY, "create-cod-task", "create-act-task", "pre-analysis", "pre-analysis-cod")
    if action not in known:
        raise Failure(400, f"There is no action {action!r}. Known: {', '.join(known)}.")
    dataset = datasets.find(call.store, call.text("dataset_id"))
    nn_arch = call.text("nn_arch", "")
    if "cod" in action or call.text("usage", "") == "cod" or nn_arch in _DETECTORS:
        _refuse_detection(call, dataset["id"])
    if "act" in {call.text("usage", ""), action.partition("-")[2].partition("-")[0]}:
        raise Failure(400, "This server trains image classification only, no action detection.")
    counts = {name: n for name, n in categories.counts(call.store, dataset["id"]).items() if n}
    _check_minimum(counts)
    if action == "pre-analysis":
        return success(estimated_time=max(1, round(sum(counts.values()) * _SECONDS_A_PICTURE / 60)))
    strategy = call.fields.get("strategy")
    if strategy is None:
        strategy = {}
    if not isinstance(strategy, dict):
        raise Failure(400, "strategy must be a JSON object.")
    if call.text("userdnn_id", ""):
        raise Failure(400, "This server has no custom networks.")
    base = call.text("pretrained_model", "")
    if base:
        models.find(call.store, base)
    task_id = tasks.create(
        call.store, call.user, call.text("name"), dataset["id"], strategy=strategy, nn_arch=nn_arch, base=base,
        project_group_id=dataset["project_group_id"],
        summary={"total_file_count": sum(counts.values()), "categories": counts},
    )  # fmt: skip
    call.site.jobs.train(task_id)
    return success(task_id=task_id)


def _refuse_detection(call: Call, dataset_id: str) -> None:
    if not labels.count(call.store, dataset_id):
        raise Failure(400, "The dataset has no object labels; detection cannot be trained from it.")
    raise Failure(400, "This server trains image classification only, no object detection. Leave nn_arch out.")


def _check_minimum(counts: dict[str, int]) -> None:
    found = ", ".join(f"{name}: {n}" for name, n in counts.items()) or "none"
    if len(counts) < MIN_CATEGORIES:
        raise Failure(400, f"A classification needs {MIN_CATEGORIES} categories with images; found {found}.")
    if short := [name for name, n in counts.items() if n < MIN_PICTURES]:
        raise Failure(400, f"Each category needs {MIN_PICTURES} images; {', '.join(short)} has fewer (found {found}).")


def _shown(call: Call, row: Any) -> dict[str, Any]:
    return tasks.as_json(row, call.site.jobs.curve(row["id"]))


def listing(call: Call) -> list[dict[str, Any]]:
    """``GET /dltasks``."""
    found = tasks.listing(call.store)
    if status := call.query.get("status"):
        found = [one for one in found if one["status"] in status.split(",")]
    if groups := call.query.get("pg_id"):
        found = [one for one in found if one.get("project_group_id") in groups.split(",")]
    for one in found:
        one["status_data"] = []  # a list of long curves would be megabytes; one task shows its own
    return ordered(found, call.query.get("sortby", ""))


def show(call: Call) -> dict[str, Any]:
    """``GET /dltasks/{id}``."""
    return _shown(call, tasks.find(call.store, call.path["task"]))


def status(call: Call) -> dict[str, Any]:
    """``GET /dltasks/{id}/status``: with the curve once there is one."""
    shown = _shown(call, tasks.find(call.store, call.path["task"]))
    if shown["status"] not in tasks.ACTIVE:
        mishaps.stumble(call, shown["_id"])
    answer = success(status=shown["status"])
    if shown["status_data"]:
        answer["data"] = shown["status_data"]
    if "fault" in shown:
        answer["fault"] = shown["fault"]
    return answer


def delete(call: Call) -> dict[str, Any]:
    """``DELETE /dltasks/{id}``: a training under way is stopped first; a trained model stays."""
    row = tasks.find(call.store, call.path["task"])
    if row["status"] in tasks.ACTIVE:
        try:
            call.site.jobs.abort(row["id"])
        except Failure as failure:
            if failure.status == 404:  # noqa: PLR2004 - it ended between the look and the stop: go on
                raise
    call.store.run("DELETE FROM tasks WHERE id = ?", row["id"])
    return success(code=200)


def act(call: Call) -> dict[str, Any]:
    """``POST /dltasks/{id}/action``, and ``GET`` with a body: rename, stop."""
    row = tasks.find(call.store, call.path["task"])
    match call.text("action"):
        case "rename":
            call.store.run("UPDATE tasks SET name = ? WHERE id = ?", call.text("data"), row["id"])
            return success()
        case "stop":
            call.site.jobs.abort(row["id"])
            return success()
        case action:
            raise Failure(400, f"A training task has no action {action!r}. Known: rename, stop.")


def _stamp(text: str) -> int:
    try:
        return round(datetime.strptime(text, "%Y/%m/%d-%H:%M:%S").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise Failure(400, "A time must be written as yyyy/MM/dd-HH:mm:ss, in UTC.") from None


def _background(call: Call) -> tuple[str, list[Any]]:
    words: list[str] = ["1"]
    values: list[Any] = []
    for name, condition in (("newer_than", "updated_at > ?"), ("older_than", "updated_at < ?")):
        if text := call.query.get(name):
            words.append(condition)
            values.append(_stamp(text))
    for name, condition in (("task_type", "event_type = ?"), ("status", "status = ?")):
        if text := call.query.get(name):
            words.append(condition)
            values.append(text)
    return " AND ".join(words), values


def list_background(call: Call) -> dict[str, Any]:
    """``GET /bgtasks``."""
    condition, values = _background(call)
    limit, skip = page(call.query)
    return {"task_list": background.listing(call.store, condition, values, limit, skip)}


def delete_background(call: Call) -> dict[str, Any]:
    """``DELETE /bgtasks``: without a status only what is over."""
    condition, values = _background(call)
    if not call.query.get("status"):
        condition, values = f"{condition} AND status <> ?", [*values, background.WORKING]
    return success(success_count=call.store.run(f"DELETE FROM bgtasks WHERE {condition}", *values))
