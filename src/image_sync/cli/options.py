"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

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
