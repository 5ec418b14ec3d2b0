"""User-metadata keys of a dataset: the names that files' metadata may be searched by."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.store import Store, now_ms

_SELECT = """SELECT k.*, (SELECT count(*) FROM files f WHERE f.dataset_id = k.dataset_id AND f.user_metadata <> '{}'
    AND EXISTS (SELECT 1 FROM json_each(f.user_metadata) m WHERE m.key = k.name)) AS uses FROM keys k"""


def ensure(store: Store, dataset_id: str, names: Iterable[str]) -> None:
    """Make the keys that the dataset does not have yet."""
    with store.transaction() as connection:
        connection.executemany(
            "INSERT OR IGNORE INTO keys (dataset_id, name, created_at) VALUES (?, ?, ?)",
            [(dataset_id, name, now_ms()) for name in names],
        )


def create(store: Store, dataset_id: str, name: str, description: str) -> None:
    """Make a key.

    Raises:
        Failure: 409 when the dataset has it.
    """
    try:
        store.run("INSERT INTO keys VALUES (?, ?, ?, ?)", dataset_id, name, description, now_ms())
    except sqlite3.IntegrityError:
        raise Failure(409, f"The dataset already has a metadata key named {name}.") from None


def find(store: Store, dataset_id: str, name: str) -> sqlite3.Row:
    """The row of a key.

    Raises:
        Failure: 404 when there is none.
    """
    found = store.row(f"{_SELECT} WHERE k.dataset_id = ? AND k.name = ?", dataset_id, name)
    if found is None:
        raise Failure(404, f"Could not find metadata key {name} in dataset {dataset_id}.")
    return found


def listing(store: Store, dataset_id: str) -> list[dict[str, Any]]:
    """All keys of a dataset, newest first."""
    rows = store.rows(f"{_SELECT} WHERE k.dataset_id = ? ORDER BY k.created_at DESC, k.name", dataset_id)
    return [as_json(row) for row in rows]


def as_json(row: sqlite3.Row) -> dict[str, Any]:
    """The key as MVI shows it; its id is made of the dataset's id and its name."""
    return {
        "_id": f"{row['dataset_id']}:{row['name']}",
        "name": row["name"],
        "dataset_id": row["dataset_id"],
        "description": row["description"],
        "use_count": row["uses"],
        "created_at": row["created_at"],
    }


def change(store: Store, dataset_id: str, name: str, new_name: str, description: str) -> None:
    """Rename and describe a key; the files that use it follow."""
    with store.transaction() as connection:
        find(store, dataset_id, name)
        try:
            connection.execute(
                "UPDATE keys SET name = ?, description = ? WHERE dataset_id = ? AND name = ?",
                (new_name, description, dataset_id, name),
            )
        except sqlite3.IntegrityError:
            raise Failure(409, f"The dataset already has a metadata key named {new_name}.") from None
        if new_name != name:
            _rewrite(store, dataset_id, name, new_name)


def delete(store: Store, dataset_id: str, name: str) -> None:
    """Remove a key from the dataset and from all its files."""
    with store.transaction() as connection:
        find(store, dataset_id, name)
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
