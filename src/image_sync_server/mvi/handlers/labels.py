"""Object tags and labels."""

from __future__ import annotations

import json
from typing import Any

from image_sync_server.mvi import labelling
from image_sync_server.mvi.answers import Failure, success
from image_sync_server.mvi.call import Call
from image_sync_server.mvi.query import ordered, page
from image_sync_server.mvi.records import datasets, files, labels


def list_tags(call: Call) -> list[dict[str, Any]]:
    """``GET /tags``."""
    dataset = datasets.find(call.store, call.path["ds"])
    return ordered(labels.tags(call.store, dataset["id"]), call.query.get("sortby", ""))


def create_tag(call: Call) -> dict[str, Any]:
    """``POST /tags``."""
    dataset = datasets.find(call.store, call.path["ds"])
    return success(dataset_tag_id=labels.ensure_tag(call.store, dataset["id"], call.text("name")))


def show_tag(call: Call) -> dict[str, Any]:
    """``GET /tags/{tag}``."""
    datasets.find(call.store, call.path["ds"])
    return labels.tag_json(labels.find_tag(call.store, call.path["ds"], call.path["tag"]))


def delete_tag(call: Call) -> dict[str, Any]:
    """``DELETE /tags/{tag}``: its labels go too."""
    datasets.find(call.store, call.path["ds"])
    row = labels.find_tag(call.store, call.path["ds"], call.path["tag"])
    call.store.run("DELETE FROM tags WHERE id = ?", row["id"])
    return success()


def act_on_tag(call: Call) -> dict[str, Any]:
    """``POST /tags/{tag}/action``: rename, as documented, or update, as IBM's tool sends it."""
    datasets.find(call.store, call.path["ds"])
    row = labels.find_tag(call.store, call.path["ds"], call.path["tag"])
    match call.text("action"):
        case "rename":
            name = call.text("data")
        case "update":
            name = call.text("name")
        case action:
            raise Failure(400, f"A tag has no action {action!r}. Known: rename, update.")
    labels.rename_tag(call.store, row["dataset_id"], row["id"], name)
    return success()


def show_all(call: Call) -> dict[str, Any]:
    """``GET /files/{file}/labels``: in the older form."""
    datasets.find(call.store, call.path["ds"])
    row = files.find(call.store, call.path["ds"], call.path["file"])
    found = labels.listing(call.store, row["dataset_id"], "l.file_id = ?", (row["id"],))
    return {
        "_id": row["id"],
        "created_at": row["created_at"],
        "dataset_id": row["dataset_id"],
        "label_file_key": row["id"],
        "labels": list(reversed(found)),
    }


def replace_all(call: Call) -> dict[str, Any]:
    """``POST /files/{file}/labels``: instead of all that it has."""
    datasets.find(call.store, call.path["ds"])
    row = files.find(call.store, call.path["ds"], call.path["file"])
    entries = call.body if isinstance(call.body, list) else call.fields.get("labels")
    labels.replace_all(
        call.store, row["dataset_id"], row["id"], labelling.entries(entries, row["width"], row["height"])
    )
    return success()


def create(call: Call) -> dict[str, Any]:
    """``POST /files/{file}/object-labels``."""
    datasets.find(call.store, call.path["ds"])
    row = files.find(call.store, call.path["ds"], call.path["file"])
    tag = labels.find_tag(call.store, row["dataset_id"], call.text("tag_id"))
    kind = call.text("generate_type", "manual") or "manual"
    shape = labelling.shape_of(call.fields, row["width"], row["height"])
    return success(id=labels.add(call.store, row["dataset_id"], row["id"], tag["id"], shape, kind))


def listing(call: Call) -> list[dict[str, Any]]:
    """``GET /object-labels``, of a dataset or of one file."""
    dataset = datasets.find(call.store, call.path["ds"])
    condition, values = _condition(call)
    limit, skip = page(call.query)
    return labels.listing(call.store, dataset["id"], condition, values, limit, skip)


def delete_many(call: Call) -> dict[str, Any]:
    """``DELETE /object-labels``: all that the same query would list."""
    dataset = datasets.find(call.store, call.path["ds"])
    condition, values = _condition(call)
    gone = labels.listing(call.store, dataset["id"], condition, values)
    with call.store.transaction() as connection:
        connection.executemany("DELETE FROM labels WHERE id = ?", [(label["_id"],) for label in gone])
    return success(success_count=len(gone))


def _condition(call: Call) -> tuple[str, tuple[Any, ...]]:
    words, values = ["1"], []
    if "file" in call.path:
        words.append("l.file_id = ?")
        values.append(files.find(call.store, call.path["ds"], call.path["file"])["id"])
    for name, column in (("tag_ids", "l.tag_id"), ("file_ids", "l.file_id")):
        if ids := [one for one in call.query.get(name, "").split(",") if one]:
            words.append(f"{column} IN ({','.join('?' * len(ids))})")
            values += ids
    if kind := call.query.get("generate_type"):
        words.append("l.generate_type = ?")
        values.append(kind)
    if call.query.get("model_id") or call.query.get("min_conf") or call.query.get("max_conf"):
        words.append("0")  # only labels made by a model have these, and no model labels here
    return " AND ".join(words), tuple(values)


def show(call: Call) -> dict[str, Any]:
    """``GET /object-labels/{label}``."""
    datasets.find(call.store, call.path["ds"])
    return labels.as_json(labels.find(call.store, call.path["ds"], call.path["label"]))


def change(call: Call) -> dict[str, Any]:
    """``PUT /object-labels/{label}``: its tag, its shape, how it was made."""
    datasets.find(call.store, call.path["ds"])
    row = labels.find(call.store, call.path["ds"], call.path["label"])
    tag_id = call.text("tag_id", row["tag_id"])
    labels.find_tag(call.store, row["dataset_id"], tag_id)
    shape = json.loads(row["shape"])
    if any(key in call.fields for key in labelling.SHAPES):
        file = files.find(call.store, row["dataset_id"], row["file_id"])
        shape |= labelling.shape_of(call.fields, file["width"], file["height"])
    kind = call.text("generate_type", row["generate_type"])
    call.store.run(
        "UPDATE labels SET tag_id = ?, shape = ?, generate_type = ? WHERE id = ?",
        tag_id, json.dumps(shape), kind, row["id"],
    )  # fmt: skip
    return success(id=row["id"])


def delete(call: Call) -> dict[str, Any]:
    """``DELETE /object-labels/{label}``."""
    datasets.find(call.store, call.path["ds"])
    row = labels.find(call.store, call.path["ds"], call.path["label"])
    call.store.run("DELETE FROM labels WHERE id = ?", row["id"])
    return success()
