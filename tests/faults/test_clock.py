"""The wall clock jumps by hours, forwards and backwards: waiting goes on by the clock that only runs forwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from image_sync.domain import TrainingState
from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.server import MviServer
from support import diary
from support.daemon import PROGRAM, Daemon, Plant, put_some, stored
from support.resources import LONG, processor_seconds

SHORT = {"max_iter": 20, "test_interval": 20, "learning_rate": 0.01}
LIBRARIES = "/usr/lib/*/faketime/libfaketime.so.1"


@pytest.fixture
def plant(tmp_path: Path, server: MviServer) -> Plant:
    return Plant(
        tmp_path / "plant",
        server.url,
        time=0.5,
        upload={"grace": 1.5, "batch_files": 2},
        model={"strategy": SHORT, "grace": 1.5},
        threshold={"upload": 4, "training": 16},
    )


class Clock:
    """What the program takes for the wall clock: the real one, plus as many seconds as a file says."""

    def __init__(self, folder: Path) -> None:
        libraries = sorted(Path("/").glob(LIBRARIES.lstrip("/")))
        if not libraries or shutil.which("faketime") is None:
            pytest.skip("jumps of the clock need the Debian package faketime")
        self._file = folder / "clock"
        self.jump(0)
        self.environ = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def jump(self, seconds: int) -> None:
        """From now on it is so much later than it really is."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{seconds:+d}s\n")
        draft.replace(self._file)


def idle_share(daemon: Daemon, seconds: float = 1.0) -> float:
    """Which share of a processor the daemon uses while there is nothing to do."""
    pid = daemon.process.pid
    before, began = processor_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (processor_seconds(pid) - before) / (time.monotonic() - began)


@pytest.mark.parametrize(
    ("first", "second"),
    [(-3600, 3600), (3600, -3600), (400_000_000, 0), (0, 400_000_000)] if LONG else [(-3600, 3600)],
)
def test_a_jump_of_the_clock_changes_no_waiting(
    tmp_path: Path, plant: Plant, server: MviServer, first: int, second: int
) -> None:
    """The clock jumps while pictures wait for quiet, and again while an answer is missing: quiet time, grace and
    training are as long as ever, nothing is sent twice, and no thread spins."""
    clock = Clock(tmp_path)
    with plant.running(**clock.environ) as daemon:
        plant.wait(lambda p: bool(p.events("daemon.started")))
        put_some(plant, range(8))
        plant.wait(lambda p: p.tally().ready == 8)
        clock.jump(first)
        began = time.monotonic()
        plant.wait(lambda p: p.tally().confirmed == 8, 15)
        assert time.monotonic() - began < 6
        # its request is carried out a second after the connection broke; meanwhile the clock jumps again
        server.faults.add(Fault(Action.LATE, "POST", "/files$", count=1, seconds=1.0))
        put_some(plant, range(8, 16))
        plant.wait(lambda p: bool(p.events("batch.doubtful")))
        clock.jump(second)
        plant.wait(lambda p: [run.state for run in p.runs()] == [TrainingState.TRAINED], 30)
        assert any(idle_share(daemon) < 0.3 for _ in range(6))  # what follows a training may take a moment
        assert daemon.stop() == 0

    (stopped,) = plant.events("daemon.stopped")
    away = (datetime.fromisoformat(stopped["timestamp"]) - datetime.now(UTC)).total_seconds()
    assert abs(away - second) < 60, "the program did not notice any jump: the test shows nothing"
    files = stored(server)
    assert len(files) == len(set(files)) == 16
    diary.found(plant.folder / "state")


@pytest.mark.root
def test_a_suspended_machine_settles_what_was_on_its_way(plant: Plant, server: MviServer) -> None:
    """In a time namespace eight hours ahead, as after a night's sleep, a daemon takes up what an earlier one left."""
    ahead = ["unshare", "--time", "--fork", "--kill-child=TERM", "--monotonic", "28800", "--boottime", "28800"]
    if shutil.which("unshare") is None or subprocess.run([*ahead, "true"], check=False, capture_output=True).returncode:
        pytest.skip("another boot clock needs unshare, root and time namespaces")
    server.faults.add(Fault(Action.SLOW, "POST", "/files$", count=None, seconds=0.5))
    put_some(plant, range(8))
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().sending > 0)
        daemon.kill()
    server.faults.clear()
    command = [*ahead, *PROGRAM, "run", "--once", "-c", str(plant.config)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env={**os.environ, **plant.environ}
    )

    assert done.returncode == 0, done.stderr
    files = stored(server)
    assert len(files) == len(set(files)) == 8
