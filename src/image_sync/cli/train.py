"""``image-sync train``: a training now, whatever the threshold says."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from image_sync.backoff import Backoff
from image_sync.cli import options
from image_sync.cli.present import Measure, outcome_of, remaining
from image_sync.cli.session import ledger_of, platform_of, settings_of, traits_of
from image_sync.config import Settings
from image_sync.domain import NextStep, Training, TrainingState
from image_sync.errors import AlreadyRunning, ImageSyncError, Refused, UsageError
from image_sync.ledger import Ledger, exists
from image_sync.ledger.lock import Lock
from image_sync.log import show_text
from image_sync.tracker import Thresholds, thresholds_of, training_verdict
from image_sync.trainer import lifecycle
from image_sync.trainer.start import Trainer

_TICK = 0.5
_DAEMON_ANSWERS = 60.0  # seconds in which a running daemon takes up the request


def train(
    config: options.Config = options.CONFIG,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait, and show the training until it ends.")] = False,
) -> None:
    """Start a training of everything that is uploaded, without waiting for the threshold."""
    settings = settings_of(config)
    if settings.model.action == "none":
        raise UsageError('model.action is "none"', hint='Write "train" or "retrain" there.')
    if not exists(settings.state):
        raise UsageError("nothing is uploaded yet", hint="Start the daemon first: image-sync run")
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(Lock(settings.state))
        except AlreadyRunning:
            _by_daemon(settings, follow=follow)
        else:
            _here(settings, lock, follow=follow)


def _by_daemon(settings: Settings, *, follow: bool) -> None:
    """Ask the daemon that runs."""
    stop = threading.Event()
    with ledger_of(settings) as ledger:
        known = _ask(ledger, thresholds_of(settings, traits_of(settings)))
        _see(ledger, known, Measure.of(settings), follow=follow, turn=lambda: stop.wait(_TICK))


def _here(settings: Settings, lock: Lock, *, follow: bool) -> None:
    """Do what the daemon would do."""
    stop = threading.Event()
    with ledger_of(settings, lock) as ledger, platform_of(settings) as platform:
        thresholds = thresholds_of(settings, platform.traits)
        known = _ask(ledger, thresholds)
        trainer = Trainer(ledger, platform, thresholds, settings.model, stop, Backoff(ledger.trouble))

        def turn() -> None:
            stop.wait(min(trainer.step(time.monotonic()), _TICK))
            if trainer.backoff.error is not None:
                ledger.trainings.withdraw_request()
                raise trainer.backoff.error

        _see(ledger, known, Measure.of(settings), follow=follow, turn=turn)


def _ask(ledger: Ledger, thresholds: Thresholds) -> int:
    """Ask for a training; returns the id of the newest one that does not count as the answer."""
    tally = replace(ledger.tally(), train_requested=True)
    if tally.active is not None:
        typer.echo(f"Training {tally.active.name} is running already.")
        return tally.active.id - 1
    verdict = training_verdict(tally, thresholds, now=time.time())
    if not verdict.due:
        raise Refused(f"no training can be started now: {verdict.reason}")
    ledger.trainings.request()
    return max((run.id for run in ledger.trainings.history(1)), default=0)


def _see(ledger: Ledger, known: int, measure: Measure, *, follow: bool, turn: Callable[[], object]) -> None:
    """Wait until the training is started and, with ``follow``, until it has ended."""
    until = time.monotonic() + _DAEMON_ANSWERS
    console = Console(stderr=True)
    texts = [TextColumn(f"{{task.{name}}}") for name in ("description", "fields[figures]", "fields[left]")]
    columns = (texts[0], BarColumn(), MofNCompleteColumn(), *texts[1:])
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task("", total=None, visible=False, figures="", left="")
    with bar:
        while True:
            turn()
            run = next((run for run in ledger.trainings.history(1) if run.id > known), None)
            if run is None or run.state in {TrainingState.STARTING, TrainingState.DOUBTFUL}:
                if time.monotonic() > until:
                    raise ImageSyncError(
                        "the training was asked for but has not started yet",
                        hint="`image-sync status` tells what the daemon is waiting for.",
                    )
                continue
            if not follow:
                break
            bar.update(
                task,
                visible=True,
                description=show_text(run.name),
                total=run.iterations or None,
                completed=run.iteration,
                figures=measure.figures(run),
                left=remaining(run) if run.state.active else str(run.fate or run.state),
            )
            stuck = any(trouble.stage == lifecycle.STAGE for trouble in ledger.troubles())
            if not run.state.active and (stuck or run.owed in {NextStep.NOTHING, NextStep.RETRY}):
                break
    _tell(run, measure)
    for trouble in ledger.troubles() if follow else ():
        if trouble.stage == lifecycle.STAGE:
            typer.echo(f"It is tried again: {trouble.what}. {trouble.hint}".rstrip(), err=True)


def _tell(run: Training, measure: Measure) -> None:
    if run.state is TrainingState.REFUSED:
        raise Refused(f"the platform refused to start {run.name}: {run.reason}")
    if run.state is TrainingState.FAILED:
        hint = "The daemon tries it once more: the cause may be temporary." if run.owed is NextStep.RETRY else ""
        raise Refused(f"training {run.name} failed: {run.reason}", hint=hint)
    base = f", continues from {show_text(run.base_name or run.base)}" if run.base else ""
    if run.state is not TrainingState.TRAINED:
        typer.echo(f"Training {run.name} has started with {run.pictures} pictures (task {run.task_id}){base}.")
        return
    accuracy = measure.text(run.accuracy, run.pictures) or f"{measure.name} unknown"
    typer.echo(f"Training {run.name} is done: {run.pictures} pictures, {accuracy}{base}.")
    if outcome := outcome_of(run):
        typer.echo(f"Its model: {show_text(outcome)}.")
