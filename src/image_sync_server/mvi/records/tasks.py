"""Training tasks."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
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
