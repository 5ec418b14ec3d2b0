"""``/datasets/{id}/files`` with the faults inside an upload, and ``/uploads``: the bytes of pictures and thumbnails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from PIL import Image, ImageOps
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from image_sync_server.faults import Action
from image_sync_server.mvi import labelling
from image_sync_server.mvi.answers import Failure, counted, parsed_json, rendered, success
from image_sync_server.mvi.pictures import ZIP_SIGNATURES, Received, labelled, receive, shown_name
from image_sync_server.mvi.query import file_filter, file_order, page
from image_sync_server.mvi.records import datasets, files, labels
from image_sync_server.mvi.request import Request
from image_sync_server.web import Form


def upload(request: Request) -> Response:
    """``POST``: every picture that is sound is stored, the others are named with the reason."""
    datasets.find(request.store, request.path["ds"])
    if not request.form.files:
        raise Failure(400, "An upload needs at least one part named files.")
    names = [shown_name(part.filename, request.server.limits.name) for part in request.form.files]
    if (later := _postponed(request, request.path["ds"], _store)) is None:
        return _store(request)
    entries = [{"result": "success", "file_name": name, "dataset_id": request.path["ds"]} for name in names]
    response = rendered(success(dataset_id=request.path["ds"], resultList=entries))
    response.background = later
    return response


def _store(request: Request) -> Response:
    dataset = request.dataset
    fields = request.form.fields
    metadata = _metadata(request, fields.get("user-metadata", ""))
    entries = _label_entries(request, fields.get("labels", ""))
    category_id = _category(request, dataset["id"])
    received = receive(request.form.files, request.store, request.server.limits)
    received = _refused(request, dataset["id"], labelled(received, category_id, metadata))
    good = [one.file for one in received if one.file is not None]
    try:
        found = _entries(entries, received)
        with request.store.transaction():
            files.add(request.store, dataset["id"], request.user, good)
            _lag(request, dataset["id"], [file.id for file in good])
            if found:
                labels.replace_all(request.store, dataset["id"], good[0].id, found)
    except BaseException:
        files.discard(file.scratch for file in good)
        files.discard(request.store.picture(dataset["id"], file.file_name) for file in good)
        raise
    return _answer(received, dataset["id"])


def _entries(entries: list[Any], received: list[Received]) -> list[labelling.Entry]:
    """What is marked in the request's picture; nothing when that was refused."""
    if not entries:
        return []
    if len(received) != 1:
        raise Failure(400, "labels can only be given with a single picture.")
    file = received[0].file
    return [] if file is None else labelling.entries(entries, file.width, file.height)


def _answer(received: list[Received], dataset_id: str) -> Response:
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


def _metadata(request: Request, text: str) -> str:
    if not text.strip():
        return "{}"
    try:
        found = parsed_json(text)
    except ValueError:
        found = None
    return json.dumps(request.metadata(found, "user-metadata"))


def _label_entries(request: Request, text: str) -> list[Any]:
    if not text.strip():
        return []
    try:
        found = parsed_json(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or len(request.form.files) != 1:
        raise Failure(400, "labels must be a JSON list, given with a single picture.")
    return found


def _category(request: Request, dataset_id: str) -> str | None:
    """The category of the request: its id counts; a name alone makes the category if need be."""
    category_id = request.form.fields.get("category_id", "").strip()
    name = request.form.fields.get("category_name", "")
    if category_id:
        return str(datasets.find_category(request.store, dataset_id, category_id)["id"])
    if name.strip():
        return datasets.ensure_category(request.store, dataset_id, request.checked("category_name", name))
    return None


def listing(request: Request) -> list[dict[str, Any]]:
    """``GET``: newest first unless ``sortby`` says otherwise."""
    dataset = request.dataset
    condition, values = file_filter(request.query.get("query", ""))
    if category := request.query.get("category_id"):
        condition, values = f"f.category_id = ? AND {condition}", [category, *values]
    if request.query.get("type") == "unlabeled":
        condition = f"{files.UNLABELED} AND {condition}"
    if request.query.get("parent_id") or request.query.get("parent"):
        condition = (
            f"0 AND {condition}"  # only frames of a video have a parent, and no frames are taken from videos here
        )
    limit, skip = page(request.query)
    order = file_order(request.query.get("sortby", ""))
    return files.listing(request.store, dataset["id"], condition, values, order, limit, skip)


def show(request: Request) -> dict[str, Any]:
    row = request.file
    return files.as_json(row, labels.tag_lists(request.store, row["dataset_id"]).get(row["id"], []))


def delete(request: Request) -> dict[str, Any]:
    datasets.find(request.store, request.path["ds"], fault="Unknown dataset")
    files.delete(request.store, request.path["ds"], request.path["file"])
    return success()


def act(request: Request) -> dict[str, Any]:
    """``POST /{file}/action``, and ``GET`` with a body, as IBM's tool sends it."""
    datasets.find(request.store, request.path["ds"])
    dataset_id, file_id = request.path["ds"], request.path["file"]
    action = request.text("action")
    if action != "change_category":
        raise Failure(400, f"A file has no action {action!r} here. Known: change_category.")
    category_id = request.text("target_category_id", "")
    files.set_category(request.store, dataset_id, file_id, category_id)
    return {"dataset_id": dataset_id, "category_id": category_id, "id": file_id, "result": "success"}


def act_on_many(request: Request) -> Response:
    """``POST /action``: delete several."""
    dataset_id = request.dataset["id"]
    delete = partial(files.delete, request.store, dataset_id)
    return request.delete_several("files", ("file_id_list", "id_list"), "file_id", delete, dataset_id=dataset_id)


def copy(request: Request) -> Response:
    return _transfer(request, keep=True)


def move(request: Request) -> Response:
    return _transfer(request, keep=False)


def _transfer(request: Request, *, keep: bool) -> Response:
    source = request.dataset["id"]
    target = datasets.find(request.store, request.text("target_dataset_id"))["id"]
    if source == target:
        raise Failure(400, "Both datasets are the same.")
    entries: list[dict[str, Any]] = []
    for file_id in request.ids("files"):
        try:
            (new_id,) = files.transfer(request.store, source, target, [file_id], request.user, keep=keep)
        except Failure as failure:
            entries.append({"file_id": file_id, "result": "fail", "fault": failure.fault})
        else:
            entries.append({"file_id": file_id, "new_file_id": new_id, "dataset_id": target, "result": "success"})
    return counted(entries)


_SIDE = 240


def picture(request: Request) -> Response:
    row = _row(request, request.path["name"])
    path = request.store.picture(row["dataset_id"], row["file_name"])
    return FileResponse(path, media_type=row["content_type"], headers={"X-Content-Type-Options": "nosniff"})


def thumbnail(request: Request) -> Response:
    """``GET /uploads/{owner}/datasets/{id}/thumbnails/{file_id}.jpg``: made when somebody asks."""
    row = _row(request, request.path["name"])
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


def _row(request: Request, name: str) -> dict[str, str]:
    # The file's id is the stem of both names: the path is made from the row, never from the request.
    row = files.find(request.store, request.path["ds"], name.rpartition(".")[0])
    return dict(row)


def inferred(request: Request) -> Response:
    """``GET /uploads/temp/{model}/{file_name}``: one of the last pictures a model was asked about."""
    folder = request.store.folder / "inferences"
    for path in folder.glob("*/*"):
        if path.name == request.path["name"] and path.parent.name == request.path["model"]:
            return FileResponse(path)
    raise Failure(404, "The picture is kept no longer.")


_log = structlog.stdlib.get_logger(__name__)
_FEWEST = 2


def _upload_path(dataset_id: str) -> str:
    return f"/datasets/{dataset_id}/files"


def _refused(request: Request, dataset_id: str, received: list[Received]) -> list[Received]:
    """The same files, some of them refused if that is switched on."""
    good = [at for at, one in enumerate(received) if one.file is not None]
    faults, path = request.server.faults, _upload_path(dataset_id)
    if len(good) >= _FEWEST and faults.pick("POST", path, Action.PARTIAL):
        fault = "This refusal was asked for."
    elif good and faults.pick("POST", path, Action.NOT_STORED):
        fault = "The file could not be stored. This refusal was asked for."
    else:
        return received
    chosen = {good[at] for at in faults.some_of(len(good))} if len(good) >= _FEWEST else set(good)
    files.discard(one.file.scratch for at, one in enumerate(received) if at in chosen and one.file)
    return [replace(one, file=None, fault=fault) if at in chosen else one for at, one in enumerate(received)]


def _lag(request: Request, dataset_id: str, file_ids: list[str]) -> None:
    """Keep new files out of sight if that is switched on; call it in the transaction that adds them."""
    if file_ids and (fault := request.server.faults.pick("POST", _upload_path(dataset_id), Action.LAG)):
        request.store.lag(dataset_id, file_ids, fault.seconds)


def _postponed(request: Request, dataset_id: str, work: Callable[[Request], object]) -> BackgroundTask | None:
    """The task that carries an upload with an archive out later, if that is switched on; it takes the form over."""
    if not any(part.start().startswith(ZIP_SIGNATURES) for part in request.form.files):
        return None
    fault = request.server.faults.pick("POST", _upload_path(dataset_id), Action.LATE_ZIP)
    if fault is None:
        return None
    later = replace(request, form=Form(list(request.form.files), dict(request.form.fields)))
    request.form.files.clear()

    async def task() -> None:
        try:
            if await request.server.faults.pause(fault.seconds):
                await run_in_threadpool(work, later)
        except Failure as failure:  # nobody is there to be told
            _log.info("late_zip.failed", dataset=dataset_id, fault=failure.fault)
        finally:
            later.form.discard()

    return BackgroundTask(task)
