"""The nouns that every part shares. Frozen values only; no behaviour that needs a disk, a clock or a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple


class Stamp(NamedTuple):
    """What ``stat`` says of a file: equal stamps mean an unchanged file."""

    size: int
    """Bytes."""
    mtime_ns: int
    ctime_ns: int
    inode: int


class PlaceState(StrEnum):
    """What the check said of the file at one path."""

    SOUND = "sound"
    QUARANTINED = "quarantined"
    UNCATEGORISED = "uncategorised"


class PlaceRole(StrEnum):
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
    CLAIMED = "claimed"
    CONFIRMED = "confirmed"
    REFUSED = "refused"


class BatchState(StrEnum):
    """What is known of one upload request."""

    SENDING = "sending"
    DOUBTFUL = "doubtful"
    CONFIRMED = "confirmed"
    RELEASED = "released"


class RunState(StrEnum):
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
        return self in {RunState.STARTING, RunState.DOUBTFUL, RunState.RUNNING}


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


@dataclass(frozen=True, slots=True)
class Annotation:
    """Everything that is marked in one picture, which is ``width`` by ``height`` pixels large."""

    width: int
    height: int
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Sighting:
    """One look at one finished file: the check's verdict and, if it is sound, its identity.

    Attributes:
        folder: absolute path of the folder, bytes as the file system gives them.
        name: file name, bytes.
        category: category name, or None when the picture lies directly in a root without one.
        sha256: 64 lower-case hex digits of the content; empty unless the file could be read whole.
        suffix: ``jpg``, ``jpeg`` or ``png``, lower case, without the dot: from the content where they disagree.
        fault: why it is quarantined, one sentence; empty when it is sound.
    """

    folder: bytes
    name: bytes
    stamp: Stamp
    category: str | None
    sha256: str = ""
    suffix: str = ""
    fault: str = ""


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


@dataclass(frozen=True, slots=True)
class Claimed:
    """One picture of a batch, as the ledger hands it out.

    Attributes:
        key: its name at the platform, unique in the dataset.
        path: absolute path of the file to send, bytes.
        size: bytes; sha256: 64 hex digits of what must be sent.
    """

    picture_id: int
    key: str
    path: bytes
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures of one dataset and one category that are sent in one request."""

    id: str
    """32 hex digits, stored at the platform as file metadata where it can."""
    dataset: DatasetRef
    category: str
    pictures: tuple[Claimed, ...]
    claimed_at: float = 0.0
    """Unix time, seconds."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training, as the ledger knows it."""

    id: int
    name: str
    """Name of the model to be; unique."""
    state: RunState
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
    newest_ready_id: int = 0
    """Grows whenever a picture becomes ready: the quiet time is counted from its last change."""
    newest_ready_at: float | None = None
    """Unix time of the last picture that began to wait for the threshold."""
    active: Run | None = None
    last: Run | None = None
    """The newest training that was started, active or ended."""
    refusal: Run | None = None
    """The newest attempt, if the platform refused to start it."""
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
        """Pictures missing from the threshold."""
        return max(0, self.need - self.have)
