"""``image-sync list``: the names of all files in one state, for people and for scripts."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from image_sync.cli import options
from image_sync.cli.session import ledger_of, settings_of
from image_sync.log import show_path, show_text

app = typer.Typer(add_completion=False)

State = Literal[
    "needs-person", "quarantined", "refused", "conflict", "uncategorised",
    "category-changed", "duplicate", "waiting", "ready", "sending", "confirmed",
]  # fmt: skip


@app.command("list")
def files(
    state: Annotated[
        State,
        typer.Option("--state", help="Which files; needs-person: all that cannot go on until somebody acts."),
    ] = "needs-person",
    config: options.Config = options.CONFIG,
    as_json: options.Json = False,
) -> None:
    """List the files that need a person, or all files in one state. One line for each file."""
    settings = settings_of(config)
    with ledger_of(settings) as ledger:
        found = ledger.history.faults(None) if state == "needs-person" else ledger.history.in_state(state)
    if as_json:
        rows = [{"path": show_path(path), "state": at, "reason": why or None} for path, at, why in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    for path, at, why in found:
        typer.echo(f"{show_path(path)}: {show_text(f'{at}, {why}' if why else at)}")
