"""``image-sync ledger``: look after the ledger itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import typer

from image_sync.cli import options
from image_sync.cli.session import ledger_of, settings_of
from image_sync.config import Settings
from image_sync.errors import UsageError
from image_sync.ledger import exists, open_ledger
from image_sync.ledger.database import FILE, carry_over
from image_sync.ledger.lock import Lock

app = typer.Typer(
    help="Look after the ledger: check it, or set a damaged one aside.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def check(config: options.Config = options.CONFIG) -> None:
    """Read the whole ledger and tell whether it is sound."""
    settings = settings_of(config)
    if not exists(settings.state):
        typer.echo("There is no ledger yet: the daemon has not run with this configuration.")
        return
    with ledger_of(settings) as ledger:
        ledger.prove()
        census = ledger.census()
        typer.echo(f"{ledger.where} is sound: {census.total.found} files, {census.total.confirmed} pictures uploaded.")


@app.command()
def rebuild(config: options.Config = options.CONFIG) -> None:
    """Set the ledger aside. The next start makes a new one from the folders and from what the platform lists."""
    settings = settings_of(config)
    folder = _folder(settings)
    with Lock(folder) as lock:
        aside = _set_aside(folder)
        told = _carry_over(aside, folder, lock)
    typer.echo(f"The old ledger is kept as {aside}.")
    if told is None:
        typer.echo(
            "It cannot be read: if somebody changed a picture's category at the server, that change will be undone."
        )
    typer.echo(
        "Start the daemon (image-sync run): it looks at all pictures again, reads what the platform has, and sends"
    )
    typer.echo("only what is not there. Refused pictures and trainings of the old ledger are forgotten.")


def _folder(settings: Settings) -> Path:
    if not isinstance(settings.state, Path):
        raise UsageError(
            "the ledger is a PostgreSQL database",
            hint="Restore it from a backup, or point `state` at an empty database; the platform is asked what it has.",
        )
    if not exists(settings.state):
        raise UsageError("there is no ledger to rebuild", hint="Start the daemon: image-sync run")
    return settings.state


def _carry_over(aside: Path, folder: Path, lock: Lock) -> int | None:
    """Tell a new ledger what the old one had told the platform, so that a person's category is not taken for ours.

    Returns of how many pictures; None if the old one cannot be read.
    """
    import sqlite3  # late: the other commands do without

    open_ledger(folder, lock=lock).close()
    try:
        return carry_over(aside, folder / FILE)
    except sqlite3.Error:
        return None


def _set_aside(folder: Path) -> Path:
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    aside = folder / f"{FILE}.set-aside-{stamp}"
    for suffix in ("", "-journal", "-wal", "-shm"):
        part = folder / f"{FILE}{suffix}"
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
