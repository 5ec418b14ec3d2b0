"""Object tags and labels."""

from __future__ import annotations

import json
from typing import Any

from image_sync_server.mvi import labelling
from image_sync_server.mvi.answers import Failure, success
from image_sync_server.mvi.query import ordered, page
from image_sync_server.mvi.records import datasets, files, labels
from image_sync_server.mvi.request import Request


def list_tags(request: Request) -> list[dict[str, Any]]:
    dataset = request.dataset
    return ordered(labels.tags(request.store, dataset["id"]), request.query.get("sortby", ""))


def create_tag(request: Request) -> dict[str, Any]:
    dataset = request.dataset
    return success(dataset_tag_id=labels.ensure_tag(request.store, dataset["id"], request.text("name")))


def show_tag(request: Request) -> dict[str, Any]:
    datasets.find(request.store, request.path["ds"])
    return labels.tag_json(labels.find_tag(request.store, request.path["ds"], request.path["tag"]))


def delete_tag(request: Request) -> dict[str, Any]:
    """``DELETE /tags/{tag}``: its labels go too."""
    datasets.find(request.store, request.path["ds"])
    row = labels.find_tag(request.store, request.path["ds"], request.path["tag"])
    request.store.run("DELETE FROM tags WHERE id = ?", row["id"])
    return success()


def act_on_tag(request: Request) -> dict[str, Any]:
    """``POST /tags/{tag}/action``: rename, as documented, or update, as IBM's tool sends it."""
    datasets.find(request.store, request.path["ds"])
    row = labels.find_tag(request.store, request.path["ds"], request.path["tag"])
    match request.text("action"):
        case "rename":
            name = request.text("data")
        case "update":
            name = request.text("name")
        case action:
            raise Failure(400, f"A tag has no action {action!r}. Known: rename, update.")
    labels.rename_tag(request.store, row["dataset_id"], row["id"], name)
    return success()


def show_all(request: Request) -> dict[str, Any]:
    """``GET /files/{file}/labels``: in the older form."""
    row = request.file
    found = labels.listing(request.store, row["dataset_id"], "l.file_id = ?", (row["id"],))
    return {
        "_id": row["id"],
        "created_at": row["created_at"],
        "dataset_id": row["dataset_id"],
        "label_file_key": row["id"],
        "labels": list(reversed(found)),
    }


def replace_all(request: Request) -> dict[str, Any]:
    """``POST /files/{file}/labels``: instead of all that it has."""
    row = request.file
    entries = request.body if isinstance(request.body, list) else request.fields.get("labels")
    labels.replace_all(
        request.store, row["dataset_id"], row["id"], labelling.entries(entries, row["width"], row["height"])
    )
    return success()


def create(request: Request) -> dict[str, Any]:
    row = request.file
    tag = labels.find_tag(request.store, row["dataset_id"], request.text("tag_id"))
    kind = request.text("generate_type", "manual") or "manual"
    shape = labelling.shape_of(request.fields, row["width"], row["height"])
    return success(id=labels.add(request.store, row["dataset_id"], row["id"], tag["id"], shape, kind))


def listing(request: Request) -> list[dict[str, Any]]:
    """``GET /object-labels``, of a dataset or of one file."""
    dataset = request.dataset
    condition, values = _condition(request)
    limit, skip = page(request.query)
    return labels.listing(request.store, dataset["id"], condition, values, limit, skip)


def delete_many(request: Request) -> dict[str, Any]:
    """``DELETE /object-labels``: all that the same query would list."""
    dataset = request.dataset
    condition, values = _condition(request)
    gone = labels.listing(request.store, dataset["id"], condition, values)
    with request.store.transaction() as connection:
        connection.executemany("DELETE FROM labels WHERE id = ?", [(label["_id"],) for label in gone])
    return success(success_count=len(gone))


def _condition(request: Request) -> tuple[str, tuple[Any, ...]]:
    words, values = ["1"], []
    if "file" in request.path:
        words.append("l.file_id = ?")
        values.append(files.find(request.store, request.path["ds"], request.path["file"])["id"])
    for name, column in (("tag_ids", "l.tag_id"), ("file_ids", "l.file_id")):
        if ids := [one for one in request.query.get(name, "").split(",") if one]:
            words.append(f"{column} IN ({','.join('?' * len(ids))})")
            values += ids
    if kind := request.query.get("generate_type"):
        words.append("l.generate_type = ?")
        values.append(kind)
    if request.query.get("model_id") or request.query.get("min_conf") or request.query.get("max_conf"):
        words.append("0")  # only labels made by a model have these, and no model labels here
    return " AND ".join(words), tuple(values)


def show(request: Request) -> dict[str, Any]:
    datasets.find(request.store, request.path["ds"])
    return labels.as_json(labels.find(request.store, request.path["ds"], request.path["label"]))


def change(request: Request) -> dict[str, Any]:
    """``PUT /object-labels/{label}``: its tag, its shape, how it was made."""
    datasets.find(request.store, request.path["ds"])
    row = labels.find(request.store, request.path["ds"], request.path["label"])
    tag_id = request.text("tag_id", row["tag_id"])
    labels.find_tag(request.store, row["dataset_id"], tag_id)
    shape = json.loads(row["shape"])
    if any(key in request.fields for key in labelling.SHAPES):
        file = files.find(request.store, row["dataset_id"], row["file_id"])
        shape |= labelling.shape_of(request.fields, file["width"], file["height"])
    kind = request.text("generate_type", row["generate_type"])
    request.store.run(
        "UPDATE labels SET tag_id = ?, shape = ?, generate_type = ? WHERE id = ?",
        tag_id, json.dumps(shape), kind, row["id"],
    )  # fmt: skip
    return success(id=row["id"])


def delete(request: Request) -> dict[str, Any]:
    datasets.find(request.store, request.path["ds"])
    row = labels.find(request.store, request.path["ds"], request.path["label"])
    request.store.run("DELETE FROM labels WHERE id = ?", row["id"])
    return success()
