"""``models plot``: how a training went, or how the models got better, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from image_sync.cli import options
from image_sync.cli.measure import Measure
from image_sync.cli.session import ledger_of, settings_of
from image_sync.domain import Training, TrainingState
from image_sync.errors import UsageError
from image_sync.ledger import Ledger
from image_sync.logs import show_path, show_text

_SUFFIXES = (".png", ".svg", ".pdf", ".jpg")
_HISTORY = 1000


def plot(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Name or id of a model or training, or latest; left out: all models over time.", metavar="MODEL"
        ),
    ] = None,
    config: options.Config = options.CONFIG,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Picture to write: .png, .svg, .pdf or .jpg."),
    ] = None,
) -> None:
    """Draw loss and accuracy of a training over its iterations, or all models with accuracy and pictures over time."""
    if output is not None and output.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            f"{show_path(str(output))} does not end like the name of a picture",
            hint=f"Choose one of {', '.join(_SUFFIXES)}.",
        )
    settings = settings_of(config)
    from image_sync.cli.models import charts  # late: the drawing library takes longer than everything else

    measure = Measure.of(settings)
    with ledger_of(settings) as ledger:
        if model is None:
            target = output or Path("models.png")
            charts.models(_trained(ledger), settings.model.name, measure, target)
        else:
            run = _run(ledger, model)
            target = output or Path(f"{run.name}.png")
            charts.training(run, ledger.trainings.series(run.id), measure, target)
    typer.echo(f"Drawn: {show_path(str(target))}")


def _run(ledger: Ledger, wanted: str) -> Training:
    run = next(iter(ledger.trainings.history(1)), None) if wanted == "latest" else ledger.trainings.named(wanted)
    if run is None:
        known = ", ".join(one.name for one in ledger.trainings.history(5)) or "none"
        raise UsageError(
            f"this ledger knows of no training {wanted!r}",
            hint=f"Only trainings that it followed can be drawn; the newest are: {show_text(known)}.",
        )
    if not ledger.trainings.series(run.id):
        raise UsageError(
            f"there is no curve of {show_text(run.name)}: nothing is known of how it went",
            hint="It has not begun, or it was trained before this version of image-sync.",
        )
    return run


def _trained(ledger: Ledger) -> list[Training]:
    found = [run for run in ledger.trainings.history(_HISTORY) if run.state is TrainingState.TRAINED]
    if not found:
        raise UsageError(
            "this ledger knows of no trained model yet", hint="`image-sync status` tells what it waits for."
        )
    return found[::-1]
