"""Object tags and labels, which detection models are trained on."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.labelling import Entry
from image_sync_server.mvi.store import Store, new_id, now_ms

_TAGS = "SELECT t.*, (SELECT count(*) FROM labels l WHERE l.tag_id = t.id) AS uses FROM tags t"
_LABELS = "SELECT l.*, t.name FROM labels l JOIN tags t ON t.id = l.tag_id"


def _normalized(name: str) -> str:
    # The id is used in URLs: whatever is no word character is replaced.
    return re.sub(r"\W+", "_", name.strip().lower())


def tag_named(store: Store, dataset_id: str, name: str) -> str | None:
    """The id of the tag of this name, upper and lower case alike; None when there is none."""
    wanted = name.strip().casefold()
    rows = store.rows("SELECT id, name FROM tags WHERE dataset_id = ? ORDER BY seq", dataset_id)
    return next((str(row["id"]) for row in rows if row["name"].strip().casefold() == wanted), None)


def ensure_tag(store: Store, dataset_id: str, name: str) -> str:
    """The id of the tag of this name, made if there is none."""
    with store.transaction():
        if (known := tag_named(store, dataset_id, name)) is not None:
            return known
        plain = _normalized(name)
        # "M6+" and "M6-" are two things, though their plain names are one.
        spare = itertools.chain([plain], (f"{plain}_{number}" for number in itertools.count(2)))
        normalized = next(
            one for one in spare if not store.row("SELECT 1 FROM tags WHERE id = ?", f"{dataset_id}-{one}")
        )
        store.run(
            "INSERT INTO tags (id, name, normalized_name, dataset_id, created_at) VALUES (?, ?, ?, ?, ?)",
            f"{dataset_id}-{normalized}", name, normalized, dataset_id, now_ms(),
        )  # fmt: skip
        return f"{dataset_id}-{normalized}"


def rename_tag(store: Store, dataset_id: str, tag_id: str, name: str) -> None:
    """Give a tag another name.

    Raises:
        Failure: 409 when another tag has it.
    """
    with store.transaction() as connection:
        if tag_named(store, dataset_id, name) not in {None, tag_id}:
            raise Failure(409, f"The dataset has another tag named {name}.")
        connection.execute("UPDATE tags SET name = ? WHERE id = ?", (name, tag_id))


def find_tag(store: Store, dataset_id: str, tag_id: str) -> sqlite3.Row:
    """The row of a tag.

    Raises:
        Failure: 404 when there is none.
    """
    found = store.row(f"{_TAGS} WHERE t.dataset_id = ? AND t.id = ?", dataset_id, tag_id)
    if found is None:
        raise Failure(404, f"Could not find tag with id {tag_id} in dataset {dataset_id}.")
    return found


def tags(store: Store, dataset_id: str) -> list[dict[str, Any]]:
    """All tags of a dataset, newest first."""
    return [tag_json(row) for row in store.rows(f"{_TAGS} WHERE t.dataset_id = ? ORDER BY t.seq DESC", dataset_id)]


def tag_json(row: sqlite3.Row) -> dict[str, Any]:
    """The tag as MVI shows it."""
    return {
        "_id": row["id"],
        "dataset_id": row["dataset_id"],
        "name": row["name"],
        "normalized_name": row["normalized_name"],
        "label_count": row["uses"],
        "created_at": row["created_at"],
    }


def tag_lists(store: Store, dataset_id: str) -> dict[str, list[dict[str, Any]]]:
    """For each labelled file its tags with their counts."""
    found: dict[str, list[dict[str, Any]]] = {}
    rows = store.rows(
        "SELECT l.file_id, l.tag_id, t.name, count(*) AS n FROM labels l JOIN tags t ON t.id = l.tag_id"
        " WHERE l.dataset_id = ? GROUP BY l.file_id, l.tag_id",
        dataset_id,
    )
    for row in rows:
        entry = {"tag_id": row["tag_id"], "tag_name": row["name"], "tag_count": row["n"]}
        found.setdefault(row["file_id"], []).append(entry)
    return found


def add(
    store: Store, dataset_id: str, file_id: str, tag_id: str, shape: Mapping[str, Any], generate_type: str = "manual"
) -> str:
    """Put a label on a file; its id."""
    label_id = new_id()
    store.run(
        "INSERT INTO labels (id, dataset_id, file_id, tag_id, generate_type, shape, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        label_id, dataset_id, file_id, tag_id, generate_type, json.dumps(shape), now_ms(),
    )  # fmt: skip
    return label_id


def replace_all(store: Store, dataset_id: str, file_id: str, entries: Iterable[Entry]) -> None:
    """Give a file these labels instead of those it has."""
    with store.transaction() as connection:
        connection.execute("DELETE FROM labels WHERE file_id = ?", (file_id,))
        for entry in entries:
            tag_id = ensure_tag(store, dataset_id, entry.name)
            add(store, dataset_id, file_id, tag_id, entry.shape, entry.generate_type)


def find(store: Store, dataset_id: str, label_id: str) -> sqlite3.Row:
    """The row of a label.

    Raises:
        Failure: 404 when there is none.
    """
    found = store.row(f"{_LABELS} WHERE l.dataset_id = ? AND l.id = ?", dataset_id, label_id)
    if found is None:
        raise Failure(404, f"Could not find label with id {label_id} in dataset {dataset_id}.")
    return found


def listing(
    store: Store, dataset_id: str, condition: str = "1", values: tuple[Any, ...] = (), limit: int = -1, skip: int = 0
) -> list[dict[str, Any]]:
    """Labels of a dataset that meet a condition, newest first."""
    rows = store.rows(
        f"{_LABELS} WHERE l.dataset_id = ? AND {condition} ORDER BY l.seq DESC LIMIT ? OFFSET ?",
        dataset_id, *values, limit, skip,
    )  # fmt: skip
    return [as_json(row) for row in rows]


def as_json(row: sqlite3.Row) -> dict[str, Any]:
    """The label as MVI shows it."""
    return {
        "_id": row["id"],
        "dataset_id": row["dataset_id"],
        "file_id": row["file_id"],
        "tag_id": row["tag_id"],
        "name": row["name"],
        "generate_type": row["generate_type"],
        **json.loads(row["shape"]),
    }


def boxes(store: Store, dataset_id: str) -> dict[str, list[tuple[str, dict[str, int]]]]:
    """The boxes in a dataset, by the stored name of their file, oldest first: name of the tag, and corners."""
    rows = store.rows(
        "SELECT f.file_name, t.name, l.shape FROM labels l"
        " JOIN tags t ON t.id = l.tag_id JOIN files f ON f.id = l.file_id WHERE l.dataset_id = ? ORDER BY f.seq, l.seq",
        dataset_id,
    )
    found: dict[str, list[tuple[str, dict[str, int]]]] = {}
    for row in rows:
        if (box := json.loads(row["shape"]).get("bndbox")) is not None:
            found.setdefault(row["file_name"], []).append((row["name"], box))
    return found


def copy(store: Store, source: str, target: str, files: Mapping[str, str]) -> None:
    """Put the labels of some files on their copies in another dataset."""
    for old, new in files.items():
        for label in store.rows(f"{_LABELS} WHERE l.dataset_id = ? AND l.file_id = ? ORDER BY l.seq", source, old):
            tag_id = ensure_tag(store, target, label["name"])
            add(store, target, new, tag_id, json.loads(label["shape"]), label["generate_type"])
