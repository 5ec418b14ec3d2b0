"""One training: what it learns from, by which learner, its curve, and the trained models at hand."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from image_sync_server.mvi.labelling import CORNERS
from image_sync_server.mvi.records import files, labels, tasks
from image_sync_server.mvi.records.models import NewModel
from image_sync_server.mvi.store import Store

if TYPE_CHECKING:
    from image_sync_server.learn.detector import Detector
    from image_sync_server.learn.learner import Point
    from image_sync_server.learn.model import Model


def run(
    store: Store,
    task: Any,
    base: Model | Detector | None,
    report: Callable[[Point], None],
    stop: threading.Event,
) -> Model | Detector:
    """The model that a task asks for. Raises ValueError with a sentence for the user, and StopTraining."""
    # Late: scikit-learn takes a second to import, and a server may never train.
    from image_sync_server.learn import detector_learner, learner
    from image_sync_server.learn.detector import Detector
    from image_sync_server.learn.model import Model

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
    from image_sync_server.learn.boxes import Mark
    from image_sync_server.learn.windows import Marked

    found = []
    for name, boxes in labels.boxes(store, dataset_id).items():
        marks = [Mark(label, *(box[corner] for corner in CORNERS)) for label, box in boxes if label not in rare]
        if marks:
            found.append(Marked(store.picture(dataset_id, name), tuple(marks)))
    return found


def model_of(store: Store, task: Any, model: Model | Detector) -> NewModel:
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


class Curve:
    """A bounded series of messages: when it is full every other point goes, the newest always stays.

    Args:
        most: how many points are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = max(2, most)
        self._points: list[list[dict[str, str]]] = []
        self._stride = 1
        self._seen = 0
        self._last: list[dict[str, str]] = []
        self._lock = threading.Lock()

    def add(self, point: Point) -> None:
        """Take a point of the learner."""
        messages = _messages(point)
        with self._lock:
            if self._seen % self._stride == 0:
                self._points.append(messages)
                if len(self._points) >= self._most:
                    del self._points[1::2]
                    self._stride *= 2
            self._seen += 1
            self._last = messages

    def as_json(self) -> list[dict[str, str]]:
        """All messages, oldest first."""
        with self._lock:
            points = list(self._points)
            if self._last and (not points or points[-1] is not self._last):
                points.append(self._last)
            return [message for point in points for message in point]


def _messages(point: Point) -> list[dict[str, str]]:
    # MVI writes all numbers as strings; one client reads remaining_time, IBM's document says remain_time.
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    remaining = f"{max(0.0, point.remaining):.0f}"
    messages = [
        {
            "type": "train_msg",
            "iter": str(point.iteration),
            "total_iter": str(point.total),
            "loss": f"{point.loss:.6g}",
            "remain_time": remaining,
            "remaining_time": remaining,
            "progress": f"{point.iteration / max(1, point.total):.4f}",
            "timestamp": stamp,
        }
    ]
    if point.test_loss is not None:
        accuracy = "" if point.accuracy is None else f"{point.accuracy:.4f}"
        messages.append(
            {
                "type": "test_msg",
                "iter": str(point.iteration),
                "loss": f"{point.test_loss:.6g}",
                "accuracy": accuracy,
                "timestamp": stamp,
            }
        )
    return messages


_KEPT = 4


def read_model(raw: bytes) -> Model | Detector:
    """The model that a training wrote. Raises ValueError when it is damaged or of another version."""
    # Late: NumPy takes a while to import, and most requests never need it.
    from threadpoolctl import threadpool_limits

    from image_sync_server.learn.detector import Detector
    from image_sync_server.learn.model import ANOTHER, Model

    # For good: threads that share the small matrices of one picture wait for each other, a few times slower than one.
    threadpool_limits(limits=1)
    try:
        model = Detector.from_bytes(raw) if Detector.wrote(raw) else Model.from_bytes(raw)
        if not (0 <= model.accuracy <= 1 and all(isinstance(name, str) for name in model.names)):
            raise ValueError(ANOTHER)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:  # facts of somebody else's
        raise ValueError(ANOTHER) from error
    return model


class ModelCache:
    """Models by id."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._models: OrderedDict[str, Model | Detector] = OrderedDict()
        self._lock = threading.Lock()

    def model(self, model_id: str) -> Model | Detector:
        """The model, ready to predict.

        Raises:
            ValueError: its file is damaged.
            OSError: its file cannot be read.
        """
        with self._lock:
            model = self._models.get(model_id)
            if model is None:
                model = read_model(self._store.model(model_id).read_bytes())
            self._models[model_id] = model
            self._models.move_to_end(model_id)
            while len(self._models) > _KEPT:
                self._models.popitem(last=False)
            return model

    def drop(self, model_id: str) -> None:
        """Forget a model."""
        with self._lock:
            self._models.pop(model_id, None)
