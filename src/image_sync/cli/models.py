"""``image-sync models``: the trained models of the dataset."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from image_sync.cli import options
from image_sync.cli.bars import wide_console
from image_sync.cli.session import dataset_of, ledger_of, platform_of, settings_of
from image_sync.errors import UsageError
from image_sync.logs import show_text
from image_sync.platforms.base import Model
from image_sync.trainer import newest_of


def models(
    config: options.Config = options.CONFIG,
    as_json: options.Json = False,
    deploy: Annotated[
        str | None, typer.Option("--deploy", metavar="MODEL", help="Deploy this one first: its name, its id or latest.")
    ] = None,
) -> None:
    """List the trained models of the dataset, newest first."""
    settings = settings_of(config)
    with platform_of(settings) as platform:
        with ledger_of(settings) as ledger:
            dataset = dataset_of(ledger, platform)
            pictures = {run.name: run.pictures for run in ledger.runs.history(1000)}
        found = platform.models(dataset)
        if deploy is not None:
            platform.deploy(chosen(found, deploy, settings.model.name))
            found = platform.models(dataset)
    if as_json:
        typer.echo(json.dumps([asdict(model) | {"pictures": pictures.get(model.name)} for model in found], indent=2))
        return
    if not found:
        typer.echo(f"Dataset {dataset.name} has no trained model yet; `image-sync status` tells what it waits for.")
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("model", "accuracy", "pictures", "categories", "trained", "deployed", "id"):
        table.add_column(name, justify="right" if name in {"accuracy", "pictures"} else "left", overflow="fold")
    for model in found:
        table.add_row(
            Text(show_text(model.name)),
            "" if model.accuracy is None else f"{model.accuracy:.3f}",
            str(pictures.get(model.name, "")),
            Text(show_text(", ".join(model.categories))),
            "" if model.created_at is None else f"{datetime.fromtimestamp(model.created_at, UTC):%Y-%m-%d %H:%M}Z",
            "yes" if model.deployed else "",
            Text(model.id),
        )
    wide_console().print(table)


def chosen(found: list[Model], wanted: str, name: str) -> Model:
    """The model that a person means by a name, an id or ``latest``.

    Raises:
        UsageError: there is none.
    """
    if wanted == "latest":
        newest = newest_of(name, found)
        if newest is not None:
            return newest
    for model in found:
        if wanted in {model.id, model.name}:
            return model
    known = ", ".join(model.name for model in found[:5]) or "none"
    raise UsageError(f"there is no model {wanted!r} in this dataset", hint=f"The newest are: {show_text(known)}.")
