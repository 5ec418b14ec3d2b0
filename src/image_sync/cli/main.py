"""The command ``image-sync``: which commands there are, and how their failures are told."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from image_sync import __version__, logs
from image_sync.cli import ledger, options
from image_sync.cli.check import check
from image_sync.cli.demo import demo
from image_sync.cli.init import init
from image_sync.cli.models import models
from image_sync.cli.predict import predict
from image_sync.cli.retry import retry
from image_sync.cli.run import run as run_daemon
from image_sync.cli.schema import schema
from image_sync.cli.serve import serve
from image_sync.cli.show import show
from image_sync.cli.status import status
from image_sync.cli.train import train
from image_sync.errors import ImageSyncError
from image_sync.logs import masked, show_text

app = typer.Typer(
    name="image-sync",
    help="Turns folders of labelled pictures into trained vision models. Without a command: run.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="run")(run_daemon)
for command in (demo, serve, check, status, show, retry, train, models, predict, init, schema):
    app.command()(command)
app.add_typer(ledger.app, name="ledger")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"image-sync {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    config: options.Config = options.CONFIG,
    once: options.Once = False,
    log_level: options.LogLevel = "info",
    log_format: options.LogFormat = "auto",
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turns folders of labelled pictures into trained vision models. Without a command: run."""
    logs.configure("warning")
    if context.invoked_subcommand is None:
        run_daemon(config=config, once=once, log_level=log_level, log_format=log_format)


def run() -> None:
    """Entry point: a failure is told in words and becomes the exit code."""
    try:
        app()
    except ImageSyncError as error:
        tell(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        sys.exit(1)


def tell(error: ImageSyncError) -> None:
    """Print what happened and what to do next, without secrets."""
    first, *more = (show_text(line) for line in masked(error.what).split("\n"))
    typer.echo("\n".join([f"image-sync: {first}", *more]), err=True)
    if error.hint:
        typer.echo(f"  {show_text(masked(error.hint))}", err=True)
