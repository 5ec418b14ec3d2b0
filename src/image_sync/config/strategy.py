"""What is documented of IBM MVI's training parameters: architectures, and the ranges of the hyper-parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from image_sync.config.problems import Mistake, nearest, show_value

ARCHITECTURES = ("frcnn", "tiny_yolo_v2", "frcnn_mrcnn", "ssd", "hires_detectron", "yolo_v3")
"""Values of ``nn_arch`` seen in IBM's clients and servers; all of them detect objects."""

_DETECTORS = ("rcnn", "yolo", "ssd", "detectron")


class Range(NamedTuple):
    """A documented range; the ends belong to it unless they are open."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def holds(self, number: float) -> bool:
        """Whether the number lies in the range."""
        above = number > self.low if self.open_low else number >= self.low
        return above and (number < self.high if self.open_high else number <= self.high)

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.open_low else f"{self.low:g}"
        return f"{low} to {'less than ' if self.open_high else ''}{self.high:g}"


# IBM API document, POST /dltasks, "strategy".
_COMMON = {
    "momentum": Range(0, 1),
    "ratio": Range(0.5, 1),
    "learning_rate": Range(0, 0.01, open_low=True),
    "weight_decay": Range(0, 0.5, open_low=True, open_high=True),
    "test_iter": Range(1, 1000),
    "test_interval": Range(1, 1000),
}
_CLASSIFICATION = {**_COMMON, "max_iter": Range(100, 10_000)}
_DETECTION = {**_COMMON, "max_iter": Range(100, 100_000)}


def is_detection(nn_arch: str | None) -> bool:
    """Whether the architecture, known or not, is one that detects objects."""
    return nn_arch is not None and any(part in nn_arch.lower() for part in _DETECTORS)


def scalar(value: object) -> str | int | float | bool:
    """The value of one hyper-parameter. Raises :class:`Mistake` for lists, objects and null."""
    if not isinstance(value, str | int | float | bool):
        raise Mistake("is not a single value; write a number, a text, true or false")
    return value


def doubts(strategy: Mapping[str, object], *, detection: bool) -> Iterator[tuple[str, str]]:
    """Hyper-parameters that look misspelt, or are outside their documented range, each with a sentence that says so."""
    known = _DETECTION if detection else _CLASSIFICATION
    for key in strategy:
        if key not in known and (meant := nearest(key, known)):
            yield key, f'is not documented and is passed on as it is; did you mean "{meant}"?'
    for key, range_ in known.items():
        if key not in strategy:
            continue
        value = strategy[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield (
                key,
                f"{show_value((), value)} is not a number; it is passed on, but the server may refuse the training",
            )
        elif not range_.holds(value):
            yield key, f"{value:g} is outside the documented range, {range_}; the server may refuse the training"
