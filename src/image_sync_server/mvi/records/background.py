"""Background tasks, as ``GET /bgtasks`` lists them."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Any

from image_sync_server.mvi.store import Store, now_ms

WORKING, COMPLETED, FAILED = "working", "completed", "failed"


def begin(store: Store, task_id: str, event_type: str, owner: str, total: int, dataset_id: str = "") -> None:
    """Note that work has begun; an import's task has the id of what it makes."""
    now = now_ms()
    store.run(
        "INSERT INTO bgtasks (id, status, event_type, owner, dataset_id, total, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        task_id, WORKING, event_type, owner, dataset_id, total, now, now,
    )  # fmt: skip


def progress(store: Store, task_id: str, succeeded: int, skipped: int, failed: int) -> None:
    """Note how many items are done."""
    store.run(
        "UPDATE bgtasks SET completed = ?, succeeded = ?, skipped = ?, failed = ?, updated_at = ? WHERE id = ?",
        succeeded + skipped + failed, succeeded, skipped, failed, now_ms(), task_id,
    )  # fmt: skip


def end(store: Store, task_id: str, status: str, fault: str = "") -> None:
    """Note that it is over."""
    store.run("UPDATE bgtasks SET status = ?, fault = ?, updated_at = ? WHERE id = ?", status, fault, now_ms(), task_id)


def recover(store: Store) -> None:
    """After a start: call failed what was interrupted, and open the datasets that it had locked."""
    with store.transaction() as connection:
        connection.execute(
            "UPDATE bgtasks SET status = ?, fault = ? WHERE status = ?",
            (FAILED, "The server ended while this was under way.", WORKING),
        )
        connection.execute("UPDATE datasets SET locked = 0")


def listing(store: Store, condition: str, values: list[Any], limit: int = -1, skip: int = 0) -> list[dict[str, Any]]:
    """Tasks that meet a condition, newest first."""
    rows = store.rows(
        f"SELECT * FROM bgtasks WHERE {condition} ORDER BY seq DESC LIMIT ? OFFSET ?", *values, limit, skip
    )
    return [as_json(row) for row in rows]


def as_json(row: sqlite3.Row) -> dict[str, Any]:
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
