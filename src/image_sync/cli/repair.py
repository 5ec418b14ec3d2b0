"""``image-sync repair``: what others deleted at the server is sent again."""

from __future__ import annotations

import typer

from image_sync.cli import options
from image_sync.cli.session import ledger_of, settings_of
from image_sync.errors import UsageError
from image_sync.ledger import exists
from image_sync.ledger.lock import holder_of


def repair(config: options.Config = options.CONFIG) -> None:
    """Send pictures again that were uploaded and are no longer at the server."""
    settings = settings_of(config)
    if not exists(settings.state):
        raise UsageError(
            "there is nothing to repair: the daemon has not run with this configuration yet",
            hint="Start it: image-sync run",
        )
    with ledger_of(settings) as ledger:
        missing = ledger.remote_index.missing()
        gone = any(trouble.stage == "dataset" for trouble in ledger.troubles())
        if not (missing or gone):
            typer.echo("Nothing is known to be missing at the server. The daemon compares every 15 minutes.")
            return
        ledger.remote_index.request_repair()
    made = " The dataset is made anew." if gone else ""
    typer.echo(f"Pictures that are sent again: {missing}.{made}")
    if holder_of(settings.state) is None:
        typer.echo("The daemon is not running: it will happen when it is started (image-sync run).")
