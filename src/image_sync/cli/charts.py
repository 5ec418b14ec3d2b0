"""Charts of trainings and models. The only home of matplotlib."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image_sync.cli.present import Measure, duration
from image_sync.domain import Metric, ModelOutcome, Training, TrainingState
from image_sync.errors import ImageSyncError, UsageError
from image_sync.log import show_path, show_text

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
except ImportError as error:
    raise UsageError(
        "drawing needs matplotlib, which is not installed", hint="Install it: pip install 'image-sync[plot]'"
    ) from error

LOSS, ACCURACY, PICTURES, INK, FAINT = "#c2410c", "#1d4ed8", "#cbd5e1", "#1f2937", "#94a3b8"
_SIZE, _DPI = (9.0, 5.0), 120
_MANY = 12
"""So many models can be named below the axis; of more, only the time is told."""
_MARKED = 60


def training(run: Training, series: list[Metric], measure: Measure, target: Path) -> None:
    """Loss on the left, held-out accuracy on the right, over the iterations."""
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    losses = [(point.iteration, point.loss) for point in series if point.loss is not None]
    tests = [(point.iteration, point.accuracy) for point in series if point.accuracy is not None]
    if run.accuracy is not None and run.state is TrainingState.TRAINED:
        tests.append((series[-1].iteration, run.accuracy))
    if not losses and not tests:
        raise UsageError(
            f"there is no curve of {show_text(run.name)}: the platform reported neither loss nor accuracy",
            hint="`image-sync models plot` without a name draws all models over time.",
        )
    left: Any = figure.add_subplot()
    right: Any = left.twinx()
    _line(left, losses, LOSS, "loss", marker="o")
    _line(right, tests, ACCURACY, f"{measure.name} on {measure.on(run.pictures)}", marker="s")
    _axis(left, "loss", LOSS)
    _axis(right, f"{measure.name} on held-out pictures", ACCURACY)
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1.03)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.set_yticks([n / 5 for n in range(6)])
    left.set_xlabel("iteration", color=INK)
    left.set_xlim(0, max(run.iterations, series[-1].iteration, 1))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    left.grid(axis="both", color=PICTURES, linewidth=0.6)
    if tests:
        last = tests[-1]
        right.annotate(
            f"{last[1]:.1%}", last, xytext=(-8, -14 if last[1] > 0.9 else 10), textcoords="offset points",  # noqa: PLR2004 - below the line where there is no room above
            ha="right", color=ACCURACY, fontweight="bold",
        )  # fmt: skip
    _title(left, run.name, _about(run))
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    left.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    _save(figure, target)


def models(runs: list[Training], name: str, measure: Measure, target: Path) -> None:
    """Accuracy as a line, pictures as bars, one place for each model in the order of time."""
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    bars: Any = figure.add_subplot()
    line: Any = bars.twinx()
    places = list(range(len(runs)))
    bars.bar(places, [run.pictures for run in runs], color=PICTURES, width=0.6, label="pictures")
    known = [(place, run.accuracy) for place, run in zip(places, runs, strict=True) if run.accuracy is not None]
    _line(line, known, ACCURACY, f"{measure.name} on held-out pictures", marker="o")
    deployed = [(place, runs[place].accuracy) for place, _ in known if runs[place].fate is ModelOutcome.DEPLOYED]
    if deployed:
        line.plot(*zip(*deployed, strict=True), "o", markersize=13, fillstyle="none", color=INK, label="deployed")
    if len(known) <= _MANY:
        for place, accuracy in known:
            line.annotate(
                f"{accuracy:.1%}", (place, accuracy), xytext=(0, 9), textcoords="offset points", ha="center",
                color=ACCURACY, fontsize=8,
            )  # fmt: skip
    _axis(bars, "pictures that the model contains", INK)
    _axis(line, f"{measure.name} on held-out pictures", ACCURACY)
    line.set_ylim(0, 1.12)
    line.set_yticks([n / 5 for n in range(6)])
    line.yaxis.set_major_formatter(PercentFormatter(1.0))
    bars.set_ylim(0, 1.25 * max(run.pictures for run in runs) or 1)
    bars.yaxis.set_major_locator(MaxNLocator(integer=True))
    bars.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _times(bars, places, runs)
    line.set_zorder(bars.get_zorder() + 1)
    line.patch.set_visible(False)
    _title(bars, f"Models of {name}", f"{len(runs)} trained models in the order of time")
    handles = [*line.get_legend_handles_labels()[0], *bars.get_legend_handles_labels()[0]]
    bars.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    _save(figure, target)


def _times(axes: Any, places: list[int], runs: list[Training]) -> None:
    step = -(-len(places) // _MANY)
    ticks = places[:: step or 1]
    stamps = [datetime.fromtimestamp(runs[n].ended_at or runs[n].created_at, UTC) for n in ticks]
    axes.set_xticks(ticks, [f"{stamp:%d %b %Y}\n{stamp:%H:%M}" for stamp in stamps], fontsize=8)
    axes.set_xlabel("trained (UTC)", color=INK)


def _line(axes: Any, points: list[tuple[int, float]], colour: str, label: str, *, marker: str) -> None:
    if points:
        shown = marker if len(points) <= _MARKED else ""
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=shown, markersize=3.5, linewidth=1.8)


def _axis(axes: Any, label: str, colour: str) -> None:
    axes.set_ylabel(label, color=colour)
    axes.tick_params(axis="y", colors=colour)
    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set_color(FAINT)


def _about(run: Training) -> str:
    parts = [f"{run.pictures} pictures"]
    if run.base:
        parts.append(f"continues from {run.base_name or run.base}")
    if run.started_at is not None and run.ended_at is not None:
        parts.append(duration(run.ended_at - run.started_at))
    parts.append(str(run.state))
    return ", ".join(parts)


def _title(axes: Any, title: str, below: str) -> None:
    axes.set_title(f"{_plain(title)}\n", loc="left", color=INK, fontweight="bold", fontsize=12)
    axes.text(0, 1.02, _plain(below), transform=axes.transAxes, color=INK, fontsize=9)


def _plain(text: str) -> str:
    """The text without the signs that would begin a formula."""
    return show_text(text).replace("$", r"\$")


def _save(figure: Figure, target: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a sign that the font lacks is drawn as a box, and that says enough
            figure.savefig(target)
    except OSError as error:
        raise ImageSyncError(
            f"the picture cannot be written to {show_path(str(target))}: {error.strerror or error}",
            hint="Choose another place with -o.",
        ) from error
