"""A worker's patience with a ledger that cannot be written at the moment."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from image_sync.daemon.worker import Worker, alive
from image_sync.errors import LedgerError
from image_sync.ledger import open_ledger


def worker(patience: float, *outcomes: LedgerError | None) -> Worker:
    """One whose steps end like this, the last one again and again."""
    left = list(outcomes)

    def step(_now: float) -> float:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error
        return 1.0

    return Worker("test", step, threading.Event(), lambda _error: None, patience=patience)


FULL = LedgerError("the disk is full", passing=True)


def test_a_daemon_waits_for_a_full_disk_for_ever() -> None:
    """What passes is tried again after five seconds, however long it takes."""
    patient = worker(math.inf, FULL)

    assert [patient._turn(now) for now in (0.0, 60.0, 86_400.0)] == [5.0, 5.0, 5.0]


def test_a_single_run_gives_up_after_its_patience() -> None:
    """`run --once` must end: what does not pass within a minute is an error like any other."""
    hasty = worker(60.0, FULL)
    assert hasty._turn(0.0) == 5.0
    assert hasty._turn(60.0) == 5.0

    with pytest.raises(LedgerError, match="disk is full"):
        hasty._turn(61.0)


def test_patience_begins_anew_after_each_success() -> None:
    """Two short troubles are not one long one."""
    hasty = worker(60.0, FULL, None, FULL)
    hasty._turn(0.0)

    assert hasty._turn(50.0) == 1.0
    assert hasty._turn(100.0) == 5.0


def test_damage_is_never_waited_for() -> None:
    """A ledger error that does not pass ends the stage at once."""
    with pytest.raises(LedgerError, match="damaged"):
        worker(math.inf, LedgerError("the ledger is damaged"))._turn(0.0)


def test_whoever_works_long_says_that_it_lives() -> None:
    """A step of many attempts is healthy throughout; one that says nothing is not; other threads say nothing for it."""
    stop, now = threading.Event(), threading.Event()
    seen: list[float] = []

    def step(_now: float) -> float:
        for _ in range(3):
            stop.wait(0.05)
            alive()
            seen.append(busy.seen_at)
        now.set()
        stop.wait(10)
        return 0.0

    busy = Worker("busy", step, stop, lambda _error: None)
    busy.start()
    assert now.wait(10)
    last = busy.seen_at
    alive()
    assert busy.seen_at == last
    assert busy.healthy(last + 1, 2)
    assert not busy.healthy(last + 3, 2)
    stop.set()
    assert busy.join(10)
    assert len(set(seen)) == 3


def test_a_ledger_that_works_long_says_that_its_worker_lives(tmp_path: Path) -> None:
    """Each of many short transactions is a sign of life, and there are some within one long statement."""
    signs: list[str] = []
    ledger = open_ledger(tmp_path, alive=lambda: signs.append(threading.current_thread().name))
    signs.clear()
    for _ in range(3):
        ledger.troubles()
    assert len(signs) >= 3

    signs.clear()
    long = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 500000) SELECT max(n) FROM c"
    with ledger._context.db.reading() as tx:
        assert tx.execute(text(long)).scalar() == 500_000
    ledger.close()
    assert len(signs) > 3
    assert set(signs) == {threading.current_thread().name}
