"""What the detector sees: windows of a few shapes at every place of a picture, and the figures of each; and how boxes
overlap, and how good found ones are.

For each shape the picture is stretched so that a window of that shape becomes a square of :data:`CORE` cells; the
figures of a window are those of its cells and of a ring of one cell around it. So one set of weights serves all shapes.
A cell's figures tell how light and which colour it is against its surroundings, how strong its edges are, and which
direction they have.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from image_sync_server.learn.features import Floats, decoded, slopes, unusable
from image_sync_server.learn.learner import heed

Boxes = NDArray[np.float64]

HIT = 0.5
"""Overlap (intersection over union) from which on a found box counts as the marked one."""
_SAME, _INSIDE = 0.35, 0.75  # two finds of one label are one thing: overlap, or share of the one that lies in the other
_SAME_PLACE = 0.45  # overlap from which on two finds of two labels are one thing


@dataclass(frozen=True, slots=True)
class Find:
    """One thing found in a picture: what it is, how sure that is (0 to 1), and where, in pixels of the picture."""

    label: str
    confidence: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing marked in a picture, in pixels of the picture."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


def edges(things: Sequence[Find | Mark]) -> Boxes:
    """Their boxes, a row each."""
    rows = [(thing.left, thing.top, thing.right, thing.bottom) for thing in things]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _shared(one: Boxes, other: Boxes) -> NDArray[np.float64]:
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    sides = np.maximum(high - low, 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def overlaps(one: Boxes, other: Boxes) -> NDArray[np.float64]:
    """Intersection over union of each box of the one with each of the other."""
    shared = _shared(one, other)
    union = _areas(one)[:, None] + _areas(other)[None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-9))


def distinct(boxes: Boxes, labels: NDArray[np.intp], scores: NDArray[np.floating], most: int) -> list[int]:
    """Which of these boxes stand for a thing of their own, best first: each drops those that are the same thing.

    Args:
        most: how many are kept.
    """
    order = np.argsort(-scores, kind="stable")
    areas = _areas(boxes)
    kept: list[int] = []
    while order.size and len(kept) < most:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        shared = _shared(boxes[best : best + 1], boxes[order])[0]
        overlap = shared / np.maximum(areas[best] + areas[order] - shared, 1e-9)
        inside = shared / np.maximum(np.minimum(areas[best], areas[order]), 1e-9)
        same = labels[order] == labels[best]
        order = order[~((same & ((overlap > _SAME) | (inside > _INSIDE))) | (overlap > _SAME_PLACE))]
    return kept


def precisions(found: Sequence[Sequence[Find]], marked: Sequence[Sequence[Mark]]) -> Mapping[str, float]:
    """The average precision of each marked label: the area under its curve of precision over recall.

    As in the Pascal VOC challenge since 2010: the finds of all pictures in the order of their confidence, each a hit
    when it overlaps a mark of its label that no better find has hit by at least :data:`HIT`.

    Args:
        found, marked: of each picture, in the same order.
    """
    labels = sorted({mark.label for marks in marked for mark in marks})
    return {label: _precision(label, found, marked) for label in labels}


def _precision(label: str, found: Sequence[Sequence[Find]], marked: Sequence[Sequence[Mark]]) -> float:
    truth = [[mark for mark in marks if mark.label == label] for marks in marked]
    taken = [[False] * len(marks) for marks in truth]
    finds: list[tuple[float, int, Boxes]] = []
    for at, some in enumerate(found):
        own = [find for find in some if find.label == label]
        rows = overlaps(edges(own), edges(truth[at]))
        finds += [(find.confidence, at, row) for find, row in zip(own, rows, strict=True)]
    finds.sort(key=lambda find: -find[0])
    hits = np.zeros(len(finds))
    for rank, (_, at, row) in enumerate(finds):
        overlap = row * ~np.array(taken[at], dtype=bool)
        if overlap.size and overlap.max() >= HIT:
            taken[at][int(overlap.argmax())] = True
            hits[rank] = 1
    if not hits.any():
        return 0.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    ahead = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or a higher one
    return float((ahead * hits).sum() / sum(map(len, truth)))


SIDE = 400
"""Pixels of a picture's longer side; larger pictures are made smaller before they are looked at."""
CORE = 5
SMALLEST = 1 / 25
"""Least width and height of a window, as a share of the picture's longer side."""
_RING = 1
_CELLS = CORE + 2 * _RING
_PIXELS = 4  # of a cell's side
_BINS = 6  # edge directions
_REACH = 3 * CORE * _PIXELS // 2  # of the surroundings
_PLANES = 1 + _BINS + 6
LENGTH = _CELLS * _CELLS * _PLANES + 2
"""Figures of a window."""
_AT_ONCE = 2048
_TINY = 1e-3


@dataclass(frozen=True, eq=False)
class View:
    """A picture made ready to be looked at.

    Attributes:
        image: it, made smaller if need be.
        width, height: its own, in pixels.
    """

    image: Image.Image
    width: int
    height: int

    @classmethod
    def of(cls, picture: bytes) -> View:
        """The view of a JPEG or PNG, its pixels where the file has them: boxes know nothing of EXIF rotation.

        Raises ValueError with a clause that says why the bytes are no usable picture.
        """
        image, (width, height) = decoded(picture, SIDE, upright=False)
        share = SIDE / max(width, height)
        if share < 1:
            size = (max(1, round(width * share)), max(1, round(height * share)))
            image = image.resize(size, Image.Resampling.BOX)
        return cls(image, width, height)


@dataclass(frozen=True, eq=False)
class Grid:
    """All windows of one shape in one picture."""

    cells: Floats
    """Rows x columns x figures of the cells, with a border around the picture."""
    boxes: Boxes
    """Where each window lies in the picture's own pixels; it may reach beyond the border."""
    size: Floats
    """Logarithms of the shape's width and height."""

    def __len__(self) -> int:
        return len(self.boxes)

    def figures(self, which: NDArray[np.intp]) -> Floats:
        """The figures of some windows, a row each."""
        columns = self.cells.shape[1] - _CELLS + 1
        seen = sliding_window_view(self.cells, (_CELLS, _CELLS), axis=(0, 1))
        rows = seen[which // columns, which % columns].reshape(len(which), LENGTH - 2)
        return np.concatenate([rows, np.tile(self.size, (len(which), 1))], axis=1)

    def blocks(self) -> Iterator[Floats]:
        """The cells of all windows, a row each, some windows at a time; :func:`scanning` puts weights in that order.

        The figures of a window lie in memory as they are taken here, so this is many times quicker than ``figures``.
        """
        seen = sliding_window_view(self.cells, (_CELLS, _CELLS), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
        step = max(1, _AT_ONCE // seen.shape[1])
        for row in range(0, len(seen), step):
            yield seen[row : row + step].reshape(-1, LENGTH - 2)


def scanning(weights: Floats) -> Floats:
    """Weights for ``figures``, a row for each, in the order of ``blocks``; the last two rows are the shape's size."""
    cells = weights[:-2].reshape(_PLANES, _CELLS, _CELLS, -1).transpose(1, 2, 0, 3).reshape(LENGTH - 2, -1)
    return np.concatenate([cells, weights[-2:]])


def grid(view: View, shape: tuple[float, float]) -> Grid:
    """The windows of a shape (width and height as shares of the picture's longer side)."""
    width, height = view.image.size
    longer = max(width, height)
    side = CORE * _PIXELS
    columns = max(1, round(width / (shape[0] * longer) * CORE))
    rows = max(1, round(height / (shape[1] * longer) * CORE))
    stretched = view.image.resize((columns * _PIXELS, rows * _PIXELS), Image.Resampling.BILINEAR)
    border = (_RING + 1) * _PIXELS
    more = [(border, border + max(0, side - size)) for size in (rows * _PIXELS, columns * _PIXELS)]
    plane = np.pad(np.asarray(stretched, dtype=np.float32) / np.float32(255), [*more, (0, 0)], mode="edge")
    cells = _cells(plane)
    down, across = (np.arange(size - _CELLS + 1) - 1 for size in cells.shape[:2])
    step = np.array([view.width / columns, view.height / rows])
    left, top = (part.ravel() for part in np.meshgrid(across * step[0], down * step[1]))
    boxes = np.stack([left, top, left + CORE * step[0], top + CORE * step[1]], axis=1)
    return Grid(cells, boxes, np.log(np.array(shape)).astype(np.float32))


def _around(plane: Floats) -> Floats:
    """The mean of each place's surroundings, three windows wide, from the sums over all rectangles at the corner."""
    padded = np.pad(plane.astype(np.float64), _REACH, mode="reflect" if min(plane.shape) > _REACH else "edge")
    sums = np.pad(padded.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    side = 2 * _REACH + 1
    total = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.asarray(total / side**2, dtype=np.float32)


def _cells(colours: Floats) -> Floats:
    red, green, blue = colours[..., 0], colours[..., 1], colours[..., 2]
    grey = colours @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    strength, turn = slopes(grey, _BINS)
    # An edge between two directions counts for both, by how near it is to each.
    nearest = np.floor(turn)
    share = turn - nearest
    first = nearest.astype(np.intp) % _BINS
    second = (first + 1) % _BINS
    planes = [strength]
    planes += [
        strength * ((1 - share) * (first == direction) + share * (second == direction)) for direction in range(_BINS)
    ]
    for plane in (grey, red - green, (red + green) * np.float32(0.5) - blue):
        away = plane - _around(plane)
        planes += [np.maximum(away, 0), np.maximum(-away, 0)]
    stack = np.stack(planes, axis=-1)
    rows, columns = (size // _PIXELS for size in grey.shape)
    means = stack.reshape(rows, _PIXELS, columns, _PIXELS, _PLANES).mean(axis=(1, 3))
    # Square roots: faint edges and tints count, strong ones do not drown them.
    return np.asarray(np.sqrt(means + _TINY) - np.float32(_TINY**0.5), dtype=np.float32)


_MEMORY = 256 * 1024 * 1024
_ALIKE = 0.7  # overlap of two boxes with the same middle that one shape of window serves


@dataclass(frozen=True)
class Marked:
    """A picture to learn from, and everything that is marked in it."""

    path: Path
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Picture:
    """A picture that was looked at once.

    Attributes:
        marked: where it lies, and its marks in an order that does not depend on how they came.
        digest: SHA-256 of its content, in hex.
        longer: pixels of its longer side.
    """

    marked: Marked
    digest: str
    longer: int

    @classmethod
    def of(cls, picture: Marked) -> Self:
        """Look at a picture. Raises ValueError with a sentence that names it when it is unusable."""
        raw, view = _read(picture.path)
        marks = tuple(sorted(picture.marks, key=repr))
        return cls(Marked(picture.path, marks), hashlib.sha256(raw).hexdigest(), max(view.width, view.height))


class PictureSet:
    """Pictures with their windows; as many as fit into memory are kept there, the others are read again each time.

    Args:
        pictures: the pictures.
        shapes: of the windows.
        stop: looked at before every picture.
        memory: bytes that may be kept.
    """

    def __init__(
        self, pictures: Sequence[Picture], shapes: Floats, stop: threading.Event, memory: int = _MEMORY
    ) -> None:
        self.marks = [picture.marked.marks for picture in pictures]
        self._paths = [picture.marked.path for picture in pictures]
        self._shapes: list[tuple[float, float]] = [(float(width), float(height)) for width, height in shapes]
        self._stop = stop
        self._kept: dict[int, tuple[View, list[Grid]]] = {}
        self._room = memory

    def __len__(self) -> int:
        return len(self._paths)

    def open(self, at: int) -> tuple[View, list[Grid]]:
        """The picture of this number, and its windows by shape. Raises StopTraining, and ValueError as above."""
        heed(self._stop)
        if at in self._kept:
            return self._kept[at]
        _, view = _read(self._paths[at])
        found = view, [grid(view, shape) for shape in self._shapes]
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


def held_out(pictures: Sequence[Picture], ratio: float) -> NDArray[np.bool_]:
    """Which pictures are kept for the test: those whose hash is above ``ratio``, as for classification.

    Equal contents are always on the same side. A label that chance would leave without a held-out picture gets the one
    with the highest hash, and after that a label without one to learn from the one with the lowest.
    """
    share = np.array([int(picture.digest[:13], 16) / 16**13 for picture in pictures])
    held = share >= ratio
    labels = sorted({mark.label for picture in pictures for mark in picture.marked.marks})
    found = [{mark.label for mark in picture.marked.marks} for picture in pictures]
    owns = [np.array([label in some for some in found]) for label in labels]
    for own in owns:
        if not held[own].any() and share[own].min() < share[own].max():
            held[share == share[own].max()] = True
    for own in owns:
        if held[own].all():
            held[share == share[own].min()] = False
    return held


def shapes_for(pictures: Iterable[Picture], known: Floats, most: int) -> Floats:
    """Shapes of windows such that each marked box is much like one of them: those that serve most boxes, best first.

    Args:
        pictures: the pictures to learn from.
        known: shapes that are there anyway.
        most: how many there may be, with those.

    Returns:
        Widths and heights, as shares of a picture's longer side, a row each.
    """
    sizes = np.array(
        [
            ((mark.right - mark.left) / picture.longer, (mark.bottom - mark.top) / picture.longer)
            for picture in pictures
            for mark in picture.marked.marks
        ],
        dtype=np.float32,
    )
    sizes = np.clip(sizes, SMALLEST, 1)
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
