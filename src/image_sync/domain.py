"""The nouns that every part shares. Frozen values only; no behaviour that needs a disk, a clock or a network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

_NOISE = 0.01
"""Pixels: the decimals of relative coordinates leave so much behind, and no pixel is added for it."""
_ANNOTATION_VERSION = 1
_DECIMALS = 3
"""A thousandth of a pixel: finer than anybody draws, coarser than what rounding in a format moves."""


class Stamp(NamedTuple):
    """What ``stat`` says of a file: equal stamps mean an unchanged file."""

    size: int
    """Bytes."""
    mtime_ns: int
    ctime_ns: int
    inode: int
    annotation: str = ""
    """Changes with the files that its annotation stands in; empty when there are none, or they are not used."""


class FileState(StrEnum):
    """What the check said of the file at one path."""

    SOUND = "sound"
    QUARANTINED = "quarantined"
    UNCATEGORISED = "uncategorised"
    WAITING = "waiting"
    """It is sound, but its annotation is not there yet."""


class FileRole(StrEnum):
    """What a file is to the picture of its content."""

    OWNER = "owner"
    """The file that is sent."""
    DUPLICATE = "duplicate"
    """Another file in the same category."""
    CONFLICT = "conflict"
    """Another file in another category."""


class PictureState(StrEnum):
    """Where one picture (its content) stands on its way to the platform."""

    READY = "ready"
    HELD = "held"
    """Files with its content lie in two categories: it is not sent before a person has taken one of them away."""
    CLAIMED = "claimed"
    CONFIRMED = "confirmed"
    REFUSED = "refused"


class BatchState(StrEnum):
    """What is known of one upload request."""

    SENDING = "sending"
    DOUBTFUL = "doubtful"
    CONFIRMED = "confirmed"
    RELEASED = "released"


class RootState(StrEnum):
    """Whether a watched root can be looked at."""

    STARTING = "starting"
    WATCHED = "watched"
    UNAVAILABLE = "unavailable"


class WatchMode(StrEnum):
    """How changes below a root are noticed."""

    EVENTS = "events"
    POLLING = "polling"


@dataclass(frozen=True, slots=True)
class Box:
    """One labelled object in a picture: coordinates in pixels, from the picture's top left corner.

    The box covers ``left <= x < right`` and ``top <= y < bottom``, so its width is ``right - left``.
    """

    label: str
    left: float
    top: float
    right: float
    bottom: float
    polygon: tuple[tuple[float, float], ...] = ()
    """Outline of the object as (x, y) corners; empty when only the box is known."""
    difficult: bool = False
    """Marked as hard to recognise by whoever drew it (Pascal VOC)."""

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom in whole pixels: widened, so that no part of the object is cut off.

        None when nothing of it lies in a picture of this size.

        >>> Box("hole", 1.5, 2.0, 10.2, 70.0).pixels(100, 50)
        (1, 2, 11, 50)
        """
        left, right = _widened(self.left, self.right, width)
        top, bottom = _widened(self.top, self.bottom, height)
        return (left, top, right, bottom) if left < right and top < bottom else None


def _widened(one: float, other: float, size: int) -> tuple[int, int]:
    begin, end = min(one, other), max(one, other)
    first, last = math.floor(begin + _NOISE), math.ceil(end - _NOISE)
    if first >= last:
        first, last = math.floor(begin), math.ceil(end)
    return max(0, first), min(size, last)


@dataclass(frozen=True, slots=True)
class Annotation:
    """Everything that is marked in one picture, which is ``width`` by ``height`` pixels large."""

    width: int
    height: int
    boxes: tuple[Box, ...] = ()

    def to_text(self) -> str:
        """One line of ASCII JSON, to be kept and compared.

        Boxes are sorted and coordinates rounded, so that what differs only in the order of its objects, or by the
        rounding of a file format, has the same text.
        """
        boxes = sorted(map(_box_data, self.boxes), key=_box_order)
        document = {"v": _ANNOTATION_VERSION, "width": self.width, "height": self.height, "boxes": boxes}
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Annotation:
        """The annotation that :meth:`to_text` wrote, with its order and its rounding.

        Raises:
            ValueError: it is no such text.
        """
        try:
            document = json.loads(text)
            if document["v"] != _ANNOTATION_VERSION:
                raise ValueError(f"annotations of version {document['v']!r} are not known")
            return cls(document["width"], document["height"], tuple(map(_box_of, document["boxes"])))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("this is not an annotation as it is kept") from error


def _box_data(box: Box) -> dict[str, Any]:
    edges = (box.left, box.top, box.right, box.bottom)
    data: dict[str, Any] = {"label": box.label, "box": [_rounded(edge) for edge in edges]}
    if box.polygon:
        data["polygon"] = [[_rounded(x), _rounded(y)] for x, y in box.polygon]
    if box.difficult:
        data["difficult"] = True
    return data


def _box_order(data: dict[str, Any]) -> tuple[object, ...]:
    return data["label"], data["box"], data.get("polygon", []), data.get("difficult", False)


def _box_of(data: dict[str, Any]) -> Box:
    left, top, right, bottom = map(float, data["box"])
    polygon = tuple((float(x), float(y)) for x, y in data.get("polygon", ()))
    return Box(data["label"], left, top, right, bottom, polygon, data.get("difficult", False))


def _rounded(value: float) -> float:
    return round(value, _DECIMALS) + 0.0  # minus zero becomes zero


class Sighting(NamedTuple):
    """One look at one finished file: the check's verdict and, if it is sound, its identity.

    Attributes:
        folder: absolute path of the folder, bytes as the file system gives them.
        name: file name, bytes.
        category: category name, or None when the picture lies directly in a root without one.
        sha256: 64 lower-case hex digits of the content; empty unless the file could be read whole.
        suffix: ``jpg``, ``jpeg`` or ``png``, lower case, without the dot: from the content where they disagree.
        fault: why it is quarantined, one sentence; empty when it is sound.
        annotation: what is marked in it, as one line of text that is equal for equal annotations; empty when there is
            no annotation.
        labels: of the objects that are marked in it, each once.
        waits: it is sound and may not be sent before its annotation is there.
        ground: the file system that its folder lies on and the root that it was found in; equal texts mean the same.
    """

    folder: bytes
    name: bytes
    stamp: Stamp
    category: str | None
    sha256: str = ""
    suffix: str = ""
    fault: str = ""
    annotation: str = ""
    labels: tuple[str, ...] = ()
    waits: bool = False
    ground: str = ""


@dataclass(frozen=True, slots=True)
class RootReport:
    """What the watcher says of one root after looking at it; shown by ``status``."""

    path: bytes
    mode: WatchMode
    state: RootState
    reason: str = ""
    """Why it is polled, or why it is unavailable; empty when there is nothing to explain."""
    settling: int = 0
    """Files seen that are not quiet yet."""


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """A dataset at the platform."""

    id: str
    name: str


class Picture(NamedTuple):
    """One picture of a batch, as the ledger hands it out.

    Attributes:
        key: its name at the platform, unique in the dataset.
        path: absolute path of the file to send, bytes; empty when its file is gone.
        size: bytes; sha256: 64 hex digits of what must be sent.
        annotation: what is marked in it (:meth:`Annotation.from_text`); empty when nothing is known of that.
        stamp: of the file when it was hashed; None when its file is gone.
    """

    picture_id: int
    key: str
    path: bytes
    size: int
    sha256: str
    annotation: str = ""
    stamp: Stamp | None = None


class Batch(NamedTuple):
    """Pictures of one dataset and one category that are sent in one request; their keys differ."""

    id: str
    """32 hex digits, stored at the platform as file metadata where it can; empty for a question about several."""
    dataset: DatasetRef
    category: str
    """Empty for pictures that have none, and for a question about several categories."""
    pictures: tuple[Picture, ...]
    claimed_at: float = 0.0
    """Unix time, seconds: nothing of it can have arrived at the platform earlier."""


class RemotePicture(NamedTuple):
    """A picture that lies at the platform."""

    remote_id: str
    key: str
    category: str
    """Empty when it has none."""
    size: int | None = None
    batch_id: str = ""
    """Of the batch that it came with; empty where the platform keeps none, or tells it only when asked for a
    single picture: listings may leave it out."""
    uploaded_at: float | None = None
    """Unix time."""
    annotation: Annotation | None = None
    """What the ledger knows to be marked in it; platforms leave it out."""


class TrainingState(StrEnum):
    """What is known of one training."""

    STARTING = "starting"
    DOUBTFUL = "doubtful"
    RUNNING = "running"
    TRAINED = "trained"
    FAILED = "failed"
    REFUSED = "refused"

    @property
    def active(self) -> bool:
        """Whether it may still be going on at the platform."""
        return self in {TrainingState.STARTING, TrainingState.DOUBTFUL, TrainingState.RUNNING}


class NextStep(StrEnum):
    """What is still to be done about a training that has ended, one thing after the other."""

    NOTHING = ""
    JUDGE = "judge"
    """Decide whether its model is deployed."""
    DEPLOY = "deploy"
    RETIRE = "retire"
    """Undeploy the models that it replaces."""
    TIDY = "tidy"
    """Delete the models that are not to be kept."""
    RETRY = "retry"
    """It failed for a cause that passes: start it once more."""


BY_HAND = "by hand"
"""The reason of a fate that a person decided."""


class ModelOutcome(StrEnum):
    """What became of a training's model by our doing."""

    UNDECIDED = ""
    DECLINED = "declined"
    """It is not to be deployed."""
    CHOSEN = "chosen"
    """It is to be deployed."""
    DEPLOYED = "deployed"
    REFUSED = "refused"
    """The platform would not deploy it."""
    RETIRED = "retired"
    """It was deployed and no longer is."""
    DELETED = "deleted"
    GONE = "gone"
    """The platform no longer has it, and not by our doing."""


@dataclass(frozen=True, slots=True)
class Training:
    """One training, as the ledger knows it."""

    id: int
    name: str
    """Name of the model to be; unique."""
    state: TrainingState
    dataset: DatasetRef
    task_id: str = ""
    base: str = ""
    """Model id it continues from; empty when it starts from the beginning."""
    pictures: int = 0
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    not_before: float | None = None
    """Unix time before which "not found at the platform" is not believed."""
    iteration: int = 0
    iterations: int = 0
    loss: float | None = None
    accuracy: float | None = None
    """Held-out accuracy, 0 to 1, as the platform reports it."""
    remaining: float | None = None
    """Seconds that the platform expects it to go on."""
    reason: str = ""
    """Why it failed or was refused, in the platform's words."""
    doubts: int = 0
    """How often it was not known whether it had been started."""
    base_name: str = ""
    """Name of the model it continues from, as far as it is known."""
    retry_of: int | None = None
    """The failed training that this one repeats."""
    owed: NextStep = NextStep.NOTHING
    fate: ModelOutcome = ModelOutcome.UNDECIDED
    fate_reason: str = ""
    """Why its model has this fate, one clause."""


class Metric(NamedTuple):
    """One look at a running training."""

    at: float
    """Unix time, seconds."""
    iteration: int
    loss: float | None
    accuracy: float | None
    """Held-out accuracy, 0 to 1."""


@dataclass(frozen=True, slots=True)
class TrainingContent:
    """The pictures of one category that a training contains.

    ``fingerprint`` is the SHA-256 of their own SHA-256 sums in hex, sorted, each followed by a line feed.
    """

    category: str
    pictures: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many pictures stand where, for one category or for all."""

    found: int = 0
    """Files that lie in the folders and were checked."""
    ready: int = 0
    """Wait for the threshold, or have passed it and wait for a request."""
    sending: int = 0
    """In a request whose outcome is open."""
    confirmed: int = 0
    quarantined: int = 0
    refused: int = 0
    conflicts: int = 0
    duplicates: int = 0
    waiting: int = 0
    """Sound, but their annotations are not there yet."""


@dataclass(frozen=True, slots=True)
class Census:
    """Everything that ``status`` counts."""

    total: Counts = field(default_factory=Counts)
    categories: Mapping[str, Counts] = field(default_factory=lambda: MappingProxyType({}))
    uncategorised: int = 0
    settling: int = 0
    """Files that are not quiet yet, as the watcher last reported."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Everything the tracker decides by: one consistent look at the ledger.

    ``ready`` pictures wait for the threshold; ``cleared`` ones have passed it and wait for a request;
    ``sending`` ones are in a request whose outcome is open (``doubtful`` of them: the platform must be asked).
    """

    ready: int = 0
    cleared: int = 0
    sending: int = 0
    doubtful: int = 0
    confirmed: int = 0
    refused: int = 0
    untrained: int = 0
    """Confirmed since the last training of this dataset was started."""
    trainable: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Confirmed pictures per category, all that a training would contain."""
    labelled: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Confirmed pictures per label that is marked in them; empty unless annotations are used."""
    unmarked: int = 0
    """Confirmed pictures whose present annotations the platform does not have yet."""
    moving: int = 0
    """Confirmed pictures whose category the platform has still to be told, because their files were moved."""
    newest_ready_id: int = 0
    """Grows whenever a picture becomes ready: the quiet time is counted from its last change."""
    newest_ready_at: float | None = None
    """Unix time of the last picture that began to wait for the threshold."""
    active: Training | None = None
    last: Training | None = None
    """The newest training that was started, active or ended."""
    refusal: Training | None = None
    """The newest attempt, if the platform refused to start it."""
    retry: Training | None = None
    """The failed training that is to be started once more."""
    starts: tuple[float, ...] = ()
    """Unix times of the trainings started in the last 24 hours, oldest first."""
    train_requested: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a stage should act now; the same value is logged, shown and obeyed.

    Attributes:
        due: act now.
        have, need: pictures counted, and the threshold they are held against.
        wait: seconds until it would be due if nothing changes; None when time alone changes nothing.
        reason: one clause that says why; never empty.
    """

    due: bool
    have: int
    need: int
    reason: str
    wait: float | None = None

    @property
    def short_by(self) -> int:
        """Pictures missing from the threshold; none is missing where something else made it due."""
        return 0 if self.due else max(0, self.need - self.have)
