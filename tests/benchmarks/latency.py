"""How soon a single picture is at the server: 500 of them, one by one, to a daemon that has nothing else to do."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.process import Spoiled
from benchmarks.session import Session
from benchmarks.sink import Arrival, categories
from benchmarks.table import Row, under
from benchmarks.trees import Tree, content
from support.daemon import Plant

_COUNT = 500
_SIZE = 20_480
_SETTLE = 0.1
_PATIENCE = 30.0
_READY = "watch.scanned"


def measure(session: Session) -> Iterator[Row]:
    """Milliseconds from the moment a picture was closed to its last byte at the server."""
    root = session.work / "latency" / "pictures"
    for category in categories():
        (root / category).mkdir(parents=True)
    count = session.scaled(_COUNT)
    plant = session.plant(Tree(root, 0, _SIZE), watch={"settle": _SETTLE})
    session.say(f"latency: {count} pictures, one by one")
    with plant.running("--log-level", "debug") as daemon:
        plant.wait(lambda here: bool(here.events(_READY)))
        waits = sorted(1000 * (wait - _SETTLE) for wait in _one_by_one(session, root, count))
        daemon.stop()  # in order: the last answer is on its way to the ledger
    confirmed_all(plant, count)
    note = (
        f"{count} pictures, threshold 1, time 0; from close to the last byte at the server, by the server's clock (to "
        f"the millisecond), less the {_SETTLE:g} s of `settle`"
    )
    yield Row("latency, median", statistics.median(waits), "ms", goal=under(50), note=note)
    yield Row("latency, 99th percentile", waits[int(0.99 * (len(waits) - 1))], "ms", goal=under(200))
    yield Row("latency, longest", waits[-1], "ms")


def _one_by_one(session: Session, root: Path, count: int) -> Iterator[float]:
    luck, pause, names = random.Random(7), threading.Event(), categories()
    for number in range(count):
        # Not in step with anything: a daemon that looks every so often must not be met at its best moment.
        pause.wait(luck.uniform(0.05, 0.15))
        mark, name = session.sink.mark, f"p{number:07}"
        picture = content(_SIZE, number)
        with (root / names[number % len(names)] / f"{name}.jpg").open("xb") as file:
            file.write(picture)
        closed = time.time()
        yield _arrival(session, mark, name).at - closed


def _arrival(session: Session, mark: int, name: str) -> Arrival:
    pause, until = threading.Event(), time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        for arrival in session.sink.arrivals(mark):
            if arrival.names[0].startswith(name):
                return arrival
        pause.wait(0.005)
    raise Spoiled(f"{name} did not arrive within {_PATIENCE:g} s")


def confirmed_all(plant: Plant, count: int) -> None:
    """The ledger knows all of them."""
    if plant.tally().confirmed != count:
        raise Spoiled(f"the ledger has {plant.tally().confirmed} of {count} pictures")
