"""``image-sync run``: the daemon in the foreground, as systemd runs it too."""

from __future__ import annotations

import os
import resource
from typing import Annotated

import typer

from image_sync import log
from image_sync.cli import options
from image_sync.cli.session import settings_of


def run(
    config: options.Config = options.CONFIG,
    once: options.Once = False,
    log_level: options.LogLevel = "info",
    log_format: options.LogFormat = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be uploaded, removed and trained, like `check`.")
    ] = False,
) -> None:
    """Watch the folders, upload, train. Runs until Ctrl-C, `image-sync stop`, or the end of its terminal."""
    if dry_run:
        from image_sync.cli.check import check

        check(config, as_json=False, policy=False)
    _private()
    log.configure(log_level, log_format=log_format)
    settings = settings_of(config, secrets_needed=True)
    from image_sync.daemon.daemon import Daemon

    code = Daemon(settings, config, once=once).run()
    raise typer.Exit(code)


def _private() -> None:
    """Whatever this process leaves behind is for its user only, and a crash leaves no memory image with secrets."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
