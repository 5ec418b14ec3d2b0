"""``/uploads``: the bytes of pictures and their thumbnails, beside and below ``/api``."""

from __future__ import annotations

from PIL import Image, ImageOps
from starlette.responses import FileResponse, Response

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.records import files
from image_sync_server.mvi.request import Request

_SIDE = 240


def picture(request: Request) -> Response:
    """``GET /uploads/{owner}/datasets/{id}/files/{file_name}``."""
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
