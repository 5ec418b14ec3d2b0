"""``image-sync forget``: what is left of a picture or a category goes from the ledger and from the server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from image_sync.cli import options
from image_sync.cli.present import counted
from image_sync.cli.removals import filters_of
from image_sync.cli.session import ledger_of, settings_of
from image_sync.config import Settings
from image_sync.domain import PictureState
from image_sync.errors import Refused, UsageError
from image_sync.ledger import Ledger, exists
from image_sync.ledger.history import Left
from image_sync.ledger.keys import stem_of
from image_sync.ledger.lock import holder_of
from image_sync.log import show_path, show_text
from image_sync.watcher.rules import Filter


def forget(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A picture's file, also a deleted one, or its name or id at the server.", metavar="PICTURE"
        ),
    ] = None,
    category: Annotated[
        str | None, typer.Option("--category", metavar="NAME", help="All that is left of this category.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: options.Config = options.CONFIG,
) -> None:
    """Take a picture, or what is left of a category, out of the dataset, at the server too.

    A picture whose file still lies in a watched folder is kept: it would be sent again.
    """
    if (path is None) == (category is None):
        raise UsageError(
            "nothing was named that is to be forgotten",
            hint="Write: image-sync forget PATH, or: image-sync forget --category NAME",
        )
    settings = settings_of(config)
    if not exists(settings.state):
        raise UsageError("nothing is uploaded yet", hint="Start the daemon first: image-sync run")
    with ledger_of(settings) as ledger:
        found = ledger.history.left(category=category) if category else _named(ledger, path or Path())
        subject = f"category '{show_text(category)}'" if category else show_path(os.fsencode(path or Path()))
        if not found:
            raise UsageError(f"nothing is known of {subject}", hint="`image-sync status` lists the categories.")
        left = [one for one in found if not _wanted(one, filters_of(settings))]
        _tell(settings, subject, found, left)
        if not yes:
            typer.confirm(f"Remove {counted(len(left), 'picture')} of {subject} at the server?", abort=True)
        kept = sum(not _gone(ledger, one) for one in left)
    typer.echo(f"Forgotten: {counted(len(left) - kept, 'picture')}.")
    if kept:
        are = counted(kept, "picture is", "pictures are")
        typer.echo(f"{are} on the way to the server: call this again when {subject} is sent.")
    if holder_of(settings.state) is None:
        typer.echo("The daemon is not running: the server is told when it is started (image-sync run).")


def _named(ledger: Ledger, path: Path) -> list[Left]:
    raw = os.fsencode(path)
    for one in (os.path.abspath(raw), os.path.realpath(raw)):
        seen = ledger.history.of(one)
        if seen is not None and seen.key:
            return ledger.history.left(name=seen.key)
    found = ledger.history.left(name=str(path), stem=stem_of(raw.rpartition(b"/")[2]))
    if len(found) > 1:
        names = ", ".join(show_text(one.key) for one in found[:10])
        raise UsageError(f"{show_path(raw)} may be any of {len(found)} pictures", hint=f"Name one of them: {names}")
    return found


def _wanted(one: Left, filters: Filter) -> bool:
    """Whether a file of it lies where pictures are looked for."""
    return any(
        filters.file(name)
        and filters.admits(root, folder)
        and not filters.excluded(root, folder, name)
        and os.path.lexists(folder + b"/" + name)
        for root, folder, name in one.files
    )


def _tell(settings: Settings, subject: str, found: list[Left], left: list[Left]) -> None:
    if not left:
        raise Refused(
            f"{subject} is not forgotten: its files lie in a watched folder and would be sent again",
            hint="Delete or move them first, or leave their folder out: "
            '"categories": {"NAME": null}, or "exclude" in the configuration.',
        )
    if len(left) < len(found):
        typer.echo(
            f"{counted(len(found) - len(left), 'picture')} of {subject} stay: their files lie in a watched folder."
        )
    typer.echo(f"Dataset {show_text(settings.dataset.name)}: {', '.join(show_text(one.key) for one in left[:10])}")
    if len(left) > 10:  # noqa: PLR2004 - so many are named
        typer.echo(f"and {len(left) - 10} more")


def _gone(ledger: Ledger, one: Left) -> bool:
    if one.state is PictureState.CLAIMED:
        return False
    for _, folder, name in one.files:
        ledger.files.gone(folder, [name], deleted=False)
    if one.state is PictureState.CONFIRMED:
        ledger.changes.forget(one.picture_id, {one.remote_id} - {""})
    return True
