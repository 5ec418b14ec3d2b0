"""Files, pictures, what is marked in them, and the batches that they are sent in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

_NOISE = 0.01
"""Pixels: the decimals of relative coordinates leave so much behind, and no pixel is added for it."""


class Stamp(NamedTuple):
    """What ``stat`` says of a file: equal stamps mean an unchanged file."""

    size: int
    """Bytes."""
    mtime_ns: int
    ctime_ns: int
    inode: int
    annotation: str = ""
    """Changes with the files that its annotation stands in; empty when there are none, or they are not used."""


class PlaceState(StrEnum):
    """What the check said of the file at one path."""

    SOUND = "sound"
    QUARANTINED = "quarantined"
    UNCATEGORISED = "uncategorised"
    WAITING = "waiting"
    """It is sound, but its annotation is not there yet."""


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


@dataclass(frozen=True, slots=True)
class Claimed:
    """One picture of a batch, as the ledger hands it out.

    Attributes:
        key: its name at the platform, unique in the dataset.
        path: absolute path of the file to send, bytes.
        size: bytes; sha256: 64 hex digits of what must be sent.
        annotation: what is marked in it, as its sighting said; empty when nothing is known of that.
        stamp: of the file when it was hashed; None when its file is gone.
    """

    picture_id: int
    key: str
    path: bytes
    size: int
    sha256: str
    annotation: str = ""
    stamp: Stamp | None = None


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
