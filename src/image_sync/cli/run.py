"""``image-sync run``: the daemon in the foreground, as systemd runs it too."""

from __future__ import annotations

import os
import resource

import typer

from image_sync import logs
from image_sync.cli import options
from image_sync.cli.session import settings_of


def run(
    config: options.Config = options.CONFIG,
    once: options.Once = False,
    log_level: options.LogLevel = "info",
    log_format: options.LogFormat = "auto",
) -> None:
    """Watch the folders, upload, train. Runs until Ctrl-C or SIGTERM; SIGHUP reads the configuration again."""
    _private()
    logs.configure(log_level, log_format=log_format)
    settings = settings_of(config)
    from image_sync.daemon.daemon import Daemon

    code = Daemon(settings, config, once=once).run()
    raise typer.Exit(code)


def _private() -> None:
    """Whatever this process leaves behind is for its user only, and a crash leaves no memory image with secrets."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
