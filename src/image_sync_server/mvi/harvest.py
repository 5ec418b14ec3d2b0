"""Windows that a detector learns from: with a thing in them, with nothing, and with nothing but looking alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from image_sync_server.learn.features import Floats
from image_sync_server.mvi.album import Album
from image_sync_server.mvi.boxes import Boxes, edges, overlaps
from image_sync_server.mvi.detector import Detector, moves_of
from image_sync_server.mvi.windows import Grid

_THING, _NOTHING = 0.5, 0.45  # overlap with a marked box from which on there is a thing, below which there is none
_EACH, _FEWEST = 16, 2  # windows that a marked box gives: at most, and where there are very many boxes
_RANDOM, _HARD = 48, 24  # windows with nothing that a picture gives at first, and by each search; at most
_MOST = 30_000  # windows of either kind, unless there are more pictures
_SUSPECT = 0.1  # probability of a label from which on a window with nothing is a hard one


@dataclass(frozen=True)
class Harvest:
    """Some windows.

    Attributes:
        figures: a row for each window.
        labels: number of the label in it; one more than the last label's for nothing.
        moves: how its box must be moved to become the thing's.
    """

    figures: Floats
    labels: NDArray[np.intp]
    moves: Boxes

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, which: NDArray[np.intp]) -> Harvest:
        """Some of them."""
        return Harvest(self.figures[which], self.labels[which], self.moves[which])

    def standardised(self, model: Detector) -> Harvest:
        """The same windows with their figures as a model's weights expect them."""
        return replace(self, figures=model.standardised(self.figures))

    @classmethod
    def of(cls, parts: Sequence[Self]) -> Harvest:
        """All of these together."""
        return Harvest(
            np.concatenate([part.figures for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.moves for part in parts]),
        )


class Field:
    """Pictures and the windows that were taken of them so far.

    Args:
        album: the pictures.
        labels: names of what may be marked in them.
    """

    def __init__(self, album: Album, labels: Sequence[str]) -> None:
        self._album = album
        self._labels = {label: number for number, label in enumerate(labels)}
        self._taken: set[tuple[int, int, int]] = set()

    def things(self) -> Harvest:
        """Windows with a thing in them: of each mark those that fit best, and one even if it fits badly."""
        each = max(_FEWEST, min(_EACH, _MOST // max(1, sum(map(len, self._album.marks)))))
        found = []
        for at, marks in enumerate(self._album.marks):
            _, grids = self._album.open(at)
            place = edges(marks)
            overlap = [overlaps(grid.boxes, place) for grid in grids]
            for row, mark in enumerate(marks):
                for number, which in _best([some[:, row] for some in overlap], each):
                    grid = grids[number]
                    box = np.repeat(place[row : row + 1], len(which), axis=0)
                    label = np.full(len(which), self._labels[mark.label])
                    found.append(Harvest(grid.figures(which), label, moves_of(grid.boxes[which], box)))
        return Harvest.of(found)

    def nothings(self) -> Harvest:
        """Windows with nothing in them, by chance, the same ones each time."""
        rng = np.random.default_rng(0)
        some = max(1, min(_RANDOM, _MOST // len(self._album)))
        found = []
        for at, marks in enumerate(self._album.marks):
            _, grids = self._album.open(at)
            empty = [np.flatnonzero(_empty(grid, edges(marks))) for grid in grids]
            for number, which in _drawn(rng, empty, some):
                found.append(self._nothing(grids[number], which))
                self._taken.update((at, number, one) for one in which.tolist())
        return Harvest.of(found)

    def mistaken(self, model: Detector) -> Harvest:
        """Windows with nothing in them that a model takes for something and that were not taken before."""
        most = max(1, min(_HARD, _MOST // len(self._album)))
        found = [self._nothing(self._album.open(0)[1][0], np.empty(0, dtype=np.intp))]
        for at, marks in enumerate(self._album.marks):
            _, grids = self._album.open(at)
            suspects: list[tuple[float, int, int]] = []
            for number, grid in enumerate(grids):
                wrong = (1 - model.scores(grid)[:, -1]) * _empty(grid, edges(marks))
                suspects += [
                    (-float(wrong[one]), number, one)
                    for one in np.flatnonzero(wrong >= _SUSPECT).tolist()
                    if (at, number, one) not in self._taken
                ]
            for _, number, one in sorted(suspects)[:most]:
                self._taken.add((at, number, one))
                found.append(self._nothing(grids[number], np.array([one])))
        return Harvest.of(found)

    def _nothing(self, grid: Grid, which: NDArray[np.intp]) -> Harvest:
        return Harvest(grid.figures(which), np.full(len(which), len(self._labels)), np.zeros((len(which), 4)))


def _empty(grid: Grid, place: Boxes) -> NDArray[np.bool_]:
    return np.asarray(overlaps(grid.boxes, place).max(axis=1) < _NOTHING)


def _drawn(
    rng: np.random.Generator, empty: Sequence[NDArray[np.intp]], some: int
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """So many of the windows that have nothing in them, by shape, each shape alike."""
    turns = rng.permutation(np.arange(some) % len(empty))
    for number, windows in enumerate(empty):
        yield number, np.sort(rng.permutation(windows)[: int((turns == number).sum())])


def _best(overlap: Sequence[NDArray[np.float64]], each: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """The windows, by shape, that fit a mark best; if none fits, the one that comes nearest."""
    nearest = max(range(len(overlap)), key=lambda number: float(overlap[number].max()))
    rows = [
        (-float(some[one]), number, one)
        for number, some in enumerate(overlap)
        for one in np.flatnonzero(some >= _THING).tolist()
    ]
    good = sorted(rows)[:each] or [(0.0, nearest, int(overlap[nearest].argmax()))]
    for shape in sorted({number for _, number, _ in good}):
        yield shape, np.array([one for _, number, one in good if number == shape], dtype=np.intp)
