"""One session of measuring: where it happens, how large everything is, and what several figures share."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.process import Spent, Spoiled, spend
from benchmarks.sink import DATASET, Sink
from benchmarks.trees import Tree, make
from support.daemon import PROGRAM, Plant

TINY = 1000
"""Bytes of a picture where only the number of pictures matters."""
_QUICK = 10


@dataclass
class Session:
    """What the figures are given.

    Attributes:
        work: a folder of our own. quick: everything a tenth as large.
        say: tells what is going on, on stderr.
        stack: closes what is shared when the session ends.
    """

    work: Path
    quick: bool
    say: Callable[[str], object]
    stack: ExitStack = field(default_factory=ExitStack)
    archives: dict[int, Archive] = field(default_factory=dict)

    def scaled(self, number: int) -> int:
        """A number of pictures, or a tenth of it."""
        return max(1, number // _QUICK) if self.quick else number

    @property
    def repeats(self) -> int:
        """How often what is short is measured."""
        return 3 if self.quick else 5

    @cached_property
    def sink(self) -> Sink:
        """The server; started when somebody first wants it."""
        return self.stack.enter_context(Sink(self.work / "sink", self.say))

    def tree(self, name: str, count: int, size: int) -> Tree:
        """New pictures, in the page cache since they have just been written."""
        self.say(f"{name}: making {count:,} pictures of {size:,} bytes")
        tree = make(self.work / name / "pictures", count, size)
        os.sync()
        return tree

    def plant(self, tree: Tree, name: str = "plant", **changes: Any) -> Plant:
        """A configuration for these pictures and the server, with everything at its default but the waiting."""
        return plant(tree.root.parent / name, self.sink.endpoint(tree.size), tree.root, **changes)

    def once(self, plant: Plant, tree: Tree) -> Upload:
        """``image-sync run --once`` as a process, from an empty ledger; all must arrive, and each but once."""
        shutil.rmtree(plant.folder / "state", ignore_errors=True)
        mark = self.sink.mark
        spent = spend([*PROGRAM, "run", "--once", "-c", plant.config], plant.environ)
        arrivals = self.sink.arrivals(mark)
        arrived_once(tree, (name for arrival in arrivals for name in arrival.names))
        confirmed(plant, tree.count)
        return Upload(spent, arrivals[-1].at - arrivals[0].at)

    def archive(self, count: int) -> Archive:
        """So many tiny pictures and the ledger that knows them, made by a real run; kept for the whole session."""
        if count not in self.archives:
            tree = self.tree(f"archive-{count}", count, TINY)
            here = self.plant(tree)
            self.say(f"archive-{count}: the first upload of all of them")
            self.archives[count] = Archive(tree, here, self.once(here, tree))
        return self.archives[count]


class Upload(NamedTuple):
    """A first sync: what the process took, and the seconds between the first arrival at the server and the last."""

    spent: Spent
    arriving: float


@dataclass(frozen=True, slots=True)
class Archive:
    """Pictures that are all uploaded, and what that took."""

    tree: Tree
    plant: Plant
    upload: Upload


def plant(folder: Path, endpoint: str, root: Path, **changes: Any) -> Plant:
    """A configuration that only uploads, at once, everything else as it is by default."""
    settings: dict[str, Any] = {
        "dataset": {"name": DATASET},
        "model": {"action": "none"},
        "threshold": {"upload": 1},
        "time": 0,
        "watch": {"settle": 2},
        "upload": {"grace": 180},
        "folders": [str(root)],
    }
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) and key in settings else value
    return Plant(folder, endpoint, fresh=True, **settings)


def arrived_once(tree: Tree, names: Iterable[str]) -> None:
    """Every picture arrived, and none twice. Spoiled if not: a figure of something else is worth nothing."""
    stems = [name.partition(".")[0] for name in names]
    missing = tree.names - set(stems)
    if missing or len(stems) != tree.count:
        raise Spoiled(f"{len(missing)} of {tree.count} pictures did not arrive, {len(stems)} did")


def confirmed(plant: Plant, count: int) -> None:
    """The ledger says so, too."""
    tally = plant.tally()
    if tally.confirmed != count or tally.doubtful:
        raise Spoiled(f"the ledger has {tally.confirmed} of {count} pictures, and {tally.doubtful} in doubt")


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def program(name: str) -> Path:
    """A command that is installed beside this Python."""
    return Path(sys.executable).with_name(name)
