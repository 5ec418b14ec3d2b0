"""``/uploads``: the bytes of pictures and their thumbnails, beside and below ``/api``."""

from __future__ import annotations

from PIL import Image, ImageOps
from starlette.responses import FileResponse, Response

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.call import Call
from image_sync_server.mvi.records import files

_SIDE = 240


def picture(call: Call) -> Response:
    """``GET /uploads/{owner}/datasets/{id}/files/{file_name}``."""
    row = _row(call, call.path["name"])
    path = call.store.picture(row["dataset_id"], row["file_name"])
    return FileResponse(path, media_type=row["content_type"], headers={"X-Content-Type-Options": "nosniff"})


def thumbnail(call: Call) -> Response:
    """``GET /uploads/{owner}/datasets/{id}/thumbnails/{file_id}.jpg``: made when somebody asks."""
    row = _row(call, call.path["name"])
    target = call.store.thumbnail(row["dataset_id"], row["id"])
    if not target.exists():
        scratch = call.store.scratch()
        source = call.store.picture(row["dataset_id"], row["file_name"])
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


def _row(call: Call, name: str) -> dict[str, str]:
    # The file's id is the stem of both names: the path is made from the row, never from the request.
    row = files.find(call.store, call.path["ds"], name.rpartition(".")[0])
    return dict(row)


def inferred(call: Call) -> Response:
    """``GET /uploads/temp/{model}/{file_name}``: one of the last pictures a model was asked about."""
    folder = call.store.folder / "inferences"
    for path in folder.glob("*/*"):
        if path.name == call.path["name"] and path.parent.name == call.path["model"]:
            return FileResponse(path)
    raise Failure(404, "The picture is kept no longer.")
