"""Trained models and their deployments."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.store import Store, now_ms

_SELECT = "SELECT m.*, (SELECT count(*) FROM webapis w WHERE w.id = m.id) AS deployed FROM models m"
_WEBAPIS = """SELECT w.*, m.accuracy, m.categories, m.nn_arch, m.production_status, m.dataset_id, m.usage
    FROM webapis w JOIN models m ON m.id = w.id"""
STARTING, READY, FAILED = "starting", "ready", "failed"
PRODUCTION = ("production", "untested", "rejected")


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model that was just trained or imported."""

    id: str
    name: str
    owner: str
    accuracy: float
    categories: Sequence[Mapping[str, str]]
    dataset_id: str = ""
    nn_arch: str = ""
    strategy: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    project_group_id: str = ""
    usage: str = "cic"
    evaluation: Mapping[str, Any] = field(default_factory=dict)


def add(store: Store, model: NewModel, raw: bytes) -> None:
    """Keep a model: first its bytes, then its row."""
    scratch = store.scratch()
    scratch.write_bytes(raw)
    scratch.replace(store.model(model.id))
    store.run(
        "INSERT INTO models (id, name, dataset_id, owner, nn_arch, strategy, accuracy, categories, summary,"
        " project_group_id, usage, evaluation, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        model.id, model.name, model.dataset_id, model.owner, model.nn_arch, json.dumps(dict(model.strategy)),
        model.accuracy, json.dumps([dict(category) for category in model.categories]),
        json.dumps(dict(model.summary)), model.project_group_id, model.usage,
        json.dumps(dict(model.evaluation)), now_ms(),
    )  # fmt: skip


def find(store: Store, model_id: str) -> sqlite3.Row:
    """The row of a trained model.

    Raises:
        Failure: 404 with the words that MVI uses.
    """
    found = store.row(f"{_SELECT} WHERE m.id = ?", model_id)
    if found is None:
        raise Failure(404, f"Could not find trainedModel with id {model_id}.")
    return found


def listing(store: Store) -> list[dict[str, Any]]:
    """All trained models, newest first."""
    return [as_json(row) for row in store.rows(f"{_SELECT} ORDER BY m.seq DESC")]


def as_json(row: sqlite3.Row) -> dict[str, Any]:
    """The model as MVI shows it; the accuracy is a string there."""
    return {
        "_id": row["id"],
        "name": row["name"],
        "dataset_id": row["dataset_id"],
        "owner": row["owner"],
        "usage": row["usage"],
        "nn_arch": row["nn_arch"],
        "method": "FineTuning",
        "strategy": json.loads(row["strategy"]),
        "userdnn_id": "",
        "accuracy": f"{row['accuracy']:.4f}",
        "categories": json.loads(row["categories"]),
        "deployed": row["deployed"],
        "production_status": row["production_status"],
        "project_group_id": row["project_group_id"],
        "eval_data": json.loads(row["evaluation"]),
        "dataset_summary": json.loads(row["summary"]),
        "assets": [],
        "created_at": row["created_at"],
    }


def delete(store: Store, model_id: str) -> None:
    """Remove a model and the task that trained it.

    Raises:
        Failure: 404 when there is none, 409 while it is deployed.
    """
    with store.transaction() as connection:
        if find(store, model_id)["deployed"]:
            raise Failure(409, f"Trained model {model_id} is deployed. Undeploy it first.")
        connection.execute("DELETE FROM models WHERE id = ?", (model_id,))
        connection.execute("DELETE FROM tasks WHERE id = ?", (model_id,))
    with suppress(OSError):
        store.model(model_id).unlink()


def deploy(store: Store, model_id: str, name: str, owner: str, accel_type: str) -> None:
    """Note that a model shall answer questions; one that failed to start may be tried again.

    Raises:
        Failure: 409 when it is deployed already.
    """
    with store.transaction() as connection:
        connection.execute("DELETE FROM webapis WHERE id = ? AND status = ?", (model_id, FAILED))
        try:
            connection.execute(
                "INSERT INTO webapis (id, name, owner, status, accel_type, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                (model_id, name, owner, STARTING, accel_type, now_ms()),
            )
        except sqlite3.IntegrityError:
            raise Failure(409, f"Trained model {model_id} is deployed already.") from None


def set_deployment(store: Store, model_id: str, status: str, fault: str = "") -> None:
    """Note how a deployment went."""
    store.run("UPDATE webapis SET status = ?, fault = ? WHERE id = ?", status, fault, model_id)


def undeploy(store: Store, model_id: str) -> None:
    """End a deployment.

    Raises:
        Failure: 404 when the model is not deployed.
    """
    if not store.run("DELETE FROM webapis WHERE id = ?", model_id):
        raise Failure(404, f"Could not find webapi with id {model_id}.")


def find_deployment(store: Store, model_id: str) -> sqlite3.Row:
    """The row of a deployment.

    Raises:
        Failure: 404 when the model is not deployed.
    """
    found = store.row(f"{_WEBAPIS} WHERE w.id = ?", model_id)
    if found is None:
        raise Failure(404, f"Could not find webapi with id {model_id}.")
    return found


def deployments(store: Store) -> list[dict[str, Any]]:
    """All deployments, newest first."""
    return [deployment_json(row) for row in store.rows(f"{_WEBAPIS} ORDER BY w.seq DESC")]


def deployment_json(row: sqlite3.Row) -> dict[str, Any]:
    """The deployment as MVI shows it."""
    shown = {
        "_id": row["id"],
        "name": row["name"],
        "owner": row["owner"],
        "usage": row["usage"],
        "status": row["status"],
        "replicas": 1,
        "created_at": row["created_at"],
        "userdnn_id": "",
        "dnnscript_id": "",
        "save_inference": "",
        "accuracy": f"{row['accuracy']:.4f}",
        "categories": json.loads(row["categories"]),
        "nn_arch": row["nn_arch"],
        "production_status": row["production_status"],
        "dataset_id": row["dataset_id"],
        "accel_type": row["accel_type"],
        "container_id": row["id"],
    }
    if row["fault"]:
        shown["fault"] = row["fault"]
    return shown
