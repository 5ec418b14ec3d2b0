"""``image-sync retry`` and ``repair``: pictures that are to be sent once more."""

from __future__ import annotations

from pathlib import Path

import typer

from image_sync.cli import options
from image_sync.cli.session import ledger_of, settings_of
from image_sync.config import Settings
from image_sync.errors import UsageError
from image_sync.ledger import exists
from image_sync.ledger.lock import holder_of


def retry(config: options.Config = options.CONFIG) -> None:
    """Send refused pictures again, and check quarantined ones again."""
    settings = _settings(config, "retry")
    with ledger_of(settings) as ledger:
        refused, quarantined = ledger.changes.requeue_refused(), ledger.files.recheck_quarantined()
    typer.echo(f"Refused pictures to be sent again: {refused}. Quarantined ones to be checked again: {quarantined}.")
    if refused + quarantined:
        _tell_when(settings)


def repair(config: options.Config = options.CONFIG) -> None:
    """Send pictures again that were uploaded and are no longer at the server."""
    settings = _settings(config, "repair")
    with ledger_of(settings) as ledger:
        missing = ledger.remote_index.missing()
        gone = any(trouble.stage == "dataset" for trouble in ledger.troubles())
        if not (missing or gone):
            typer.echo("Nothing is known to be missing at the server. The daemon compares every 15 minutes.")
            return
        ledger.remote_index.request_repair()
    made = " The dataset is made anew." if gone else ""
    typer.echo(f"Pictures that are sent again: {missing}.{made}")
    _tell_when(settings)


def _settings(config: Path, what: str) -> Settings:
    settings = settings_of(config)
    if not exists(settings.state):
        raise UsageError(
            f"there is nothing to {what}: the daemon has not run with this configuration yet",
            hint="Start it: image-sync run",
        )
    return settings


def _tell_when(settings: Settings) -> None:
    if holder_of(settings.state) is None:
        typer.echo("The daemon is not running: it will happen when it is started (image-sync run).")
