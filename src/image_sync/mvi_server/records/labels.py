"""Object tags and labels, which detection models are trained on: kept and shown, not learnt by this server."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from image_sync.mvi_server.answers import Failure
from image_sync.mvi_server.store import Store, new_id, now_ms

SHAPES = ("bndbox", "segment_polygons", "polygon", "point")
_TAGS = "SELECT t.*, (SELECT count(*) FROM labels l WHERE l.tag_id = t.id) AS uses FROM tags t"
_LABELS = "SELECT l.*, t.name FROM labels l JOIN tags t ON t.id = l.tag_id"


def _normalized(name: str) -> str:
    # The id is used in URLs: whatever is no word character is replaced.
    return re.sub(r"\W+", "_", name.strip().lower())


def ensure_tag(store: Store, dataset_id: str, name: str) -> str:
    """The id of the tag of this name, made if there is none."""
    tag_id = f"{dataset_id}-{_normalized(name)}"
    store.run(
        "INSERT OR IGNORE INTO tags (id, name, normalized_name, dataset_id, created_at) VALUES (?, ?, ?, ?, ?)",
        tag_id, name, _normalized(name), dataset_id, now_ms(),
    )  # fmt: skip
    return tag_id


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


def shape_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The geometry in a label as a client sends it.

    Raises:
        Failure: 400 when there is none, or a box is not made of four numbers.
    """
    shape = {key: body[key] for key in SHAPES if body.get(key) is not None}
    if not shape:
        raise Failure(400, f"A label needs one of {', '.join(SHAPES)}.")
    if "bndbox" in shape:
        corners = ("xmin", "ymin", "xmax", "ymax")
        box = shape["bndbox"]
        try:
            shape["bndbox"] = {corner: int(box[corner]) for corner in corners}
        except (KeyError, TypeError, ValueError, OverflowError):
            raise Failure(400, "bndbox needs the numbers xmin, ymin, xmax and ymax.") from None
    return shape


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


def replace_all(store: Store, dataset_id: str, file_id: str, entries: list[dict[str, Any]]) -> None:
    """Give a file these labels (``name`` and a shape each) instead of those it has.

    Raises:
        Failure: 400 when one of them is no label; then nothing changed.
    """
    with store.transaction() as connection:
        connection.execute("DELETE FROM labels WHERE file_id = ?", (file_id,))
        for entry in entries:
            name = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name.strip():
                raise Failure(400, "Each label needs a name.")
            add(store, dataset_id, file_id, ensure_tag(store, dataset_id, name), shape_of(entry))


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


def count(store: Store, dataset_id: str) -> int:
    """Labels in a dataset."""
    found = store.row("SELECT count(*) AS n FROM labels WHERE dataset_id = ?", dataset_id)
    return int(found["n"]) if found else 0


def copy(store: Store, source: str, target: str, files: Mapping[str, str]) -> None:
    """Put the labels of some files on their copies in another dataset."""
    for old, new in files.items():
        for label in store.rows(f"{_LABELS} WHERE l.dataset_id = ? AND l.file_id = ? ORDER BY l.seq", source, old):
            tag_id = ensure_tag(store, target, label["name"])
            add(store, target, new, tag_id, json.loads(label["shape"]), label["generate_type"])
