"""``image-sync stop`` and ``reload``: what a signal to the daemon does, from another terminal."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import typer

from image_sync.cli import options
from image_sync.cli.session import settings_in_force, settings_of
from image_sync.config import Settings
from image_sync.errors import AlreadyRunning, ImageSyncError
from image_sync.ledger.lock import FILE, Holder, holder_of

_LOOK = 0.2
_MARGIN = 20.0  # seconds beyond `shutdown` that closing down may take


def stop(config: options.Config = options.CONFIG) -> None:
    """Stop the daemon that runs with this configuration, and wait until it has ended. Its service stays stopped."""
    settings, _ = settings_in_force(config)
    holder = holder_of(settings.state)
    if holder is None:
        typer.echo("No daemon runs with this configuration.")
        return
    _send(signal.SIGTERM, holder, settings)
    patience = settings.shutdown + _MARGIN
    until, pause = time.monotonic() + patience, threading.Event()
    while holder_of(settings.state) == holder:
        if time.monotonic() > until:
            raise AlreadyRunning(
                f"the daemon ({holder}) was asked to stop and still runs after {patience:.0f} s",
                hint=f"It can be ended at once, nothing is lost by it: kill -9 {holder.pid}",
            )
        pause.wait(_LOOK)
    typer.echo(f"The daemon ({holder}) has ended.")


def reload(config: options.Config = options.CONFIG) -> None:
    """Let the running daemon read its configuration again. A mistake in it is told here, and changes nothing there."""
    settings = settings_of(config)
    holder = holder_of(settings.state)
    if holder is None:
        raise ImageSyncError("no daemon runs with this configuration", hint="Start it: image-sync run")
    _send(signal.SIGUSR1, holder, settings)
    typer.echo(f"The daemon ({holder}) reads {config} again; `image-sync status` tells what came of it.")


def _send(number: signal.Signals, holder: Holder, settings: Settings) -> None:
    """Send the daemon a signal, and nobody else.

    Raises:
        ImageSyncError: it cannot be reached from here.
    """
    if holder.host:
        raise ImageSyncError(f"the daemon runs as {holder}", hint="Run this command there.")
    try:
        if not _is_daemon(holder.pid, settings.state):
            raise ImageSyncError(
                f"the daemon runs as process {holder.pid} of another container", hint="Run this command in there."
            )
        os.kill(holder.pid, number)
    except PermissionError:
        raise ImageSyncError(
            f"this user may not signal the daemon ({holder})",
            hint="Run this as the user that runs the daemon, or as root (sudo).",
        ) from None
    except ProcessLookupError:
        pass  # it has ended by itself


def _is_daemon(pid: int, state: Path | str) -> bool:
    """Whether the process of this number is it: in a container the same number may be somebody else's."""
    process = Path("/proc", str(pid))
    if not Path("/proc/self").exists():  # not on macOS: there are no such containers either
        return True
    if not process.exists():
        return False
    if not isinstance(state, Path):
        return b"image" in (process / "cmdline").read_bytes()
    held = (state / FILE).stat()
    for descriptor in (process / "fd").iterdir():
        try:
            found = descriptor.stat()
        except OSError:
            continue  # closed meanwhile
        if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
            return True
    return False
