"""``image-sync predict IMAGE...``: what a deployed model says of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from image_sync.cli import options
from image_sync.cli.bars import wide_console
from image_sync.cli.models import chosen
from image_sync.cli.session import dataset_of, ledger_of, platform_of, settings_of
from image_sync.errors import UsageError
from image_sync.logs import show_path, show_text
from image_sync.platforms.base import Model

_SHOWN = 3


def predict(
    images: Annotated[list[Path], typer.Argument(help="JPEG or PNG files.", metavar="IMAGE...")],
    config: options.Config = options.CONFIG,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Name or id of the model, or latest; default: the newest deployed one."),
    ] = None,
    deploy: Annotated[bool, typer.Option("--deploy", help="Deploy the model first, if it is not.")] = False,
    as_json: options.Json = False,
) -> None:
    """Classify pictures with a trained model."""
    settings = settings_of(config)
    contents = [(image, _read(image)) for image in images]
    with platform_of(settings) as platform:
        with ledger_of(settings) as ledger:
            dataset = dataset_of(ledger, platform)
        used = _model(platform.models(dataset), model, settings.model.name, deploy=deploy)
        if deploy:
            platform.deploy(used)
        answers = [(image, platform.predict(used, content)) for image, content in contents]
    if as_json:
        rows = [
            {
                "image": show_path(str(image)),
                "model": used.name,
                "predictions": [{"category": one.category, "confidence": one.confidence} for one in answer],
            }
            for image, answer in answers
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=box.SIMPLE, pad_edge=False, title=Text(show_text(f"model {used.name}")), title_justify="left")
    table.add_column("picture")
    table.add_column("category")
    table.add_column("confidence", justify="right")
    table.add_column("others")
    for image, answer in answers:
        best = answer[0] if answer else None
        others = ", ".join(f"{one.category} {one.confidence:.3f}" for one in answer[1:_SHOWN])
        table.add_row(
            Text(show_path(str(image))),
            Text("none" if best is None else show_text(best.category)),
            "" if best is None else f"{best.confidence:.3f}",
            Text(show_text(others)),
        )
    wide_console().print(table)


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        shown = show_path(str(image))
        raise UsageError(f"{shown} cannot be read: {error.strerror}", hint="Is the path right?") from error


def _model(found: list[Model], wanted: str | None, name: str, *, deploy: bool) -> Model:
    if wanted is not None:
        return chosen(found, wanted, name)
    if deploy:
        return chosen(found, "latest", name)
    deployed = [model for model in found if model.deployed]
    if not deployed:
        hint = "Add --deploy to deploy the newest one." if found else "None is trained yet: see `image-sync status`."
        raise UsageError("no model of this dataset is deployed", hint=hint)
    return deployed[0]
