"""User metadata of files, and the keys that a dataset has for it."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from starlette.responses import Response

from image_sync_server.mvi.query import file_filter
from image_sync_server.mvi.request import LONG, Failure, Request, found, picked, rendered, success
from image_sync_server.mvi.store import FILES, SHOWN, Store, now_ms

_SEPARATORS = {"comma": ",", "pipe": "|", "": ","}
_KEYS = """SELECT k.*, (SELECT count(*) FROM files f WHERE f.dataset_id = k.dataset_id AND f.user_metadata <> '{}'
    AND EXISTS (SELECT 1 FROM json_each(f.user_metadata) m WHERE m.key = k.name)) AS use_count FROM keys k"""


def show(request: Request) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(request.file["user_metadata"])
    return metadata


def show_one(request: Request) -> dict[str, Any]:
    metadata, key = show(request), request.path["key"]
    if key not in metadata:
        raise Failure(404, f"Could not find metadata key {key} on file {request.path['file']}.")
    return {key: metadata[key]}


def add(request: Request) -> dict[str, Any]:
    """``POST /{file}/user-metadata``: the keys given are set, others stay."""
    new = request.metadata(request.body, "The body")
    with request.store.transaction():
        metadata = show(request) | new
        request.store.update("files", request.path["file"], user_metadata=json.dumps(metadata))
        ensure_keys(request.store, request.path["ds"], new)
    return metadata


def remove(request: Request) -> Response:
    """``DELETE /{file}/user-metadata``: a list of keys in the body, or one in the path; answers what went."""
    if "key" in request.path:
        names = [request.path["key"]]
    elif isinstance(request.body, list) and all(isinstance(name, str) for name in request.body):
        names = request.body
    else:
        raise Failure(400, "The body must be a list of keys.")
    with request.store.transaction():
        metadata = show(request)
        gone = [name for name in dict.fromkeys(names) if name in metadata]
        left = {name: value for name, value in metadata.items() if name not in gone}
        request.store.update("files", request.path["file"], user_metadata=json.dumps(left))
    return rendered(gone)


def export(request: Request) -> Response:
    """``GET /files/user-metadata``: one row a file, as comma or pipe separated text."""
    dataset = request.dataset
    separator = _SEPARATORS.get(request.query.get("format", ""))
    if separator is None:
        raise Failure(400, "format must be comma or pipe.")
    condition, values = file_filter(request.query.get("query", ""))
    rows = request.store.rows(
        f"{FILES} WHERE f.dataset_id = ? AND {condition} AND {SHOWN} ORDER BY f.seq", dataset["id"], *values
    )
    files = {row["id"]: json.loads(row["user_metadata"]) for row in rows}
    names = request.chosen("keys") or sorted({name for metadata in files.values() for name in metadata})
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(["#file_id", *names])
    writer.writerows([file, *(_cell(metadata.get(name, "")) for name in names)] for file, metadata in files.items())
    return Response(text.getvalue(), media_type="text/csv")


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def ensure_keys(store: Store, dataset_id: str, names: Iterable[str]) -> None:
    """Make the keys that the dataset does not have yet."""
    with store.transaction() as connection:
        connection.executemany(
            "INSERT OR IGNORE INTO keys (dataset_id, name, created_at) VALUES (?, ?, ?)",
            [(dataset_id, name, now_ms()) for name in names],
        )


def listed_keys(store: Store, dataset_id: str) -> list[dict[str, Any]]:
    """All keys of a dataset, newest first."""
    rows = store.rows(f"{_KEYS} WHERE k.dataset_id = ? ORDER BY k.created_at DESC, k.name", dataset_id)
    return [_shown(row) for row in rows]


def _shown(row: sqlite3.Row) -> dict[str, Any]:
    """The key as MVI shows it; its id is made of the dataset's id and its name."""
    same = picked(row, "name dataset_id description use_count created_at")
    return {"_id": f"{row['dataset_id']}:{row['name']}", **same}


def _key(request: Request, name: str) -> sqlite3.Row:
    dataset_id = request.dataset["id"]
    row = request.store.row(f"{_KEYS} WHERE k.dataset_id = ? AND k.name = ?", dataset_id, name)
    return found(row, f"Could not find metadata key {name} in dataset {dataset_id}.")


def list_keys(request: Request) -> list[dict[str, Any]]:
    return request.ordered(listed_keys(request.store, request.dataset["id"]))


def create_key(request: Request) -> dict[str, Any]:
    """``POST /files/user-keys``; IBM's tool sends junk beside the name, which is passed over."""
    dataset, name, description = request.dataset, request.text("name"), request.text("description", "", most=LONG)
    try:
        request.store.insert("keys", dataset_id=dataset["id"], name=name, description=description, created_at=now_ms())
    except sqlite3.IntegrityError:
        raise Failure(409, f"The dataset already has a metadata key named {name}.") from None
    return success(**_shown(_key(request, name)))


def show_key(request: Request) -> dict[str, Any]:
    return _shown(_key(request, request.path["key"]))


def change_key(request: Request) -> dict[str, Any]:
    """``PUT /files/user-keys/{name}``: the files that use it follow."""
    with request.store.transaction():
        row = _key(request, request.path["key"])
        name = request.text("name", row["name"]) or row["name"]
        description = request.text("description", row["description"], most=LONG)
        try:
            request.store.run(
                "UPDATE keys SET name = ?, description = ? WHERE dataset_id = ? AND name = ?",
                name, description, row["dataset_id"], row["name"],
            )  # fmt: skip
        except sqlite3.IntegrityError:
            raise Failure(409, f"The dataset already has a metadata key named {name}.") from None
        if name != row["name"]:
            _rewrite(request.store, row, name)
    return success(**_shown(_key(request, name)))


def delete_key(request: Request) -> dict[str, Any]:
    """``DELETE /files/user-keys/{name}``: its values go from all files too."""
    with request.store.transaction():
        row = _key(request, request.path["key"])
        request.store.run("DELETE FROM keys WHERE dataset_id = ? AND name = ?", row["dataset_id"], row["name"])
        _rewrite(request.store, row, None)
    return success()


def _rewrite(store: Store, key: sqlite3.Row, new_name: str | None) -> None:
    """Rename a key in all files of its dataset, or drop it."""
    rows = store.rows(
        "SELECT id, user_metadata FROM files WHERE dataset_id = ? AND user_metadata <> '{}'", key["dataset_id"]
    )
    for row in rows:
        metadata = json.loads(row["user_metadata"])
        if key["name"] in metadata:
            value = metadata.pop(key["name"])
            if new_name is not None:
                metadata[new_name] = value
            store.update("files", row["id"], user_metadata=json.dumps(metadata))
