"""``/datasets`` and their categories."""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog
from starlette.responses import Response

from image_sync_server.mvi import archive
from image_sync_server.mvi.answers import Failure, download, success
from image_sync_server.mvi.pictures import BadZip, open_zip, shown_name
from image_sync_server.mvi.query import ordered
from image_sync_server.mvi.records import datasets, files, labels, tasks
from image_sync_server.mvi.request import Request

_log = structlog.stdlib.get_logger(__name__)
_EVERY = 20


def create(request: Request) -> dict[str, Any]:
    name = request.text("name")
    dataset_id = datasets.create(
        request.store,
        request.user,
        name,
        scenario=request.text("scenario", ""),
        purpose=request.text("purpose", ""),
        project_group_id=request.text("project_group_id", ""),
    )
    return success(dataset_id=dataset_id)


def listing(request: Request) -> list[dict[str, Any]]:
    found = datasets.listing(request.store)
    if groups := request.query.get("pg_id"):
        found = [one for one in found if one.get("project_group_id") in groups.split(",")]
    if request.query.get("type") == "sample":
        found = [one for one in found if one["type"]]
    return ordered(found, request.query.get("sortby", ""))


def show(request: Request) -> dict[str, Any]:
    return datasets.as_json(datasets.find(request.store, request.path["ds"]))


def change(request: Request) -> dict[str, Any]:
    """``PUT /datasets/{id}``: its project group and purpose."""
    row = request.dataset
    request.store.run(
        "UPDATE datasets SET project_group_id = ?, purpose = ? WHERE id = ?",
        request.text("project_group_id", row["project_group_id"]), request.text("purpose", row["purpose"]), row["id"],
    )  # fmt: skip
    datasets.touch(request.store, row["id"])
    return success(dataset_id=row["id"])


def delete(request: Request) -> dict[str, Any]:
    datasets.delete(request.store, request.path["ds"])
    return success()


def act_on_many(request: Request) -> Response:
    """``POST /datasets/action``: delete several."""
    delete = partial(datasets.delete, request.store)
    return request.delete_several("datasets", ("dataset_id_list",), "dataset_id", delete)


def act(request: Request) -> dict[str, Any]:
    row = request.dataset
    match request.text("action"):
        case "rename":
            request.store.run("UPDATE datasets SET name = ? WHERE id = ?", request.text("data"), row["id"])
            datasets.touch(request.store, row["id"])
            return success()
        case "calculate":
            condition = files.UNLABELED if request.text("type", "") == "unlabeled" else "1"
            found = request.store.row(
                f"SELECT count(*) AS n FROM files f WHERE f.dataset_id = ? AND {condition}", row["id"]
            )
            return success(size=found["n"] if found else 0)
        case "clone":
            return success(dataset_id=_clone(request, row["id"], request.text("name")))
        case "mark_sample" | "unmark_sample" as action:
            kind = int(action == "mark_sample")
            request.store.run("UPDATE datasets SET type = ? WHERE id = ?", kind, row["id"])
            return success()
        case "preprocess":
            raise Failure(400, "This server does not augment data; add more pictures instead.")
        case action:
            raise Failure(400, f"A dataset has no action {action!r}. Known: rename, clone, calculate.")


def _clone(request: Request, source: str, name: str) -> str:
    store = request.store
    target = datasets.create(store, request.user, name)
    try:
        for category in reversed(datasets.list_categories(store, source)):
            datasets.ensure_category(store, target, category["name"])
        for tag in reversed(labels.tags(store, source)):
            labels.ensure_tag(store, target, tag["name"])
        for key in reversed(datasets.list_keys(store, source)):
            datasets.create_key(store, target, key["name"], key["description"])
        rows = store.rows("SELECT id FROM files WHERE dataset_id = ? ORDER BY seq", source)
        files.transfer(store, source, target, [row["id"] for row in rows], request.user, keep=True)
    except BaseException:
        datasets.delete(store, target)
        raise
    return target


def export(request: Request) -> Response:
    target = request.store.scratch()
    raw = request.query.get("raw", "").lower() == "true"
    name = archive.write_dataset(request.store, request.path["ds"], target, raw=raw)
    return download(target, name)


def import_(request: Request) -> dict[str, Any]:
    """``POST /datasets/import``: looked at before the answer, filled in the background."""
    source = request.archive()
    try:
        properties = archive.read_properties(source, request.server.limits)
        given = request.form.fields.get("name") or str(properties.get("name") or "")
        name = request.checked("name", shown_name(given, request.server.limits.name))
        with request.store.transaction():
            dataset_id = datasets.create(request.store, request.user, name, locked=True)
            total = len(properties["file_prop_info"])
            tasks.begin_background(request.store, dataset_id, "import_dataset", request.user, total, dataset_id)
    except BaseException:
        source.unlink(missing_ok=True)
        raise
    request.server.jobs.chore(partial(_fill, request, source, properties, dataset_id))
    return success(dataset_id=dataset_id, usage=str(properties.get("usage") or "generic"))


def _fill(request: Request, source: Any, properties: dict[str, Any], dataset_id: str) -> None:
    store, fault = request.store, ""
    work = archive.DatasetImport(store, request.server.limits, dataset_id, request.user, properties)
    try:
        with source.open("rb") as file, open_zip(file, request.server.limits) as opened:
            for at, _ in enumerate(work.steps(opened)):
                if request.server.jobs.stopping.is_set():
                    fault = "The server was stopped while this was under way."
                    break
                if at % _EVERY == 0:
                    tasks.note_progress(store, dataset_id, work.succeeded, work.skipped, work.failed)
    except (Failure, BadZip) as error:
        fault = str(error)
    except Exception:  # noqa: BLE001 - whatever breaks, the background task must not stay open
        _log.exception("import.broke", dataset=dataset_id)
        fault = "The import broke off. The server's log says more."
    finally:
        source.unlink(missing_ok=True)
    if work.lost and not fault:
        fault = f"{len(work.lost)} of the archive's files were not imported. The first: {work.lost[0]}"
    with store.transaction():
        tasks.note_progress(store, dataset_id, work.succeeded, work.skipped, work.failed)
        tasks.end_background(store, dataset_id, tasks.FAILED if fault else tasks.COMPLETED, fault)
        store.run("UPDATE datasets SET locked = 0 WHERE id = ?", dataset_id)


def create_category(request: Request) -> dict[str, Any]:
    """``POST /datasets/{id}/categories``: a name that exists answers with the category that has it."""
    dataset = request.dataset
    name = request.text("name")
    return success(dataset_category_id=datasets.ensure_category(request.store, dataset["id"], name))


def list_categories(request: Request) -> list[dict[str, Any]]:
    dataset = request.dataset
    return ordered(datasets.list_categories(request.store, dataset["id"]), request.query.get("sortby", ""))


def show_category(request: Request) -> dict[str, Any]:
    datasets.find(request.store, request.path["ds"])
    return datasets.category_json(datasets.find_category(request.store, request.path["ds"], request.path["cat"]))


def delete_category(request: Request) -> dict[str, Any]:
    """``DELETE /datasets/{id}/categories/{category}``: its files stay, without a category."""
    datasets.find(request.store, request.path["ds"])
    row = datasets.find_category(request.store, request.path["ds"], request.path["cat"])
    request.store.run("DELETE FROM categories WHERE id = ?", row["id"])
    return success()


def act_on_category(request: Request) -> dict[str, Any]:
    datasets.find(request.store, request.path["ds"])
    row = datasets.find_category(request.store, request.path["ds"], request.path["cat"])
    match request.text("action"):
        case "rename":
            # IBM's tool sends the name as "name": true by mistake; that is refused as no text.
            datasets.rename_category(request.store, row["dataset_id"], row["id"], request.text("data"))
            return success()
        case "calculate":
            found = request.store.row("SELECT count(*) AS n FROM files WHERE category_id = ?", row["id"])
            return success(size=found["n"] if found else 0)
        case action:
            raise Failure(400, f"A category has no action {action!r}. Known: rename, calculate.")
