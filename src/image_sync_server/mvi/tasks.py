"""``/dltasks``: trainings; and ``/bgtasks``: imports, which have a task of the same id as what they make."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import structlog

from image_sync_server.mvi import categories, labels
from image_sync_server.mvi.request import Failure, Request, find_dataset, found, page, picked, success
from image_sync_server.mvi.store import Store, new_id, now_ms

_log = structlog.stdlib.get_logger(__name__)
IDLE, PREPROCESSING, TRAINING = "idle", "preprocessing", "training"
TRAINED, FAILED, ABORTED = "trained", "failed", "aborted"
CATEGORIES, BOXES = "cic", "cod"
"""What a task and its model are for, in MVI's words: image classification, object detection."""
_ACTIVE = (IDLE, PREPROCESSING, TRAINING)
_WORKING, _COMPLETED = "working", "completed"
MIN_CATEGORIES, MIN_PICTURES = 2, 5
"""What IBM's documentation asks of a classification: so many categories, so many images in each.

A detection needs so many images that show a label; labels with fewer are not learned, and the task names them."""
_CLASSIFY = ("create", "create-cic-task")
_DETECT = "create-cod-task"
_DETECTORS = (
    "frcnn", "tiny_yolo_v2", "frcnn_mrcnn", "ssd", "hires_detectron", "yolo_v3", "tiny_yolo_v3", "detectron2",
)  # fmt: skip
_SECONDS_A_PICTURE = {CATEGORIES: 0.05, BOXES: 0.2}


def create(request: Request) -> dict[str, Any]:
    """``POST /dltasks``: what cannot be trained is refused here, not later."""
    action = request.text("action")
    known = (*_CLASSIFY, _DETECT, "create-act-task", "pre-analysis", "pre-analysis-cod")
    if action not in known:
        raise Failure(400, f"There is no action {action!r}. Known: {', '.join(known)}.")
    dataset = find_dataset(request.store, request.text("dataset_id"))
    usage, nn_arch = _usage(request, action)
    summary = _with_labels(request, dataset["id"]) if usage == BOXES else _with_categories(request, dataset["id"])
    if action.startswith("pre-analysis"):
        minutes = summary["total_file_count"] * _SECONDS_A_PICTURE[usage] / 60
        return success(estimated_time=max(1, round(minutes)))
    strategy = request.fields.get("strategy")
    strategy = {} if strategy is None else strategy
    if not isinstance(strategy, dict):
        raise Failure(400, "strategy must be a JSON object.")
    if request.text("userdnn_id", ""):
        raise Failure(400, "This server has no custom networks.")
    if base := request.text("pretrained_model", ""):
        row = request.store.row("SELECT usage FROM models WHERE id = ?", base)
        if (known_as := found(row, f"Could not find trainedModel with id {base}.")["usage"]) != usage:
            fault = f"The model to continue from is of usage {known_as}, but this training is of usage {usage}."
            raise Failure(400, fault)
    task_id, name, now = new_id(), request.text("name"), now_ms()
    request.store.insert(
        "tasks", id=task_id, name=name, dataset_id=dataset["id"], owner=request.user, status=IDLE, usage=usage,
        nn_arch=nn_arch, strategy=json.dumps(strategy), base=base, project_group_id=dataset["project_group_id"],
        summary=json.dumps(summary), created_at=now, updated_at=now,
    )  # fmt: skip
    request.server.jobs.train(task_id)
    if rare := summary.get("rare_labels"):
        _log.warning("training.rare_labels", task=task_id, labels=rare)
        named = ", ".join(f"{name}: {n}" for name, n in rare.items())
        warning = f"Labels with fewer than {MIN_PICTURES} images are not learned: {named}."
        return success(task_id=task_id, warning=warning)
    return success(task_id=task_id)


def _usage(request: Request, action: str) -> tuple[str, str]:
    """What shall be trained, and the network asked for: this server has one for each usage, whatever its name."""
    usage, nn_arch = request.text("usage", ""), request.text("nn_arch", "")
    if "act" in {usage, action.partition("-")[2].partition("-")[0]}:
        raise Failure(400, "This server trains image classification and object detection, no action detection.")
    if "cod" not in action and usage != BOXES and nn_arch not in _DETECTORS:
        return CATEGORIES, nn_arch
    if nn_arch and nn_arch not in _DETECTORS:
        raise Failure(400, f"nn_arch {nn_arch[:60]!r} is not a detection network. Known: {', '.join(_DETECTORS)}.")
    return BOXES, nn_arch or _DETECTORS[0]


def _with_categories(request: Request, dataset_id: str) -> dict[str, Any]:
    counts = categories.count_pictures(request.store, dataset_id)
    told = ", ".join(f"{name}: {n}" for name, n in counts.items()) or "none"
    if len(counts) < MIN_CATEGORIES:
        raise Failure(400, f"A classification needs {MIN_CATEGORIES} categories with images; found {told}.")
    if short := [name for name, n in counts.items() if n < MIN_PICTURES]:
        raise Failure(400, f"Each category needs {MIN_PICTURES} images; {', '.join(short)} has fewer (found {told}).")
    return {"total_file_count": sum(counts.values()), "categories": counts}


def _with_labels(request: Request, dataset_id: str) -> dict[str, Any]:
    pictures = labels.boxes(request.store, dataset_id).values()
    if not pictures:
        raise Failure(400, "The dataset has no object labels; detection cannot be trained from it.")
    counts = Counter(name for boxes in pictures for name in {name for name, _ in boxes})
    told = ", ".join(f"{name}: {n}" for name, n in sorted(counts.items()))
    rare = {name: n for name, n in sorted(counts.items()) if n < MIN_PICTURES}
    if len(rare) == len(counts):
        raise Failure(400, f"A label needs {MIN_PICTURES} images to be learned, and none has as many (found {told}).")
    summary = {"total_file_count": len(pictures), "labels": dict(sorted(counts.items()))}
    return summary | ({"rare_labels": rare} if rare else {})


def find(store: Store, task_id: str) -> sqlite3.Row:
    """The row of a task. Raises Failure (404)."""
    row = store.row("SELECT * FROM tasks WHERE id = ?", task_id)
    return found(row, f"Could not find dltask with id {task_id}.")


def set_status(store: Store, task_id: str, status: str, fault: str = "") -> None:
    store.update("tasks", task_id, status=status, fault=fault, updated_at=now_ms())


def recover(store: Store) -> list[str]:
    """After a start: call failed what was interrupted, and name the trainings that wait, oldest first."""
    with store.transaction():
        store.run(
            "UPDATE tasks SET status = ?, fault = ?, updated_at = ? WHERE status IN (?, ?)",
            FAILED, "The server ended while this training was under way. Start it again.", now_ms(),
            PREPROCESSING, TRAINING,
        )  # fmt: skip
        store.run(
            "UPDATE bgtasks SET status = ?, fault = ? WHERE status = ?",
            FAILED, "The server ended while this was under way.", _WORKING,
        )  # fmt: skip
        store.run("UPDATE datasets SET locked = 0")
        return [row["id"] for row in store.rows("SELECT id FROM tasks WHERE status = ? ORDER BY seq", IDLE)]


def _shown(row: sqlite3.Row, curve: list[dict[str, str]] | None) -> dict[str, Any]:
    """The task as MVI shows it; ``fault`` only when it failed."""
    more = {key: row[key] for key in ("project_group_id", "fault") if row[key]}
    return {
        "_id": row["id"],
        **picked(row, "name dataset_id owner status usage nn_arch created_at updated_at"),
        "action": "create" if row["usage"] == CATEGORIES else _DETECT,
        "strategy": json.loads(row["strategy"]),
        "method": "FineTuning",
        "userdnn_id": "",
        "pretrained_model": row["base"],
        "pre_analysis_result": {},
        "dataset_summary": json.loads(row["summary"]),
        "status_data": json.loads(row["series"]) if curve is None else curve,
        **more,
    }


def listing(request: Request) -> list[dict[str, Any]]:
    # A list of long curves would be megabytes; one task shows its own.
    listed = [_shown(row, []) for row in request.store.rows("SELECT * FROM tasks ORDER BY seq DESC")]
    for name, key in (("status", "status"), ("pg_id", "project_group_id")):
        if chosen := request.chosen(name):
            listed = [one for one in listed if one.get(key) in chosen]
    return request.ordered(listed)


def show(request: Request) -> dict[str, Any]:
    row = find(request.store, request.path["task"])
    return _shown(row, request.server.jobs.curve(row["id"]))


def status(request: Request) -> dict[str, Any]:
    """``GET /dltasks/{id}/status``: with the curve once there is one."""
    shown = show(request)
    if shown["status"] not in _ACTIVE and request.server.faults.stumbles(shown["_id"]):
        raise Failure(500, "The status cannot be told just now. This failure was asked for.")
    answer = success(status=shown["status"])
    if shown["status_data"]:
        answer["data"] = shown["status_data"]
    if "fault" in shown:
        answer["fault"] = shown["fault"]
    return answer


def delete(request: Request) -> dict[str, Any]:
    """``DELETE /dltasks/{id}``: a training under way is stopped first; a trained model stays."""
    row = find(request.store, request.path["task"])
    if row["status"] in _ACTIVE:
        try:
            request.server.jobs.abort(row["id"])
        except Failure as failure:
            if failure.status_code == 404:  # noqa: PLR2004 - it ended between the look and the stop: go on
                raise
    request.store.delete("tasks", row["id"])
    return success(code=200)


def act(request: Request) -> dict[str, Any]:
    """``POST /dltasks/{id}/action``, and ``GET`` with a body: rename, stop."""
    row = find(request.store, request.path["task"])
    match request.text("action"):
        case "rename":
            request.store.update("tasks", row["id"], name=request.text("data"))
        case "stop":
            request.server.jobs.abort(row["id"])
        case action:
            raise Failure(400, f"A training task has no action {action!r}. Known: rename, stop.")
    return success()


def begin_background(store: Store, task_id: str, event_type: str, owner: str, total: int, dataset_id: str = "") -> None:
    """Note that an import has begun; the task has the id of what it makes."""
    now = now_ms()
    store.insert("bgtasks", id=task_id, status=_WORKING, event_type=event_type, owner=owner, dataset_id=dataset_id,
                 total=total, created_at=now, updated_at=now)  # fmt: skip


def note_progress(store: Store, task_id: str, succeeded: int, skipped: int, failed: int) -> None:
    """Note how many items are done."""
    done = succeeded + skipped + failed
    store.update("bgtasks", task_id, completed=done, succeeded=succeeded, skipped=skipped, failed=failed,
                 updated_at=now_ms())  # fmt: skip


def end_background(store: Store, task_id: str, fault: str = "") -> None:
    store.update("bgtasks", task_id, status=FAILED if fault else _COMPLETED, fault=fault, updated_at=now_ms())


def _shown_background(row: sqlite3.Row) -> dict[str, Any]:
    share = 100 if row["status"] == _COMPLETED else 100 * row["completed"] // max(1, row["total"])
    return {
        "_id": row["id"],
        **picked(row, "status event_type owner dataset_id updated_at"),
        "operation": row["event_type"],
        "total_item_count": row["total"],
        "completed_items": row["completed"],
        "percent_complete": share,
        "success_count": row["succeeded"],
        "skipped_count": row["skipped"],
        "fail_count": row["failed"],
        "updated_date": datetime.fromtimestamp(row["updated_at"] / 1000, UTC).isoformat(timespec="seconds"),
        **({"fault": row["fault"]} if row["fault"] else {}),
    }


def _condition(request: Request) -> tuple[str, list[Any]]:
    words: list[str] = ["1"]
    values: list[Any] = []
    for name, condition in (
        ("newer_than", "updated_at > ?"), ("older_than", "updated_at < ?"), ("task_type", "event_type = ?"),
        ("status", "status = ?"),
    ):  # fmt: skip
        if text := request.query.get(name):
            words.append(condition)
            values.append(_stamp(text) if name.endswith("_than") else text)
    return " AND ".join(words), values


def _stamp(text: str) -> int:
    try:
        return round(datetime.strptime(text, "%Y/%m/%d-%H:%M:%S").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise Failure(400, "A time must be written as yyyy/MM/dd-HH:mm:ss, in UTC.") from None


def list_background(request: Request) -> dict[str, Any]:
    condition, values = _condition(request)
    listed = f"SELECT * FROM bgtasks WHERE {condition} ORDER BY seq DESC LIMIT ? OFFSET ?"
    rows = request.store.rows(listed, *values, *page(request.query))
    return {"task_list": [_shown_background(row) for row in rows]}


def delete_background(request: Request) -> dict[str, Any]:
    """``DELETE /bgtasks``: without a status only what is over."""
    condition, values = _condition(request)
    if not request.query.get("status"):
        condition, values = f"{condition} AND status <> ?", [*values, _WORKING]
    return success(success_count=request.store.run(f"DELETE FROM bgtasks WHERE {condition}", *values))
