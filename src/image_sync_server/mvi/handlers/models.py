"""``/trained-models``."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import Response

from image_sync_server.mvi import archive
from image_sync_server.mvi.answers import Failure, download, success
from image_sync_server.mvi.handlers import several
from image_sync_server.mvi.query import ordered
from image_sync_server.mvi.records import background, models
from image_sync_server.mvi.request import Request
from image_sync_server.mvi.store import new_id
from image_sync_server.mvi.training_job import read_model


def listing(request: Request) -> list[dict[str, Any]]:
    """``GET``."""
    found = models.listing(request.store)
    for name, key in (("usage", "usage"), ("production_status", "production_status"), ("pg_id", "project_group_id")):
        if wanted := request.query.get(name):
            found = [one for one in found if one[key] in wanted.split(",")]
    return ordered(found, request.query.get("sortby", ""))


def show(request: Request) -> dict[str, Any]:
    """``GET /{model}``."""
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
    return several.deleted(request, "models", ("model_list",), "model_id", partial(_delete, request))


def export(request: Request) -> Response:
    """``GET /{model}/export``."""
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
        background.begin(request.store, model_id, "import_model", request.user, 1)
        background.progress(request.store, model_id, 1, 0, 0)
        background.end(request.store, model_id, background.COMPLETED)
    return success(trained_model_id=model_id)


def asset(request: Request) -> Response:
    """``GET /{model}/assets/{type}/download``: there are none here."""
    models.find(request.store, request.path["model"])
    raise Failure(404, "The models of this server have no such asset.")
