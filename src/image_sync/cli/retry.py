"""``image-sync retry`` and ``repair``: pictures that are to be sent once more."""

from __future__ import annotations

from pathlib import Path

import typer

from image_sync.cli import options
from image_sync.cli.session import ledger_of, settings_of, tell_if_nobody_acts
from image_sync.config import Settings
from image_sync.errors import UsageError
from image_sync.ledger import exists


def retry(config: options.Config = options.CONFIG) -> None:
    """Send refused pictures again, and check quarantined ones again."""
    settings = _settings(config, "retry")
    with ledger_of(settings) as ledger:
        refused, quarantined = ledger.changes.requeue_refused(), ledger.files.recheck_quarantined()
    typer.echo(f"Refused pictures to be sent again: {refused}. Quarantined ones to be checked again: {quarantined}.")
    if refused + quarantined:
        tell_if_nobody_acts(settings)


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
    tell_if_nobody_acts(settings)


def _settings(config: Path, what: str) -> Settings:
    settings = settings_of(config)
    if not exists(settings.state):
        raise UsageError(
            f"there is nothing to {what}: the daemon has not run with this configuration yet",
            hint="Start it: image-sync run",
        )
    return settings
