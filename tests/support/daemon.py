"""The real program as a process, on a folder of its own, and a look at what it does."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from image_sync.cli.session import ledger_of, settings_of
from image_sync.domain import Census, Tally, Training
from image_sync.ledger import exists
from support.forked import Forked
from support.mvi_server import Caller, picture

QUICK = {"max_iter": 100, "test_interval": 20, "learning_rate": 0.01}
PROGRAM = (sys.executable, "-m", "image_sync")


OF_THE_START = frozenset(
    {"PYTHONPATH", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONWARNINGS", "LANG", "LC_ALL", "LD_PRELOAD"}
)
"""Variables that Python reads when it starts."""


def start(
    words: Sequence[str],
    environ: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes],
    *,
    folder: Path | None = None,
    fresh: bool = False,
) -> Forked | subprocess.Popen[bytes]:
    """A process of the program with these words on its command line; see ``Plant`` for ``fresh``."""
    if not fresh:
        return Forked(words, environ, str(folder or Path.cwd()), stdout, stderr)
    return subprocess.Popen(
        [*PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environ, cwd=folder
    )


def program(
    *words: str,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    timeout: float = 60,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start(words, environ or os.environ, stdout, stderr, folder=folder, fresh=fresh)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        told = []
        for stream in (stdout, stderr):
            stream.seek(0)
            told.append(stream.read().decode(errors="backslashreplace").replace("\r\n", "\n").replace("\r", "\n"))
    return subprocess.CompletedProcess(words, code, *told)


class Plant:
    """A folder with pictures, a configuration and the program on it.

    Args:
        fresh: its processes are started by Python itself, not forked from one that has the imports done.
    """

    def __init__(self, folder: Path, endpoint: str, *, fresh: bool = False, **changes: Any) -> None:
        self.folder = folder
        self.fresh = fresh
        self.root = folder / "pictures"
        self.root.mkdir(parents=True, exist_ok=True)
        self.config = folder / "configuration.json"
        self.document: dict[str, Any] = {
            "credentials": {"endpoint": endpoint},
            "dataset": {"name": "plates"},
            "model": {"name": "plates", "strategy": QUICK, "grace": 2, "poll": 0.2},
            "threshold": {"upload": 1, "training": 10**6},
            "time": 0.2,
            "watch": {"settle": 0.2},
            "upload": {"grace": 2},
            "folders": [str(self.root)],
            "state": str(folder / "state"),
        }
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("VAPI_", "NOTIFY_"))}
        self.configure(**changes)

    def configure(self, **changes: Any) -> None:
        """Change top-level keys; a mapping is merged into the section that is there. Written at one stroke."""
        for key, value in changes.items():
            old = self.document.get(key)
            self.document[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        draft = self.config.with_suffix(".draft")
        draft.write_text(json.dumps(self.document, indent=1))
        draft.chmod(0o600)
        draft.replace(self.config)

    def put(self, place: str, content: bytes) -> Path:
        """A picture at ``category/name``."""
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def call(self, *arguments: str, timeout: float = 60, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; ``-c`` is added."""
        words = [*arguments, "-c", str(self.config)]
        variables = {**self.environ, **environ}
        return program(
            *words, environ=variables, timeout=timeout, fresh=self.fresh or not OF_THE_START.isdisjoint(environ)
        )

    def status(self) -> dict[str, Any]:
        """What ``image-sync status --json`` prints."""
        done = self.call("status", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @contextlib.contextmanager
    def running(self, *arguments: str, **environ: str) -> Iterator[Daemon]:
        """The daemon as a process; killed at the end if it still runs."""
        daemon = Daemon(self, arguments, environ)
        try:
            yield daemon
        finally:
            daemon.kill()

    def tally(self) -> Tally:
        """The counts of the ledger, as the tracker sees them."""
        with ledger_of(settings_of(self.config)) as ledger:
            return ledger.tally()

    def census(self) -> Census:
        """The counts of the ledger, as ``status`` sees them."""
        with ledger_of(settings_of(self.config)) as ledger:
            return ledger.census()

    def runs(self) -> list[Training]:
        """The trainings that the ledger knows, newest first."""
        with ledger_of(settings_of(self.config)) as ledger:
            return ledger.trainings.history()

    def wait(self, done: Callable[[Plant], bool], seconds: float = 40.0) -> None:
        """Until it is so; the test fails if it takes too long."""
        pause, until = threading.Event(), time.monotonic() + seconds
        state = self.document["state"]
        while not (exists(state if "://" in state else self.folder / "state") and done(self)):
            assert time.monotonic() < until, f"not in time\n{self.log()}"
            pause.wait(0.1)

    def log(self) -> str:
        """What the daemon logged, all starts together."""
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The logged events of this name."""
        lines = (json.loads(line) for line in self.log().splitlines() if line.startswith("{"))
        return [line for line in lines if line.get("event") == name]


class Daemon:
    """``python -m image_sync run`` as a process."""

    def __init__(self, plant: Plant, arguments: tuple[str, ...], environ: Mapping[str, str]) -> None:
        self._log = (plant.folder / "daemon.log").open("ab")
        self.process = start(
            ["run", *arguments, "-c", str(plant.config)],
            {**plant.environ, **environ},
            self._log,
            self._log,
            fresh=plant.fresh or not OF_THE_START.isdisjoint(environ),
        )

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit code once it has ended."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self.process.kill()
        self.process.wait(10)
        self._log.close()


def put_plates(plant: Plant, each: int = 6, start: int = 0) -> None:
    """So many dark and as many light pictures, numbered from ``start``."""
    for kind, number in itertools.product(("dark", "light"), range(start, start + each)):
        plant.put(f"{kind}/{number:03}.jpg", picture(kind, number))


def put_some(plant: Plant, numbers: range) -> None:
    """A picture for each number, dark and light in turn."""
    for number in numbers:
        kind = ("dark", "light")[number % 2]
        plant.put(f"{kind}/{number}.jpg", picture(kind, number))


def crashed(plant: Plant, crash_at: int, crash_from: str = "") -> int:
    """``run --once`` in a process that ends itself at this operation, from this request on; its exit code."""
    assert not plant.fresh  # the fork is what ends itself
    return plant.call("run", "--once", CRASH_FROM=crash_from, CRASH_AT=str(crash_at)).returncode


def stored(server: Any) -> list[tuple[str, str]]:
    """(category, original name) of every file in every dataset of an embedded server, sorted."""
    caller = Caller(server.url)
    return sorted(
        (file.get("category_name") or "", file["original_file_name"])
        for dataset in caller.get("/datasets")
        for file in caller.get(f"/datasets/{dataset['_id']}/files")
    )
