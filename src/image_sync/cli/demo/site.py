"""Where a demo takes place: a folder with an embedded server and a daemon in it, both real processes."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from image_sync.cli.demo.story import TRAINING, UPLOAD, Story
from image_sync.errors import ImageSyncError

_TICK = 0.1
_PATIENCE = 120.0
_LAST_LINES = 3


@contextlib.contextmanager
def folder(*, keep: bool) -> Iterator[Path]:
    """A new folder, which goes away with the block unless it is to be kept."""
    site = Path(tempfile.mkdtemp(prefix="image-sync-demo-"))
    try:
        yield site
    finally:
        if not keep:
            shutil.rmtree(site, ignore_errors=True)


def configure(site: Path, url: str, story: Story) -> Path:
    """The watched folder, still empty, and the configuration."""
    (site / "pictures").mkdir()
    config = site / "configuration.json"
    document = {
        "credentials": {"endpoint": url},
        "dataset": {"name": story.name},
        "model": {"name": story.name, "poll": 0.2, "deploy": "better", **story.model},
        "threshold": {"upload": UPLOAD, "training": TRAINING},
        "time": 2,
        "watch": {"settle": 1},
        "upload": {"grace": 5},  # the server is on this machine: a lost answer need not be waited for for minutes
        "folders": [str(site / "pictures")],
        "state": str(site / "state"),
    }
    config.write_text(json.dumps(document, indent=2), encoding="utf-8")
    config.chmod(0o600)
    return config


@contextlib.contextmanager
def server(site: Path) -> Iterator[str]:
    """The embedded server; its address."""
    command = ["serve", "--port", "0", "--data", str(site / "server")]
    with _process(command, site / "server.log", stdout=subprocess.PIPE) as process:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("listening on "):
            process.wait(30)
            raise ImageSyncError(f"the embedded server did not start: {_end_of(site / 'server.log')}")
        yield line.removeprefix("listening on ").strip()


class Daemon:
    """The daemon, as one who waits for what it does sees it."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._never = threading.Event()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def rest(self, seconds: float) -> None:
        """Let so much time pass."""
        self._never.wait(seconds)

    def wait(self, done: Callable[[], bool], what: str, show: Callable[[], None] = lambda: None) -> None:
        """Until it is done, and show how far it is.

        Raises:
            ImageSyncError: the daemon has ended, or takes too long.
        """
        until = time.monotonic() + _PATIENCE
        while not done():
            show()
            if self._process.poll() is not None or time.monotonic() > until:
                raise ImageSyncError(f"waited in vain for {what}: {_end_of(self._log)}")
            self.rest(_TICK)
        show()


@contextlib.contextmanager
def daemon(site: Path, config: Path) -> Iterator[Daemon]:
    """The daemon on this configuration."""
    log = site / "daemon.log"
    with _process(["run", "-c", str(config)], log, stdout=subprocess.DEVNULL) as process:
        yield Daemon(process, log)


@contextlib.contextmanager
def _process(command: list[str], log: Path, *, stdout: int) -> Iterator[subprocess.Popen[str]]:
    """A process of our own program that ends with the block; what it logs goes to a file."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "image_sync", *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=file,
            text=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    return " | ".join(lines) or "it said nothing"
