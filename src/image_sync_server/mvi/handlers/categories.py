"""``/datasets/{id}/categories``."""

from __future__ import annotations

from typing import Any

from image_sync_server.mvi.answers import Failure, success
from image_sync_server.mvi.call import Call
from image_sync_server.mvi.query import ordered
from image_sync_server.mvi.records import categories, datasets


def create(call: Call) -> dict[str, Any]:
    """``POST``: a name that exists answers with the category that has it."""
    dataset = datasets.find(call.store, call.path["ds"])
    name = call.text("name")
    return success(dataset_category_id=categories.ensure(call.store, dataset["id"], name))


def listing(call: Call) -> list[dict[str, Any]]:
    """``GET``."""
    dataset = datasets.find(call.store, call.path["ds"])
    return ordered(categories.listing(call.store, dataset["id"]), call.query.get("sortby", ""))


def show(call: Call) -> dict[str, Any]:
    """``GET /{category}``."""
    datasets.find(call.store, call.path["ds"])
    return categories.as_json(categories.find(call.store, call.path["ds"], call.path["cat"]))


def delete(call: Call) -> dict[str, Any]:
    """``DELETE /{category}``: its files stay, without a category."""
    datasets.find(call.store, call.path["ds"])
    row = categories.find(call.store, call.path["ds"], call.path["cat"])
    call.store.run("DELETE FROM categories WHERE id = ?", row["id"])
    return success()


def act(call: Call) -> dict[str, Any]:
    """``POST /{category}/action``."""
    datasets.find(call.store, call.path["ds"])
    row = categories.find(call.store, call.path["ds"], call.path["cat"])
    match call.text("action"):
        case "rename":
            # IBM's tool sends the name as "name": true by mistake; that is refused as no text.
            categories.rename(call.store, row["dataset_id"], row["id"], call.text("data"))
            return success()
        case "calculate":
            found = call.store.row("SELECT count(*) AS n FROM files WHERE category_id = ?", row["id"])
            return success(size=found["n"] if found else 0)
        case action:
            raise Failure(400, f"A category has no action {action!r}. Known: rename, calculate.")
