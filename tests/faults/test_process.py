"""Processes that are killed, stopped, paused, started twice, or broken inside: nothing lost or doubled, no zombie."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_sync.domain import TrainingState
from image_sync.errors import EXIT_LEDGER, EXIT_TRY_LATER
from image_sync.ledger import migrations, open_ledger, schema
from image_sync.ledger.database import FILE
from image_sync.ledger.lock import Lock
from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.server import MviServer
from support import diary, next_schema, strace
from support.daemon import Plant, put_some, stored
from support.mvi_server import Caller, serving
from support.resources import LONG

SHORT = {"max_iter": 20, "test_interval": 20, "learning_rate": 0.01}
KILLS = [
    ("MainThread", "pwrite64", 30),
    ("watcher", "fdatasync", 3),
    ("uploader", "connect", 1),
    ("uploader", "sendto", 2),
    ("uploader", "recvfrom", 4),
    ("uploader", "sendto", 5),
    ("uploader", "pwrite64", 45),
    ("trainer", "sendto", 1),
    ("trainer", "recvfrom", 1),
]
"""Thread, system call, its number: in the order of the work, so that each is reached although one follows another."""
CALLS = ("pwrite64", "fdatasync", "ftruncate", "connect", "sendto", "recvfrom")
THREADS = ("watcher", "uploader", "trainer", "reconciler")
BROKEN = """
import sys
from image_sync.{module} import {name}
def broken(self, now):
    raise ZeroDivisionError("a mistake of ours")
{name}.step = broken
from image_sync.cli.main import run
run()
"""
HUNG = """
import sys, threading
from image_sync.daemon import daemon
from image_sync.trainer.start import Trainer
daemon._PATIENCE, daemon._LONG_PATIENCE = {{}}, 0.5
step, turns = Trainer.step, iter(range(1000))
def hanging(self, now):
    if self._ledger.tally().confirmed:
        threading.Event().wait()
    return min(0.1, step(self, now))
if {hangs}:
    Trainer.step = hanging
from image_sync.cli.main import run
run()
"""
STAGES = [
    ("watcher.watcher", "Watcher"),
    ("upload", "Uploader"),
    ("trainer.start", "Trainer"),
    ("reconcile.stage", "Reconciler"),
]


@pytest.fixture
def plant(tmp_path: Path, server: MviServer) -> Plant:
    return Plant(tmp_path / "plant", server.url, upload={"grace": 0.5}, model={"strategy": SHORT, "grace": 0.5})


def each_once(plant: Plant, server: MviServer, number: int) -> None:
    """Every picture is at the server once, and the ledger is whole and knows it."""
    files = stored(server)
    assert len(files) == len(set(files)) == number
    with contextlib.closing(sqlite3.connect(plant.folder / "state" / FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        counts = "SELECT count(*), count(DISTINCT remote_id) FROM picture WHERE state = 'confirmed'"
        assert db.execute(counts).fetchone() == (number, number)
        assert db.execute("SELECT count(*) FROM batch WHERE state IN ('sending', 'doubtful')").fetchone() == (0,)


def program(plant: Plant, script: str, *words: str, **environ: str) -> subprocess.Popen[str]:
    """The daemon, changed by a script that ends in running it."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *words, "-c", str(plant.config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**plant.environ, **environ},
    )


def test_killed_at_system_calls_of_every_thread_it_ends_well(plant: Plant, server: MviServer) -> None:
    """SIGKILL before system calls of each thread, one run after the other: each picture once, one training."""
    strace.needed()
    plant.configure(threshold={"training": 16}, upload={"batch_files": 2, "parallel": 1})
    put_some(plant, range(16))
    killed = [kill for kill in KILLS if strace.killed_at(plant, *kill, "run", "--once")]

    assert killed == KILLS
    done = plant.call("run", "--once")
    assert done.returncode == 0, done.stderr
    each_once(plant, server, 16)
    assert [run.state for run in plant.runs()] == [TrainingState.TRAINED]
    assert len(Caller(server.url).get("/dltasks/")) == 1


@pytest.mark.skipif(not LONG, reason="takes half an hour: IMAGE_SYNC_SOAK=1 asks for it")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("thread", THREADS)
@pytest.mark.parametrize("call", CALLS)
def test_killed_at_each_system_call_it_ends_well(tmp_path: Path, thread: str, call: str) -> None:
    """SIGKILL before the 1st, 2nd, ... system call of a kind, each from a new beginning, until one run survives."""
    strace.needed()
    for number in range(1, 500):
        folder = tmp_path / str(number)
        with serving(folder / "server") as server:
            plant = Plant(folder / "plant", server.url, upload={"grace": 0.5}, model={"strategy": SHORT, "grace": 0.5})
            plant.configure(threshold={"training": 10}, upload={"batch_files": 5, "parallel": 1})
            put_some(plant, range(10))
            killed = strace.killed_at(plant, thread, call, number, "run", "--once")
            done = plant.call("run", "--once")
            assert done.returncode == 0, done.stderr
            each_once(plant, server, 10)
            assert [run.state for run in plant.runs()] == [TrainingState.TRAINED]
            assert len(Caller(server.url).get("/dltasks/")) == 1
        if not killed:
            break
    print(f"{thread}: killed at {number - 1} calls of {call}")


def test_sigterm_at_any_moment_ends_it_in_order(tmp_path: Path, server: MviServer) -> None:
    """Ten daemons get SIGTERM at random moments of their work: each exits 0 within `shutdown`, and loses nothing."""
    server.faults.add(Fault(Action.SLOW, "POST", "/files$", count=None, seconds=0.1))
    chance = random.Random(4)
    moments = [chance.uniform(0, 0.9) for _ in range(100 if LONG else 10)]

    def one(number: int) -> tuple[int, float]:
        plant = Plant(tmp_path / f"plant-{number}", server.url, upload={"batch_files": 1, "grace": 0.5}, shutdown=10)
        put_some(plant, range(1000 * number, 1000 * number + 12))
        with plant.running() as daemon:
            plant.wait(lambda p: (p.folder / "state/lock").exists())  # from here on it listens to signals
            time.sleep(moments[number])
            began = time.monotonic()
            code = daemon.stop()
            return code, time.monotonic() - began

    with ThreadPoolExecutor(5) as pool:
        ends = list(pool.map(one, range(len(moments))))
    assert [code for code, _ in ends] == [0] * len(moments)
    assert max(seconds for _, seconds in ends) < 10
    files = stored(server)
    assert len(files) == len(set(files))
    for number in (0, len(moments) - 1):
        plant = Plant(tmp_path / f"plant-{number}", server.url, upload={"grace": 0.5})
        assert plant.call("run", "--once").returncode == 0
        assert plant.tally().confirmed == 12
    files = stored(server)
    assert len(files) == len(set(files))


def test_paused_in_the_middle_of_an_upload_it_goes_on(plant: Plant, server: MviServer) -> None:
    """SIGSTOP for seconds while requests are on their way, as when a virtual machine is moved, then SIGCONT."""
    plant.configure(upload={"batch_files": 2})
    server.faults.add(Fault(Action.SLOW, "POST", "/files$", count=None, seconds=0.2))
    put_some(plant, range(20))
    with plant.running() as daemon:
        plant.wait(lambda p: 0 < p.tally().confirmed < 20 and p.tally().sending > 0)
        daemon.signal(signal.SIGSTOP)
        time.sleep(3 if not LONG else 60)
        daemon.signal(signal.SIGCONT)
        plant.wait(lambda p: p.tally().confirmed == 20)
        assert daemon.stop() == 0

    each_once(plant, server, 20)


def test_of_several_daemons_started_at_once_one_works(plant: Plant, server: MviServer) -> None:
    """Four starts on one state folder at the same moment: three exit with 75 at once, one does the work."""
    put_some(plant, range(6))
    daemons = [program(plant, "from image_sync.cli.main import run; run()", "run") for _ in range(4)]
    try:
        plant.wait(lambda p: p.tally().confirmed == 6)
        until = time.monotonic() + 5
        while sum(daemon.poll() is None for daemon in daemons) > 1:
            assert time.monotonic() < until, "more than one is at work"
            time.sleep(0.05)
        turned_away = [daemon for daemon in daemons if daemon.poll() is not None]
        (worker,) = [daemon for daemon in daemons if daemon.poll() is None]
        worker.terminate()
        assert worker.wait(20) == 0
    finally:
        for daemon in daemons:
            daemon.kill()
            _, told = daemon.communicate()
            assert "Traceback" not in told

    assert [daemon.returncode for daemon in turned_away] == [EXIT_TRY_LATER] * 3
    each_once(plant, server, 6)


@pytest.mark.parametrize(("module", "name"), STAGES)
def test_a_mistake_of_ours_in_a_worker_ends_the_process(plant: Plant, module: str, name: str) -> None:
    """A stage raises what nobody expected: the process ends, not 0, and the log has the traceback; no half daemon."""
    put_some(plant, range(2))
    with program(plant, BROKEN.format(module=module, name=name), "run") as daemon:
        _, told = daemon.communicate(timeout=20)

    assert daemon.returncode not in {0, -signal.SIGTERM}
    assert "worker.crashed" in told
    assert "a mistake of ours" in told


@pytest.mark.parametrize("hangs", [True, False] if LONG else [True])
def test_systemd_hears_no_more_of_a_daemon_whose_worker_hangs(
    tmp_path: Path, plant: Plant, server: MviServer, hangs: bool
) -> None:
    """One thread hangs for good: within its patience the pings to systemd stop; without that they go on."""
    put_some(plant, range(2))
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(address))
        line.settimeout(20)
        environ = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "200000"}
        daemon = program(plant, HUNG.format(hangs=hangs), "run", **environ)
        try:
            while line.recv(4096) != b"WATCHDOG=1":
                pass
            plant.wait(lambda p: p.tally().confirmed == 2)
            time.sleep(1)  # its patience, and a ping that was on its way
            line.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while line.recv(4096):
                    pass
            time.sleep(1)
            pings = 0
            with contextlib.suppress(BlockingIOError):
                while message := line.recv(4096):
                    pings += message == b"WATCHDOG=1"
        finally:
            daemon.kill()
            daemon.communicate()

    assert (pings == 0) == hangs


def test_systemd_hears_of_a_daemon_that_sends_over_a_slow_line(tmp_path: Path, plant: Plant, server: MviServer) -> None:
    """One request alone, in one step, takes longer than the patience with a worker: it moves, so the pings go on."""
    put_some(plant, range(12))
    plant.configure(upload={"parallel": 1})
    server.faults.add(Fault(Action.TRICKLE, "POST", "/files$", seconds=6))
    address = tmp_path / "notify"
    pings = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(address))
        line.settimeout(20)
        environ = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "400000"}
        code = HUNG.format(hangs=False).replace("_LONG_PATIENCE = {}, 0.5", "_LONG_PATIENCE = {}, 1.5")
        daemon = program(plant, code, "run", **environ)
        try:
            while plant.log() or not (plant.folder / "state").exists() or plant.tally().confirmed < 12:
                if line.recv(4096) == b"WATCHDOG=1":
                    pings.append(time.monotonic())
        finally:
            daemon.kill()
            daemon.communicate()

    assert max(one.seconds for one in server.requests.matching("POST", "/files")) > 3
    assert pings[-1] - pings[0] > 4  # longer than its patience
    assert max(later - sooner for sooner, later in itertools.pairwise(pings)) < 1.5


def old_ledger(state: Path) -> None:
    """A ledger as this version left it, with an upload and a training in it."""
    writer = diary.Writer(state)
    for number in range(len(diary.CYCLE)):
        writer.do(diary.Step(number))
    writer._ledger.close()


def shape(state: Path) -> tuple[str, dict[str, set[str]]]:
    """The ledger's version, and its tables with their columns."""
    with contextlib.closing(sqlite3.connect(state / FILE)) as db:
        (version,) = db.execute("SELECT version_num FROM alembic_version").fetchone()
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return version, {name: {column[1] for column in db.execute(f"PRAGMA table_info({name})")} for name in names}


@pytest.mark.parametrize(
    ("call", "number"),
    [(call, number) for call in ("pwrite64", "fdatasync") for number in range(1, 60)]
    if LONG
    else [("pwrite64", 24), ("fdatasync", 2), ("fdatasync", 4)],
)
def test_an_upgrade_of_the_ledger_is_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """SIGKILL in the middle of a migration: the old schema or the new one, with all rows; the next start goes on."""
    strace.needed()
    state = tmp_path / "state"
    old_ledger(state)
    before, held = shape(state), diary.found(state)
    killed = strace.python(
        *("-m", "support.next_schema", str(state), str(tmp_path / "next")),
        under=strace.injecting(state, f"{call}:signal=KILL:when={number}"),
    )
    assert LONG or killed.returncode == -signal.SIGKILL, killed.stderr
    there = shape(state)

    monkeypatch.setattr(migrations, "VERSIONS", migrations.VERSIONS)
    monkeypatch.setattr(schema, "HEAD", schema.HEAD)
    next_schema.release(tmp_path / "next")
    with Lock(state) as lock:
        open_ledger(state, lock=lock).close()
    after = shape(state)
    assert there in {True: (before, after), False: (after,)}[killed.returncode != 0]
    assert after[0] == next_schema.NEXT
    assert {name: after[1][name] - columns for name, columns in before[1].items() if after[1][name] != columns} == {
        "picture": {"colour"}
    }
    assert diary.found(state) == held


def test_a_ledger_of_a_newer_version_is_left_alone(plant: Plant, server: MviServer) -> None:
    """An older program on a newer ledger: exit code 74 and what to do, not a byte of the file changed, nothing sent."""
    state = plant.folder / "state"
    old_ledger(state)
    with contextlib.closing(sqlite3.connect(state / FILE)) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.commit()
    content = (state / FILE).read_bytes()
    put_some(plant, range(2))
    done = plant.call("run", "--once")

    assert done.returncode == EXIT_LEDGER
    assert "newer image-sync" in done.stderr
    assert "Traceback" not in done.stderr
    assert (state / FILE).read_bytes() == content
    assert len(server.requests) == 0
