"""What the detector sees: windows of a few shapes at every place of a picture, and the figures of each.

For each shape the picture is stretched so that a window of that shape becomes a square of :data:`CORE` cells; the
figures of a window are those of its cells and of a ring of one cell around it. So one set of weights serves all shapes.
A cell's figures tell how light and which colour it is against its surroundings, how strong its edges are, and which
direction they have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from image_sync_server.learn import raster
from image_sync_server.learn.features import Floats
from image_sync_server.mvi.boxes import Boxes

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
        image, (width, height) = raster.decoded(picture, SIDE, upright=False)
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
    size: tuple[float, float]
    """Logarithms of the shape's width and height."""

    def __len__(self) -> int:
        return len(self.boxes)

    def figures(self, which: NDArray[np.intp]) -> Floats:
        """The figures of some windows, a row each."""
        columns = self.cells.shape[1] - _CELLS + 1
        seen = sliding_window_view(self.cells, (_CELLS, _CELLS), axis=(0, 1))
        rows = seen[which // columns, which % columns].reshape(len(which), LENGTH - 2)
        size = np.tile(np.array(self.size, dtype=np.float32), (len(which), 1))
        return np.concatenate([rows, size], axis=1).astype(np.float32)

    def blocks(self) -> Iterator[Floats]:
        """The figures of all windows, in order, a block at a time."""
        for start in range(0, len(self), _AT_ONCE):
            yield self.figures(np.arange(start, min(start + _AT_ONCE, len(self))))


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
    return Grid(cells, boxes, (float(np.log(shape[0])), float(np.log(shape[1]))))


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
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    down[1:-1] = grey[2:] - grey[:-2]
    strength = np.hypot(across, down)
    # An edge between two directions counts for both, by how near it is to each.
    turn = np.arctan2(down, across) % np.pi * (_BINS / np.pi)
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
