"""Progress on a terminal; nothing at all where the output is none."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from image_sync.domain import Run

_UNLIMITED = 500


def wide_console() -> Console:
    """Standard output for tables: as wide as the terminal, or as wide as needed where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNLIMITED)


class TrainingBar:
    """A training's iterations, loss and accuracy."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
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

    def show(self, run: Run) -> None:
        """Draw the training as it is now."""
        if self._task is None:
            self._task = self._progress.add_task(run.name, total=None, figures="")
        self._progress.update(self._task, total=run.iterations or None, completed=run.iteration, figures=figures(run))


def figures(run: Run) -> str:
    """Loss and accuracy of a training, as far as they are known."""
    loss = "" if run.loss is None else f"loss {run.loss:.4f}"
    accuracy = "" if run.accuracy is None else f"accuracy {run.accuracy:.3f}"
    return "  ".join(part for part in (loss, accuracy) if part)
