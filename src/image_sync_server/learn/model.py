"""What a training learnt: a linear softmax over the figures of a picture, and the file that a model is kept in."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    if numbers.size != sum(sizes):
        raise ValueError(ANOTHER)
    if not np.isfinite(numbers).all():
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
        """What it tells apart."""
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
