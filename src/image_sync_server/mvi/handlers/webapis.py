"""``/webapis``: deployed models."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import Response

from image_sync_server.mvi.answers import success
from image_sync_server.mvi.call import Call
from image_sync_server.mvi.handlers import several
from image_sync_server.mvi.query import ordered
from image_sync_server.mvi.records import models


def create(call: Call) -> dict[str, Any]:
    """``POST``: the deployment has the id of the model."""
    row = models.find(call.store, call.text("trained_model_id"))
    name = call.text("name", row["name"]) or row["name"]
    models.deploy(call.store, row["id"], name, call.user, call.text("accel_type", ""))
    call.site.jobs.chore(partial(call.site.jobs.deploy, row["id"]))
    return success(webapi_id=row["id"], container_id=row["id"])


def listing(call: Call) -> list[dict[str, Any]]:
    """``GET``."""
    return ordered(models.deployments(call.store), call.query.get("sortby", ""))


def show(call: Call) -> dict[str, Any]:
    """``GET /{model}``."""
    return models.deployment_json(models.find_deployment(call.store, call.path["model"]))


def _delete(call: Call, model_id: str) -> None:
    models.undeploy(call.store, model_id)
    call.site.shelf.drop(model_id)


def delete(call: Call) -> dict[str, Any]:
    """``DELETE /{model}``: the trained model stays."""
    _delete(call, call.path["model"])
    return success()


def act_on_many(call: Call) -> Response:
    """``POST /action``: undeploy several."""
    return several.deleted(call, "deployed models", ("webapi_list",), "webapi_id", partial(_delete, call))
