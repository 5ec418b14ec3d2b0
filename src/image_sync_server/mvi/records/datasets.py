"""Datasets, their categories, and the keys that they have for user metadata."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
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


def ensure_category(store: Store, dataset_id: str, name: str) -> str:
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


def find_category(store: Store, dataset_id: str, category_id: str) -> sqlite3.Row:
    """The row of a category of this dataset.

    Raises:
        Failure: 404 when it has no such category.
    """
    found = store.row("SELECT * FROM categories WHERE dataset_id = ? AND id = ?", dataset_id, category_id)
    if found is None:
        raise Failure(404, f"Could not find category with id {category_id} in dataset {dataset_id}.")
    return found


def category_json(row: sqlite3.Row) -> dict[str, Any]:
    """The category as MVI shows it: exactly four fields."""
    return {
        "_id": row["id"],
        "dataset_id": row["dataset_id"],
        "name": row["name"],
        "created_at": row["created_at"],
    }


def list_categories(store: Store, dataset_id: str) -> list[dict[str, Any]]:
    """All categories of a dataset, newest first."""
    rows = store.rows("SELECT * FROM categories WHERE dataset_id = ? ORDER BY seq DESC", dataset_id)
    return [category_json(row) for row in rows]


def rename_category(store: Store, dataset_id: str, category_id: str, name: str) -> None:
    """Give it another name.

    Raises:
        Failure: 404 when there is none, 409 when another category has the name.
    """
    with store.transaction() as connection:
        find_category(store, dataset_id, category_id)
        try:
            connection.execute("UPDATE categories SET name = ? WHERE id = ?", (name, category_id))
        except sqlite3.IntegrityError:
            raise Failure(409, f"The dataset already has a category named {name}.") from None


def count_pictures(store: Store, dataset_id: str) -> dict[str, int]:
    """Pictures (not videos) per category name, categories without any included."""
    rows = store.rows(
        "SELECT c.name, count(f.id) AS n FROM categories c LEFT JOIN files f ON f.category_id = c.id"
        " AND f.content_type <> 'video/mp4'"
        " WHERE c.dataset_id = ? GROUP BY c.id ORDER BY c.seq",
        dataset_id,
    )
    return {row["name"]: row["n"] for row in rows}


_KEYS = """SELECT k.*, (SELECT count(*) FROM files f WHERE f.dataset_id = k.dataset_id AND f.user_metadata <> '{}'
    AND EXISTS (SELECT 1 FROM json_each(f.user_metadata) m WHERE m.key = k.name)) AS uses FROM keys k"""


def ensure_keys(store: Store, dataset_id: str, names: Iterable[str]) -> None:
    """Make the keys that the dataset does not have yet."""
    with store.transaction() as connection:
        connection.executemany(
            "INSERT OR IGNORE INTO keys (dataset_id, name, created_at) VALUES (?, ?, ?)",
            [(dataset_id, name, now_ms()) for name in names],
        )


def create_key(store: Store, dataset_id: str, name: str, description: str) -> None:
    """Make a key.

    Raises:
        Failure: 409 when the dataset has it.
    """
    try:
        store.run("INSERT INTO keys VALUES (?, ?, ?, ?)", dataset_id, name, description, now_ms())
    except sqlite3.IntegrityError:
        raise Failure(409, f"The dataset already has a metadata key named {name}.") from None


def find_key(store: Store, dataset_id: str, name: str) -> sqlite3.Row:
    """The row of a key.

    Raises:
        Failure: 404 when there is none.
    """
    found = store.row(f"{_KEYS} WHERE k.dataset_id = ? AND k.name = ?", dataset_id, name)
    if found is None:
        raise Failure(404, f"Could not find metadata key {name} in dataset {dataset_id}.")
    return found


def list_keys(store: Store, dataset_id: str) -> list[dict[str, Any]]:
    """All keys of a dataset, newest first."""
    rows = store.rows(f"{_KEYS} WHERE k.dataset_id = ? ORDER BY k.created_at DESC, k.name", dataset_id)
    return [key_json(row) for row in rows]


def key_json(row: sqlite3.Row) -> dict[str, Any]:
    """The key as MVI shows it; its id is made of the dataset's id and its name."""
    return {
        "_id": f"{row['dataset_id']}:{row['name']}",
        "name": row["name"],
        "dataset_id": row["dataset_id"],
        "description": row["description"],
        "use_count": row["uses"],
        "created_at": row["created_at"],
    }


def change_key(store: Store, dataset_id: str, name: str, new_name: str, description: str) -> None:
    """Rename and describe a key; the files that use it follow."""
    with store.transaction() as connection:
        find_key(store, dataset_id, name)
        try:
            connection.execute(
                "UPDATE keys SET name = ?, description = ? WHERE dataset_id = ? AND name = ?",
                (new_name, description, dataset_id, name),
            )
        except sqlite3.IntegrityError:
            raise Failure(409, f"The dataset already has a metadata key named {new_name}.") from None
        if new_name != name:
            _rewrite(store, dataset_id, name, new_name)


def delete_key(store: Store, dataset_id: str, name: str) -> None:
    """Remove a key from the dataset and from all its files."""
    with store.transaction() as connection:
        find_key(store, dataset_id, name)
        connection.execute("DELETE FROM keys WHERE dataset_id = ? AND name = ?", (dataset_id, name))
        _rewrite(store, dataset_id, name, None)


def _rewrite(store: Store, dataset_id: str, name: str, new_name: str | None) -> None:
    rows = store.rows("SELECT id, user_metadata FROM files WHERE dataset_id = ? AND user_metadata <> '{}'", dataset_id)
    for row in rows:
        metadata = json.loads(row["user_metadata"])
        if name in metadata:
            value = metadata.pop(name)
            if new_name is not None:
                metadata[new_name] = value
            store.run("UPDATE files SET user_metadata = ? WHERE id = ?", json.dumps(metadata), row["id"])
