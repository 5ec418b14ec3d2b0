"""Learns to tell categories apart: figures of each picture, standardised, and a linear softmax trained by mini-batch
stochastic gradient descent with momentum; and the file that a model is kept in.

The descent is written out here because scikit-learn's two do not fit: its linear one has no momentum and trains one
category against the rest, its network has a single output for two categories, so that a model could not be continued
when a third one comes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from image_sync_server.learn import features
from image_sync_server.learn.features import Floats, Standard

ANOTHER = "The stored model is of another version of image-sync. Train it anew."


def model_file(magic: bytes, facts: Mapping[str, Any], arrays: Sequence[Floats]) -> bytes:
    """Facts and numbers as bytes; equal ones give equal bytes."""
    body = b"\n".join([json.dumps(facts).encode(), b"".join(array.astype("<f4").tobytes() for array in arrays)])
    return magic + hashlib.sha256(body).digest() + body


def read_model_file(magic: bytes, raw: bytes) -> tuple[dict[str, Any], Floats]:
    """The facts and all numbers that :func:`model_file` wrote. Raises ValueError when they are damaged or others."""
    body = raw[len(magic) + hashlib.sha256().digest_size :]
    if raw != magic + hashlib.sha256(body).digest() + body:
        raise ValueError("The stored model is damaged or of another version of image-sync. Train it anew.")
    head, _, tail = body.partition(b"\n")
    return json.loads(head), np.frombuffer(tail, dtype="<f4").astype(np.float32)


def arrays_of(numbers: Floats, shapes: Sequence[tuple[int, ...]]) -> list[Floats]:
    """The numbers as arrays of these shapes. Raises ValueError when there are more or fewer, or some are no numbers."""
    sizes = [math.prod(shape) for shape in shapes]
    if numbers.size != sum(sizes) or not np.isfinite(numbers).all():
        raise ValueError(ANOTHER)
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


_MAGIC = b"image-sync model 1\n"  # a change of the figures' meaning needs another number
_NEVER = 1e-12  # probability that stands for 0 in a loss


@dataclass(frozen=True, eq=False)
class Model:
    """What a training learnt. May be used from several threads at once.

    Attributes:
        categories: names, in the order of the columns of ``weights``.
        accuracy: share of all held-out pictures that it told right, 0 to 1.
        weights, bias: of the linear softmax.
        standard: how figures are standardised; it stays as the first model of its line found it.
    """

    categories: tuple[str, ...]
    accuracy: float
    weights: Floats
    bias: Floats
    standard: Standard

    usage: ClassVar[str] = "cic"

    evaluation: ClassVar[Mapping[str, str]] = {}
    """What MVI shows as ``eval_data``."""

    @property
    def names(self) -> tuple[str, ...]:
        return self.categories

    def predict(self, picture: bytes) -> list[tuple[str, float]]:
        """Every category with its probability, best first; they add up to 1.

        Raises ValueError when the picture cannot be decoded.
        """
        try:
            figures = features.extract(picture)
        except ValueError as error:
            raise ValueError(f"The picture cannot be used: {error}.") from error
        scores = (self.standard.apply(figures) @ self.weights + self.bias).astype(np.float64)
        answers = zip(self.categories, softmax(scores).tolist(), strict=True)
        return sorted(answers, key=lambda answer: -answer[1])

    def to_bytes(self) -> bytes:
        """The model as a line of JSON and plain numbers, with a checksum; equal models give equal bytes."""
        facts = {"categories": self.categories, "accuracy": self.accuracy, "figures": features.LENGTH}
        standard = self.standard
        arrays = (self.weights, self.bias, standard.mean, standard.scale, standard.mixing)
        return model_file(_MAGIC, facts, arrays)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Model:
        """The model that :meth:`to_bytes` wrote. Raises ValueError when it is damaged or of another version."""
        facts, numbers = read_model_file(_MAGIC, raw)
        count, length = len(facts["categories"]), facts["figures"]
        shapes = ((length, count), (count,), (length,), (length,), (length, length))
        if length != features.LENGTH:
            raise ValueError(ANOTHER)
        weights, bias, mean, scale, mixing = arrays_of(numbers, shapes)
        return cls(tuple(facts["categories"]), facts["accuracy"], weights, bias, Standard(mean, scale, mixing))


def softmax(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Probabilities along the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def cross_entropy(answers: NDArray[np.floating], labels: NDArray[np.intp]) -> float:
    """Mean loss of answers, a row of probabilities each, whose right columns are these."""
    return float(-np.log(np.maximum(answers[np.arange(len(labels)), labels], _NEVER)).mean())


_OVER_0, _BELOW_1, _BELOW_HALF = math.nextafter(0, 1), math.nextafter(1, 0), math.nextafter(0.5, 0)
_STRATEGY: dict[str, tuple[float, float, float, str]] = {
    "max_iter": (1500, 1, 100_000, "a whole number from 1 to 100000 (MVI documents 100 to 10000 for categories)"),
    "test_iter": (100, 1, 1000, "a whole number from 1 to 1000"),
    "test_interval": (20, 1, 1000, "a whole number from 1 to 1000"),
    "learning_rate": (0.001, _OVER_0, _BELOW_1, "above 0 and below 1 (MVI documents above 0 and at most 0.01)"),
    "ratio": (0.8, _OVER_0, 1, "above 0 and at most 1 (MVI documents 0.5 to 1)"),
    "momentum": (0.9, 0, 1, "from 0 to 1"),
    "weight_decay": (0.0005, _OVER_0, _BELOW_HALF, "above 0 and below 0.5"),
}
"""Of each number its default, the least and the most that it may be, and that in words; whole ones default to such."""


@dataclass(frozen=True)
class Strategy:
    """A strategy after it was checked."""

    max_iter: int
    test_iter: int
    test_interval: int
    learning_rate: float
    ratio: float
    momentum: float
    weight_decay: float

    @classmethod
    def parse(cls, strategy: Mapping[str, object], *, max_iter: int = 1500) -> Strategy:
        """The strategy as a client sent it: numbers or numerals; other keys are ignored.

        Args:
            max_iter: what an absent one stands for; IBM documents 1500 for classification and 4000 for detection.

        Raises ValueError that names key, value and range.
        """
        given = {"max_iter": max_iter, **strategy}
        return cls(**{key: _number(key, given.get(key, default)) for key, (default, *_) in _STRATEGY.items()})


def _number(key: str, value: object) -> Any:
    default, low, high, says = _STRATEGY[key]
    numeral = isinstance(value, str) and value.isascii() and "_" not in value  # float() takes more than people write
    number = math.nan
    if numeral or (isinstance(value, int | float) and not isinstance(value, bool)):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)  # type: ignore[arg-type]
    whole = isinstance(default, int)
    if not low <= number <= high or (whole and number % 1):
        raise ValueError(f"The strategy's {key} is {ascii(value)[:60]}, but must be {says}.")
    return int(number) if whole else number


BATCH = 32
"""Pictures in one mini-batch, for training and for the held-out test."""

_REPORTS = 50
_FEWEST_CATEGORIES = 2


class StopTraining(Exception):  # noqa: N818 - it is a wish, not an error
    """The training was asked to stop; there is no model."""


@dataclass(frozen=True)
class Sample:
    """A labelled picture to learn from."""

    path: Path
    category: str


@dataclass(frozen=True)
class Point:
    """How far a training is.

    Attributes:
        iteration, total: mini-batches learnt from, and how many there will be.
        loss: mean cross-entropy of the mini-batches since the last point, each before it was learnt from.
        test_loss, accuracy: of held-out pictures; None unless this point is a test.
        remaining: seconds that the rest would last at the speed so far.
    """

    iteration: int
    total: int
    loss: float
    test_loss: float | None
    accuracy: float | None
    remaining: float


@dataclass(frozen=True)
class _Table:
    """Standardised figures and category numbers of one side of the split."""

    figures: Floats
    labels: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, which: NDArray[np.intp] | slice) -> _Table:
        return _Table(self.figures[which], self.labels[which])


def train(
    samples: Sequence[Sample],
    strategy: Mapping[str, object],
    *,
    base: Model | None,
    report: Callable[[Point], None],
    stop: threading.Event,
) -> Model:
    """Learn a model from labelled pictures, and measure it on pictures that it did not learn from.

    About ``1 - ratio`` of the pictures are held out: those whose content hash is above ``ratio``, so that a picture
    never changes sides between trainings, and a model that continues from another is never tested on what that one
    learnt. Where chance would leave a category without a held-out picture, the one with the highest hash is held out;
    where it would leave none to learn from, the one with the lowest is learnt from. A category whose pictures all
    have the same content is learnt but not tested. Same pictures, same strategy and same base give the same model.

    Args:
        samples: at least two categories, one of them with two different pictures.
        strategy: ``max_iter`` mini-batches, ``learning_rate``, ``momentum``, ``weight_decay``, ``ratio``; a test every
            ``test_interval`` iterations on at most ``test_iter`` mini-batches of held-out pictures. Numbers or
            numerals; other keys are ignored.
        base: a model to continue from: categories in common keep their weights, new ones start fresh, and the
            pictures are standardised as its own were.
        report: called in this thread, at the first iteration, at every test, at the last one and about fifty times
            in between, evenly.
        stop: looked at before every picture and every iteration.

    Raises ValueError (a bad strategy value, too few pictures, a picture that cannot be decoded) with a sentence for
    the user, and StopTraining.
    """
    plan = Strategy.parse(strategy)
    categories = tuple(sorted({sample.category for sample in samples}))
    if len(categories) < _FEWEST_CATEGORIES:
        raise ValueError(f"Training needs pictures of at least two categories, but there are {len(categories)}.")
    figures, digests = _read(samples, stop)
    labels = np.array([categories.index(sample.category) for sample in samples], dtype=np.intp)
    order = np.array(sorted(range(len(samples)), key=lambda index: (digests[index], labels[index])), dtype=np.intp)
    held = _held_out([digests[index] for index in order], labels[order], plan.ratio)
    if not held.any():
        raise ValueError("Training needs at least one category with two different pictures, to hold one of them out.")
    model = _start(categories, figures[order[~held]], labels[order[~held]], base)
    whole = _Table(model.standard.apply(figures[order]), labels[order])
    learnt, tested = whole.rows(np.flatnonzero(~held)), whole.rows(np.flatnonzero(held))
    return _descend(model, learnt, tested, plan, report, stop)


def _read(samples: Sequence[Sample], stop: threading.Event) -> tuple[Floats, list[str]]:
    figures = np.empty((len(samples), features.LENGTH), dtype=np.float32)
    digests = []
    for row, sample in enumerate(samples):
        heed(stop)
        try:
            picture = sample.path.read_bytes()
            figures[row] = features.extract(picture)
        except (OSError, ValueError) as error:
            raise features.unusable(sample.path, error) from error
        digests.append(hashlib.sha256(picture).hexdigest())
    return figures, digests


def _held_out(digests: Sequence[str], labels: NDArray[np.intp], ratio: float) -> NDArray[np.bool_]:
    """Which pictures are kept for the test; equal contents in one category are always on the same side."""
    share = np.array([int(digest[:13], 16) / 16**13 for digest in digests])
    held = share >= ratio
    for label in np.unique(labels):
        own = labels == label
        if share[own].min() == share[own].max():
            held[own] = False
        elif not held[own].any():
            held[own] = share[own] == share[own].max()
        elif held[own].all():
            held[own] = share[own] > share[own].min()
    return held


def _start(categories: tuple[str, ...], figures: Floats, labels: NDArray[np.intp], base: Model | None) -> Model:
    """The model before the first iteration."""
    weights = np.zeros((features.LENGTH, len(categories)), dtype=np.float32)
    bias = np.zeros(len(categories), dtype=np.float32)
    if base is None:
        return Model(categories, 0.0, weights, bias, Standard.fit(figures, labels))
    for column, category in enumerate(categories):
        if category in base.categories:
            known = base.categories.index(category)
            weights[:, column], bias[column] = base.weights[:, known], base.bias[known]
    return Model(categories, 0.0, weights, bias, base.standard)


def _descend(
    model: Model,
    learnt: _Table,
    tested: _Table,
    plan: Strategy,
    report: Callable[[Point], None],
    stop: threading.Event,
) -> Model:
    weights, bias = model.weights.copy(), model.bias.copy()
    speed, bias_speed = np.zeros_like(weights), np.zeros_like(bias)
    every = max(1, plan.max_iter // _REPORTS)
    some = tested.rows(slice(plan.test_iter * BATCH))
    losses: list[float] = []
    begun = time.monotonic()
    batches = _batches(learnt)
    for iteration in range(1, plan.max_iter + 1):
        heed(stop)
        batch = next(batches)
        answers = softmax(batch.figures @ weights + bias)
        losses.append(cross_entropy(answers, batch.labels))
        answers[np.arange(len(batch)), batch.labels] -= 1
        answers /= len(batch)
        speed = plan.momentum * speed - plan.learning_rate * (batch.figures.T @ answers + plan.weight_decay * weights)
        bias_speed = plan.momentum * bias_speed - plan.learning_rate * answers.sum(axis=0)
        weights += speed
        bias += bias_speed
        last = iteration == plan.max_iter
        testing = last or iteration % plan.test_interval == 0
        if testing or iteration == 1 or iteration % every == 0:
            test_loss, accuracy = _measure(some, weights, bias) if testing else (None, None)
            remaining = (time.monotonic() - begun) / iteration * (plan.max_iter - iteration)
            loss = float(np.mean(losses))
            losses.clear()
            report(Point(iteration, plan.max_iter, loss, test_loss, accuracy, remaining))
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise ValueError("The training diverged. Lower the strategy's learning_rate or momentum.")
    _, accuracy = _measure(tested, weights, bias)
    return replace(model, accuracy=accuracy, weights=weights, bias=bias)


def _batches(learnt: _Table) -> Iterator[_Table]:
    """Mini-batches without end: every picture once, in an order drawn anew, before any comes again."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(learnt))
        for start in range(0, len(order), BATCH):
            yield learnt.rows(order[start : start + BATCH])


def _measure(tested: _Table, weights: Floats, bias: Floats) -> tuple[float, float]:
    answers = softmax(tested.figures @ weights + bias)
    return cross_entropy(answers, tested.labels), float((answers.argmax(axis=1) == tested.labels).mean())


def heed(stop: threading.Event) -> None:
    """Raise StopTraining when it is set."""
    if stop.is_set():
        raise StopTraining
