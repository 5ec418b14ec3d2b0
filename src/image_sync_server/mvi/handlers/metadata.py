"""User metadata of files, and the keys that a dataset has for it."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from starlette.responses import Response

from image_sync_server.mvi.answers import Failure, rendered, success
from image_sync_server.mvi.query import file_filter, ordered
from image_sync_server.mvi.records import datasets, files
from image_sync_server.mvi.request import Request

_SEPARATORS = {"comma": ",", "pipe": "|", "": ","}


def _current(request: Request) -> tuple[str, dict[str, Any]]:
    row = request.file
    return row["id"], json.loads(row["user_metadata"])


def show(request: Request) -> dict[str, Any]:
    return _current(request)[1]


def show_one(request: Request) -> dict[str, Any]:
    _, metadata = _current(request)
    key = request.path["key"]
    if key not in metadata:
        raise Failure(404, f"Could not find metadata key {key} on file {request.path['file']}.")
    return {key: metadata[key]}


def add(request: Request) -> dict[str, Any]:
    """``POST /{file}/user-metadata``: the keys given are set, others stay."""
    new = request.metadata(request.body, "The body")
    with request.store.transaction():
        file_id, metadata = _current(request)
        metadata |= new
        request.store.run("UPDATE files SET user_metadata = ? WHERE id = ?", json.dumps(metadata), file_id)
        datasets.ensure_keys(request.store, request.path["ds"], new)
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
        file_id, metadata = _current(request)
        gone = [name for name in dict.fromkeys(names) if metadata.pop(name, _ABSENT) is not _ABSENT]
        request.store.run("UPDATE files SET user_metadata = ? WHERE id = ?", json.dumps(metadata), file_id)
    return rendered(gone)


_ABSENT = object()


def export(request: Request) -> Response:
    """``GET /files/user-metadata``: one row a file, as comma or pipe separated text."""
    dataset = request.dataset
    separator = _SEPARATORS.get(request.query.get("format", ""))
    if separator is None:
        raise Failure(400, "format must be comma or pipe.")
    condition, values = file_filter(request.query.get("query", ""))
    found = files.listing(request.store, dataset["id"], condition, values, "f.seq")
    wanted = [name for name in request.query.get("keys", "").split(",") if name]
    names = wanted or sorted({name for file in found for name in file["user_metadata"]})
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(["#file_id", *names])
    writer.writerows([file["_id"], *(_cell(file["user_metadata"].get(name, "")) for name in names)] for file in found)
    return Response(text.getvalue(), media_type="text/csv")


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def list_keys(request: Request) -> list[dict[str, Any]]:
    dataset = request.dataset
    return ordered(datasets.list_keys(request.store, dataset["id"]), request.query.get("sortby", ""))


def create_key(request: Request) -> dict[str, Any]:
    """``POST /files/user-keys``; IBM's tool sends junk beside the name, which is passed over."""
    dataset = request.dataset
    name = request.text("name")
    datasets.create_key(request.store, dataset["id"], name, request.text("description", "", long=True))
    return success(**datasets.key_json(datasets.find_key(request.store, dataset["id"], name)))


def show_key(request: Request) -> dict[str, Any]:
    datasets.find(request.store, request.path["ds"])
    return datasets.key_json(datasets.find_key(request.store, request.path["ds"], request.path["key"]))


def change_key(request: Request) -> dict[str, Any]:
    datasets.find(request.store, request.path["ds"])
    row = datasets.find_key(request.store, request.path["ds"], request.path["key"])
    new_name = request.text("name", row["name"]) or row["name"]
    description = request.text("description", row["description"], long=True)
    datasets.change_key(request.store, row["dataset_id"], row["name"], new_name, description)
    return success(**datasets.key_json(datasets.find_key(request.store, row["dataset_id"], new_name)))


def delete_key(request: Request) -> dict[str, Any]:
    """``DELETE /files/user-keys/{name}``: its values go from all files too."""
    datasets.find(request.store, request.path["ds"])
    datasets.delete_key(request.store, request.path["ds"], request.path["key"])
    return success()
