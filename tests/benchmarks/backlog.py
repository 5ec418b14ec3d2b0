"""The first sync of an archive: ``run --once`` on 10,000 and on 50,000 pictures of 20 KB, beside everybody else.

At 10,000 a good part of each program's time is its start; at 50,000 it is the work on each picture that counts.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks import peers
from benchmarks.process import Spent, spend
from benchmarks.session import Session, arrived_once, median, program
from benchmarks.sink import DATASET
from benchmarks.table import Goal, Row, at_least, under
from benchmarks.trees import Tree

_SIZE = 20_480
_GOALS: Mapping[int, Mapping[str, Goal]] = {
    10_000: {"vision": at_least(1.5), "raw stream": at_least(0.25)},
    50_000: {"vision": at_least(2.5), "processor": under(100), "peak memory": under(120)},
}


def measure(session: Session) -> Iterator[Row]:
    """Rates, and our processor time and memory, at both sizes."""
    for count, goals in _GOALS.items():
        yield from _measured(session, count, goals)


def _measured(session: Session, full: int, goals: Mapping[str, Goal]) -> Iterator[Row]:
    count = session.scaled(full)
    figure = f"backlog of {count:,}"
    tree = session.tree(f"backlog-{count}", count, _SIZE)
    plant = session.plant(tree)
    ours: list[Spent] = []
    others: dict[str, list[float]] = {}
    contest: dict[str, Callable[[], float]] = {
        "vision": lambda: vision(session, tree),
        "requests": lambda: yardstick(
            "multipart", f"{session.sink.endpoint(tree.size)}/api/datasets/{DATASET}/files", tree
        ),
        "raw stream": lambda: yardstick("stream", session.sink.stream, tree),
    }
    for number in range(session.repeats):
        session.say(f"{figure}: round {number + 1} of {session.repeats}")
        ours.append(session.once(plant, tree).spent)
        for peer, run in contest.items():
            others.setdefault(peer, []).append(run())
    rate = tree.count / median(spent.seconds for spent in ours)
    for peer, seconds in others.items():
        yield Row(figure, rate, "pictures/s", peer, tree.count / median(seconds), goals.get(peer), _note(tree, peer))
    shares = {
        "processor": (1e6 * median(spent.cpu for spent in ours) / tree.count, "µs/picture"),
        "peak memory": (median(spent.peak for spent in ours) / 1e6, "MB"),
        "written to disk": (median(spent.written for spent in ours) / 1e6, "MB"),
    }
    for name, (value, unit) in shares.items():
        yield Row(f"{figure}, {name}", value, unit, goal=goals.get(name))
    shutil.rmtree(tree.root)


def vision(session: Session, tree: Tree) -> float:
    """Seconds that IBM's command takes, one call per category: it sends all files of a call in one request."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VAPI_")}
    environ |= {"VAPI_BASE_URI": session.sink.endpoint(tree.size), "VAPI_TOKEN": "any", "no_proxy": "*"}
    mark, seconds = session.sink.mark, 0.0
    for category in sorted(tree.root.iterdir()):
        files = sorted(category.rglob("*.jpg"))
        seconds += spend([program("vision"), "files", "upload", f"--dsid={DATASET}", *files], environ).seconds
    arrived_once(tree, (name for arrival in session.sink.arrivals(mark) for name in arrival.names))
    return seconds


def yardstick(peer: str, url: str, tree: Tree, *options: str) -> float:
    """Seconds that one of the two yardsticks takes, without the start of its Python."""
    command: list[str | Path] = [sys.executable, Path(peers.__file__), peer, url, tree.root, *options]
    return float(json.loads(spend(command).output))


def _note(tree: Tree, peer: str) -> str:
    if peer != "vision":
        return ""
    return (
        f"{tree.count:,} JPEGs of {tree.size / 1000:g} KB, page cache warm, ledger empty; ours and vision are whole "
        "processes, the other two without the start of Python; vision neither checks, hashes, remembers nor labels"
    )
