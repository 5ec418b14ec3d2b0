"""A platform in memory: real bookkeeping, no network, and switches that make calls slow, fail, or lose their answers.

It is found as every platform of another package is: by its entry point (``tests/plugins``).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from image_sync.config.values import Section
from image_sync.domain import Annotation, Batch, DatasetRef, RemotePicture
from image_sync.errors import ImageSyncError, NotFound, Refused
from image_sync.platforms.base import (
    Adapter,
    Model,
    Models,
    Outcome,
    Phase,
    Pictures,
    Prediction,
    Progress,
    Reader,
    Site,
    TrainingPlan,
    Trainings,
    Traits,
)


@dataclass(frozen=True, slots=True)
class _Fault:
    error: ImageSyncError
    after: bool
    applied: int | None


class Mischief:
    """Through which every call goes, one at a time.

    Args:
        stop: ends a delay.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.RLock()
        self._faults: dict[str, list[_Fault]] = {}
        self._delays: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        """How often each method was called."""

    def fail_next(
        self, method: str, error: ImageSyncError, *, after: bool = False, applied: int | None = None, times: int = 1
    ) -> None:
        """Let the next calls of a method fail.

        Args:
            after: do it first, then fail: the answer gets lost.
            applied: of an upload that fails ``after``, only so many pictures are stored.
            times: so many calls.
        """
        if not hasattr(self, method):
            raise ValueError(f"there is no method {method}")
        with self._lock:
            self._faults.setdefault(method, []).extend([_Fault(error, after, applied)] * times)

    def delay(self, method: str, seconds: float) -> None:
        """Let every call of a method take so long; 0 ends that."""
        with self._lock:
            self._delays[method] = seconds

    @contextmanager
    def _at(self, method: str) -> Iterator[_Fault | None]:
        """One call: delayed, made to fail before or after it, one at a time."""
        with self._lock:
            seconds = self._delays.get(method, 0.0)
        if seconds:
            self._stop.wait(seconds)
        with self._lock:
            self.calls[method] += 1
            faults = self._faults.get(method)
            fault = faults.pop(0) if faults else None
            if fault is not None and not fault.after:
                raise fault.error
            yield fault
            if fault is not None:
                raise fault.error


@dataclass(slots=True)
class Stored:
    """A stored picture: what it is, and what it shows."""

    picture: RemotePicture
    sha256: str
    annotation: Annotation | None = None


@dataclass(slots=True)
class Dataset:
    """A dataset and all that lies in it."""

    ref: DatasetRef
    categories: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, Stored] = field(default_factory=dict)


@dataclass(slots=True)
class StoredTraining:
    """A training, and the model that it becomes."""

    model: Model
    learned: dict[str, str]
    """SHA-256 of a picture -> its category: all that this platform can learn."""
    looks: int = 0
    stopped: bool = False
    boxes: dict[str, Annotation] | None = None
    """SHA-256 of a picture -> what is marked in it; None: it tells pictures apart and finds no objects."""


def check_categories(dataset: DatasetRef, pictures: Iterable[Stored], traits: Traits) -> None:
    """Raise Refused when there are too few categories with enough pictures."""
    counts = Counter(stored.picture.category for stored in pictures if stored.picture.category)
    enough = [name for name, count in counts.items() if count >= traits.min_pictures]
    if len(enough) < traits.min_categories:
        raise Refused(
            f"The dataset {dataset.name} is too small to train: it needs {traits.min_categories} "
            f"categories with {traits.min_pictures} pictures each"
        )


def check_labels(dataset: DatasetRef, pictures: Iterable[Stored], traits: Traits) -> None:
    """Raise Refused when each label is in too few pictures, or there is none."""
    marked = [{box.label for box in one.annotation.boxes} for one in pictures if one.annotation is not None]
    counts = Counter(label for labels in marked for label in labels)
    need = traits.min_labelled or 0
    if not counts or max(counts.values()) < need:
        raise Refused(f"The dataset {dataset.name} is too small to detect objects: no label is in {need} pictures")


def whole(read: bytes | Iterable[bytes]) -> bytes:
    """The content, however it is given."""
    return read if isinstance(read, bytes) else b"".join(read)


_NAMES: dict[type, dict[str, str]] = {
    Pictures: {},
    Trainings: {"start": "start_training", "find": "find_trainings", "stop": "stop_training", "log": "training_log"},
    Models: {"of_dataset": "models_of", "of_task": "model_of", "delete": "delete_model"},
}


def parts(flat: object) -> tuple[Pictures, Trainings, Models]:
    """The three parts of a platform whose methods stand in one class; they are looked up when they are called."""
    pictures, trainings, models = (_part(flat, protocol, names) for protocol, names in _NAMES.items())
    return pictures, trainings, models


def _part(flat: object, protocol: type, names: dict[str, str]) -> Any:
    def late(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            return getattr(flat, names.get(name, name))(*args)

        return call

    return SimpleNamespace(**{name: late(name) for name in vars(protocol) if not name.startswith("_")})


class MemoryPlatform(Mischief):
    """Keeps datasets, pictures and trainings as long as it lives.

    A training advances by one of ``steps`` iterations with each look at it. A model knows the pictures that it was
    trained with; of any other it says how its categories were distributed. Accuracy is unknown: nothing is held out.

    Args:
        stop: ends a delay.
        steps: looks until a training is done.
        clock: Unix time.
    """

    def __init__(
        self,
        stop: threading.Event | None = None,
        *,
        steps: int = 3,
        batch_files: int = 500,
        batch_bytes: int = 32 * 2**20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(stop or threading.Event())
        self._steps = steps
        self._clock = clock
        self._ids = itertools.count(1)
        self._datasets: dict[str, Dataset] = {}
        self._trainings: dict[str, StoredTraining] = {}
        self._deployed: set[str] = set()
        self.pictures, self.trainings, self.models = parts(self)
        self.traits = Traits(
            name="memory",
            batch_files=batch_files,
            batch_bytes=batch_bytes,
            suffixes=frozenset({"jpg", "jpeg", "png"}),
            min_categories=2,
            min_pictures=5,
            idempotent_uploads=False,
            min_labelled=5,
        )

    def sign_in(self) -> None:
        """Always welcome."""
        with self._at("sign_in"):
            return

    def find_dataset(self, name: str) -> DatasetRef | None:
        """The newest of this name."""
        with self._at("find_dataset"):
            return self._named(name)

    def ensure_dataset(self, name: str) -> DatasetRef:
        """Made if there is none."""
        with self._at("ensure_dataset"):
            found = self._named(name)
            if found is None:
                found = DatasetRef(self._id("dataset"), name)
                self._datasets[found.id] = Dataset(found)
            return found

    def upload(self, batch: Batch, read: Reader) -> list[Outcome]:
        """Stores what is read; a key that is there already is stored again, as at MVI."""
        with self._at("upload") as fault:
            dataset = self._dataset(batch.dataset)
            contents = [(sent, whole(read(sent))) for sent in batch.pictures]
            if batch.category:
                self._category(dataset, batch.category)
            outcomes = []
            for sent, content in contents[: fault.applied if fault else None]:
                remote_id = self._id("picture")
                picture = RemotePicture(remote_id, sent.key, batch.category, len(content), batch.id, self._clock())
                alone = len(contents) == 1 and sent.annotation != ""
                marked = Annotation.from_text(sent.annotation) if alone else None
                dataset.pictures[remote_id] = Stored(picture, hashlib.sha256(content).hexdigest(), marked)
                outcomes.append(Outcome(sent.key, remote_id, annotated=alone))
            return outcomes

    def find(self, batch: Batch) -> dict[str, str]:
        """By key; of several copies the oldest."""
        with self._at("find"):
            keys = {picture.key for picture in batch.pictures}
            stored = reversed(self._dataset(batch.dataset).pictures.values())
            return {one.picture.key: one.picture.remote_id for one in stored if one.picture.key in keys}

    def copies(self, batch: Batch) -> dict[str, list[RemotePicture]]:
        """By key, whatever category and batch they are of; oldest first."""
        with self._at("copies"):
            found: dict[str, list[RemotePicture]] = {}
            keys = {picture.key for picture in batch.pictures}
            for stored in self._dataset(batch.dataset).pictures.values():
                if stored.picture.key in keys:
                    found.setdefault(stored.picture.key, []).append(stored.picture)
            return found

    def count(self, dataset: DatasetRef) -> int | None:
        """Always known."""
        with self._at("count"):
            return len(self._dataset(dataset).pictures)

    def relabel(self, dataset: DatasetRef, remote_id: str, category: str) -> None:
        """Another category for a stored picture."""
        with self._at("relabel"):
            place = self._dataset(dataset)
            stored = place.pictures.get(remote_id)
            if stored is None:
                raise NotFound(f"There is no picture {remote_id} in the dataset {dataset.name}")
            if category:
                self._category(place, category)
            stored.picture = stored.picture._replace(category=category)

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:
        """Other objects for a stored picture."""
        with self._at("annotate"):
            stored = self._dataset(dataset).pictures.get(remote_id)
            if stored is None:
                raise NotFound(f"There is no picture {remote_id} in the dataset {dataset.name}")
            stored.annotation = annotation

    def annotation(self, remote_id: str) -> Annotation | None:
        """What is marked in a stored picture, for whoever wants to look."""
        found = (dataset.pictures.get(remote_id) for dataset in self._datasets.values())
        return next((stored.annotation for stored in found if stored is not None), None)

    def remove(self, dataset: DatasetRef, remote_id: str) -> None:
        """Delete it, if it is there."""
        with self._at("remove"):
            self._dataset(dataset).pictures.pop(remote_id, None)

    def listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:
        """Newest first, as it was when the listing began."""
        with self._at("listing"):
            found = [stored.picture for stored in reversed(self._dataset(dataset).pictures.values())]
        yield from found

    def start_training(self, plan: TrainingPlan) -> str:
        """Starts one, if there are categories, or labels, and pictures enough."""
        with self._at("start_training"):
            pictures = list(self._dataset(plan.dataset).pictures.values())
            base = self._training(plan.base) if plan.base else None
            learned = dict(base.learned) if base else {}
            boxes: dict[str, Annotation] | None = None
            if plan.detection:
                check_labels(plan.dataset, pictures, self.traits)
                boxes = dict(base.boxes or {}) if base else {}
                boxes |= {one.sha256: one.annotation for one in pictures if one.annotation is not None}
                names = {box.label for annotation in boxes.values() for box in annotation.boxes}
            else:
                check_categories(plan.dataset, pictures, self.traits)
                learned |= {one.sha256: one.picture.category for one in pictures if one.picture.category}
                names = set(learned.values())
            task_id = self._id("training")
            model = Model(
                task_id, plan.name, plan.dataset.id, categories=tuple(sorted(names)), created_at=self._clock()
            )
            self._trainings[task_id] = StoredTraining(model, learned, boxes=boxes)
            return task_id

    def find_trainings(self, dataset: DatasetRef, name: str) -> list[str]:
        """All of this name, in the order of their starts."""
        with self._at("find_trainings"):
            return [
                task_id
                for task_id, training in self._trainings.items()
                if (training.model.dataset_id, training.model.name) == (dataset.id, name)
            ]

    def progress(self, task_id: str) -> Progress:
        """Looks at a training, which moves it on."""
        with self._at("progress"):
            training = self._training(task_id)
            if training.stopped:
                return Progress(Phase.FAILED, reason="somebody stopped it", repeat=False)
            training.looks = min(training.looks + 1, self._steps)
            phase = Phase.TRAINED if training.looks == self._steps else Phase.RUNNING
            return Progress(phase, iteration=training.looks, iterations=self._steps)

    def stop_training(self, task_id: str) -> None:
        """At once."""
        with self._at("stop_training"):
            training = self._training(task_id)
            if training.looks == self._steps:
                raise Refused(f"The training {training.model.name} has ended already")
            training.stopped = True

    def training_log(self, task_id: str) -> Iterator[str]:
        """How often it was looked at."""
        with self._at("training_log"):
            yield f"step {self._training(task_id).looks} of {self._steps}"

    def models_of(self, dataset: DatasetRef) -> list[Model]:
        """Those whose training is done."""
        with self._at("models_of"):
            done = [one for one in reversed(self._trainings.values()) if one.looks == self._steps]
            return [self._seen(one) for one in done if one.model.dataset_id == dataset.id]

    def model_of(self, task_id: str) -> Model | None:
        """The model, once the training is done."""
        with self._at("model_of"):
            training = self._trainings.get(task_id)
            return self._seen(training) if training and training.looks == self._steps else None

    def deploy(self, model: Model) -> None:
        """At once."""
        with self._at("deploy"):
            self._training(model.id)
            self._deployed.add(model.id)

    def undeploy(self, model: Model) -> None:
        """At once."""
        with self._at("undeploy"):
            self._deployed.discard(model.id)

    def predict(self, model: Model, picture: bytes) -> list[Prediction]:
        """Certain of what it was trained with; else the share of each category."""
        with self._at("predict"):
            if model.id not in self._deployed:
                raise NotFound(f"The model {model.name} is not deployed")
            training = self._training(model.id)
            learned, digest = training.learned, hashlib.sha256(picture).hexdigest()
            if training.boxes is not None:
                marked = training.boxes.get(digest)
                return [Prediction(box.label, 1.0, box) for box in (marked.boxes if marked else ())]
            known = learned.get(digest)
            if known is not None:
                return [Prediction(known, 1.0)]
            counts = Counter(learned.values())
            return [Prediction(name, count / len(learned)) for name, count in counts.most_common()]

    def export(self, model: Model, to: Path) -> Path:
        """Writes what it learned as JSON; of boxes that is the names alone."""
        with self._at("export"):
            learned = self._training(model.id).learned
            target = to / f"{model.id}.json" if to.is_dir() else to
            target.write_text(json.dumps({"name": model.name, "learned": learned}, indent=1), encoding="utf-8")
            return target

    def import_model(self, source: Path) -> Model:
        """Takes what it wrote; the model has a new id and no dataset."""
        with self._at("import_model"):
            try:
                written = json.loads(source.read_text(encoding="utf-8"))
                name, learned = str(written["name"]), dict(written["learned"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise Refused(
                    f"{source.name} is not an exported model", hint="Take a file that `export` wrote"
                ) from error
            task_id = self._id("training")
            names = tuple(sorted(set(learned.values())))
            model = Model(task_id, name, "", categories=names, created_at=self._clock())
            self._trainings[task_id] = StoredTraining(model, learned, looks=self._steps)
            return model

    def delete_model(self, model: Model) -> None:
        """Deletes one that is not deployed."""
        with self._at("delete_model"):
            if model.id in self._deployed:
                raise Refused(f"The model {model.name} is deployed", hint="Undeploy it first")
            self._trainings.pop(model.id, None)

    def close(self) -> None:
        """Nothing to give back."""

    def _id(self, noun: str) -> str:
        return f"{noun}-{next(self._ids)}"

    def _named(self, name: str) -> DatasetRef | None:
        return next((one.ref for one in reversed(self._datasets.values()) if one.ref.name == name), None)

    def _dataset(self, dataset: DatasetRef) -> Dataset:
        if dataset.id not in self._datasets:
            raise NotFound(f"There is no dataset {dataset.name}")
        return self._datasets[dataset.id]

    def _category(self, dataset: Dataset, name: str) -> str:
        return dataset.categories.setdefault(name, f"{dataset.ref.id}-{name}")

    def _training(self, task_id: str) -> StoredTraining:
        if task_id not in self._trainings:
            raise NotFound(f"There is no training or model {task_id}")
        return self._trainings[task_id]

    def _seen(self, training: StoredTraining) -> Model:
        return replace(training.model, deployed=training.model.id in self._deployed)


class Memory(Section):
    """Its section of the configuration."""

    steps: int = 3
    address: str = ""


def _made(site: Site) -> MemoryPlatform:
    section, upload = site.settings.section, site.settings.upload
    assert isinstance(section, Memory)
    return MemoryPlatform(
        site.stop, steps=section.steps, batch_files=upload.batch_files, batch_bytes=upload.batch_bytes
    )


ADAPTER = Adapter(_made, Memory)
