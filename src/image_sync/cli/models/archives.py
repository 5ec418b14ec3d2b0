"""``models export`` and ``models import``: models as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from image_sync.cli import options
from image_sync.cli.models.choice import chosen
from image_sync.cli.session import dataset_of, ledger_of, platform_of, settings_of
from image_sync.errors import UsageError
from image_sync.logs import show_path, show_text


def export(
    model: Annotated[str, typer.Argument(help="Name or id of the model, or latest.", metavar="MODEL")],
    config: options.Config = options.CONFIG,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File to write, or a folder to put it in.")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a model to a file, to keep it or to bring it to another server."""
    if output.is_file() and not force:
        raise UsageError(f"{show_path(str(output))} exists already", hint="Add --force to replace it.")
    settings = settings_of(config)
    with platform_of(settings) as platform:
        with ledger_of(settings) as ledger:
            dataset = dataset_of(ledger, platform)
        one = chosen(platform, platform.models(dataset), model, settings.model.name)
        written = platform.export(one, output)
    # A place in S3 (s3://bucket/key, of which a path keeps one slash) has no size here.
    where, size = str(written), f" ({written.stat().st_size} bytes)" if written.exists() else ""
    typer.echo(f"Model {show_text(one.name)} is written to {show_path(where.replace('s3:/', 's3://', 1))}{size}.")


def import_(
    file: Annotated[Path, typer.Argument(help="A file that `models export`, or MVI, wrote.", metavar="FILE")],
    config: options.Config = options.CONFIG,
    deploy: Annotated[bool, typer.Option("--deploy", help="Deploy it, too.")] = False,
) -> None:
    """Bring an exported model to the server. It gets a new id and belongs to no dataset."""
    settings = settings_of(config)
    with platform_of(settings) as platform:
        model = platform.import_model(file)
        typer.echo(f"Model {show_text(model.name)} is imported, its id is {model.id}.")
        if deploy:
            platform.deploy(model)
            typer.echo("It is deployed.")
    typer.echo(f"Try it: image-sync predict{'' if deploy else ' --deploy'} --model {model.id} IMAGE")
