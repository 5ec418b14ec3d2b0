"""What several commands say alike: moments, durations, and how good a training is and what became of its model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

from image_sync.config import Settings
from image_sync.domain import BY_HAND, ModelOutcome, Training

if TYPE_CHECKING:
    from rich.console import Console

_UNLIMITED = 500
_CLOSE = 100
"""Below this, seconds or minutes say more than the next larger unit."""
_SPLIT = 0.8  # of MVI, and of the embedded server
_OUTCOMES = {
    ModelOutcome.UNDECIDED: "",
    ModelOutcome.DECLINED: "not deployed",
    ModelOutcome.CHOSEN: "is being deployed",
    ModelOutcome.DEPLOYED: "deployed",
    ModelOutcome.REFUSED: "could not be deployed",
    ModelOutcome.RETIRED: "no longer deployed",
    ModelOutcome.DELETED: "deleted",
    ModelOutcome.GONE: "gone",
}
_BY_HAND = {ModelOutcome.DEPLOYED: "deployed by hand", ModelOutcome.RETIRED: "undeployed by hand"}


@dataclass(frozen=True, slots=True)
class Measure:
    """What the platform's figure of a model is, and which share of the pictures it is measured on."""

    name: str
    share: float | None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The measure of the models that these settings lead to."""
        name = "mAP" if settings.model.is_detection else "accuracy"
        if settings.platform == "sagemaker":
            return cls(name, 1 - settings.sagemaker.split)
        ratio = settings.model.strategy.get("ratio", _SPLIT)
        known = settings.platform == "mvi" and isinstance(ratio, int | float) and 0 < ratio < 1
        return cls(name, 1 - float(ratio) if known else None)

    def held_out(self, pictures: int | None) -> int | None:
        """About so many pictures of a training are held out to measure it; None when that is unknown."""
        return None if self.share is None or not pictures else max(1, round(pictures * self.share))

    def text(self, value: float | None, pictures: int | None) -> str:
        """``accuracy 0.500 on about 4 held-out pictures``; empty while there is no figure."""
        return "" if value is None else f"{self.name} {value:.3f} on {self.on(pictures)}"

    def on(self, pictures: int | None) -> str:
        """``about 4 held-out pictures``."""
        count = self.held_out(pictures)
        if count is None:
            return "an unknown number of held-out pictures"
        return f"about {count} held-out {'picture' if count == 1 else 'pictures'}"

    def figures(self, run: Training) -> str:
        """Loss and accuracy of a training, as far as they are known."""
        loss = "" if run.loss is None else f"loss {run.loss:.4f}"
        return "  ".join(part for part in (loss, self.text(run.accuracy, run.pictures)) if part)


def outcome_of(run: Training) -> str:
    """``not deployed: accuracy 0.810 is below ...``: what became of its model; empty while nothing was decided."""
    if run.fate_reason == BY_HAND and run.fate in _BY_HAND:
        return _BY_HAND[run.fate]
    words = _OUTCOMES[run.fate]
    return f"{words}: {run.fate_reason}" if words and run.fate_reason else words


def wide_console() -> Console:
    """Standard output for tables: as wide as the terminal, or as wide as needed where there is none."""
    from rich.console import Console  # late: many commands print no table

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNLIMITED)


def local(stamp: float) -> str:
    """A moment as a person reads it: this machine's time, with its offset."""
    return datetime.fromtimestamp(stamp).astimezone().isoformat(" ", "seconds")


def counted(number: int, one: str, more: str = "") -> str:
    """``1 picture``, ``2 pictures``; ``more`` is the plural where it is not just an s more.

    >>> counted(1, "picture"), counted(0, "picture"), counted(2, "picture waits", "pictures wait")
    ('1 picture', '0 pictures', '2 pictures wait')
    """
    return f"{number} {one if number == 1 else more or one + 's'}"


def duration(seconds: float) -> str:
    """So many seconds as a person would say it.

    >>> duration(42.4), duration(200), duration(9000)
    ('42 s', '3 min', '2 h 30 min')
    """
    if seconds < _CLOSE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < _CLOSE else f"{minutes // 60} h {minutes % 60} min"


def remaining(run: Training) -> str:
    """``3 min left``; empty while that is unknown."""
    return "" if run.remaining is None else f"{duration(run.remaining)} left"
