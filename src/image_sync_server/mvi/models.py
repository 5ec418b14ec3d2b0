"""``/trained-models``, ``/webapis`` (deployed models), and ``/dlapis``: what a deployed model says of a picture."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import threading
import zipfile
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from starlette.responses import Response

from image_sync_server.mvi import tasks
from image_sync_server.mvi.labels import CORNERS
from image_sync_server.mvi.pictures import BadZip, Limits, is_video, open_zip, read_member, shown_name, taken
from image_sync_server.mvi.request import Failure, Request, download, file_name, found, parsed_json, picked, success
from image_sync_server.mvi.store import Store, new_id, now_ms

if TYPE_CHECKING:
    from image_sync_server.learn.detector import Detector
    from image_sync_server.learn.learner import Model
    from image_sync_server.learn.windows import Find

_log = structlog.stdlib.get_logger(__name__)
_SELECT = "SELECT m.*, (SELECT count(*) FROM webapis w WHERE w.id = m.id) AS deployed FROM models m"
_WEBAPIS = """SELECT w.*, m.accuracy, m.categories, m.nn_arch, m.production_status, m.dataset_id, m.usage
    FROM webapis w JOIN models m ON m.id = w.id"""
_STARTING, _READY, _FAILED = "starting", "ready", "failed"
_PRODUCTION = ("production", "untested", "rejected")
_MODEL, _ABOUT = "model.bin", "model.json"
_CACHED = 4
_KEPT = 50
"""Pictures kept per model, so that ``imageUrl`` can be followed for a while."""


def read_model(raw: bytes) -> Model | Detector:
    """The model that a training wrote. Raises ValueError when it is damaged or of another version."""
    # Late: NumPy takes a while to import, and most requests never need it.
    from threadpoolctl import threadpool_limits

    from image_sync_server.learn.detector import Detector
    from image_sync_server.learn.learner import ANOTHER, Model

    # For good: threads that share the small matrices of one picture wait for each other, a few times slower than one.
    threadpool_limits(limits=1)
    try:
        model = Detector.from_bytes(raw) if Detector.wrote(raw) else Model.from_bytes(raw)
        if not (0 <= model.accuracy <= 1 and all(isinstance(name, str) for name in model.names)):
            raise ValueError(ANOTHER)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:  # facts of somebody else's
        raise ValueError(ANOTHER) from error
    return model


class ModelCache:
    """The models that were asked last, by id."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._models: OrderedDict[str, Model | Detector] = OrderedDict()
        self._lock = threading.Lock()

    def model(self, model_id: str) -> Model | Detector:
        """The model, ready to predict. Raises ValueError when its file is damaged, OSError when it cannot be read."""
        with self._lock:
            model = self._models.get(model_id)
            if model is None:
                model = read_model(self._store.model(model_id).read_bytes())
            self._models[model_id] = model
            self._models.move_to_end(model_id)
            while len(self._models) > _CACHED:
                self._models.popitem(last=False)
            return model

    def drop(self, model_id: str) -> None:
        with self._lock:
            self._models.pop(model_id, None)


def add(store: Store, model_id: str, model: Model | Detector, raw: bytes, **about: Any) -> None:
    """Keep a model that was just trained or imported: first its bytes, then its row.

    Args:
        raw: its bytes.
        about: ``name`` and ``owner``, and what else is known of it, by column.
    """
    scratch = store.scratch()
    scratch.write_bytes(raw)
    scratch.replace(store.model(model_id))
    about = {
        "dataset_id": "",
        "categories": [{"category_id": "", "category_name": name} for name in model.names],
    } | about
    about |= {"usage": model.usage, "accuracy": model.accuracy, "evaluation": dict(model.evaluation)}
    values = {key: json.dumps(one) if isinstance(one, dict | list) else one for key, one in about.items()}
    store.insert("models", id=model_id, created_at=now_ms(), **values)


def _find(request: Request, model_id: str) -> sqlite3.Row:
    row = request.store.row(f"{_SELECT} WHERE m.id = ?", model_id)
    return found(row, f"Could not find trainedModel with id {model_id}.")


def _shown(row: sqlite3.Row) -> dict[str, Any]:
    """The model as MVI shows it; the accuracy is a string there."""
    same = "name dataset_id owner usage nn_arch deployed production_status project_group_id created_at"
    return {
        "_id": row["id"],
        **picked(row, same),
        "method": "FineTuning",
        "strategy": json.loads(row["strategy"]),
        "userdnn_id": "",
        "accuracy": f"{row['accuracy']:.4f}",
        "categories": json.loads(row["categories"]),
        "eval_data": json.loads(row["evaluation"]),
        "dataset_summary": json.loads(row["summary"]),
        "assets": [],
    }


def listing(request: Request) -> list[dict[str, Any]]:
    listed = [_shown(row) for row in request.store.rows(f"{_SELECT} ORDER BY m.seq DESC")]
    for name, key in (("usage", "usage"), ("production_status", "production_status"), ("pg_id", "project_group_id")):
        if chosen := request.chosen(name):
            listed = [one for one in listed if one[key] in chosen]
    return request.ordered(listed)


def show(request: Request) -> dict[str, Any]:
    return _shown(_find(request, request.path["model"]))


def change(request: Request) -> dict[str, Any]:
    row = _find(request, request.path["model"])
    production = request.text("production_status", row["production_status"])
    if production not in _PRODUCTION:
        raise Failure(400, f"production_status must be one of {', '.join(_PRODUCTION)}.")
    group = request.text("pg_id", row["project_group_id"])
    request.store.update("models", row["id"], project_group_id=group, production_status=production)
    return success(trained_model_id=row["id"])


def _delete(request: Request, model_id: str) -> None:
    with request.store.transaction():
        if _find(request, model_id)["deployed"]:
            raise Failure(409, f"Trained model {model_id} is deployed. Undeploy it first.")
        request.store.delete("models", model_id)
        request.store.delete("tasks", model_id)
    with suppress(OSError):
        request.store.model(model_id).unlink()
    request.server.cache.drop(model_id)


def delete(request: Request) -> dict[str, Any]:
    """``DELETE /{model}``: with the task that trained it; refused while it is deployed."""
    _delete(request, request.path["model"])
    return success()


def act_on_many(request: Request) -> Response:
    return request.delete_several("models", ("model_list",), "model_id", partial(_delete, request))


def export(request: Request) -> Response:
    about, target = show(request), request.store.scratch()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_ABOUT, json.dumps(about))
        archive.write(request.store.model(about["_id"]), _MODEL)
    return download(target, file_name(about["name"], "model"))


def import_(request: Request) -> dict[str, Any]:
    """``POST /import``: a model exported by a server like this one; it gets a new id."""
    source = request.archive()
    try:
        about, raw = _exported(source, request.server.limits)
    finally:
        source.unlink(missing_ok=True)
    try:
        model = read_model(raw)
    except ValueError as error:
        raise Failure(400, "The model in the archive is damaged.") from error
    model_id, strategy = new_id(), about.get("strategy")
    name = request.checked("name", about["name"])
    nn_arch = request.checked("nn_arch", str(about.get("nn_arch") or ""), may_be_empty=True)
    strategy = strategy if isinstance(strategy, dict) else {}
    with request.store.transaction():
        add(request.store, model_id, model, raw, name=name, owner=request.user, nn_arch=nn_arch, strategy=strategy)
        tasks.begin_background(request.store, model_id, "import_model", request.user, 1)
        tasks.note_progress(request.store, model_id, 1, 0, 0)
        tasks.end_background(request.store, model_id)
    return success(trained_model_id=model_id)


def _exported(source: Path, limits: Limits) -> tuple[dict[str, Any], bytes]:
    """What an exported model says of itself, and its bytes. Raises Failure (400)."""
    try:
        with source.open("rb") as file, open_zip(file, limits) as archive:
            members = {member.filename: member for member in archive.infolist()}
            about = parsed_json(read_member(archive, members[_ABOUT]))
            raw = read_member(archive, members[_MODEL])
        if not isinstance(about["name"], str) or not about["name"].strip():
            raise ValueError("name")  # noqa: TRY301 - told as the parser's own errors are
        float(about["accuracy"])
    except BadZip as error:
        raise Failure(400, str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(400, "The archive is not a model that this server exported.") from error
    return about, raw


def asset(request: Request) -> Response:
    """``GET /{model}/assets/{type}/download``: there are none here."""
    _find(request, request.path["model"])
    raise Failure(404, "The models of this server have no such asset.")


def _find_deployment(request: Request) -> sqlite3.Row:
    model_id = request.path["model"]
    row = request.store.row(f"{_WEBAPIS} WHERE w.id = ?", model_id)
    return found(row, f"Could not find webapi with id {model_id}.")


def _shown_deployment(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "_id": row["id"],
        **picked(row, "name owner usage status created_at nn_arch production_status dataset_id accel_type"),
        "replicas": 1,
        "userdnn_id": "",
        "dnnscript_id": "",
        "save_inference": "",
        "accuracy": f"{row['accuracy']:.4f}",
        "categories": json.loads(row["categories"]),
        "container_id": row["id"],
        **({"fault": row["fault"]} if row["fault"] else {}),
    }


def deploy(request: Request) -> dict[str, Any]:
    """``POST /webapis``: the deployment has the id of the model; one that failed to start may be tried again."""
    store, row = request.store, _find(request, request.text("trained_model_id"))
    name = request.text("name", row["name"]) or row["name"]
    accel_type = request.text("accel_type", "")
    with store.transaction():
        store.run("DELETE FROM webapis WHERE id = ? AND status = ?", row["id"], _FAILED)
        try:
            store.insert("webapis", id=row["id"], name=name, owner=request.user, status=_STARTING,
                         accel_type=accel_type, created_at=now_ms())  # fmt: skip
        except sqlite3.IntegrityError:
            raise Failure(409, f"Trained model {row['id']} is deployed already.") from None
    request.server.jobs.chore(partial(start_deployment, store, request.server.cache, row["id"]))
    return success(webapi_id=row["id"], container_id=row["id"])


def start_deployment(store: Store, cache: ModelCache, model_id: str) -> None:
    """Bring a model to memory and call its deployment ready."""
    try:
        cache.model(model_id)
    except (OSError, ValueError) as error:
        _log.warning("deployment.failed", model=model_id, reason=str(error))
        store.update("webapis", model_id, status=_FAILED, fault="The model's file cannot be read.")
    else:
        store.update("webapis", model_id, status=_READY, fault="")


def starting(store: Store) -> list[str]:
    """The models whose deployment was asked for and is not ready yet."""
    return [row["id"] for row in store.rows("SELECT id FROM webapis WHERE status = ?", _STARTING)]


def list_deployments(request: Request) -> list[dict[str, Any]]:
    rows = request.store.rows(f"{_WEBAPIS} ORDER BY w.seq DESC")
    return request.ordered([_shown_deployment(row) for row in rows])


def show_deployment(request: Request) -> dict[str, Any]:
    return _shown_deployment(_find_deployment(request))


def _undeploy(request: Request, model_id: str) -> None:
    if not request.store.delete("webapis", model_id):
        raise Failure(404, f"Could not find webapi with id {model_id}.")
    request.server.cache.drop(model_id)


def undeploy(request: Request) -> dict[str, Any]:
    """``DELETE /webapis/{model}``: the trained model stays."""
    _undeploy(request, request.path["model"])
    return success()


def undeploy_many(request: Request) -> Response:
    return request.delete_several("deployed models", ("webapi_list",), "webapi_id", partial(_undeploy, request))


def infer(request: Request) -> dict[str, Any]:
    """``POST /dlapis/{model}``: needs no token, as with MVI."""
    row, limits = _find_deployment(request), request.server.limits
    if row["status"] != _READY:
        raise Failure(503, f"The deployed model is {row['status']}, not ready.", {"Retry-After": "1"})
    threshold = _number(request, "confthre")
    most = int(_number(request, "clsnum"))
    if len(request.form.files) != 1:
        raise Failure(400, "An inference takes one part named files: the picture.")
    part = request.form.files[0]
    if part.size > limits.picture:
        raise Failure(413, f"The picture has {part.size} bytes; at most {limits.picture} are taken.")
    data = part.read()
    if is_video(data):
        raise Failure(400, "This server says nothing of videos. Send a picture.")
    received = taken(shown_name(part.filename, limits.name), data, request.store, limits)
    if received.file is None:
        raise Failure(400, received.fault)
    try:
        guesses = request.server.cache.model(row["id"]).predict(data)
    except (ValueError, OSError) as error:
        received.file.scratch.unlink(missing_ok=True)
        if isinstance(error, ValueError):
            raise Failure(400, "The picture cannot be decoded.") from error
        raise Failure(500, "The model cannot be read.") from error
    classified = [one for one in map(_guess, guesses) if one["confidence"] >= threshold]
    return {
        "webAPIId": row["id"],
        "imageUrl": request.root + _keep(request.store, row["id"], received.file.file_name, received.file.scratch),
        "imageMd5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "classified": classified[:most] if most else classified,
        "result": "success",
    }


def _guess(guess: tuple[str, float] | Find) -> dict[str, Any]:
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


def _keep(store: Store, model_id: str, name: str, scratch: Path) -> str:
    folder = store.folder / "inferences" / model_id
    folder.mkdir(mode=0o700, exist_ok=True)
    scratch.replace(folder / name)
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in kept[:-_KEPT]:
        with suppress(OSError):
            path.unlink()
    return f"/uploads/temp/{model_id}/{name}"


def by_url(_request: Request) -> dict[str, Any]:
    """``GET /dlapis/{model}``: MVI would fetch ``imageUrl``; this server fetches nothing from anywhere."""
    raise Failure(400, "This server fetches no pictures by URL. Send the picture with POST, in a part named files.")
