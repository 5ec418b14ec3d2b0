"""``image-sync reload``: what a change of the file does by itself, on demand."""

from __future__ import annotations

import signal

import typer

from image_sync.cli import options
from image_sync.cli.session import settings_of
from image_sync.cli.stop import send
from image_sync.errors import ImageSyncError
from image_sync.ledger.lock import holder_of


def reload(config: options.Config = options.CONFIG) -> None:
    """Let the running daemon read its configuration again. A mistake in it is told here, and changes nothing there."""
    settings = settings_of(config)
    holder = holder_of(settings.state)
    if holder is None:
        raise ImageSyncError("no daemon runs with this configuration", hint="Start it: image-sync run")
    send(signal.SIGUSR1, holder, settings)
    typer.echo(f"The daemon ({holder}) reads {config} again; `image-sync status` tells what came of it.")
