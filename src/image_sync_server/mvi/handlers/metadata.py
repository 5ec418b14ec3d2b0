"""User metadata of files, and the keys that a dataset has for it."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from starlette.responses import Response

from image_sync_server.mvi.answers import Failure, rendered, success
from image_sync_server.mvi.call import Call
from image_sync_server.mvi.handlers.files import checked_metadata
from image_sync_server.mvi.query import file_filter, ordered
from image_sync_server.mvi.records import datasets, files, keys

_SEPARATORS = {"comma": ",", "pipe": "|", "": ","}


def _current(call: Call) -> tuple[str, dict[str, Any]]:
    datasets.find(call.store, call.path["ds"])
    row = files.find(call.store, call.path["ds"], call.path["file"])
    return row["id"], json.loads(row["user_metadata"])


def show(call: Call) -> dict[str, Any]:
    """``GET /{file}/user-metadata``."""
    return _current(call)[1]


def show_one(call: Call) -> dict[str, Any]:
    """``GET /{file}/user-metadata/{key}``."""
    _, metadata = _current(call)
    key = call.path["key"]
    if key not in metadata:
        raise Failure(404, f"Could not find metadata key {key} on file {call.path['file']}.")
    return {key: metadata[key]}


def add(call: Call) -> dict[str, Any]:
    """``POST /{file}/user-metadata``: the keys given are set, others stay."""
    new = checked_metadata(call, call.body, "The body")
    with call.store.transaction():
        file_id, metadata = _current(call)
        metadata |= new
        call.store.run("UPDATE files SET user_metadata = ? WHERE id = ?", json.dumps(metadata), file_id)
        keys.ensure(call.store, call.path["ds"], new)
    return metadata


def remove(call: Call) -> Response:
    """``DELETE /{file}/user-metadata``: a list of keys in the body, or one in the path; answers what went."""
    if "key" in call.path:
        names = [call.path["key"]]
    elif isinstance(call.body, list) and all(isinstance(name, str) for name in call.body):
        names = call.body
    else:
        raise Failure(400, "The body must be a list of keys.")
    with call.store.transaction():
        file_id, metadata = _current(call)
        gone = [name for name in dict.fromkeys(names) if metadata.pop(name, _ABSENT) is not _ABSENT]
        call.store.run("UPDATE files SET user_metadata = ? WHERE id = ?", json.dumps(metadata), file_id)
    return rendered(gone)


_ABSENT = object()


def export(call: Call) -> Response:
    """``GET /files/user-metadata``: one row a file, as comma or pipe separated text."""
    dataset = datasets.find(call.store, call.path["ds"])
    separator = _SEPARATORS.get(call.query.get("format", ""))
    if separator is None:
        raise Failure(400, "format must be comma or pipe.")
    condition, values = file_filter(call.query.get("query", ""))
    found = files.listing(call.store, dataset["id"], condition, values, "f.seq")
    wanted = [name for name in call.query.get("keys", "").split(",") if name]
    names = wanted or sorted({name for file in found for name in file["user_metadata"]})
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(["#file_id", *names])
    writer.writerows([file["_id"], *(_cell(file["user_metadata"].get(name, "")) for name in names)] for file in found)
    return Response(text.getvalue(), media_type="text/csv")


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def list_keys(call: Call) -> list[dict[str, Any]]:
    """``GET /files/user-keys``."""
    dataset = datasets.find(call.store, call.path["ds"])
    return ordered(keys.listing(call.store, dataset["id"]), call.query.get("sortby", ""))


def create_key(call: Call) -> dict[str, Any]:
    """``POST /files/user-keys``; IBM's tool sends junk beside the name, which is passed over."""
    dataset = datasets.find(call.store, call.path["ds"])
    name = call.text("name")
    keys.create(call.store, dataset["id"], name, call.text("description", "", long=True))
    return success(**keys.as_json(keys.find(call.store, dataset["id"], name)))


def show_key(call: Call) -> dict[str, Any]:
    """``GET /files/user-keys/{name}``."""
    datasets.find(call.store, call.path["ds"])
    return keys.as_json(keys.find(call.store, call.path["ds"], call.path["key"]))


def change_key(call: Call) -> dict[str, Any]:
    """``PUT /files/user-keys/{name}``."""
    datasets.find(call.store, call.path["ds"])
    row = keys.find(call.store, call.path["ds"], call.path["key"])
    new_name = call.text("name", row["name"]) or row["name"]
    description = call.text("description", row["description"], long=True)
    keys.change(call.store, row["dataset_id"], row["name"], new_name, description)
    return success(**keys.as_json(keys.find(call.store, row["dataset_id"], new_name)))


def delete_key(call: Call) -> dict[str, Any]:
    """``DELETE /files/user-keys/{name}``: its values go from all files too."""
    datasets.find(call.store, call.path["ds"])
    keys.delete(call.store, call.path["ds"], call.path["key"])
    return success()
