"""Progress on a terminal; nothing at all where the output is none."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from image_sync.cli.measure import Measure
from image_sync.domain import Training
from image_sync.logs import show_text

_UNLIMITED = 500
_CLOSE = 100
"""Below this, seconds or minutes say more than the next larger unit."""


def wide_console() -> Console:
    """Standard output for tables: as wide as the terminal, or as wide as needed where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNLIMITED)


class TrainingBar:
    """A training's iterations, loss, accuracy and remaining time."""

    def __init__(self, console: Console, measure: Measure) -> None:
        self._measure = measure
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, run: Training) -> None:
        """Draw the training as it is now."""
        if self._task is None:
            self._task = self._progress.add_task(show_text(run.name), total=None, figures="", left="")
        self._progress.update(
            self._task,
            total=run.iterations or None,
            completed=run.iteration,
            figures=figures(run, self._measure),
            left=remaining(run) if run.state.active else str(run.fate or run.state),
        )


def remaining(run: Training) -> str:
    """``3 min left``; empty while nobody knows."""
    return "" if run.remaining is None else f"{duration(run.remaining)} left"


def local(stamp: float) -> str:
    """A moment as a person reads it: this machine's time, with its offset."""
    return datetime.fromtimestamp(stamp).astimezone().isoformat(" ", "seconds")


def duration(seconds: float) -> str:
    """So many seconds as a person would say it.

    >>> duration(42.4), duration(200), duration(9000)
    ('42 s', '3 min', '2 h 30 min')
    """
    if seconds < _CLOSE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < _CLOSE else f"{minutes // 60} h {minutes % 60} min"


def figures(run: Training, measure: Measure) -> str:
    """Loss and accuracy of a training, as far as they are known."""
    loss = "" if run.loss is None else f"loss {run.loss:.4f}"
    return "  ".join(part for part in (loss, measure.text(run.accuracy, run.pictures)) if part)
