"""``image-sync removals``: what was deleted here and is to be removed at the server, and a person's word on it."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import typer

from image_sync.cli import options
from image_sync.cli.session import ledger_of, settings_of, tell_if_nobody_acts, traits_of
from image_sync.config import Settings
from image_sync.daemon.assemble import watch_rules
from image_sync.errors import UsageError
from image_sync.ledger import Ledger
from image_sync.log import show_path, show_text
from image_sync.watcher.rules import Filter
from image_sync.watcher.scan import missing

app = typer.Typer(
    name="removals",
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode=None,
    add_completion=False,
)


@dataclass(frozen=True, slots=True)
class Removals:
    """What there is to say of one category, or of one folder in which files are missing."""

    subject: str
    text: str
    held: bool = False
    """Whether it waits for a person."""


@app.callback()
def removals(context: typer.Context, config: options.Config = options.CONFIG, as_json: options.Json = False) -> None:
    """Show which pictures would be removed at the server because their files were deleted."""
    if context.invoked_subcommand is not None:
        return
    settings = settings_of(config)
    with ledger_of(settings) as ledger:
        if as_json:
            typer.echo(json.dumps(_data(settings, ledger), indent=2))
            return
        found = expected(settings, ledger, filters_of(settings))
    if settings.deletions == "keep":
        typer.echo('Nothing is removed at the server: deletions is "keep".')
    for one in found:
        typer.echo(f"{show_text(one.subject)}: {one.text}")
    if settings.deletions == "remove" and not found:
        typer.echo("Nothing was deleted here that is still at the server.")


@app.command()
def confirm(config: options.Config = options.CONFIG) -> None:
    """Say that the deletions seen up to now are meant, however many they are."""
    settings = settings_of(config)
    if settings.deletions == "keep":
        raise UsageError(
            'nothing is removed at the server: deletions is "keep"', hint='Set deletions to "remove" first.'
        )
    with ledger_of(settings) as ledger:
        ledger.changes.confirm_removals()
        number = sum(one.confirmed for one in ledger.changes.departed())
    when = f"{2 * settings.watch.rescan:g} s after their files were deleted (twice watch.rescan)"
    typer.echo(f"Pictures that will be removed at the server, {when}: {number}.")
    if number:
        tell_if_nobody_acts(settings)


def expected(settings: Settings, ledger: Ledger, filters: Filter) -> list[Removals]:
    """What would be removed at the server as things stand, and what files are missing that the daemon has not missed
    yet; nothing with ``deletions: "keep"``."""
    if settings.deletions == "keep":
        return []
    found = []
    for one in ledger.changes.departed():
        held = one.pictures > settings.most_removals(one.stored)
        due = datetime.fromtimestamp(one.newest + 2 * settings.watch.rescan).astimezone()
        what = f"{one.pictures + one.confirmed} of {one.stored} pictures were deleted here"
        then = f"they are removed at the server until {due:%Y-%m-%d %H:%M:%S %z}"
        if held:
            then = (
                f"{one.pictures} of them are more than max_removals allows at once and stay until you call "
                "`image-sync removals confirm`"
            )
        found.append(Removals(f"category '{one.category}'", f"{what}; {then}", held))
    for folder in settings.folders:
        for path, names in missing(os.fsencode(folder), ledger.files, filters):
            what = "1 file is" if len(names) == 1 else f"{len(names)} files are"
            then = "what lies nowhere else in the watched folders would be removed at the server"
            found.append(Removals(f"folder {show_path(path)}", f"{what} missing; {then}"))
    return found


def filters_of(settings: Settings) -> Filter:
    """What these settings look at."""
    return Filter(watch_rules(settings, traits_of(settings)))


def _data(settings: Settings, ledger: Ledger) -> dict[str, object]:
    """What ``--json`` prints. Times are Unix seconds."""
    absent: Counter[str] = Counter()
    for folder in settings.folders if settings.deletions == "remove" else ():
        for path, names in missing(os.fsencode(folder), ledger.files, filters_of(settings)):
            absent[show_path(path)] += len(names)
    return {
        "deletions": settings.deletions,
        "delay": 2 * settings.watch.rescan,
        "categories": [
            {
                "category": one.category,
                "deleted": one.pictures + one.confirmed,
                "confirmed": one.confirmed,
                "stored": one.stored,
                "allowed": settings.most_removals(one.stored),
                "held": one.pictures > settings.most_removals(one.stored),
                "due_in": max(0.0, round(one.newest + 2 * settings.watch.rescan - time.time(), 1)),
            }
            for one in (ledger.changes.departed() if settings.deletions == "remove" else ())
        ],
        "missing": dict(absent),
    }
