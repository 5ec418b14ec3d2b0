"""What a detection training learnt: a small softmax network over the figures of windows, and how it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from image_sync_server.learn import boxes, windows
from image_sync_server.learn.boxes import Boxes, Find
from image_sync_server.learn.features import Floats
from image_sync_server.learn.model import ANOTHER, arrays_of, model_file, read_model_file, softmax
from image_sync_server.learn.windows import Grid, View

MOST = 500
"""Finds in one picture, at most."""
LEAST = 0.05
"""Finds with less confidence are none."""
_CANDIDATES = 2000  # windows that are looked at closely: a model that learnt little takes every window for something
_FARTHEST = 1.0  # how far a window's box is moved or stretched, at most: to e times its size
_MAGIC = b"image-sync detector 1\n"  # a change of the figures' meaning needs another number


@dataclass(frozen=True, eq=False)
class Detector:
    """What a detection training learnt. May be used from several threads at once.

    Attributes:
        labels: names, in the order of the columns of ``weights``; the last column is for windows with nothing.
        accuracy: mean average precision over the labels, at an overlap of one half, on held-out pictures, 0 to 1.
        shapes: widths and heights of the windows, as shares of a picture's longer side, a row each.
        mean, mixing: how figures are standardised; they stay as the first model of its line found them.
        sight, sight_bias: of the network's hidden layer (rectified).
        weights, bias: of its softmax.
        moves, start: of the linear map that tells how far a thing's box is from the window's, four columns a label.
    """

    labels: tuple[str, ...]
    accuracy: float
    shapes: Floats
    mean: Floats
    mixing: Floats
    sight: Floats
    sight_bias: Floats
    weights: Floats
    bias: Floats
    moves: Floats
    start: Floats

    usage: ClassVar[str] = "cod"

    @property
    def evaluation(self) -> Mapping[str, str]:
        """What MVI shows as ``eval_data``: what the accuracy is."""
        return {"metric": f"mAP@{boxes.HIT:g}", "value": f"{self.accuracy:.4f}"}

    @property
    def names(self) -> tuple[str, ...]:
        """What it finds."""
        return self.labels

    def predict(self, picture: bytes) -> list[Find]:
        """What is found in a picture, best first, in whole pixels as the file has them (EXIF rotation is ignored).

        Raises ValueError when the picture cannot be decoded.
        """
        try:
            view = View.of(picture)
        except ValueError as error:
            raise ValueError(f"The picture cannot be used: {error}.") from error
        return self.look([windows.grid(view, (shape[0], shape[1])) for shape in self.shapes.tolist()], view)

    def standardised(self, figures: Floats) -> Floats:
        """Figures of windows, a row each, as ``sight`` and ``moves`` expect them."""
        return np.asarray((figures - self.mean) @ self.mixing, dtype=np.float32)

    def seen(self, figures: Floats) -> Floats:
        """The hidden layer for standardised figures."""
        return np.asarray(np.maximum(figures @ self.sight + self.sight_bias, 0))

    def told(self, seen: Floats) -> Floats:
        """Probability of each label, and last of nothing, for a hidden layer."""
        return np.asarray(softmax(seen @ self.weights + self.bias), dtype=np.float32)

    def judge(self, figures: Floats) -> Floats:
        """Probability of each label, and last of nothing, for standardised figures."""
        return self.told(self.seen(figures))

    def scores(self, grid: Grid) -> Floats:
        """Probability of each label, and last of nothing, for each window."""
        filters, shift = self._folded(self.sight, self.sight_bias)
        return np.concatenate([self.told(np.maximum(some @ filters + shift, 0)) for some in grid.blocks()])

    def look(self, grids: list[Grid], view: View) -> list[Find]:
        """What is found in the windows of a picture, best first."""
        scores = [self.scores(grid)[:, :-1] for grid in grids]
        line = max(LEAST, _highest(scores, _CANDIDATES))
        found = [np.nonzero(some >= line) for some in scores]
        place = np.concatenate([self._moved(grid, *some) for grid, some in zip(grids, found, strict=True)])
        label = np.concatenate([names for _, names in found])
        score = np.concatenate([some[which] for some, which in zip(scores, found, strict=True)])
        place = np.clip(np.round(place), 0, [view.width, view.height] * 2)
        real = np.flatnonzero((place[:, :2] < place[:, 2:]).all(axis=1))
        place, label, score = place[real], label[real], score[real]
        return [
            Find(self.labels[label[one]], float(score[one]), *place[one].tolist())
            for one in boxes.distinct(place, label, score, MOST)
        ]

    def _moved(self, grid: Grid, which: np.ndarray, names: np.ndarray) -> Boxes:
        if not which.size:
            return np.empty((0, 4))
        filters, shift = self._folded(self.moves, self.start)
        moves = (grid.figures(which) @ filters + shift).reshape(len(which), -1, 4)[np.arange(len(which)), names]
        return moved(grid.boxes[which], moves)

    def _folded(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """The same linear map for figures that are not standardised yet."""
        filters = self.mixing @ weights
        return filters, bias - self.mean @ filters

    def to_bytes(self) -> bytes:
        """The model as a line of JSON and plain numbers, with a checksum; equal models give equal bytes."""
        facts = {
            "labels": self.labels,
            "accuracy": self.accuracy,
            "figures": windows.LENGTH,
            "shapes": len(self.shapes),
            "hidden": len(self.sight_bias),
        }
        arrays = (self.shapes, self.mean, self.mixing, self.sight, self.sight_bias, self.weights, self.bias)
        return model_file(_MAGIC, facts, (*arrays, self.moves, self.start))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Detector:
        """The model that :meth:`to_bytes` wrote. Raises ValueError when it is damaged or of another version."""
        facts, numbers = read_model_file(_MAGIC, raw)
        length, count, hidden = facts["figures"], len(facts["labels"]), facts["hidden"]
        sizes = ((facts["shapes"], 2), (length,), (length, length), (length, hidden), (hidden,), (hidden, count + 1),
                 (count + 1,), (length, 4 * count), (4 * count,))  # fmt: skip
        if length != windows.LENGTH:
            raise ValueError(ANOTHER)
        shapes, *rest = arrays_of(numbers, sizes)
        if not ((shapes > windows.SMALLEST / 2) & (shapes <= 1)).all():  # smaller ones would take all memory
            raise ValueError(ANOTHER)
        return cls(tuple(facts["labels"]), facts["accuracy"], shapes, *rest)

    @staticmethod
    def wrote(raw: bytes) -> bool:
        """Whether these bytes claim to be a detector."""
        return raw.startswith(_MAGIC)


def _highest(scores: Sequence[Floats], most: int) -> float:
    """The least of the so many highest scores."""
    everything = np.concatenate([some.ravel() for some in scores])
    return float(np.sort(everything)[-min(most, everything.size)])


def moves_of(place: Boxes, wanted: Boxes) -> Boxes:
    """How a box must be moved and stretched to become another: shares of its size, and logarithms."""
    size, other = place[:, 2:] - place[:, :2], wanted[:, 2:] - wanted[:, :2]
    shift = ((wanted[:, :2] + wanted[:, 2:]) - (place[:, :2] + place[:, 2:])) / 2 / size
    return np.concatenate([shift, np.log(other / size)], axis=1)


def moved(place: Boxes, moves: np.ndarray) -> Boxes:
    """The boxes after these moves; the inverse of :func:`moves_of`."""
    moves = np.clip(moves.astype(np.float64), -_FARTHEST, _FARTHEST)
    size = place[:, 2:] - place[:, :2]
    middle = (place[:, :2] + place[:, 2:]) / 2 + moves[:, :2] * size
    half = size * np.exp(moves[:, 2:]) / 2
    return np.concatenate([middle - half, middle + half], axis=1)
