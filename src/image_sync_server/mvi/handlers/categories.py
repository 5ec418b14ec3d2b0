"""``/datasets/{id}/categories``."""

from __future__ import annotations

from typing import Any

from image_sync_server.mvi.answers import Failure, success
from image_sync_server.mvi.query import ordered
from image_sync_server.mvi.records import categories, datasets
from image_sync_server.mvi.request import Request


def create(request: Request) -> dict[str, Any]:
    """``POST``: a name that exists answers with the category that has it."""
    dataset = datasets.find(request.store, request.path["ds"])
    name = request.text("name")
    return success(dataset_category_id=categories.ensure(request.store, dataset["id"], name))


def listing(request: Request) -> list[dict[str, Any]]:
    """``GET``."""
    dataset = datasets.find(request.store, request.path["ds"])
    return ordered(categories.listing(request.store, dataset["id"]), request.query.get("sortby", ""))


def show(request: Request) -> dict[str, Any]:
    """``GET /{category}``."""
    datasets.find(request.store, request.path["ds"])
    return categories.as_json(categories.find(request.store, request.path["ds"], request.path["cat"]))


def delete(request: Request) -> dict[str, Any]:
    """``DELETE /{category}``: its files stay, without a category."""
    datasets.find(request.store, request.path["ds"])
    row = categories.find(request.store, request.path["ds"], request.path["cat"])
    request.store.run("DELETE FROM categories WHERE id = ?", row["id"])
    return success()


def act(request: Request) -> dict[str, Any]:
    """``POST /{category}/action``."""
    datasets.find(request.store, request.path["ds"])
    row = categories.find(request.store, request.path["ds"], request.path["cat"])
    match request.text("action"):
        case "rename":
            # IBM's tool sends the name as "name": true by mistake; that is refused as no text.
            categories.rename(request.store, row["dataset_id"], row["id"], request.text("data"))
            return success()
        case "calculate":
            found = request.store.row("SELECT count(*) AS n FROM files WHERE category_id = ?", row["id"])
            return success(size=found["n"] if found else 0)
        case action:
            raise Failure(400, f"A category has no action {action!r}. Known: rename, calculate.")
