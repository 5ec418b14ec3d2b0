"""What the demo shows: bars that move on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from image_sync.cli.demo.score import Score
from image_sync.cli.present import Measure
from image_sync.config import Settings
from image_sync.domain import Counts, Tally, Training
from image_sync.log import show_path, show_text


class Scene:
    """Lines above, bars below. On no terminal there are only lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:17}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._found = self._progress.add_task("upload threshold", total=None, note="")
        self._uploaded = self._progress.add_task("uploaded", total=None, note="")
        self._counted = self._progress.add_task("training threshold", total=None, note="")
        self._trained = self._progress.add_task("training", total=None, note="waits", visible=False)
        self._told = -1

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(Text(text), soft_wrap=True)

    def file(self, what: str, path: Path) -> None:
        """A file that stays when the demo is over."""
        self.say(f"{what:17} {show_path(str(path))}")

    def counts(self, tally: Tally, total: Counts, settings: Settings) -> None:
        """Where everything stands now."""
        need = settings.threshold
        waiting = tally.ready + tally.cleared
        self._progress.update(
            self._found, total=need.upload, completed=min(waiting, need.upload), note=_short(waiting, need.upload)
        )
        self._progress.update(self._uploaded, total=total.found, completed=tally.confirmed)
        self._progress.update(
            self._counted,
            total=need.training,
            completed=min(tally.untrained, need.training),
            note=_short(tally.untrained, need.training) if tally.last is None else "started",
        )

    def found(self, tally: Tally, pictures: int, waiting: int, settings: Settings) -> None:
        """Pictures were found and counted; some may wait for their annotations."""
        ready = max(pictures - waiting - tally.confirmed, 0)
        need = settings.threshold
        self.say(
            f"found             {pictures} pictures: upload {_of(ready, need.upload)}, "
            f"training {_of(tally.untrained, need.training)}"
        )
        if waiting:
            self.say(f"waiting           {waiting} of them wait for their annotations")

    def uploaded(self, tally: Tally, settings: Settings) -> None:
        """Pictures were confirmed by the server."""
        started = tally.active is not None or tally.last is not None
        count = tally.confirmed if started else tally.untrained
        self.say(f"uploaded          {tally.confirmed} pictures: training {_of(count, settings.threshold.training)}")
        if tally.labelled:
            labels = ", ".join(f"{label} in {pictures}" for label, pictures in sorted(tally.labelled.items()))
            self.say(f"labels            {labels} pictures")

    def training(self, run: Training, measure: Measure) -> None:
        """How far the training is."""
        self._progress.update(
            self._trained,
            visible=True,
            total=run.iterations or None,
            completed=run.iteration,
            note=measure.figures(run) or "is being prepared",
        )
        step = run.iteration * 5 // run.iterations if run.iterations else -1
        if not self._console.is_terminal and step > self._told:
            self._told = step
            self.say(f"training          iteration {run.iteration} of {run.iterations}  {measure.figures(run)}")

    def trained(self, run: Training, result: str) -> None:
        """The training is done."""
        self.say(f"trained           {run.name}: {run.pictures} pictures, {result}")

    def scores(self, scores: Mapping[str, Score], right: str) -> None:
        """A row for each label, and what they come to."""
        table = Table(box=box.SIMPLE, show_footer=True, pad_edge=False)
        total = sum(scores.values(), Score())
        table.add_column("label", footer="all")
        for name, figure in (("marked", total.marked), ("found", total.found), (right, total.right)):
            table.add_column(name, justify="right", footer=str(figure))
        for label, score in scores.items():
            table.add_row(Text(show_text(label)), str(score.marked), str(score.found), str(score.right))
        self._console.print(table)


def _short(have: int, need: int) -> str:
    return "reached" if have >= need else f"short by {need - have}"


def _of(have: int, need: int) -> str:
    return f"{have} / {need}" if have >= need else f"{have} / {need}, short by {need - have}"
