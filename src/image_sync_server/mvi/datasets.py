"""Datasets."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Any

from starlette.responses import Response

from image_sync_server.mvi import categories, files, labels
from image_sync_server.mvi.request import Failure, Request, found, picked, success
from image_sync_server.mvi.store import UNLABELED, Store, new_id, now_ms

_SELECT = (
    "SELECT d.*, (SELECT count(*) FROM files f WHERE f.dataset_id = d.id)"
    " - (SELECT count(*) FROM lagging l JOIN files f ON f.id = l.id"
    " WHERE l.dataset_id = d.id AND l.until > monotonic()) AS total FROM datasets d"
)


def make(store: Store, owner: str, name: str, *, locked: bool = False, **more: str) -> str:
    """Make an empty dataset; its id. Names need not be unique, as with MVI.

    Args:
        more: its ``scenario``, ``purpose`` and ``project_group_id``.
    """
    dataset_id, now = new_id(), now_ms()
    store.make_room(dataset_id)
    store.insert(
        "datasets", id=dataset_id, name=name, owner=owner, locked=int(locked), created_at=now, updated_at=now, **more
    )
    return dataset_id


def shown(store: Store, dataset_id: str) -> dict[str, Any]:
    """A dataset as MVI shows it. Raises Failure (404)."""
    row = store.row(f"{_SELECT} WHERE d.id = ?", dataset_id)
    return _shown(found(row, f"Could not find dataset with id {dataset_id}."))


def _shown(row: sqlite3.Row) -> dict[str, Any]:
    # The name must not come last: IBM's own tests cut it out by the comma after it.
    same = picked(row, "name owner scenario purpose type locked created_at updated_at")
    more = {"project_group_id": row["project_group_id"]} if row["project_group_id"] else {}
    return {"_id": row["id"], **same, "usage": "generic", "pre_process": "", "total_file_count": row["total"], **more}


def _delete(store: Store, dataset_id: str) -> None:
    """Remove a dataset and everything in it; models trained from it stay."""
    if not store.delete("datasets", dataset_id):
        raise Failure(404, f"Could not find dataset with id {dataset_id}.")
    store.clear_room(dataset_id)


def create(request: Request) -> dict[str, Any]:
    dataset_id = make(
        request.store,
        request.user,
        request.text("name"),
        scenario=request.text("scenario", ""),
        purpose=request.text("purpose", ""),
        project_group_id=request.text("project_group_id", ""),
    )
    return success(dataset_id=dataset_id)


def listing(request: Request) -> list[dict[str, Any]]:
    listed = [_shown(row) for row in request.store.rows(f"{_SELECT} ORDER BY d.seq DESC")]
    if groups := request.chosen("pg_id"):
        listed = [one for one in listed if one.get("project_group_id") in groups]
    if request.query.get("type") == "sample":
        listed = [one for one in listed if one["type"]]
    return request.ordered(listed)


def show(request: Request) -> dict[str, Any]:
    return shown(request.store, request.path["ds"])


def change(request: Request) -> dict[str, Any]:
    row = request.dataset
    given = {name: request.text(name, row[name]) for name in ("project_group_id", "purpose")}
    request.store.update("datasets", row["id"], **given, updated_at=now_ms())
    return success(dataset_id=row["id"])


def delete(request: Request) -> dict[str, Any]:
    _delete(request.store, request.path["ds"])
    return success()


def act_on_many(request: Request) -> Response:
    return request.delete_several("datasets", ("dataset_id_list",), "dataset_id", partial(_delete, request.store))


def act(request: Request) -> dict[str, Any]:
    row, store = request.dataset, request.store
    match request.text("action"):
        case "rename":
            store.update("datasets", row["id"], name=request.text("data"), updated_at=now_ms())
            return success()
        case "calculate":
            condition = UNLABELED if request.text("type", "") == "unlabeled" else "1"
            return success(size=store.count(f"files f WHERE f.dataset_id = ? AND {condition}", row["id"]))
        case "clone":
            return success(dataset_id=_clone(request, row["id"], request.text("name")))
        case "mark_sample" | "unmark_sample" as action:
            store.update("datasets", row["id"], type=int(action == "mark_sample"))
            return success()
        case "preprocess":
            raise Failure(400, "This server does not augment data; add more pictures instead.")
        case action:
            raise Failure(400, f"A dataset has no action {action!r}. Known: rename, clone, calculate.")


def _clone(request: Request, source: str, name: str) -> str:
    store = request.store
    target = make(store, request.user, name)
    try:
        for category in reversed(categories.listed(store, source)):
            categories.ensure(store, target, category["name"])
        for tag in reversed(labels.listed_tags(store, source)):
            labels.ensure_tag(store, target, tag["name"])
        store.run(
            "INSERT INTO keys SELECT ?, name, description, ? FROM keys WHERE dataset_id = ?", target, now_ms(), source
        )
        rows = store.rows("SELECT id FROM files WHERE dataset_id = ? ORDER BY seq", source)
        files.transfer(store, source, target, [row["id"] for row in rows], request.user, keep=True)
    except BaseException:
        _delete(store, target)
        raise
    return target
