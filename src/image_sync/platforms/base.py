"""The promise every platform keeps: what may be called twice, what is atomic, which error means what.

Written with three targets in mind: IBM MVI (datasets, categories, dltasks), AWS SageMaker (a bucket prefix, class
indices, training jobs) and a Mobius SDK (an image database, tags, one binary model per tag).

A platform offers three parts: its pictures, its trainings and its models. All methods may raise
:class:`~image_sync.errors.Transient` (nothing was done), the ``Permanent`` family, and, those marked *not
repeatable*, :class:`~image_sync.errors.Ambiguous` (it may have been done: ask with the matching ``find`` before
calling again). Adapters never retry by themselves; :mod:`image_sync.platforms.retry` does. All methods may be called
from several threads at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from image_sync.config.settings import Settings
from image_sync.config.values import Section
from image_sync.domain import Annotation, Batch, Box, DatasetRef, Picture, RemotePicture

Reader = Callable[[Picture], bytes | Iterator[bytes]]
"""Reads a picture's file, whole or in pieces, and proves before the last one that it is what was checked; raises
Changed or Unreadable. Called once per attempt, when the bytes are about to be sent, so that one piece of one picture at
a time is in memory."""


@dataclass(frozen=True, slots=True)
class Traits:
    """Facts about a platform, as data."""

    name: str
    """What ``platform`` says in the configuration."""
    batch_files: int
    """Most pictures in one upload request."""
    batch_bytes: int
    """Most bytes of pictures in one upload request; a single larger picture goes alone."""
    suffixes: frozenset[str]
    """File types it takes, lower case, without the dot."""
    min_categories: int
    """Fewest categories that a training needs."""
    min_pictures: int
    """Fewest pictures that each of them needs."""
    idempotent_uploads: bool
    """Whether sending the same key twice stores it once."""
    min_labelled: int | None = None
    """Fewest pictures that must carry each label before objects can be detected; None: it detects none."""
    labels_ignore_case: bool = False
    """Whether labels that differ in upper and lower case only are one and the same there."""
    idempotent_starts: bool = False
    """Whether starting a training of the same name once more continues the first start instead of making a second."""
    lists_pictures: bool = True
    """Whether it can tell what it has. If not: find and copies find nothing, count is None, listing is empty."""
    leaves_out: bool = False
    """Whether a training can leave out a category that has too few pictures; if not, it holds training back."""
    who: str = ""
    """How errors name it, such as ``MVI at mvi.example.com``."""
    negatives: str = ""
    """Name of a folder inside a category's folder whose pictures show what the category is not; empty: none has."""
    keeps_models: bool = True
    """Whether each training leaves a model of its own, to be deployed; if not, there is one, which always answers."""


class Outcome(NamedTuple):
    """What became of one picture of a batch: stored (``remote_id`` may be empty) or refused with a reason."""

    key: str
    remote_id: str = ""
    refused: str = ""
    unfit: bool = False
    """Whether it was refused for what the picture is, so that it will never be taken; else the refusal may pass."""
    annotated: bool = False
    """Whether the annotation was stored with it; else :meth:`Pictures.annotate` has to be called."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A training to start.

    Attributes:
        name: of the model to be; unique, decided and written down before the call.
        base: model id to continue from, or empty: from the beginning.
        detection: whether objects are to be found in pictures, rather than pictures told apart.
        strategy: hyper-parameters under the platform's own names, passed on whole.
        contents: the pictures it contains, with what is marked in them, for platforms that want a list of them.
    """

    name: str
    dataset: DatasetRef
    base: str = ""
    nn_arch: str = ""
    detection: bool = False
    strategy: Mapping[str, object] = field(default_factory=dict)
    contents: Callable[[], Iterable[RemotePicture]] = tuple


class Phase(StrEnum):
    """How far a training is."""

    WAITING = "waiting"
    RUNNING = "running"
    TRAINED = "trained"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a training. Unknown figures are None."""

    phase: Phase
    iteration: int | None = None
    iterations: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    """Held-out accuracy, 0 to 1."""
    remaining: float | None = None
    """Seconds."""
    reason: str = ""
    """Why it failed, in the platform's words."""
    curve: tuple[tuple[int, float | None, float | None], ...] = ()
    """(iteration, loss, accuracy) of all that went before, oldest first, where the platform keeps it."""
    repeat: bool | None = None
    """Of a failed one: whether starting it once more can help; None: the platform has only its words to tell."""
    anew: str = ""
    """Why it begins from the beginning although it was to continue from a model; empty: nothing to explain."""
    billed: float | None = None
    """Seconds of machines that are paid for, where the platform counts them."""
    log: str = ""
    """Where the platform keeps its log."""


@dataclass(frozen=True, slots=True)
class Model:
    """A trained model at the platform."""

    id: str
    name: str
    dataset_id: str
    accuracy: float | None = None
    categories: tuple[str, ...] = ()
    created_at: float | None = None
    """Unix time."""
    deployed: bool = False
    billed_seconds: float | None = None
    """Of machines, for its training, where the platform counts them."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer of a model for one picture; confidence 0 to 1."""

    category: str
    """The category, or the label of a detected object."""
    confidence: float
    box: Box | None = None
    """Where a detected object is; None from a classification."""


class Pictures(Protocol):
    """The datasets, and the pictures in them."""

    def find_dataset(self, name: str) -> DatasetRef | None:
        """The dataset of this name, the newest of several, or None."""
        ...

    def ensure_dataset(self, name: str) -> DatasetRef:
        """The dataset of this name, made if there is none. May be called twice; a lost answer is looked up."""
        ...

    def upload(self, batch: Batch, read: Reader) -> list[Outcome]:
        """Store the pictures under their category, made if there is none: one outcome per picture, in their order. *Not
        repeatable* unless the traits say ``idempotent_uploads``. ``Changed`` and ``Unreadable`` of ``read`` come
        through as they are, in which case nothing was confirmed."""
        ...

    def find(self, batch: Batch) -> dict[str, str]:
        """Key -> remote id of those pictures of the batch that lie at the platform now. A batch without id and
        category asks about pictures of several ones."""
        ...

    def copies(self, batch: Batch) -> dict[str, list[RemotePicture]]:
        """Key -> every stored picture of that key, in any category, oldest first; more than one means that something
        was sent twice. Keys that are not there are left out."""
        ...

    def count(self, dataset: DatasetRef) -> int | None:
        """How many pictures lie in the dataset, if the platform can tell cheaply. Raises NotFound without one."""
        ...

    def relabel(self, dataset: DatasetRef, remote_id: str, category: str) -> None:
        """Give a stored picture another category, made if there is none. May be called twice."""
        ...

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:
        """Mark these objects in a stored picture in place of what is marked there; labels are made if there are none.
        May be called twice. Raises NotFound without the picture, Unsupported where no objects are detected."""
        ...

    def remove(self, dataset: DatasetRef, remote_id: str) -> None:
        """Delete a stored picture; one that is not there is no error. May be called twice."""
        ...

    def listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:
        """Every picture of the dataset, read page by page."""
        ...


class Trainings(Protocol):
    """What turns pictures into models."""

    def start(self, plan: TrainingPlan) -> str:
        """Start a training and return its task id. *Not repeatable*."""
        ...

    def find(self, dataset: DatasetRef, name: str) -> list[str]:
        """The task ids of all trainings (running or ended) of this name in this dataset, oldest first."""
        ...

    def progress(self, task_id: str) -> Progress:
        """How far the training is. Raises NotFound when the platform no longer knows it."""
        ...

    def stop(self, task_id: str) -> None:
        """Stop a training that waits or runs; :meth:`progress` tells when it has stopped. May be called twice. Raises
        NotFound without it, Refused when it has ended, Unsupported where trainings cannot be stopped."""
        ...

    def log(self, task_id: str) -> Iterator[str]:
        """The lines that the platform logged of a training, oldest first; none yet is no error. Raises NotFound
        without it, Unsupported where there is no log to be read."""
        ...


class Models(Protocol):
    """What trainings made."""

    def of_dataset(self, dataset: DatasetRef) -> list[Model]:
        """Trained models of the dataset, newest first."""
        ...

    def of_task(self, task_id: str) -> Model | None:
        """The model that this training made, or None if there is none (yet)."""
        ...

    def deploy(self, model: Model) -> None:
        """Make the model answer predictions, and wait until it does. Harmless if it does already. Raises Transient
        when that takes too long to wait for: it goes on at the platform, and the next call waits on."""
        ...

    def undeploy(self, model: Model) -> None:
        """Take the model from service; one that is not deployed is no error. May be called twice."""
        ...

    def predict(self, model: Model, picture: bytes) -> list[Prediction]:
        """What the deployed model says of one JPEG or PNG, best first; may be empty. Raises NotFound when the
        model is not deployed."""
        ...

    def export(self, model: Model, to: Path) -> Path:
        """Write the model to ``to`` (a file, or a folder to put it in) and return the file's path."""
        ...

    def import_model(self, source: Path) -> Model:
        """Bring a model that :meth:`export` wrote back to the platform. *Not repeatable*. Raises Refused when the
        file holds no model, Unsupported where models cannot be brought in."""
        ...

    def delete(self, model: Model) -> None:
        """Delete a model that is not deployed. Raises Refused when it is."""
        ...


class Platform(Protocol):
    """A place that stores labelled pictures and trains models from them."""

    @property
    def traits(self) -> Traits:
        """Facts that hold without asking anybody."""
        ...

    @property
    def pictures(self) -> Pictures:
        """Its pictures."""
        ...

    @property
    def trainings(self) -> Trainings:
        """Its trainings."""
        ...

    @property
    def models(self) -> Models:
        """Its models."""
        ...

    def sign_in(self) -> None:
        """Prove that the server answers and accepts us. Raises Unauthorised, Transient or Refused."""
        ...

    def close(self) -> None:
        """Give back connections. The platform is not used afterwards."""
        ...


class PlatformState(Protocol):
    """Small texts that a platform must remember for itself, and beyond the process: its server cannot be asked.

    The ledger keeps them, for each server and dataset apart. Names have at most 52 ASCII characters. May be used from
    several threads.
    """

    def get(self, name: str) -> str | None:
        """The text under this name, or None."""
        ...

    def under(self, prefix: str) -> dict[str, str]:
        """Every name that begins so, with its text, in the order of the names."""
        ...

    def write(self, changes: Mapping[str, str | None]) -> None:
        """Set these texts, and remove those that are None: all at one stroke, and for good when it returns."""
        ...


class MemoryState:
    """What lasts as long as the process."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> str | None:  # noqa: D102 - as above
        with self._lock:
            return self._texts.get(name)

    def under(self, prefix: str) -> dict[str, str]:  # noqa: D102
        with self._lock:
            return {name: text for name, text in sorted(self._texts.items()) if name.startswith(prefix)}

    def write(self, changes: Mapping[str, str | None]) -> None:  # noqa: D102
        with self._lock:
            for name, text in changes.items():
                if text is None:
                    self._texts.pop(name, None)
                else:
                    self._texts[name] = text


class Site(NamedTuple):
    """What an adapter is made from: one configuration, and this process."""

    settings: Settings
    stop: threading.Event
    """Ends every wait."""
    state: PlatformState
    """What its server cannot tell, and must outlive the process."""
    alive: Callable[[], None] = lambda: None
    """To be called for each request, and for each block of it that is sent or read."""


class Adapter(NamedTuple):
    """What an entry point of the group ``image_sync.platforms`` gives; its name is that of the platform."""

    make: Callable[[Site], Platform]
    """Touches no network. Raises ConfigError when the settings cannot be used for it."""
    section: type[Section] | None = None
    """Its own section of the configuration, under the platform's name."""
