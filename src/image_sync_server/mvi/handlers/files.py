"""``/datasets/{id}/files``."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from starlette.responses import Response

from image_sync_server.mvi import labelling, mishaps, texts, uploads
from image_sync_server.mvi.answers import Failure, counted, rendered, success
from image_sync_server.mvi.call import Call
from image_sync_server.mvi.handlers import several
from image_sync_server.mvi.handlers.datasets import UNLABELED
from image_sync_server.mvi.query import file_filter, file_order, page
from image_sync_server.mvi.records import categories, datasets, files, labels


def upload(call: Call) -> Response:
    """``POST``: every picture that is sound is stored, the others are named with the reason."""
    datasets.find(call.store, call.path["ds"])
    if not call.form.files:
        raise Failure(400, "An upload needs at least one part named files.")
    names = [uploads.shown_name(part.filename, call.site.limits.name) for part in call.form.files]
    if (later := mishaps.postponed(call, call.path["ds"], _store)) is None:
        return _store(call)
    entries = [{"result": "success", "file_name": name, "dataset_id": call.path["ds"]} for name in names]
    response = rendered(success(dataset_id=call.path["ds"], resultList=entries))
    response.background = later
    return response


def _store(call: Call) -> Response:
    dataset = datasets.find(call.store, call.path["ds"])
    fields = call.form.fields
    metadata = _metadata(call, fields.get("user-metadata", ""))
    entries = _label_entries(call, fields.get("labels", ""))
    category_id = _category(call, dataset["id"])
    received = uploads.receive(call.form.files, call.store, call.site.limits)
    received = mishaps.refused(call, dataset["id"], uploads.labelled(received, category_id, metadata))
    good = [one.file for one in received if one.file is not None]
    try:
        found = _entries(entries, received)
        with call.store.transaction():
            files.add(call.store, dataset["id"], call.user, good)
            mishaps.lag(call, dataset["id"], [file.id for file in good])
            if found:
                labels.replace_all(call.store, dataset["id"], good[0].id, found)
    except BaseException:
        files.discard(file.scratch for file in good)
        files.discard(call.store.picture(dataset["id"], file.file_name) for file in good)
        raise
    return _answer(received, dataset["id"])


def _entries(entries: list[Any], received: list[uploads.Received]) -> list[labelling.Entry]:
    """What is marked in the request's picture; nothing when that was refused."""
    if not entries:
        return []
    if len(received) != 1:
        raise Failure(400, "labels can only be given with a single picture.")
    file = received[0].file
    return [] if file is None else labelling.entries(entries, file.width, file.height)


def _answer(received: list[uploads.Received], dataset_id: str) -> Response:
    good = [one.file.id for one in received if one.file is not None]
    body: dict[str, Any] = {"result": "success" if len(good) == len(received) else "fail"}
    if good:
        body["id"] = good[0]
    body["dataset_id"] = dataset_id
    if len(good) < len(received):
        faults = [one.fault for one in received if one.file is None]
        body["fault"] = f"{len(faults)} of {len(received)} files were refused. The first: {faults[0]}"
    body["resultList"] = [one.as_json(dataset_id) for one in received]
    return rendered(body, 200 if len(good) == len(received) else 422)


def _metadata(call: Call, text: str) -> str:
    if not text.strip():
        return "{}"
    try:
        found = texts.parsed(text)
    except ValueError:
        found = None
    return json.dumps(checked_metadata(call, found, "user-metadata"))


def checked_metadata(call: Call, found: Any, name: str) -> dict[str, Any]:
    """User metadata: an object of texts, numbers, booleans, and lists of them.

    Raises:
        Failure: 400 when it is something else.
    """
    if not isinstance(found, dict):
        raise Failure(400, f"{name} must be a JSON object of keys and values.")
    for key, value in found.items():
        call.checked("A metadata key", key)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                call.checked(f"The value of {key}", one, may_be_empty=True, most=4096)
            elif not (one is None or isinstance(one, bool | int | float)) or one in {float("inf"), float("-inf")}:
                raise Failure(400, f"The value of {key} in {name} must be a text, a number, or a list of them.")
    return found


def _label_entries(call: Call, text: str) -> list[Any]:
    if not text.strip():
        return []
    try:
        found = texts.parsed(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or len(call.form.files) != 1:
        raise Failure(400, "labels must be a JSON list, given with a single picture.")
    return found


def _category(call: Call, dataset_id: str) -> str | None:
    """The category of the request: its id counts; a name alone makes the category if need be."""
    category_id = call.form.fields.get("category_id", "").strip()
    name = call.form.fields.get("category_name", "")
    if category_id:
        return str(categories.find(call.store, dataset_id, category_id)["id"])
    if name.strip():
        return categories.ensure(call.store, dataset_id, call.checked("category_name", name))
    return None


def listing(call: Call) -> list[dict[str, Any]]:
    """``GET``: newest first unless ``sortby`` says otherwise."""
    dataset = datasets.find(call.store, call.path["ds"])
    condition, values = file_filter(call.query.get("query", ""))
    if category := call.query.get("category_id"):
        condition, values = f"f.category_id = ? AND {condition}", [category, *values]
    if call.query.get("type") == "unlabeled":
        condition = f"{UNLABELED} AND {condition}"
    if call.query.get("parent_id") or call.query.get("parent"):
        condition = (
            f"0 AND {condition}"  # only frames of a video have a parent, and no frames are taken from videos here
        )
    limit, skip = page(call.query)
    order = file_order(call.query.get("sortby", ""))
    return files.listing(call.store, dataset["id"], condition, values, order, limit, skip)


def show(call: Call) -> dict[str, Any]:
    """``GET /{file}``."""
    datasets.find(call.store, call.path["ds"])
    row = files.find(call.store, call.path["ds"], call.path["file"])
    return files.as_json(row, labels.tag_lists(call.store, row["dataset_id"]).get(row["id"], []))


def delete(call: Call) -> dict[str, Any]:
    """``DELETE /{file}``."""
    datasets.find(call.store, call.path["ds"], fault="Unknown dataset")
    files.delete(call.store, call.path["ds"], call.path["file"])
    return success()


def act(call: Call) -> dict[str, Any]:
    """``POST /{file}/action``, and ``GET`` with a body, as IBM's tool sends it."""
    datasets.find(call.store, call.path["ds"])
    dataset_id, file_id = call.path["ds"], call.path["file"]
    action = call.text("action")
    if action != "change_category":
        raise Failure(400, f"A file has no action {action!r} here. Known: change_category.")
    category_id = call.text("target_category_id", "")
    files.set_category(call.store, dataset_id, file_id, category_id)
    return {"dataset_id": dataset_id, "category_id": category_id, "id": file_id, "result": "success"}


def act_on_many(call: Call) -> Response:
    """``POST /action``: delete several."""
    dataset_id = datasets.find(call.store, call.path["ds"])["id"]
    delete = partial(files.delete, call.store, dataset_id)
    return several.deleted(call, "files", ("file_id_list", "id_list"), "file_id", delete, dataset_id=dataset_id)


def copy(call: Call) -> Response:
    """``POST /copy``."""
    return _transfer(call, keep=True)


def move(call: Call) -> Response:
    """``POST /move``."""
    return _transfer(call, keep=False)


def _transfer(call: Call, *, keep: bool) -> Response:
    source = datasets.find(call.store, call.path["ds"])["id"]
    target = datasets.find(call.store, call.text("target_dataset_id"))["id"]
    if source == target:
        raise Failure(400, "Both datasets are the same.")
    entries: list[dict[str, Any]] = []
    for file_id in call.ids("files"):
        try:
            (new_id,) = files.transfer(call.store, source, target, [file_id], call.user, keep=keep)
        except Failure as failure:
            entries.append({"file_id": file_id, "result": "fail", "fault": failure.fault})
        else:
            entries.append({"file_id": file_id, "new_file_id": new_id, "dataset_id": target, "result": "success"})
    return counted(entries)
