"""``models stop`` and ``models log``: a training at the platform, stopped by hand or looked into."""

from __future__ import annotations

from typing import Annotated

import typer

from image_sync.cli import options
from image_sync.cli.session import ledger_of, platform_of, settings_of
from image_sync.domain import Training
from image_sync.errors import UsageError
from image_sync.ledger import Ledger
from image_sync.logs import show_text
from image_sync.platforms.base import Platform

TrainingId = Annotated[
    str, typer.Argument(help="Name or id of the training, or latest.", metavar="TRAINING", show_default=True)
]


def stop(training: TrainingId = "latest", config: options.Config = options.CONFIG) -> None:
    """Stop a training at the platform; there will be no model of it. It is not started once more by itself."""
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        name, task = _meant(ledger, platform, training, running=True)
        platform.stop_training(task)
    typer.echo(
        f"Training {show_text(name)} is being stopped; `image-sync status` tells when it has ended.\n"
        "The next training contains its pictures, too; to start one now: image-sync train"
    )


def log(training: TrainingId = "latest", config: options.Config = options.CONFIG) -> None:
    """Print what the platform logged of a training."""
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        name, task = _meant(ledger, platform, training)
        empty = True
        for line in platform.training_log(task):
            typer.echo(show_text(line))
            empty = False
    if empty:
        typer.echo(f"Nothing is logged of the training {show_text(name)} yet.", err=True)


def _meant(ledger: Ledger, platform: Platform, wanted: str, *, running: bool = False) -> tuple[str, str]:
    """Name and task id of the training that is meant; one that the ledger does not know is asked for by its id."""
    active = ledger.trainings.active()
    run = (active or _newest(ledger)) if wanted == "latest" else ledger.trainings.named(wanted)
    if run is None and wanted != "latest":
        return wanted, wanted
    if run is None or (running and wanted == "latest" and active is None):
        raise UsageError("no training is running", hint="See: image-sync models, image-sync status")
    if run.task_id:
        return run.name, run.task_id
    found = platform.find_trainings(run.dataset, run.name)
    if not found:
        raise UsageError(
            f"the training {run.name} is not at the platform",
            hint="Its start may be in doubt, or was refused: image-sync status",
        )
    return run.name, found[-1]


def _newest(ledger: Ledger) -> Training | None:
    return next(iter(ledger.trainings.history(1)), None)
