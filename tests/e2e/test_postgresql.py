"""The whole program with its ledger in PostgreSQL: what is known of a running daemon, and what a lost database does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from image_sync.errors import EXIT_TRY_LATER
from image_sync.ledger import open_ledger
from image_sync.ledger.lock import Holder, holder_of
from image_sync_server.mvi.server import MviServer
from support.daemon import Plant, put_plates, put_some, stored
from support.postgres import a_database, cut, stopped


@pytest.fixture
def database() -> Iterator[str]:
    yield from a_database()


@pytest.fixture
def plant(tmp_path: Path, server: MviServer, database: str) -> Plant:
    open_ledger(database).close()
    return Plant(tmp_path / "plant", server.url, state=database)


def uploaded(plant: Plant) -> int:
    return plant.tally().confirmed


def has_uploaded(number: int, plant: Plant) -> bool:
    return uploaded(plant) == number


def test_a_running_daemon_is_seen_and_asked(plant: Plant, server: MviServer) -> None:
    """`status` says that it runs and as which process; `train` asks it, and says 0 because it does it."""
    put_plates(plant, each=6)
    with plant.running() as daemon:
        plant.wait(lambda p: uploaded(p) == 12)
        assert plant.status()["daemon"] == {"running": True, "pid": daemon.process.pid, "host": None}
        assert f"running (process {daemon.process.pid})" in plant.call("status").stdout
        asked = plant.call("train")
        assert (asked.returncode, asked.stderr) == (0, "")
        second = plant.call("run", "--once")
        assert second.returncode == EXIT_TRY_LATER
        assert f"process {daemon.process.pid}" in second.stderr
        assert daemon.stop() == 0
    assert plant.status()["daemon"] == {"running": False, "pid": None, "host": None}
    assert len(plant.runs()) == 1


def test_a_cut_connection_neither_ends_the_daemon_nor_lets_a_second_one_in(
    plant: Plant, server: MviServer, database: str
) -> None:
    """Its sessions are ended again and again while it works: it holds the lock again soon, and nothing is double."""
    put_some(plant, range(20))
    with plant.running() as daemon:
        plant.wait(lambda p: uploaded(p) == 20)
        for start in (20, 30, 40):
            cut(database)
            put_some(plant, range(start, start + 10))
            plant.wait(partial(has_uploaded, start + 10))
        plant.wait(lambda _: holder_of(database) == Holder(daemon.process.pid))
        assert plant.call("run", "--once").returncode == EXIT_TRY_LATER
        assert daemon.stop() == 0
    assert len(stored(server)) == len(set(stored(server))) == 50


def test_a_database_that_restarts_is_waited_for(plant: Plant, server: MviServer, database: str) -> None:
    """The daemon says that its ledger is away, goes on when it is back, and everything is stored once."""
    put_some(plant, range(100))
    plant.configure(upload={"batch_files": 2, "parallel": 2})
    with plant.running() as daemon:
        plant.wait(lambda p: uploaded(p) >= 4)
        with stopped():
            put_some(plant, range(100, 120))
            threading.Event().wait(3)
            assert daemon.process.poll() is None, plant.log()
        plant.wait(lambda p: uploaded(p) == 120, 60)
        plant.wait(lambda _: holder_of(database) == Holder(daemon.process.pid))
        assert daemon.stop() == 0
    assert plant.events("ledger.blocked")
    assert len(stored(server)) == len(set(stored(server))) == 120
