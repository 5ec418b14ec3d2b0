"""The pictures that a detection training works with: what is marked in them, and their windows."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from image_sync_server.learn.features import Floats, unusable
from image_sync_server.learn.learner import heed
from image_sync_server.mvi import windows
from image_sync_server.mvi.boxes import Mark
from image_sync_server.mvi.windows import Grid, View

_MEMORY = 256 * 1024 * 1024
_ALIKE = 0.7  # overlap of two boxes with the same middle that one shape of window serves


@dataclass(frozen=True)
class Marked:
    """A picture to learn from, and everything that is marked in it."""

    path: Path
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Page:
    """A picture that was looked at once.

    Attributes:
        picture: where it lies, and its marks in an order that does not depend on how they came.
        digest: SHA-256 of its content, in hex.
        longer: pixels of its longer side.
    """

    picture: Marked
    digest: str
    longer: int

    @classmethod
    def of(cls, picture: Marked) -> Self:
        """The page of a picture. Raises ValueError with a sentence that names the picture when it is unusable."""
        raw, view = _read(picture.path)
        marks = tuple(sorted(picture.marks, key=repr))
        return cls(Marked(picture.path, marks), hashlib.sha256(raw).hexdigest(), max(view.width, view.height))


class Album:
    """Pictures with their windows; as many as fit into memory are kept there, the others are read again each time.

    Args:
        pages: the pictures.
        shapes: of the windows.
        stop: looked at before every picture.
        memory: bytes that may be kept.
    """

    def __init__(self, pages: Sequence[Page], shapes: Floats, stop: threading.Event, memory: int = _MEMORY) -> None:
        self.marks = [page.picture.marks for page in pages]
        self._paths = [page.picture.path for page in pages]
        self._shapes: list[tuple[float, float]] = [(float(width), float(height)) for width, height in shapes]
        self._stop = stop
        self._kept: dict[int, tuple[View, list[Grid]]] = {}
        self._room = memory

    def __len__(self) -> int:
        return len(self._paths)

    def open(self, at: int) -> tuple[View, list[Grid]]:
        """The picture of this number, and its windows by shape. Raises StopTraining, and ValueError as a page does."""
        heed(self._stop)
        if at in self._kept:
            return self._kept[at]
        _, view = _read(self._paths[at])
        found = view, [windows.grid(view, shape) for shape in self._shapes]
        size = sum(grid.cells.nbytes + grid.boxes.nbytes for grid in found[1])
        if size <= self._room:
            self._room -= size
            self._kept[at] = found
        return found


def _read(path: Path) -> tuple[bytes, View]:
    try:
        raw = path.read_bytes()
        return raw, View.of(raw)
    except (OSError, ValueError) as error:
        raise unusable(path, error) from error


def held_out(pages: Sequence[Page], ratio: float) -> NDArray[np.bool_]:
    """Which pictures are kept for the test: those whose hash is above ``ratio``, as for classification.

    Equal contents are always on the same side. A label that chance would leave without a held-out picture gets the one
    with the highest hash, and after that a label without one to learn from the one with the lowest.
    """
    share = np.array([int(page.digest[:13], 16) / 16**13 for page in pages])
    held = share >= ratio
    labels = sorted({mark.label for page in pages for mark in page.picture.marks})
    owns = [np.array([any(mark.label == label for mark in page.picture.marks) for page in pages]) for label in labels]
    for own in owns:
        if not held[own].any() and share[own].min() < share[own].max():
            held[share == share[own].max()] = True
    for own in owns:
        if held[own].all():
            held[share == share[own].min()] = False
    return held


def shapes(pages: Iterable[Page], known: Floats, most: int) -> Floats:
    """Shapes of windows such that each marked box is much like one of them: those that serve most boxes, best first.

    Args:
        pages: the pictures to learn from.
        known: shapes that are there anyway.
        most: how many there may be, with those.

    Returns:
        Widths and heights, as shares of a picture's longer side, a row each.
    """
    sizes = np.array(
        [
            ((mark.right - mark.left) / page.longer, (mark.bottom - mark.top) / page.longer)
            for page in pages
            for mark in page.picture.marks
        ],
        dtype=np.float32,
    )
    sizes = np.clip(sizes, windows.SMALLEST, 1)
    chosen = [*known]
    served = (_alike(sizes, np.array(chosen, dtype=np.float32).reshape(-1, 2)) >= _ALIKE).any(axis=1)
    serves = _alike(sizes, sizes) >= _ALIKE
    while not served.all() and len(chosen) < most:
        best = int((serves[~served]).sum(axis=0).argmax())
        chosen.append(sizes[best])
        served |= serves[:, best]
    return np.array(chosen, dtype=np.float32)


def _alike(one: Floats, other: Floats) -> Floats:
    """Overlap of boxes of these sizes that have the same middle."""
    shared = np.minimum(one[:, None], other[None]).prod(axis=2)
    return np.asarray(shared / (one.prod(axis=1)[:, None] + other.prod(axis=1)[None] - shared))
