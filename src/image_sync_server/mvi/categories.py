"""Categories of a dataset."""

from __future__ import annotations

import sqlite3
from typing import Any

from image_sync_server.mvi.request import Failure, Request, found, picked, success
from image_sync_server.mvi.store import NO_VIDEO, Store, new_id, now_ms


def ensure(store: Store, dataset_id: str, name: str) -> str:
    """The id of the category of this name, made if there is none; names are compared exactly."""
    with store.transaction():
        store.run(
            "INSERT INTO categories (id, name, dataset_id, created_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (dataset_id, name) DO NOTHING",
            new_id(), name, dataset_id, now_ms(),
        )  # fmt: skip
        (made,) = store.rows("SELECT id FROM categories WHERE dataset_id = ? AND name = ?", dataset_id, name)
        return str(made["id"])


def find(store: Store, dataset_id: str, category_id: str) -> sqlite3.Row:
    """The row of a category of this dataset. Raises Failure (404)."""
    row = store.row("SELECT * FROM categories WHERE dataset_id = ? AND id = ?", dataset_id, category_id)
    return found(row, f"Could not find category with id {category_id} in dataset {dataset_id}.")


def listed(store: Store, dataset_id: str) -> list[dict[str, Any]]:
    return [
        _shown(row) for row in store.rows("SELECT * FROM categories WHERE dataset_id = ? ORDER BY seq DESC", dataset_id)
    ]


def count_pictures(store: Store, dataset_id: str) -> dict[str, int]:
    """Pictures (not videos) of each category, in the order of their making; only of those that have any."""
    rows = store.rows(
        "SELECT c.name, count(*) AS n FROM categories c JOIN files f ON f.category_id = c.id"
        f" WHERE c.dataset_id = ? AND {NO_VIDEO} GROUP BY c.id ORDER BY c.seq",
        dataset_id,
    )
    return {row["name"]: row["n"] for row in rows}


def _shown(row: sqlite3.Row) -> dict[str, Any]:
    return {"_id": row["id"], **picked(row, "dataset_id name created_at")}


def _row(request: Request) -> sqlite3.Row:
    return find(request.store, request.dataset["id"], request.path["cat"])


def create(request: Request) -> dict[str, Any]:
    """``POST /datasets/{id}/categories``: a name that exists answers with the category that has it."""
    dataset = request.dataset
    return success(dataset_category_id=ensure(request.store, dataset["id"], request.text("name")))


def listing(request: Request) -> list[dict[str, Any]]:
    return request.ordered(listed(request.store, request.dataset["id"]))


def show(request: Request) -> dict[str, Any]:
    return _shown(_row(request))


def delete(request: Request) -> dict[str, Any]:
    """``DELETE /datasets/{id}/categories/{category}``: its files stay, without a category."""
    request.store.delete("categories", _row(request)["id"])
    return success()


def act(request: Request) -> dict[str, Any]:
    row = _row(request)
    match request.text("action"):
        case "rename":
            # IBM's tool sends the name as "name": true by mistake; that is refused as no text.
            name = request.text("data")
            try:
                request.store.update("categories", row["id"], name=name)
            except sqlite3.IntegrityError:
                raise Failure(409, f"The dataset already has a category named {name}.") from None
            return success()
        case "calculate":
            return success(size=request.store.count("files WHERE category_id = ?", row["id"]))
        case action:
            raise Failure(400, f"A category has no action {action!r}. Known: rename, calculate.")
