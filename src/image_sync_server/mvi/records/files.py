"""Files of a dataset: pictures and what is known of them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.records import datasets, labels
from image_sync_server.mvi.store import Store, new_id, now_ms

_SELECT = "SELECT f.*, c.name AS category_name FROM files f LEFT JOIN categories c ON c.id = f.category_id"

_SHOWN = "f.id NOT IN (SELECT id FROM lagging WHERE until > monotonic())"


_VIDEO = "video/mp4"
_CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png", "mp4": _VIDEO}
NO_VIDEO = f"f.content_type <> '{_VIDEO}'"
"""The condition that leaves videos out, which nothing is trained on."""
UNLABELED = "f.category_id IS NULL AND NOT EXISTS (SELECT 1 FROM labels l WHERE l.file_id = f.id)"
"""A file that nothing is known of: no category, no labels."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A picture or video that lies at ``scratch`` and shall become a file of a dataset; a video has no width here."""

    id: str
    name: str
    """Base name given by the client; only shown, never used as a path."""
    suffix: str
    scratch: Path
    size: int
    width: int
    height: int
    category_id: str | None = None
    metadata: str = "{}"
    """JSON object."""
    created_at: int = 0
    """Milliseconds; 0 means now."""

    @classmethod
    def video(cls, name: str, scratch: Path, size: int) -> Self:
        """A video: stored and listed, not looked into."""
        return cls(new_id(), name, "mp4", scratch, size, 0, 0)

    @property
    def file_name(self) -> str:
        """The name it is stored under."""
        return f"{self.id}.{self.suffix}"

    @property
    def content_type(self) -> str:
        """``image/jpeg``, ``image/png`` or ``video/mp4``."""
        return _CONTENT_TYPES[self.suffix]


def add(store: Store, dataset_id: str, owner: str, files: Sequence[NewFile]) -> None:
    """Take pictures into a dataset, all or none of them.

    Raises:
        Failure: 404 when the dataset is gone meanwhile.
    """
    now = now_ms()
    moved: list[Path] = []
    try:
        # First the files, then the rows: a crash in between leaves a file without a row, never a row without a file.
        for file in files:
            target = store.picture(dataset_id, file.file_name)
            file.scratch.replace(target)
            moved.append(target)
        with store.transaction() as connection:
            connection.executemany(
                "INSERT INTO files (id, dataset_id, owner, original_file_name, file_name, content_type, category_id,"
                " size, width, height, user_metadata, created_at, uploaded_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (file.id, dataset_id, owner, file.name, file.file_name, file.content_type, file.category_id,
                     file.size, file.width, file.height, file.metadata, file.created_at or now, now)
                    for file in files
                ],
            )  # fmt: skip
            for metadata in {file.metadata for file in files} - {"{}"}:
                datasets.ensure_keys(store, dataset_id, json.loads(metadata))
            connection.execute("UPDATE datasets SET updated_at = ? WHERE id = ?", (now, dataset_id))
    except (FileNotFoundError, sqlite3.IntegrityError) as error:
        discard(moved)
        raise Failure(404, f"Could not find dataset with id {dataset_id}: it was deleted meanwhile.") from error
    except BaseException:
        discard(moved)
        raise


def discard(paths: Iterable[Path]) -> None:
    """Remove files that no row needs."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


def find(store: Store, dataset_id: str, file_id: str) -> sqlite3.Row:
    """The row of a file of this dataset.

    Raises:
        Failure: 404 with the words that MVI uses.
    """
    found = store.row(f"{_SELECT} WHERE f.dataset_id = ? AND f.id = ?", dataset_id, file_id)
    if found is None:
        raise Failure(404, f"Could not find file with id {file_id} in dataset {dataset_id}.")
    return found


def listing(
    store: Store, dataset_id: str, condition: str, values: Sequence[Any], order: str, limit: int = -1, skip: int = 0
) -> list[dict[str, Any]]:
    """Files that meet a condition made by :mod:`image_sync_server.mvi.query`."""
    rows = store.rows(
        f"{_SELECT} WHERE f.dataset_id = ? AND {condition} AND {_SHOWN} ORDER BY {order} LIMIT ? OFFSET ?",
        dataset_id, *values, limit, skip,
    )  # fmt: skip
    tags = labels.tag_lists(store, dataset_id)
    return [as_json(row, tags.get(row["id"], [])) for row in rows]


def as_json(row: sqlite3.Row, tags: list[dict[str, Any]]) -> dict[str, Any]:
    """The file as MVI shows it; ``size`` is a string there."""
    video = row["content_type"] == _VIDEO
    return {
        "_id": row["id"],
        "dataset_id": row["dataset_id"],
        "owner": row["owner"],
        "original_file_name": row["original_file_name"],
        "file_name": row["file_name"],
        "file_type": "video" if video else "image",
        "category_id": row["category_id"] or "",
        "category_name": row["category_name"] or "",
        "parent_id": None,
        "content_type": row["content_type"],
        "size": str(row["size"]),
        "meta_data": {} if video else {"width": row["width"], "height": row["height"]},
        "created_at": row["created_at"],
        "uploaded_at": row["uploaded_at"],
        "upload_type": "file_upload",
        "generate_type": None,
        "label_type": "manual" if tags else None,
        "tag_list": tags,
        "fps": 0.0,
        "duration": 0.0,
        "user_metadata": json.loads(row["user_metadata"]) if row["user_metadata"] != "{}" else {},
    }


def set_category(store: Store, dataset_id: str, file_id: str, category_id: str) -> None:
    """Put a file into a category; ``""`` takes it out of the one it has.

    Raises:
        Failure: 404 when file or category do not exist.
    """
    with store.transaction() as connection:
        find(store, dataset_id, file_id)
        if category_id:
            datasets.find_category(store, dataset_id, category_id)
        connection.execute("UPDATE files SET category_id = ? WHERE id = ?", (category_id or None, file_id))


def delete(store: Store, dataset_id: str, file_id: str) -> None:
    """Remove a file: its row, then its bytes.

    Raises:
        Failure: 404 when there is none.
    """
    row = find(store, dataset_id, file_id)
    store.run("DELETE FROM files WHERE id = ?", file_id)
    discard([store.picture(dataset_id, row["file_name"]), store.thumbnail(dataset_id, file_id)])


def transfer(store: Store, source: str, target: str, file_ids: Sequence[str], owner: str, *, keep: bool) -> list[str]:
    """Copy files (or move them, unless ``keep``) to a dataset with category, metadata and labels; their new ids.

    Raises:
        Failure: 404 when one of them does not exist; then none was taken.
    """
    rows = [find(store, source, file_id) for file_id in file_ids]
    scratch: list[Path] = []
    new: list[NewFile] = []
    try:
        for row in rows:
            path = store.scratch()
            _link(store.picture(source, row["file_name"]), path)
            scratch.append(path)
            suffix = row["file_name"].rpartition(".")[2]
            new.append(
                NewFile(new_id(), row["original_file_name"], suffix, path, row["size"], row["width"], row["height"],
                        metadata=row["user_metadata"], created_at=row["created_at"])
            )  # fmt: skip
        with store.transaction() as connection:
            for at, row in enumerate(rows):
                if row["category_name"] is not None:
                    category_id = datasets.ensure_category(store, target, row["category_name"])
                    new[at] = replace(new[at], category_id=category_id)
            add(store, target, owner, new)
            labels.copy(store, source, target, {row["id"]: file.id for row, file in zip(rows, new, strict=True)})
            if not keep:
                connection.executemany("DELETE FROM files WHERE id = ?", [(row["id"],) for row in rows])
    except BaseException:
        discard([*scratch, *(store.picture(target, file.file_name) for file in new)])
        raise
    if not keep:
        discard(store.picture(source, row["file_name"]) for row in rows)
        discard(store.thumbnail(source, row["id"]) for row in rows)
    return [file.id for file in new]


def _link(source: Path, target: Path) -> None:
    # Stored pictures never change, so two datasets may share the bytes.
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
