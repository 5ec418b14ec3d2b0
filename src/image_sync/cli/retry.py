"""``image-sync retry``: another chance for pictures that were refused or set aside."""

from __future__ import annotations

import typer

from image_sync.cli import options
from image_sync.cli.session import ledger_of, settings_of
from image_sync.errors import UsageError
from image_sync.ledger import exists
from image_sync.ledger.lock import holder_of


def retry(config: options.Config = options.CONFIG) -> None:
    """Send refused pictures again, and check quarantined ones again."""
    settings = settings_of(config)
    if not exists(settings.state):
        raise UsageError(
            "there is nothing to retry: the daemon has not run with this configuration yet",
            hint="Start it: image-sync run",
        )
    with ledger_of(settings) as ledger:
        refused, quarantined = ledger.changes.requeue_refused(), ledger.files.recheck_quarantined()
    typer.echo(f"Refused pictures to be sent again: {refused}. Quarantined ones to be checked again: {quarantined}.")
    if holder_of(settings.state) is None and refused + quarantined:
        typer.echo("The daemon is not running: it will happen when it is started (image-sync run).")
