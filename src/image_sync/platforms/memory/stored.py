"""What the platform in memory keeps, and what it asks of a dataset before it trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from image_sync.domain import Annotation, DatasetRef
from image_sync.errors import Refused
from image_sync.platforms.base import Model, RemotePicture, Traits


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
