"""``/trained-models``."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import Response

from image_sync_server.mvi import archive, shelf
from image_sync_server.mvi.answers import Failure, download, success
from image_sync_server.mvi.call import Call
from image_sync_server.mvi.handlers import several
from image_sync_server.mvi.query import ordered
from image_sync_server.mvi.records import background, models
from image_sync_server.mvi.store import new_id


def listing(call: Call) -> list[dict[str, Any]]:
    """``GET``."""
    found = models.listing(call.store)
    for name, key in (("usage", "usage"), ("production_status", "production_status"), ("pg_id", "project_group_id")):
        if wanted := call.query.get(name):
            found = [one for one in found if one[key] in wanted.split(",")]
    return ordered(found, call.query.get("sortby", ""))


def show(call: Call) -> dict[str, Any]:
    """``GET /{model}``."""
    return models.as_json(models.find(call.store, call.path["model"]))


def change(call: Call) -> dict[str, Any]:
    """``PUT /{model}``: its project group and production status."""
    row = models.find(call.store, call.path["model"])
    production = call.text("production_status", row["production_status"])
    if production not in models.PRODUCTION:
        raise Failure(400, f"production_status must be one of {', '.join(models.PRODUCTION)}.")
    call.store.run(
        "UPDATE models SET project_group_id = ?, production_status = ? WHERE id = ?",
        call.text("pg_id", row["project_group_id"]), production, row["id"],
    )  # fmt: skip
    return success(trained_model_id=row["id"])


def _delete(call: Call, model_id: str) -> None:
    models.delete(call.store, model_id)
    call.site.shelf.drop(model_id)


def delete(call: Call) -> dict[str, Any]:
    """``DELETE /{model}``: with the task that trained it; refused while it is deployed."""
    _delete(call, call.path["model"])
    return success()


def act_on_many(call: Call) -> Response:
    """``POST /action``: delete several."""
    return several.deleted(call, "models", ("model_list",), "model_id", partial(_delete, call))


def export(call: Call) -> Response:
    """``GET /{model}/export``."""
    shown = models.as_json(models.find(call.store, call.path["model"]))
    target = call.store.scratch()
    name = archive.write_model(call.store, shown, target)
    return download(target, name)


def import_(call: Call) -> dict[str, Any]:
    """``POST /import``: a model exported by a server like this one; it gets a new id."""
    source = call.archive()
    try:
        about, raw = archive.read_model(source, call.site.limits)
    finally:
        source.unlink(missing_ok=True)
    try:
        model = shelf.read(raw)
    except ValueError as error:
        raise Failure(400, "The model in the archive is damaged.") from error
    strategy = about.get("strategy")
    model_id = new_id()
    categories = [{"category_id": "", "category_name": name} for name in model.names]
    new = models.NewModel(
        model_id, call.checked("name", about["name"]), call.user, model.accuracy, categories,
        nn_arch=call.checked("nn_arch", str(about.get("nn_arch") or ""), may_be_empty=True),
        strategy=strategy if isinstance(strategy, dict) else {}, usage=model.usage, evaluation=model.evaluation,
    )  # fmt: skip
    with call.store.transaction():
        models.add(call.store, new, raw)
        background.begin(call.store, model_id, "import_model", call.user, 1)
        background.progress(call.store, model_id, 1, 0, 0)
        background.end(call.store, model_id, background.COMPLETED)
    return success(trained_model_id=model_id)


def asset(call: Call) -> Response:
    """``GET /{model}/assets/{type}/download``: there are none here."""
    models.find(call.store, call.path["model"])
    raise Failure(404, "The models of this server have no such asset.")
