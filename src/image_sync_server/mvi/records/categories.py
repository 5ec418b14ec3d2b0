"""Categories of a dataset."""

from __future__ import annotations

import sqlite3
from typing import Any

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.store import Store, new_id, now_ms


def ensure(store: Store, dataset_id: str, name: str) -> str:
    """The id of the category of this name, made if there is none; names are compared exactly."""
    with store.transaction() as connection:
        connection.execute(
            "INSERT INTO categories (id, name, dataset_id, created_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (dataset_id, name) DO NOTHING",
            (new_id(), name, dataset_id, now_ms()),
        )
        found = store.row("SELECT id FROM categories WHERE dataset_id = ? AND name = ?", dataset_id, name)
        if found is None:
            raise AssertionError("a category that was just made is gone")
        return str(found["id"])


def find(store: Store, dataset_id: str, category_id: str) -> sqlite3.Row:
    """The row of a category of this dataset.

    Raises:
        Failure: 404 when it has no such category.
    """
    found = store.row("SELECT * FROM categories WHERE dataset_id = ? AND id = ?", dataset_id, category_id)
    if found is None:
        raise Failure(404, f"Could not find category with id {category_id} in dataset {dataset_id}.")
    return found


def as_json(row: sqlite3.Row) -> dict[str, Any]:
    """The category as MVI shows it: exactly four fields."""
    return {
        "_id": row["id"],
        "dataset_id": row["dataset_id"],
        "name": row["name"],
        "created_at": row["created_at"],
    }


def listing(store: Store, dataset_id: str) -> list[dict[str, Any]]:
    """All categories of a dataset, newest first."""
    rows = store.rows("SELECT * FROM categories WHERE dataset_id = ? ORDER BY seq DESC", dataset_id)
    return [as_json(row) for row in rows]


def rename(store: Store, dataset_id: str, category_id: str, name: str) -> None:
    """Give it another name.

    Raises:
        Failure: 404 when there is none, 409 when another category has the name.
    """
    with store.transaction() as connection:
        find(store, dataset_id, category_id)
        try:
            connection.execute("UPDATE categories SET name = ? WHERE id = ?", (name, category_id))
        except sqlite3.IntegrityError:
            raise Failure(409, f"The dataset already has a category named {name}.") from None


def counts(store: Store, dataset_id: str) -> dict[str, int]:
    """Pictures (not videos) per category name, categories without any included."""
    rows = store.rows(
        "SELECT c.name, count(f.id) AS n FROM categories c LEFT JOIN files f ON f.category_id = c.id"
        " AND f.content_type <> 'video/mp4'"
        " WHERE c.dataset_id = ? GROUP BY c.id ORDER BY c.seq",
        dataset_id,
    )
    return {row["name"]: row["n"] for row in rows}
