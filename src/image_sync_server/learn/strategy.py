"""The hyper-parameters of a training: defaults and ranges as IBM documents them, wider where it does no harm."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class _Setting(NamedTuple):
    """One number of a training's strategy: its default and what it may be."""

    default: float
    low: float
    high: float
    says: str
    whole: bool = False
    above_low: bool = False
    below_high: bool = False


_SETTINGS = {
    "max_iter": _Setting(
        1500, 1, 100_000, "a whole number from 1 to 100000 (MVI documents 100 to 10000 for categories)", whole=True
    ),
    "test_iter": _Setting(100, 1, 1000, "a whole number from 1 to 1000", whole=True),
    "test_interval": _Setting(20, 1, 1000, "a whole number from 1 to 1000", whole=True),
    "learning_rate": _Setting(
        0.001, 0, 1, "above 0 and below 1 (MVI documents above 0 and at most 0.01)", above_low=True, below_high=True
    ),
    "ratio": _Setting(0.8, 0, 1, "above 0 and at most 1 (MVI documents 0.5 to 1)", above_low=True),
    "momentum": _Setting(0.9, 0, 1, "from 0 to 1"),
    "weight_decay": _Setting(0.0005, 0, 0.5, "above 0 and below 0.5", above_low=True, below_high=True),
}


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
            strategy: as it was sent.
            max_iter: what an absent one stands for; IBM documents 1500 for classification and 4000 for detection.

        Raises ValueError that names key, value and range.
        """
        given = {"max_iter": max_iter, **strategy}
        number = {key: _number(key, given.get(key, setting.default)) for key, setting in _SETTINGS.items()}
        return cls(
            max_iter=int(number["max_iter"]),
            test_iter=int(number["test_iter"]),
            test_interval=int(number["test_interval"]),
            learning_rate=number["learning_rate"],
            ratio=number["ratio"],
            momentum=number["momentum"],
            weight_decay=number["weight_decay"],
        )


def _number(key: str, value: object) -> float:
    setting = _SETTINGS[key]
    numeral = isinstance(value, str) and value.isascii() and "_" not in value  # float() takes more than people write
    number = math.nan
    if numeral or (isinstance(value, int | float) and not isinstance(value, bool)):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)  # type: ignore[arg-type]
    fits = setting.low <= number <= setting.high and not (setting.whole and number % 1)
    if not fits or (setting.above_low and number == setting.low) or (setting.below_high and number == setting.high):
        raise ValueError(f"The strategy's {key} is {ascii(value)[:60]}, but must be {setting.says}.")
    return number
