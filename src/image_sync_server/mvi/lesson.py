"""One training: what it learns from, by which learner, and what is kept of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from image_sync_server.mvi.labelling import CORNERS
from image_sync_server.mvi.records import files, labels, tasks
from image_sync_server.mvi.records.models import NewModel
from image_sync_server.mvi.store import Store

if TYPE_CHECKING:
    from image_sync_server.learn.learner import Point
    from image_sync_server.learn.model import Model
    from image_sync_server.mvi.detector import Detector


def learn(
    store: Store,
    task: Any,
    base: Model | Detector | None,
    report: Callable[[Point], None],
    stop: threading.Event,
) -> Model | Detector:
    """The model that a task asks for. Raises ValueError with a sentence for the user, and StopTraining."""
    # Late: scikit-learn takes a second to import, and a server may never train.
    from image_sync_server.learn import learner
    from image_sync_server.learn.model import Model
    from image_sync_server.mvi import detector_learner
    from image_sync_server.mvi.detector import Detector

    strategy = json.loads(task["strategy"])
    if base is not None and base.usage != task["usage"]:
        raise ValueError(f"The model to continue from is of usage {base.usage}, not {task['usage']}.")
    if task["usage"] == tasks.BOXES:
        finder = base if isinstance(base, Detector) else None
        rare = json.loads(task["summary"]).get("rare_labels", {})
        marked = _marked(store, task["dataset_id"], rare)
        return detector_learner.train(marked, strategy, base=finder, report=report, stop=stop)
    teller = base if isinstance(base, Model) else None
    return learner.train(_samples(store, task["dataset_id"]), strategy, base=teller, report=report, stop=stop)


def _samples(store: Store, dataset_id: str) -> list[Any]:
    from image_sync_server.learn.learner import Sample

    rows = store.rows(
        "SELECT f.file_name, c.name FROM files f JOIN categories c ON c.id = f.category_id"
        f" WHERE f.dataset_id = ? AND {files.NO_VIDEO} ORDER BY f.seq",
        dataset_id,
    )
    return [Sample(store.picture(dataset_id, row["file_name"]), row["name"]) for row in rows]


def _marked(store: Store, dataset_id: str, rare: Collection[str]) -> list[Any]:
    """Pictures with boxes of labels that can be learned. Others are left out, as with MVI: they are not empty."""
    from image_sync_server.mvi.album import Marked
    from image_sync_server.mvi.boxes import Mark

    found = []
    for name, boxes in labels.boxes(store, dataset_id).items():
        marks = [Mark(label, *(box[corner] for corner in CORNERS)) for label, box in boxes if label not in rare]
        if marks:
            found.append(Marked(store.picture(dataset_id, name), tuple(marks)))
    return found


def kept(store: Store, task: Any, model: Model | Detector) -> NewModel:
    """What is said of the model that a task ended with."""
    table = "tags" if model.usage == tasks.BOXES else "categories"
    rows = store.rows(f"SELECT id, name FROM {table} WHERE dataset_id = ?", task["dataset_id"])
    ids = {row["name"]: row["id"] for row in rows}
    return NewModel(
        task["id"], task["name"], task["owner"], model.accuracy,
        [{"category_id": ids.get(name, ""), "category_name": name} for name in model.names],
        task["dataset_id"], task["nn_arch"], json.loads(task["strategy"]), json.loads(task["summary"]),
        task["project_group_id"], model.usage, model.evaluation,
    )  # fmt: skip
