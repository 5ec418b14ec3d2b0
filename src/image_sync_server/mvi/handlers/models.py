"""``/trained-models``, ``/webapis`` (deployed models), and ``/dlapis``: what a deployed model says of a picture."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from image_sync_server.mvi import archive
from image_sync_server.mvi.answers import Failure, download, success
from image_sync_server.mvi.labelling import CORNERS
from image_sync_server.mvi.pictures import is_video, shown_name, taken
from image_sync_server.mvi.query import ordered
from image_sync_server.mvi.records import models, tasks
from image_sync_server.mvi.request import Request
from image_sync_server.mvi.store import Store, new_id
from image_sync_server.mvi.training_job import read_model

if TYPE_CHECKING:
    from image_sync_server.learn.boxes import Find


def listing(request: Request) -> list[dict[str, Any]]:
    found = models.listing(request.store)
    for name, key in (("usage", "usage"), ("production_status", "production_status"), ("pg_id", "project_group_id")):
        if wanted := request.query.get(name):
            found = [one for one in found if one[key] in wanted.split(",")]
    return ordered(found, request.query.get("sortby", ""))


def show(request: Request) -> dict[str, Any]:
    return models.as_json(models.find(request.store, request.path["model"]))


def change(request: Request) -> dict[str, Any]:
    """``PUT /{model}``: its project group and production status."""
    row = models.find(request.store, request.path["model"])
    production = request.text("production_status", row["production_status"])
    if production not in models.PRODUCTION:
        raise Failure(400, f"production_status must be one of {', '.join(models.PRODUCTION)}.")
    request.store.run(
        "UPDATE models SET project_group_id = ?, production_status = ? WHERE id = ?",
        request.text("pg_id", row["project_group_id"]), production, row["id"],
    )  # fmt: skip
    return success(trained_model_id=row["id"])


def _delete(request: Request, model_id: str) -> None:
    models.delete(request.store, model_id)
    request.server.cache.drop(model_id)


def delete(request: Request) -> dict[str, Any]:
    """``DELETE /{model}``: with the task that trained it; refused while it is deployed."""
    _delete(request, request.path["model"])
    return success()


def act_on_many(request: Request) -> Response:
    """``POST /action``: delete several."""
    return request.delete_several("models", ("model_list",), "model_id", partial(_delete, request))


def export(request: Request) -> Response:
    shown = models.as_json(models.find(request.store, request.path["model"]))
    target = request.store.scratch()
    name = archive.write_model(request.store, shown, target)
    return download(target, name)


def import_(request: Request) -> dict[str, Any]:
    """``POST /import``: a model exported by a server like this one; it gets a new id."""
    source = request.archive()
    try:
        about, raw = archive.read_model(source, request.server.limits)
    finally:
        source.unlink(missing_ok=True)
    try:
        model = read_model(raw)
    except ValueError as error:
        raise Failure(400, "The model in the archive is damaged.") from error
    strategy = about.get("strategy")
    model_id = new_id()
    categories = [{"category_id": "", "category_name": name} for name in model.names]
    new = models.NewModel(
        model_id, request.checked("name", about["name"]), request.user, model.accuracy, categories,
        nn_arch=request.checked("nn_arch", str(about.get("nn_arch") or ""), may_be_empty=True),
        strategy=strategy if isinstance(strategy, dict) else {}, usage=model.usage, evaluation=model.evaluation,
    )  # fmt: skip
    with request.store.transaction():
        models.add(request.store, new, raw)
        tasks.begin_background(request.store, model_id, "import_model", request.user, 1)
        tasks.note_progress(request.store, model_id, 1, 0, 0)
        tasks.end_background(request.store, model_id, tasks.COMPLETED)
    return success(trained_model_id=model_id)


def asset(request: Request) -> Response:
    """``GET /{model}/assets/{type}/download``: there are none here."""
    models.find(request.store, request.path["model"])
    raise Failure(404, "The models of this server have no such asset.")


def deploy(request: Request) -> dict[str, Any]:
    """``POST /webapis``: the deployment has the id of the model."""
    row = models.find(request.store, request.text("trained_model_id"))
    name = request.text("name", row["name"]) or row["name"]
    models.deploy(request.store, row["id"], name, request.user, request.text("accel_type", ""))
    request.server.jobs.chore(partial(request.server.jobs.deploy, row["id"]))
    return success(webapi_id=row["id"], container_id=row["id"])


def list_deployments(request: Request) -> list[dict[str, Any]]:
    return ordered(models.deployments(request.store), request.query.get("sortby", ""))


def show_deployment(request: Request) -> dict[str, Any]:
    return models.deployment_json(models.find_deployment(request.store, request.path["model"]))


def _undeploy(request: Request, model_id: str) -> None:
    models.undeploy(request.store, model_id)
    request.server.cache.drop(model_id)


def undeploy(request: Request) -> dict[str, Any]:
    """``DELETE /webapis/{model}``: the trained model stays."""
    _undeploy(request, request.path["model"])
    return success()


def undeploy_many(request: Request) -> Response:
    """``POST /webapis/action``: undeploy several."""
    return request.delete_several("deployed models", ("webapi_list",), "webapi_id", partial(_undeploy, request))


_KEPT = 50
"""Pictures kept per model, so that ``imageUrl`` can be followed for a while."""


def infer(request: Request) -> dict[str, Any]:
    """``POST /dlapis/{model}``: needs no token, as with MVI."""
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
    """``GET /dlapis/{model}``: MVI would fetch ``imageUrl``; this server fetches nothing from anywhere."""
    raise Failure(400, "This server fetches no pictures by URL. Send the picture with POST, in a part named files.")
