"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from image_sync import __version__

CONFIG = Path("configuration.json")

Config = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.", metavar="FILE")]
Once = Annotated[
    bool,
    typer.Option("--once", help="Work off what is there now, without waiting for more; exit 1 if pictures failed."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option("--log-level", help="How much to log, on stderr.")
]
LogFormat = Annotated[
    Literal["auto", "text", "json"],
    typer.Option("--log-format", help="auto: text on a terminal, JSON elsewhere."),
]


def written(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, and is no default or from the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def print_version(wanted: bool) -> None:
    """Print the version and end, if that is what ``--version`` asks for."""
    if wanted:
        typer.echo(f"image-sync {__version__}")
        raise typer.Exit
