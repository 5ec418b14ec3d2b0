"""The first sync of an archive: ``run --once`` on 10,000 pictures of 20 KB, beside everybody else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import peers
from benchmarks.process import Spent, spend
from benchmarks.session import Session, arrived_once, median, program
from benchmarks.sink import DATASET
from benchmarks.table import Row, at_least
from benchmarks.trees import Tree

_COUNT = 10_000
_SIZE = 20_480


def measure(session: Session) -> Iterator[Row]:
    """Rates, and our memory."""
    tree = session.tree("backlog", session.scaled(_COUNT), _SIZE)
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
        session.say(f"backlog: round {number + 1} of {session.repeats}")
        ours.append(session.once(plant, tree).spent)
        for peer, run in contest.items():
            others.setdefault(peer, []).append(run())
    rate = tree.count / median(spent.seconds for spent in ours)
    goals = {"vision": at_least(2.5), "raw stream": at_least(0.25)}
    for peer, seconds in others.items():
        yield Row("backlog", rate, "pictures/s", peer, tree.count / median(seconds), goals.get(peer), _note(tree, peer))
    yield Row("backlog, processor", 1e6 * median(spent.cpu for spent in ours) / tree.count, "µs/picture")
    yield Row("backlog, peak memory", median(spent.peak for spent in ours) / 1e6, "MB")
    yield Row("backlog, written to disk", median(spent.written for spent in ours) / 1e6, "MB")


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
