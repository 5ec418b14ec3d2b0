"""The command group: without a subcommand it lists the models."""

from __future__ import annotations

from typing import Annotated

import typer

from image_sync.cli import options
from image_sync.cli.models.archives import export, import_
from image_sync.cli.models.listing import listing
from image_sync.cli.models.plot import plot
from image_sync.cli.models.service import delete, deploy, undeploy
from image_sync.cli.models.trainings import log, stop
from image_sync.errors import UsageError

app = typer.Typer(
    name="models",
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode=None,
    add_completion=False,
)
for command in (plot, deploy, undeploy, delete, export, stop, log):
    app.command()(command)
app.command(name="import")(import_)


@app.callback()
def models(
    context: typer.Context,
    config: options.Config = options.CONFIG,
    as_json: options.Json = False,
    deploy_first: Annotated[
        str | None,
        typer.Option("--deploy", metavar="MODEL", help="Deploy this one first: its name, its id or latest."),
    ] = None,
) -> None:
    """List the trained models of the dataset, newest first. Subcommands do more with them."""
    if context.invoked_subcommand is None:
        listing(config, as_json=as_json, deploy=deploy_first)
        return
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"options must come after `models {context.invoked_subcommand}`",
                hint=f"Write: image-sync models {context.invoked_subcommand} ... -c FILE",
            )
