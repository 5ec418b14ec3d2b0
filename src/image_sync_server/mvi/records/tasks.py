"""Training tasks, and background tasks as ``GET /bgtasks`` lists them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.store import Store, new_id, now_ms

IDLE, PREPROCESSING, TRAINING = "idle", "preprocessing", "training"
TRAINED, FAILED, ABORTED = "trained", "failed", "aborted"
CATEGORIES, BOXES = "cic", "cod"
"""What a task and its model are for, in MVI's words: image classification, object detection."""
ACTIVE = (IDLE, PREPROCESSING, TRAINING)


def create(
    store: Store,
    owner: str,
    name: str,
    dataset_id: str,
    *,
    usage: str,
    strategy: Mapping[str, Any],
    nn_arch: str = "",
    base: str = "",
    project_group_id: str = "",
    summary: Mapping[str, Any],
) -> str:
    """Queue a training; the id of the task, and of the model to be."""
    task_id, now = new_id(), now_ms()
    store.run(
        "INSERT INTO tasks (id, name, dataset_id, owner, status, usage, nn_arch, strategy, base, project_group_id,"
        " summary, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        task_id, name, dataset_id, owner, IDLE, usage, nn_arch, json.dumps(strategy), base, project_group_id,
        json.dumps(summary), now, now,
    )  # fmt: skip
    return task_id


def find(store: Store, task_id: str) -> sqlite3.Row:
    """The row of a task.

    Raises:
        Failure: 404 when there is none.
    """
    found = store.row("SELECT * FROM tasks WHERE id = ?", task_id)
    if found is None:
        raise Failure(404, f"Could not find dltask with id {task_id}.")
    return found


def set_status(store: Store, task_id: str, status: str, fault: str = "") -> None:
    """Note how it goes on."""
    store.run("UPDATE tasks SET status = ?, fault = ?, updated_at = ? WHERE id = ?", status, fault, now_ms(), task_id)


def set_series(store: Store, task_id: str, series: list[dict[str, str]]) -> None:
    """Keep the curve of a training."""
    store.run("UPDATE tasks SET series = ? WHERE id = ?", json.dumps(series), task_id)


def recover(store: Store) -> list[str]:
    """After a start: call failed what was interrupted, and name what still waits for its turn, oldest first."""
    with store.transaction() as connection:
        connection.execute(
            "UPDATE tasks SET status = ?, fault = ?, updated_at = ? WHERE status IN (?, ?)",
            (FAILED, "The server ended while this training was under way. Start it again.", now_ms(),
             PREPROCESSING, TRAINING),
        )  # fmt: skip
        return [row["id"] for row in store.rows("SELECT id FROM tasks WHERE status = ? ORDER BY seq", IDLE)]


def listing(store: Store) -> list[dict[str, Any]]:
    """All tasks, newest first."""
    return [as_json(row) for row in store.rows("SELECT * FROM tasks ORDER BY seq DESC")]


def as_json(row: sqlite3.Row, series: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """The task as MVI shows it; ``fault`` only when it failed."""
    shown = {
        "_id": row["id"],
        "name": row["name"],
        "dataset_id": row["dataset_id"],
        "owner": row["owner"],
        "status": row["status"],
        "usage": row["usage"],
        "action": "create" if row["usage"] == CATEGORIES else "create-cod-task",
        "nn_arch": row["nn_arch"],
        "strategy": json.loads(row["strategy"]),
        "method": "FineTuning",
        "userdnn_id": "",
        "pretrained_model": row["base"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "pre_analysis_result": {},
        "dataset_summary": json.loads(row["summary"]),
        "status_data": json.loads(row["series"]) if series is None else series,
    }
    if row["project_group_id"]:
        shown["project_group_id"] = row["project_group_id"]
    if row["fault"]:
        shown["fault"] = row["fault"]
    return shown


WORKING, COMPLETED = "working", "completed"


def begin_background(store: Store, task_id: str, event_type: str, owner: str, total: int, dataset_id: str = "") -> None:
    """Note that work has begun; an import's task has the id of what it makes."""
    now = now_ms()
    store.run(
        "INSERT INTO bgtasks (id, status, event_type, owner, dataset_id, total, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        task_id, WORKING, event_type, owner, dataset_id, total, now, now,
    )  # fmt: skip


def note_progress(store: Store, task_id: str, succeeded: int, skipped: int, failed: int) -> None:
    """Note how many items are done."""
    store.run(
        "UPDATE bgtasks SET completed = ?, succeeded = ?, skipped = ?, failed = ?, updated_at = ? WHERE id = ?",
        succeeded + skipped + failed, succeeded, skipped, failed, now_ms(), task_id,
    )  # fmt: skip


def end_background(store: Store, task_id: str, status: str, fault: str = "") -> None:
    """Note that it is over."""
    store.run("UPDATE bgtasks SET status = ?, fault = ?, updated_at = ? WHERE id = ?", status, fault, now_ms(), task_id)


def recover_background(store: Store) -> None:
    """After a start: call failed what was interrupted, and open the datasets that it had locked."""
    with store.transaction() as connection:
        connection.execute(
            "UPDATE bgtasks SET status = ?, fault = ? WHERE status = ?",
            (FAILED, "The server ended while this was under way.", WORKING),
        )
        connection.execute("UPDATE datasets SET locked = 0")


def list_background(
    store: Store, condition: str, values: list[Any], limit: int = -1, skip: int = 0
) -> list[dict[str, Any]]:
    """Tasks that meet a condition, newest first."""
    rows = store.rows(
        f"SELECT * FROM bgtasks WHERE {condition} ORDER BY seq DESC LIMIT ? OFFSET ?", *values, limit, skip
    )
    return [background_json(row) for row in rows]


def background_json(row: sqlite3.Row) -> dict[str, Any]:
    """The task as MVI shows it."""
    stamp = datetime.fromtimestamp(row["updated_at"] / 1000, UTC)
    shown = {
        "_id": row["id"],
        "status": row["status"],
        "event_type": row["event_type"],
        "operation": row["event_type"],
        "owner": row["owner"],
        "dataset_id": row["dataset_id"],
        "total_item_count": row["total"],
        "completed_items": row["completed"],
        "percent_complete": 100 if row["status"] == COMPLETED else 100 * row["completed"] // max(1, row["total"]),
        "success_count": row["succeeded"],
        "skipped_count": row["skipped"],
        "fail_count": row["failed"],
        "updated_date": stamp.isoformat(timespec="seconds"),
        "updated_at": row["updated_at"],
    }
    if row["fault"]:
        shown["fault"] = row["fault"]
    return shown
