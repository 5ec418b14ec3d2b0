"""Learns to find things in pictures from boxes around them: sliding windows and a small softmax network.

Every window of a few shapes, at every place, holds either one of the labels or nothing. There are thousands of windows
with nothing in each picture, so the descent begins with a few of them, and now and then the pictures are searched for
those that the model takes for something (hard negatives), which join in. A linear map, fitted in one step, tells how a
thing's box differs from its window's.

Trained on 40 of the demo's plates with MVI's default strategy, it reaches a mean average precision of 0.92 to 0.99,
0.96 on average (ten draws that nothing was tuned on, each measured on 100 plates of another seed), in three to six
seconds of one processor core. Its own figure, from about eight held-out plates, was 0.83 to 1.00 there.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from image_sync_server.learn import windows
from image_sync_server.learn.features import Floats
from image_sync_server.learn.learner import (
    ANOTHER,
    Point,
    Strategy,
    arrays_of,
    cross_entropy,
    heed,
    model_file,
    read_model_file,
    softmax,
)
from image_sync_server.learn.windows import (
    HIT,
    LENGTH,
    Boxes,
    Find,
    Grid,
    Marked,
    Picture,
    PictureSet,
    View,
    distinct,
    edges,
    held_out,
    overlaps,
    precisions,
    shapes_for,
)

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
        return {"metric": f"mAP@{HIT:g}", "value": f"{self.accuracy:.4f}"}

    @property
    def names(self) -> tuple[str, ...]:
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
        return self.told(self.seen(figures))

    def scores(self, grid: Grid) -> Floats:
        """Probability of each label, and last of nothing, for each window."""
        filters, shift = self._scan
        shift = shift + grid.size @ filters[-2:]
        return np.concatenate([self.told(np.maximum(some @ filters[:-2] + shift, 0)) for some in grid.blocks()])

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
            for one in distinct(place, label, score, MOST)
        ]

    def _moved(self, grid: Grid, which: np.ndarray, names: np.ndarray) -> Boxes:
        if not which.size:
            return np.empty((0, 4))
        filters, shift = self._reach
        moves = (grid.figures(which) @ filters + shift).reshape(len(which), -1, 4)[np.arange(len(which)), names]
        return moved(grid.boxes[which], moves)

    @cached_property
    def _reach(self) -> tuple[Floats, Floats]:
        return self._folded(self.moves, self.start)

    @cached_property
    def _scan(self) -> tuple[Floats, Floats]:
        filters, shift = self._folded(self.sight, self.sight_bias)
        return windows.scanning(filters), shift

    def _folded(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """The same linear map for figures that are not standardised yet."""
        filters = self.mixing @ weights
        return filters, bias - self.mean @ filters

    def to_bytes(self) -> bytes:
        """The model as a line of JSON and plain numbers, with a checksum; equal models give equal bytes."""
        facts = {
            "labels": self.labels,
            "accuracy": self.accuracy,
            "figures": LENGTH,
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
        if length != LENGTH:
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


_THING, _NOTHING = 0.5, 0.45  # overlap with a marked box from which on there is a thing, below which there is none
_EACH, _FEWEST = 16, 2  # windows that a marked box gives: at most, and where there are very many boxes
_RANDOM, _HARD = 48, 24  # windows with nothing that a picture gives at first, and by each search; at most
_MOST = 30_000  # windows of either kind, unless there are more pictures
_SUSPECT = 0.1  # probability of a label from which on a window with nothing is a hard one


@dataclass(frozen=True)
class Windows:
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

    def rows(self, which: NDArray[np.intp]) -> Windows:
        return Windows(self.figures[which], self.labels[which], self.moves[which])

    def standardised(self, model: Detector) -> Windows:
        """The same windows with their figures as a model's weights expect them."""
        return replace(self, figures=model.standardised(self.figures))

    @classmethod
    def of(cls, parts: Sequence[Self]) -> Windows:
        return Windows(
            np.concatenate([part.figures for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.moves for part in parts]),
        )


class WindowSampler:
    """Pictures and the windows that were taken of them so far.

    Args:
        pictures: to take them of.
        labels: names of what may be marked in them.
    """

    def __init__(self, pictures: PictureSet, labels: Sequence[str]) -> None:
        self._pictures = pictures
        self._labels = {label: number for number, label in enumerate(labels)}
        self._taken: set[tuple[int, int, int]] = set()

    def things(self) -> Windows:
        """Windows with a thing in them: of each mark those that fit best, and one even if it fits badly."""
        each = max(_FEWEST, min(_EACH, _MOST // max(1, sum(map(len, self._pictures.marks)))))
        found = []
        for at, marks in enumerate(self._pictures.marks):
            _, grids = self._pictures.open(at)
            place = edges(marks)
            overlap = [overlaps(grid.boxes, place) for grid in grids]
            for row, mark in enumerate(marks):
                for number, which in _best([some[:, row] for some in overlap], each):
                    grid = grids[number]
                    box = np.repeat(place[row : row + 1], len(which), axis=0)
                    label = np.full(len(which), self._labels[mark.label])
                    found.append(Windows(grid.figures(which), label, moves_of(grid.boxes[which], box)))
        return Windows.of(found)

    def nothings(self) -> Windows:
        """Windows with nothing in them, by chance, the same ones each time."""
        rng = np.random.default_rng(0)
        some = max(1, min(_RANDOM, _MOST // len(self._pictures)))
        found = []
        for at, marks in enumerate(self._pictures.marks):
            _, grids = self._pictures.open(at)
            empty = [np.flatnonzero(_empty(grid, edges(marks))) for grid in grids]
            for number, which in _drawn(rng, empty, some):
                found.append(self._nothing(grids[number], which))
                self._taken.update((at, number, one) for one in which.tolist())
        return Windows.of(found)

    def mistaken(self, model: Detector) -> Windows:
        """Windows with nothing in them that a model takes for something and that were not taken before."""
        most = max(1, min(_HARD, _MOST // len(self._pictures)))
        found = [self._nothing(self._pictures.open(0)[1][0], np.empty(0, dtype=np.intp))]
        for at, marks in enumerate(self._pictures.marks):
            _, grids = self._pictures.open(at)
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
        return Windows.of(found)

    def _nothing(self, grid: Grid, which: NDArray[np.intp]) -> Windows:
        return Windows(grid.figures(which), np.full(len(which), len(self._labels)), np.zeros((len(which), 4)))


def _empty(grid: Grid, place: Boxes) -> NDArray[np.bool_]:
    return np.asarray(overlaps(grid.boxes, place).max(axis=1) < _NOTHING)


def _drawn(
    rng: np.random.Generator, empty: Sequence[NDArray[np.intp]], some: int
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """So many of the windows that have nothing in them, by shape, each shape alike."""
    turns = rng.permutation(np.arange(some) % len(empty))
    for number, some_empty in enumerate(empty):
        yield number, np.sort(rng.permutation(some_empty)[: int((turns == number).sum())])


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


ITERATIONS = 4000
"""Mini-batches unless the strategy says otherwise, as IBM documents for detection."""

_THINGS, _NOTHINGS = 16, 48  # windows of a mini-batch: with a thing in them, and with nothing
_REPORTS, _TESTS = 50, 8
_SEARCHES = (0.1, 0.25, 0.5)  # when hard negatives are looked for, as shares of all iterations
_TESTED = 24  # held-out pictures that a test on the way looks at; the last one looks at all
_SHAPES = 8
_HIDDEN = 32
_PUSH = 10.0  # times the learning rate, so that MVI's default serves a network that starts from nothing
_STRIDE = 0.3  # how much figures vary, as for classification
_STEADIEST = 0.3  # least deviation of a direction in which figures vary, as a share of that of all
_STILL = 1e-5  # variance that is none, where all windows look alike
_SAMPLE = 20_000  # windows that say how figures vary
_RIDGE = 3.0  # how firmly the map of moves is held to that of the base model, or to no moves
_LARGEST = 1e4  # no number of a network that learns comes near it


def train(
    pictures: Sequence[Marked],
    strategy: Mapping[str, object],
    *,
    base: Detector | None,
    report: Callable[[Point], None],
    stop: threading.Event,
) -> Detector:
    """Learn a detector from pictures with boxes, and measure it on pictures that it did not learn from.

    The measure is the mean average precision at an overlap of one half. About ``1 - ratio`` of the pictures are held
    out, chosen by the hash of their content as for classification, so that a picture never changes sides; see
    :func:`held_out`. Same pictures, same strategy and same base give the same model. Things much smaller than
    :data:`SMALLEST` are not found.

    Args:
        pictures: with at least one mark each; at least two different ones.
        strategy: ``max_iter`` mini-batches, ``learning_rate``, ``momentum``, ``weight_decay``, ``ratio``. Numbers or
            numerals; other keys are ignored: MVI's detection knows no others. There are eight tests on the way.
        base: a detector to continue from: labels in common keep their weights, new ones start fresh, and windows are
            standardised as its own were.
        report: called in this thread, at the first iteration, at every test, at the last one and about fifty times
            in between, evenly.
        stop: looked at before every picture and every iteration.

    Raises ValueError (a bad strategy value, too few pictures, a picture that cannot be decoded) with a sentence for
    the user, and StopTraining.
    """
    plan = Strategy.parse(strategy, max_iter=ITERATIONS)
    looked_at = []
    for picture in pictures:
        heed(stop)
        looked_at.append(Picture.of(picture))
    looked_at.sort(key=lambda one: (one.digest, repr(one.marked.marks)))
    held = held_out(looked_at, plan.ratio)
    if not held.any() or held.all():
        raise ValueError("Training needs at least two different pictures with boxes, to hold one of them out.")
    to_learn, to_test = ([one for one, out in zip(looked_at, held, strict=True) if out == side] for side in (0, 1))
    known = np.empty((0, 2), dtype=np.float32) if base is None else base.shapes
    shapes = shapes_for(to_learn, known, _SHAPES if base is None else 2 * _SHAPES)
    training = _Training(PictureSet(to_learn, shapes, stop), PictureSet(to_test, shapes, stop), shapes, base)
    return training.run(plan, report, stop)


class _Training:
    def __init__(self, learnt: PictureSet, tested: PictureSet, shapes: Floats, base: Detector | None) -> None:
        labels = tuple(sorted({mark.label for marks in (*learnt.marks, *tested.marks) for mark in marks}))
        self._tested = tested
        self._sampler = WindowSampler(learnt, labels)
        things, nothings = self._sampler.things(), self._sampler.nothings()
        model = _fresh(labels, shapes, *_standard(things, nothings)) if base is None else _after(base, labels, shapes)
        self._things, self._nothings = things.standardised(model), nothings.standardised(model)
        self._model = _with_moves(model, self._things)
        sampler = WindowSampler(tested, labels)
        self._test = Windows.of([sampler.things(), sampler.nothings()]).standardised(model)

    def run(self, plan: Strategy, report: Callable[[Point], None], stop: threading.Event) -> Detector:
        speeds = [np.zeros_like(some) for some in _numbers(self._model)]
        last = plan.max_iter
        searches = {max(1, round(last * share)) for share in _SEARCHES} - {last}
        tests = {max(1, round(last * turn / _TESTS)) for turn in range(1, _TESTS + 1)}
        every = max(1, last // _REPORTS)
        losses: list[float] = []
        begun = time.monotonic()
        batches = self._batches()
        for iteration in range(1, last + 1):
            heed(stop)
            losses.append(self._step(next(batches), speeds, plan))
            if iteration in searches:
                mistaken = self._sampler.mistaken(self._model).standardised(self._model)
                self._nothings = Windows.of([self._nothings, mistaken])
            testing = iteration in tests
            if testing or iteration == 1 or iteration % every == 0:
                test_loss = cross_entropy(self._model.judge(self._test.figures), self._test.labels) if testing else None
                if testing:
                    self._model = replace(self._model, accuracy=self._precision(_TESTED if iteration < last else None))
                remaining = (time.monotonic() - begun) / iteration * (last - iteration)
                accuracy = self._model.accuracy if testing else None
                report(Point(iteration, last, float(np.mean(losses)), test_loss, accuracy, remaining))
                losses.clear()
        return self._model

    def _step(self, batch: Windows, speeds: list[Floats], plan: Strategy) -> float:
        """Learn from a mini-batch; the loss before it."""
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            loss, slopes = _slopes(self._model, batch, plan.weight_decay)
            numbers = []
            for at, (some, slope) in enumerate(zip(_numbers(self._model), slopes, strict=True)):
                speeds[at] = plan.momentum * speeds[at] - plan.learning_rate * _PUSH * slope
                numbers.append(some + speeds[at])
        if not (math.isfinite(loss) and all(np.abs(some).max() < _LARGEST for some in numbers)):
            raise ValueError("The training diverged. Lower the strategy's learning_rate or momentum.")
        sight, sight_bias, weights, bias = numbers
        self._model = replace(self._model, sight=sight, sight_bias=sight_bias, weights=weights, bias=bias)
        return loss

    def _batches(self) -> Iterator[Windows]:
        """Mini-batches without end: each label as often as the others, windows with nothing by chance."""
        rng = np.random.default_rng(0)
        order = np.argsort(self._things.labels, kind="stable")
        _, starts, counts = np.unique(self._things.labels[order], return_index=True, return_counts=True)
        while True:
            turns = rng.integers(0, len(starts), _THINGS)
            things = order[starts[turns] + (rng.random(_THINGS) * counts[turns]).astype(np.intp)]
            # Where things fill their pictures there may be no window with nothing.
            nothings = rng.integers(0, len(self._nothings), _NOTHINGS) if len(self._nothings) else things[:0]
            yield Windows.of([self._things.rows(things), self._nothings.rows(nothings)])

    def _precision(self, most: int | None) -> float:
        """Mean average precision on the first held-out pictures, or on all."""
        found, marked = [], self._tested.marks[:most]
        for at in range(len(marked)):
            view, grids = self._tested.open(at)
            found.append(self._model.look(grids, view))
        return float(np.mean(list(precisions(found, marked).values())))


def _numbers(model: Detector) -> list[Floats]:
    return [model.sight, model.sight_bias, model.weights, model.bias]


def _standard(things: Windows, nothings: Windows) -> tuple[Floats, Floats]:
    """Mean and mixing after which figures vary alike within a label (and within nothing), each on its own."""
    from sklearn.covariance import ledoit_wolf  # takes a second to import, and only training needs it

    whole = Windows.of([things, nothings])
    whole = whole.rows(np.random.default_rng(0).permutation(len(whole))[:_SAMPLE])
    left = whole.figures.astype(np.float64)
    for label in np.unique(whole.labels):
        left[whole.labels == label] -= left[whole.labels == label].mean(axis=0)
    covariance, _ = ledoit_wolf(left, assume_centered=True)
    powers, axes = np.linalg.eigh(covariance)
    powers = np.maximum(powers, 0) + _STEADIEST**2 * powers.mean() + _STILL
    mixing = ((axes * (_STRIDE / np.sqrt(powers))) @ axes.T).astype(np.float32)
    return whole.figures.mean(axis=0).astype(np.float32), mixing


def _fresh(labels: tuple[str, ...], shapes: Floats, mean: Floats, mixing: Floats) -> Detector:
    """The model before it learnt anything: takes every window for every label alike."""

    def zeros(*size: int) -> Floats:
        return np.zeros(size, dtype=np.float32)

    rng = np.random.default_rng(0)
    sight = rng.normal(0, 1 / (_STRIDE * LENGTH**0.5), (LENGTH, _HIDDEN)).astype(np.float32)
    many = len(labels)
    return Detector(
        labels, 0.0, shapes, mean, mixing, sight, zeros(_HIDDEN), zeros(_HIDDEN, many + 1), zeros(many + 1),
        zeros(LENGTH, 4 * many), zeros(4 * many),
    )  # fmt: skip


def _after(base: Detector, labels: tuple[str, ...], shapes: Floats) -> Detector:
    """The model before it learnt anything new: it has what another one knows of its labels, and of nothing."""
    model = replace(_fresh(labels, shapes, base.mean, base.mixing), sight=base.sight, sight_bias=base.sight_bias)
    model.weights[:, -1], model.bias[-1] = base.weights[:, -1], base.bias[-1]
    for column, label in enumerate(labels):
        if label in base.labels:
            known = base.labels.index(label)
            model.weights[:, column], model.bias[column] = base.weights[:, known], base.bias[known]
            here, there = (slice(4 * at, 4 * at + 4) for at in (column, known))
            model.moves[:, here], model.start[here] = base.moves[:, there], base.start[there]
    return model


def _with_moves(model: Detector, things: Windows) -> Detector:
    """The model with a map of moves for these windows: least squares, held to the map that it has."""
    moves, start = model.moves.copy(), model.start.copy()
    for label in np.unique(things.labels):
        own = things.rows(np.flatnonzero(things.labels == label))
        here = slice(4 * int(label), 4 * int(label) + 4)
        figures = np.concatenate([own.figures, np.ones((len(own), 1))], axis=1, dtype=np.float64)
        known = np.concatenate([moves[:, here], start[None, here]])
        change = np.linalg.solve(
            figures.T @ figures + _RIDGE * np.eye(figures.shape[1]), figures.T @ (own.moves - figures @ known)
        )
        moves[:, here], start[here] = (known + change)[:-1], (known + change)[-1]
    return replace(model, moves=moves, start=start)


def _slopes(model: Detector, batch: Windows, decay: float) -> tuple[float, list[Floats]]:
    """The loss of a mini-batch, and how it changes with each of the model's numbers."""
    seen = model.seen(batch.figures)
    answers = model.told(seen)
    loss = cross_entropy(answers, batch.labels)
    answers[np.arange(len(batch)), batch.labels] -= 1
    answers /= len(batch)
    back = (answers @ model.weights.T) * (seen > 0)
    slopes = [
        batch.figures.T @ back + decay * model.sight,
        back.sum(axis=0),
        seen.T @ answers + decay * model.weights,
        answers.sum(axis=0),
    ]
    return loss, slopes
