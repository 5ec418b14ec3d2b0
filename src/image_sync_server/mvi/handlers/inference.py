"""``/dlapis/{id}``: what a deployed model says of a picture."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.labelling import CORNERS
from image_sync_server.mvi.pictures import is_video, shown_name, taken
from image_sync_server.mvi.records import models
from image_sync_server.mvi.request import Request
from image_sync_server.mvi.store import Store

if TYPE_CHECKING:
    from image_sync_server.learn.boxes import Find

_KEPT = 50
"""Pictures kept per model, so that ``imageUrl`` can be followed for a while."""


def infer(request: Request) -> dict[str, Any]:
    """``POST``: needs no token, as with MVI."""
    row = models.find_deployment(request.store, request.path["model"])
    if row["status"] != models.READY:
        raise Failure(503, f"The deployed model is {row['status']}, not ready.", headers={"Retry-After": "1"})
    threshold = _number(request, "confthre")
    most = int(_number(request, "clsnum"))
    if len(request.form.files) != 1:
        raise Failure(400, "An inference takes one part named files: the picture.")
    part = request.form.files[0]
    if part.size > request.server.limits.picture:
        raise Failure(413, f"The picture has {part.size} bytes; at most {request.server.limits.picture} are taken.")
    data = part.read()
    if is_video(data):
        raise Failure(400, "This server says nothing of videos. Send a picture.")
    received = taken(shown_name(part.filename, request.server.limits.name), data, request.store, request.server.limits)
    if received.file is None:
        raise Failure(400, received.fault)
    try:
        guesses = request.server.cache.model(row["id"]).predict(data)
    except ValueError as error:
        received.file.scratch.unlink(missing_ok=True)
        raise Failure(400, "The picture cannot be decoded.") from error
    except OSError as error:
        received.file.scratch.unlink(missing_ok=True)
        raise Failure(500, "The model cannot be read.") from error
    classified = [_shown(guess) for guess in guesses]
    kept = [one for one in classified if one["confidence"] >= threshold]
    return {
        "webAPIId": row["id"],
        "imageUrl": request.root + _keep(request.store, row["id"], received.file.file_name, received.file.scratch),
        "imageMd5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "classified": kept[:most] if most else kept,
        "result": "success",
    }


def _shown(guess: tuple[str, float] | Find) -> dict[str, Any]:
    """A guess as MVI shows it: a category, or a label with its place in whole pixels."""
    if isinstance(guess, tuple):
        return {"name": guess[0], "confidence": round(guess[1], 5)}
    place = (guess.left, guess.top, guess.right, guess.bottom)
    corners = {corner: round(edge) for corner, edge in zip(CORNERS, place, strict=True)}
    return {"label": guess.label, "confidence": round(guess.confidence, 5), **corners}


def _number(request: Request, name: str) -> float:
    """A number from 0 on of the form or the query; 0 when it is not given."""
    text = request.form.fields.get(name, request.query.get(name, "")).strip()
    try:
        value = float(text) if text else 0.0
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1000:  # noqa: PLR2004 - more categories than any dataset has
        raise Failure(400, f"{name} must be a number from 0 on.")
    return value


def _keep(store: Store, model_id: str, file_name: str, scratch: Path) -> str:
    folder = store.folder / "inferences" / model_id
    folder.mkdir(mode=0o700, exist_ok=True)
    scratch.replace(folder / file_name)
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in kept[:-_KEPT]:
        with suppress(OSError):
            path.unlink()
    return f"/uploads/temp/{model_id}/{file_name}"


def by_url(_request: Request) -> dict[str, Any]:
    """``GET``: MVI would fetch ``imageUrl``; this server fetches nothing from anywhere."""
    raise Failure(400, "This server fetches no pictures by URL. Send the picture with POST, in a part named files.")
