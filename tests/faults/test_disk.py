"""Disks that are full or fail: never an acknowledged step lost, never a damaged ledger, nothing sent unwritten."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from image_sync.errors import EXIT_LEDGER
from image_sync.ledger.database import FILE
from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.server import MviServer
from support import diary, strace
from support.daemon import Plant, put_some, stored
from support.resources import LONG, fill, small_disk

STEPS = len(diary.CYCLE)
CALLS = {"pwrite64": 490, "fdatasync": 60, "ftruncate": 15}
"""How many of each there are when the writer does its steps on a ledger that is there."""
SPREAD = [
    ("pwrite64", "EIO", 1),
    ("pwrite64", "EIO", 61),
    ("pwrite64", "ENOSPC", 33),
    ("fdatasync", "EIO", 2),
    ("fdatasync", "EIO", 3),
    ("fdatasync", "ENOSPC", 16),
    ("ftruncate", "EIO", 2),
]
EVERY = [(call, error, at + 1) for call, most in CALLS.items() for error in ("EIO", "ENOSPC") for at in range(most)]


def sent(server: MviServer) -> int:
    return len(server.requests.matching("POST", "/files"))


@pytest.mark.parametrize(("call", "error", "number"), EVERY if LONG else SPREAD)
def test_a_failing_disk_loses_no_acknowledged_step(tmp_path: Path, call: str, error: str, number: int) -> None:
    """The n-th write or sync of the ledger fails: a LedgerError in words, the ledger is whole, and it goes on."""
    strace.needed()
    state, said = tmp_path / "state", tmp_path / "said"
    writer = diary.Writer(state)
    for step in range(STEPS):
        writer.do(diary.Step(step))
    with said.open("wb") as output:
        done = strace.python(
            *("-m", "support.diary", str(state), str(STEPS), str(2 * STEPS)),
            under=strace.injecting(state, f"{call}:error={error}:when={number}"),
            stdout=output.fileno(),
        )
    acknowledged = diary.said(said, STEPS)

    assert done.returncode == (0 if acknowledged == 2 * STEPS else EXIT_LEDGER), done.stderr
    assert "Traceback" not in done.stderr
    assert (f"the ledger {state / FILE} cannot be used" in done.stderr) == (done.returncode != 0)
    if not LONG:
        assert done.returncode == EXIT_LEDGER, "no such call was made: the test shows nothing"
    there = diary.settled(state, acknowledged)
    again = diary.Writer(state)
    for step in range(there, 2 * STEPS):
        again.do(diary.Step(step))
    assert diary.found(state) == diary.after(2 * STEPS)


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"] if LONG else ["fdatasync"])
def test_a_failing_disk_ends_the_daemon_and_the_next_start_goes_on(
    tmp_path: Path, server: MviServer, call: str
) -> None:
    """EIO under the ledger from some moment on: exit code 74 with the cause in words; afterwards nothing is doubled."""
    strace.needed()
    plant = Plant(tmp_path / "plant", server.url, upload={"batch_files": 2, "parallel": 1, "grace": 0.5})
    put_some(plant, range(12))
    state = plant.folder / "state"
    done = strace.python(
        *("-m", "image_sync", "run", "-c", str(plant.config)),
        under=strace.injecting(state, f"{call}:error=EIO:when=40+"),
        environ=plant.environ,
    )

    assert done.returncode == EXIT_LEDGER, done.stderr
    assert f"the ledger {state / FILE} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
    assert plant.call("run", "--once").returncode == 0
    files = stored(server)
    assert len(files) == len(set(files)) == 12


@pytest.mark.root
def test_a_full_disk_under_the_ledger_pauses_everything_until_there_is_room(tmp_path: Path, server: MviServer) -> None:
    """No room under the ledger: nothing is sent, the cause is told; with room it goes on by itself, nothing doubled."""
    with small_disk(tmp_path / "plant/state", 2 << 20) as disk:
        plant = Plant(tmp_path / "plant", server.url, upload={"batch_files": 5, "grace": 1})
        server.faults.add(Fault(Action.SLOW, "POST", "/files$", count=None, seconds=0.05))
        with plant.running() as daemon:
            put_some(plant, range(40))
            plant.wait(lambda p: len(stored(server)) > 10)
            ballast = fill(disk)
            put_some(plant, range(40, 80))
            plant.wait(lambda p: "disk is full" in p.log())
            time.sleep(0.5)  # what was under way when the disk became full
            before = sent(server)
            time.sleep(1)
            assert sent(server) == before
            assert daemon.process.poll() is None, plant.log()
            ballast.unlink()
            plant.wait(lambda p: p.tally().confirmed == 80)
            assert daemon.stop() == 0

        assert "Traceback" not in plant.log()
        files = stored(server)
        assert len(files) == len(set(files)) == 80
        diary.found(disk)


@pytest.mark.root
def test_a_full_disk_at_the_start_is_told(tmp_path: Path, server: MviServer) -> None:
    """Where not even an empty ledger fits, the program says so in words with exit code 74, and sends nothing."""
    with small_disk(tmp_path / "plant/state", 64 << 10):
        plant = Plant(tmp_path / "plant", server.url)
        put_some(plant, range(3))
        done = plant.call("run", "--once")

    assert done.returncode == EXIT_LEDGER, done.stderr
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert sent(server) == 0


@pytest.mark.root
def test_a_full_disk_is_told_by_every_command_and_outlasts_a_restart(tmp_path: Path, server: MviServer) -> None:
    """`status` and `check` say that the ledger's disk is full; a daemon started then waits for room, and goes on."""
    with small_disk(tmp_path / "plant/state", 2 << 20) as disk:
        plant = Plant(tmp_path / "plant", server.url)
        put_some(plant, range(3))
        assert plant.call("run", "--once").returncode == 0
        ballast = fill(disk)
        put_some(plant, range(3, 6))
        status, check = plant.call("status"), plant.call("check")
        with plant.running() as daemon:
            plant.wait(lambda p: "disk is full" in p.log())
            assert daemon.process.poll() is None, plant.log()
            assert plant.status()["daemon"]["running"]
            ballast.unlink()
            plant.wait(lambda p: p.tally().confirmed == 6)
            assert daemon.stop() == 0

    assert status.returncode == 0, status.stderr
    assert "is full. Free some space" in " ".join(status.stdout.split())
    assert check.returncode == EXIT_LEDGER
    assert "is full" in check.stdout + check.stderr
    assert "Traceback" not in plant.log()


@pytest.mark.root
def test_no_room_for_the_lock_is_told(tmp_path: Path, server: MviServer) -> None:
    """Where the daemon cannot even write who it is, it says that the disk is full, with exit code 74."""
    with small_disk(tmp_path / "plant/state", 64 << 10) as disk:
        plant = Plant(tmp_path / "plant", server.url)
        fill(disk)
        done = plant.call("run", "--once")

    assert done.returncode == EXIT_LEDGER
    assert "No space left on device" in done.stderr
    assert "The disk is full: free some space" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
def test_pictures_on_a_full_and_read_only_disk_are_uploaded(tmp_path: Path, server: MviServer) -> None:
    """Nothing is ever written beside the pictures, so their disk may be full, and read-only."""
    plant = Plant(tmp_path / "plant", server.url)
    with small_disk(tmp_path / "pictures", 1 << 20) as disk:
        plant.root = disk
        plant.configure(folders=[str(disk)])
        put_some(plant, range(6))
        fill(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = plant.call("run", "--once")

        assert done.returncode == 0, done.stderr
        assert len(stored(server)) == 6


def test_a_ledger_that_somebody_reads_for_a_while_is_waited_for(tmp_path: Path, server: MviServer) -> None:
    """Another program holds the ledger for seconds, as a backup does: the daemon waits and loses nothing."""
    plant = Plant(tmp_path / "plant", server.url, upload={"batch_files": 2})
    put_some(plant, range(4))
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().confirmed == 4)
        holder = sqlite3.connect(plant.folder / "state" / FILE, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        put_some(plant, range(4, 8))
        time.sleep(1)
        assert len(stored(server)) == 4
        holder.execute("ROLLBACK")
        holder.close()
        plant.wait(lambda p: p.tally().confirmed == 8)
        assert daemon.stop() == 0

    assert len(stored(server)) == 8
    assert "Traceback" not in plant.log()


def test_a_picture_that_cannot_be_read_for_a_moment_is_not_forgotten(tmp_path: Path, server: MviServer) -> None:
    """EIO when the uploader reads a sound picture, as on a weak network: it is looked at again and sent."""
    strace.needed()
    plant = Plant(tmp_path / "plant", server.url, upload={"grace": 0.5, "batch_files": 1})
    put_some(plant, range(3))
    injection = "openat:error=EIO:when=1"
    code = strace.injected(plant, "uploader", injection, "run", "--once", path=plant.root / "dark/0.jpg")

    assert code == 0
    assert len(stored(server)) == 3
