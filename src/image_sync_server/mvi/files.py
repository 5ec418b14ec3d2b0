"""Files of a dataset: uploads with the faults inside them, listings, copies, and the bytes of pictures."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from PIL import Image, ImageOps
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from image_sync_server.faults import Action
from image_sync_server.mvi import categories, labels
from image_sync_server.mvi.metadata import ensure_keys
from image_sync_server.mvi.pictures import ZIP_SIGNATURES, NewFile, Received, discard, receive, shown_name
from image_sync_server.mvi.query import file_filter, file_order
from image_sync_server.mvi.request import (
    Failure,
    Request,
    counted,
    find_dataset,
    find_file,
    page,
    parsed_json,
    picked,
    rendered,
    success,
)
from image_sync_server.mvi.store import FILES, SHOWN, UNLABELED, VIDEO, Store, new_id, now_ms
from image_sync_server.web import Form

_log = structlog.stdlib.get_logger(__name__)
_INSERT = """INSERT INTO files (id, dataset_id, owner, original_file_name, file_name, content_type, category_id, size,
    width, height, user_metadata, created_at, uploaded_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_FEWEST = 2
_SIDE = 240


def add(store: Store, dataset_id: str, owner: str, files: Sequence[NewFile]) -> None:
    """Take pictures into a dataset, all or none of them. Raises Failure: 404 when the dataset is gone meanwhile."""
    now, folder = now_ms(), store.pictures(dataset_id)
    moved: list[Path] = []
    try:
        # First the files, then the rows: a crash in between leaves a file without a row, never a row without a file.
        for file in files:
            target = folder / file.file_name
            file.scratch.replace(target)
            moved.append(target)
        with store.transaction() as connection:
            connection.executemany(
                _INSERT,
                [
                    (file.id, dataset_id, owner, file.name, file.file_name, file.content_type, file.category_id,
                     file.size, file.width, file.height, file.metadata, file.created_at or now, now)
                    for file in files
                ],
            )  # fmt: skip
            for metadata in {file.metadata for file in files} - {"{}"}:
                ensure_keys(store, dataset_id, json.loads(metadata))
            store.update("datasets", dataset_id, updated_at=now)
    except (FileNotFoundError, sqlite3.IntegrityError) as error:
        discard(moved)
        raise Failure(404, f"Could not find dataset with id {dataset_id}: it was deleted meanwhile.") from error
    except BaseException:
        discard(moved)
        raise


def upload(request: Request) -> Response:
    """``POST``: every picture that is sound is stored, the others are named with the reason."""
    dataset_id = request.dataset["id"]
    if not request.form.files:
        raise Failure(400, "An upload needs at least one part named files.")
    names = [shown_name(part.filename, request.server.limits.name) for part in request.form.files]
    if (later := _postponed(request, dataset_id)) is None:
        return _store(request)
    entries = [{"result": "success", "file_name": name, "dataset_id": dataset_id} for name in names]
    response = rendered(success(dataset_id=dataset_id, resultList=entries))
    response.background = later
    return response


def _store(request: Request) -> Response:
    store, dataset_id, fields = request.store, request.dataset["id"], request.form.fields
    metadata = json.dumps(request.metadata(_field(request, "user-metadata", {}), "user-metadata"))
    marked = _field(request, "labels", [])
    if fields.get("labels", "").strip() and (not isinstance(marked, list) or len(request.form.files) != 1):
        raise Failure(400, "labels must be a JSON list, given with a single picture.")
    category_id: str | None = fields.get("category_id", "").strip()
    name = fields.get("category_name", "")
    if category_id:  # it counts; a name alone makes the category if need be
        category_id = categories.find(store, dataset_id, category_id)["id"]
    else:
        name = request.checked("category_name", name) if name.strip() else ""
        category_id = categories.ensure(store, dataset_id, name) if name else None
    received = _refused(request, dataset_id, receive(request.form.files, store, request.server.limits))
    good = [one.file for one in received if one.file is not None]
    for file in good:
        file.category_id, file.metadata = category_id, metadata
    try:
        if marked and len(received) != 1:
            raise Failure(400, "labels can only be given with a single picture.")  # noqa: TRY301 - what was received must go
        shapes = labels.entries(marked, good[0].width, good[0].height) if good else []
        with store.transaction():
            add(store, dataset_id, request.user, good)
            if good and (fault := request.server.faults.pick("POST", _path(dataset_id), Action.LAG)):
                store.lag(dataset_id, [file.id for file in good], fault.seconds)
            if shapes:
                labels.put(store, dataset_id, good[0].id, shapes)
    except BaseException:
        discard(file.scratch for file in good)
        discard(store.picture(dataset_id, file.file_name) for file in good)
        raise
    bad = [one.fault for one in received if one.file is None]
    body: dict[str, Any] = {"result": "fail" if bad else "success"}
    if good:
        body["id"] = good[0].id
    body["dataset_id"] = dataset_id
    if bad:
        body["fault"] = f"{len(bad)} of {len(received)} files were refused. The first: {bad[0]}"
    body["resultList"] = [one.as_json(dataset_id) for one in received]
    return rendered(body, 422 if bad else 200)


def _field(request: Request, name: str, absent: Any) -> Any:
    """The JSON in a plain field of the form; None when it is not JSON."""
    text = request.form.fields.get(name, "")
    try:
        return parsed_json(text) if text.strip() else absent
    except ValueError:
        return None


def _refused(request: Request, dataset_id: str, received: list[Received]) -> list[Received]:
    """The same files, some of them refused if that is switched on."""
    good = [at for at, one in enumerate(received) if one.file is not None]
    faults, path = request.server.faults, _path(dataset_id)
    if len(good) >= _FEWEST and faults.pick("POST", path, Action.PARTIAL):
        fault = "This refusal was asked for."
    elif good and faults.pick("POST", path, Action.NOT_STORED):
        fault = "The file could not be stored. This refusal was asked for."
    else:
        return received
    chosen = {good[at] for at in faults.some_of(len(good))} if len(good) >= _FEWEST else set(good)
    discard(one.file.scratch for at, one in enumerate(received) if at in chosen and one.file)
    return [replace(one, file=None, fault=fault) if at in chosen else one for at, one in enumerate(received)]


def _path(dataset_id: str) -> str:
    return f"/datasets/{dataset_id}/files"


def _postponed(request: Request, dataset_id: str) -> BackgroundTask | None:
    """The task that carries an upload with an archive out later, if that is switched on; it takes the form over."""
    if not any(part.read(4).startswith(ZIP_SIGNATURES) for part in request.form.files):
        return None
    fault = request.server.faults.pick("POST", _path(dataset_id), Action.LATE_ZIP)
    if fault is None:
        return None
    later = replace(request, form=Form(list(request.form.files), dict(request.form.fields)))
    request.form.files.clear()

    async def task() -> None:
        try:
            if await request.server.faults.pause(fault.seconds):
                await run_in_threadpool(_store, later)
        except Failure as failure:  # nobody is there to be told
            _log.info("late_zip.failed", dataset=dataset_id, fault=failure.detail)
        finally:
            later.form.discard()

    return BackgroundTask(task)


def listed(
    store: Store, dataset_id: str, condition: str, values: Sequence[Any], order: str, limit: int = -1, skip: int = 0
) -> list[dict[str, Any]]:
    """Files that meet a condition made by :mod:`image_sync_server.mvi.query`."""
    rows = store.rows(
        f"{FILES} WHERE f.dataset_id = ? AND {condition} AND {SHOWN} ORDER BY {order} LIMIT ? OFFSET ?",
        dataset_id, *values, limit, skip,
    )  # fmt: skip
    tags = labels.tag_lists(store, dataset_id)
    return [_shown(row, tags.get(row["id"], [])) for row in rows]


def _shown(row: sqlite3.Row, tags: list[dict[str, Any]]) -> dict[str, Any]:
    """The file as MVI shows it; ``size`` is a string there."""
    video = row["content_type"] == VIDEO
    return {
        "_id": row["id"],
        **picked(row, "dataset_id owner original_file_name file_name content_type created_at uploaded_at"),
        "file_type": "video" if video else "image",
        "category_id": row["category_id"] or "",
        "category_name": row["category_name"] or "",
        "parent_id": None,
        "size": str(row["size"]),
        "meta_data": {} if video else picked(row, "width height"),
        "upload_type": "file_upload",
        "generate_type": None,
        "label_type": "manual" if tags else None,
        "tag_list": tags,
        "fps": 0.0,
        "duration": 0.0,
        "user_metadata": json.loads(row["user_metadata"]) if row["user_metadata"] != "{}" else {},
    }


def listing(request: Request) -> list[dict[str, Any]]:
    """``GET``: newest first unless ``sortby`` says otherwise."""
    dataset = request.dataset
    condition, values = file_filter(request.query.get("query", ""))
    if category := request.query.get("category_id"):
        condition, values = f"f.category_id = ? AND {condition}", [category, *values]
    if request.query.get("type") == "unlabeled":
        condition = f"{UNLABELED} AND {condition}"
    if request.query.get("parent_id") or request.query.get("parent"):
        # Only frames of a video have a parent, and no frames are taken from videos here.
        condition = f"0 AND {condition}"
    order = file_order(request.query.get("sortby", ""))
    return listed(request.store, dataset["id"], condition, values, order, *page(request.query))


def show(request: Request) -> dict[str, Any]:
    row = request.file
    return _shown(row, labels.tag_lists(request.store, row["dataset_id"]).get(row["id"], []))


def _delete(store: Store, dataset_id: str, file_id: str) -> None:
    row = find_file(store, dataset_id, file_id)
    store.delete("files", file_id)
    discard([store.picture(dataset_id, row["file_name"]), store.thumbnail(dataset_id, file_id)])


def delete(request: Request) -> dict[str, Any]:
    dataset = find_dataset(request.store, request.path["ds"], "Unknown dataset")
    _delete(request.store, dataset["id"], request.path["file"])
    return success()


def act(request: Request) -> dict[str, Any]:
    """``POST /{file}/action``, and ``GET`` with a body, as IBM's tool sends it."""
    dataset_id, action = request.dataset["id"], request.text("action")
    if action != "change_category":
        raise Failure(400, f"A file has no action {action!r} here. Known: change_category.")
    category_id = request.text("target_category_id", "")
    with request.store.transaction():
        file = request.file
        if category_id:
            categories.find(request.store, dataset_id, category_id)
        request.store.update("files", file["id"], category_id=category_id or None)
    return {"dataset_id": dataset_id, "category_id": category_id, "id": file["id"], "result": "success"}


def act_on_many(request: Request) -> Response:
    dataset_id = request.dataset["id"]
    delete = partial(_delete, request.store, dataset_id)
    return request.delete_several("files", ("file_id_list", "id_list"), "file_id", delete, dataset_id=dataset_id)


def copy(request: Request) -> Response:
    return _transfer(request, keep=True)


def move(request: Request) -> Response:
    return _transfer(request, keep=False)


def _transfer(request: Request, *, keep: bool) -> Response:
    source = request.dataset["id"]
    target = find_dataset(request.store, request.text("target_dataset_id"))["id"]
    if source == target:
        raise Failure(400, "Both datasets are the same.")
    entries: list[dict[str, Any]] = []
    for file_id in request.ids("files"):
        try:
            (new,) = transfer(request.store, source, target, [file_id], request.user, keep=keep)
        except Failure as failure:
            entries.append({"file_id": file_id, "result": "fail", "fault": failure.detail})
        else:
            entries.append({"file_id": file_id, "new_file_id": new, "dataset_id": target, "result": "success"})
    return counted(entries)


def transfer(store: Store, source: str, target: str, file_ids: Sequence[str], owner: str, *, keep: bool) -> list[str]:
    """Copy files (or move them, unless ``keep``) to a dataset with category, metadata and labels; their new ids.

    Raises:
        Failure: 404 when one of them does not exist; then none was taken.
    """
    rows = [find_file(store, source, file_id) for file_id in file_ids]
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
            for row, file in zip(rows, new, strict=True):
                if row["category_name"] is not None:
                    file.category_id = categories.ensure(store, target, row["category_name"])
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


def picture(request: Request) -> Response:
    row = _named(request)
    path = request.store.picture(row["dataset_id"], row["file_name"])
    return FileResponse(path, media_type=row["content_type"], headers={"X-Content-Type-Options": "nosniff"})


def thumbnail(request: Request) -> Response:
    """``GET /uploads/{owner}/datasets/{id}/thumbnails/{file_id}.jpg``: made when somebody asks."""
    row = _named(request)
    target = request.store.thumbnail(row["dataset_id"], row["id"])
    if not target.exists():
        scratch = request.store.scratch()
        source = request.store.picture(row["dataset_id"], row["file_name"])
        try:
            # The formats are named because Pillow would otherwise try dozens of parsers on a stranger's bytes.
            with Image.open(source, formats=("JPEG", "PNG")) as image:
                image.draft("RGB", (_SIDE, _SIDE))
                small = ImageOps.exif_transpose(image).convert("RGB")
                small.thumbnail((_SIDE, _SIDE))
                small.save(scratch, "JPEG", quality=80)
        except Exception as error:
            scratch.unlink(missing_ok=True)
            raise Failure(404, "The picture cannot be decoded, so it has no thumbnail.") from error
        scratch.replace(target)
    return FileResponse(target, media_type="image/jpeg")


def _named(request: Request) -> sqlite3.Row:
    # The file's id is the stem of both names: the path is made from the row, never from the request.
    return find_file(request.store, request.path["ds"], request.path["name"].rpartition(".")[0])


def inferred(request: Request) -> Response:
    """``GET /uploads/temp/{model}/{file_name}``: one of the last pictures a model was asked about."""
    folder = request.store.folder / "inferences"
    for path in folder.glob("*/*"):
        if path.name == request.path["name"] and path.parent.name == request.path["model"]:
            return FileResponse(path)
    raise Failure(404, "The picture is kept no longer.")
