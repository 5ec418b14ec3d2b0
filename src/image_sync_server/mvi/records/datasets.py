"""Datasets."""

from __future__ import annotations

import sqlite3
from typing import Any

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.store import Store, new_id, now_ms

_SELECT = (
    "SELECT d.*, (SELECT count(*) FROM files f WHERE f.dataset_id = d.id)"
    " - (SELECT count(*) FROM lagging l JOIN files f ON f.id = l.id"
    " WHERE l.dataset_id = d.id AND l.until > monotonic()) AS total FROM datasets d"
)


def create(
    store: Store,
    owner: str,
    name: str,
    *,
    scenario: str = "",
    purpose: str = "",
    project_group_id: str = "",
    locked: bool = False,
) -> str:
    """Make an empty dataset; its id. Names need not be unique, as with MVI."""
    dataset_id, now = new_id(), now_ms()
    store.make_room(dataset_id)
    store.run(
        "INSERT INTO datasets (id, name, owner, scenario, purpose, project_group_id, locked, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        dataset_id, name, owner, scenario, purpose, project_group_id, int(locked), now, now,
    )  # fmt: skip
    return dataset_id


def find(store: Store, dataset_id: str, *, fault: str = "Could not find dataset") -> sqlite3.Row:
    """The row of a dataset.

    Raises:
        Failure: 404 with the words that MVI uses.
    """
    found = store.row(f"{_SELECT} WHERE d.id = ?", dataset_id)
    if found is None:
        raise Failure(404, f"{fault} with id {dataset_id}.")
    return found


def as_json(row: sqlite3.Row) -> dict[str, Any]:
    """The dataset as MVI shows it; ``name`` must not come last, IBM's own tests cut it out by the comma after it."""
    shown = {
        "_id": row["id"],
        "name": row["name"],
        "usage": "generic",
        "owner": row["owner"],
        "scenario": row["scenario"],
        "pre_process": "",
        "purpose": row["purpose"],
        "type": row["type"],
        "locked": row["locked"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "total_file_count": row["total"],
    }
    if row["project_group_id"]:
        shown["project_group_id"] = row["project_group_id"]
    return shown


def listing(store: Store) -> list[dict[str, Any]]:
    """All datasets, newest first."""
    return [as_json(row) for row in store.rows(f"{_SELECT} ORDER BY d.seq DESC")]


def touch(store: Store, dataset_id: str) -> None:
    """Note that something in it changed."""
    store.run("UPDATE datasets SET updated_at = ? WHERE id = ?", now_ms(), dataset_id)


def delete(store: Store, dataset_id: str) -> None:
    """Remove a dataset and everything in it; models trained from it stay.

    Raises:
        Failure: 404 when there is none.
    """
    if not store.run("DELETE FROM datasets WHERE id = ?", dataset_id):
        raise Failure(404, f"Could not find dataset with id {dataset_id}.")
    store.clear_room(dataset_id)
