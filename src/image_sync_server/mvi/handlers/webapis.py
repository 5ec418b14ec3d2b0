"""``/webapis``: deployed models."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import Response

from image_sync_server.mvi.answers import success
from image_sync_server.mvi.handlers import several
from image_sync_server.mvi.query import ordered
from image_sync_server.mvi.records import models
from image_sync_server.mvi.request import Request


def create(request: Request) -> dict[str, Any]:
    """``POST``: the deployment has the id of the model."""
    row = models.find(request.store, request.text("trained_model_id"))
    name = request.text("name", row["name"]) or row["name"]
    models.deploy(request.store, row["id"], name, request.user, request.text("accel_type", ""))
    request.server.jobs.chore(partial(request.server.jobs.deploy, row["id"]))
    return success(webapi_id=row["id"], container_id=row["id"])


def listing(request: Request) -> list[dict[str, Any]]:
    """``GET``."""
    return ordered(models.deployments(request.store), request.query.get("sortby", ""))


def show(request: Request) -> dict[str, Any]:
    """``GET /{model}``."""
    return models.deployment_json(models.find_deployment(request.store, request.path["model"]))


def _delete(request: Request, model_id: str) -> None:
    models.undeploy(request.store, model_id)
    request.server.cache.drop(model_id)


def delete(request: Request) -> dict[str, Any]:
    """``DELETE /{model}``: the trained model stays."""
    _delete(request, request.path["model"])
    return success()


def act_on_many(request: Request) -> Response:
    """``POST /action``: undeploy several."""
    return several.deleted(request, "deployed models", ("webapi_list",), "webapi_id", partial(_delete, request))
