"""``image-sync serve --api mobius``: an emulator of a Mobius Vision SDK on this machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import typer

from image_sync.errors import ImageSyncError, LedgerError, UsageError
from image_sync.logs import show_path
from image_sync_server.mobius.fault_presets import Fault, parsed
from image_sync_server.mobius.server import MobiusServer
from image_sync_server.web import Unprotected


def serve_mobius(
    host: str,
    port: int,
    folder: Path,
    faults: list[str],
    fault_seed: int | None,
    *,
    on_signals: Callable[[threading.Event], None],
    refused: Callable[[OSError, str, int], ImageSyncError],
) -> None:
    """Run it until a signal.

    Args:
        on_signals: sets the event when one comes.
        refused: the error for an address that cannot be had.
    """
    switches = _switches(faults)
    try:
        server = MobiusServer(folder, fault_seed=fault_seed)
    except (OSError, sqlite3.DatabaseError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LedgerError(
            f"The folder {show_path(str(folder))} cannot be used: {reason}",
            hint="Give a folder that you may write to with --data.",
        ) from error
    stop = threading.Event()
    on_signals(stop)
    server.faults.add(*switches)
    try:
        # Scripts read the address from the first line, so it must not wait in a buffer.
        print(f"listening on {_started(server, host, port, refused)}", flush=True)
        stop.wait()
    finally:
        server.stop()
        if struck := server.faults.counts:
            times = ", ".join(f"{name} {count}" for name, count in struck.most_common())
            typer.echo(f"image-sync: faults that struck: {times}", err=True)


def _started(server: MobiusServer, host: str, port: int, refused: Callable[[OSError, str, int], ImageSyncError]) -> str:
    try:
        return server.start(host, port)
    except Unprotected as error:
        raise UsageError(f"The emulator is not started: {error}", hint="Leave --host out.") from error
    except OSError as error:
        raise refused(error, host, port) from error


def _switches(words: list[str]) -> list[Fault]:
    try:
        return [parsed(word) for word in words]
    except ValueError as error:
        raise UsageError(
            f"--fault is not understood: {error}", hint="Write for example: --fault lost-answer=5% --fault late=0.1:3"
        ) from error
