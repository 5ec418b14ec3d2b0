"""A program that does the ledger's real steps and says of each when it is durable; and what must be found afterwards.

``python -m support.diary STATE FIRST LAST`` does the steps FIRST to LAST - 1 of a sequence that is always the same and
writes the number of each step to standard output once the ledger's call has returned. After whatever was done to the
program or its disk, the ledger must hold exactly what those steps make, or those and the one that was under way.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image_sync.domain import DatasetRef, Sighting, Stamp
from image_sync.errors import LedgerError
from image_sync.ledger import Ledger, open_ledger
from image_sync.ledger.database import FILE
from image_sync.ledger.lock import Lock

ROOT = b"/pictures"
DATASET = DatasetRef("d-1", "plates")
AIM = ("mvi", "http://server", "plates", "append", "plates")
EACH = 3  # pictures in a round
CYCLE = ("record", "clear", "claim", "answer") * 3 + ("begin", "started", "trained")


@dataclass(frozen=True, slots=True)
class Step:
    """One call, by its number."""

    number: int

    @property
    def kind(self) -> str:
        """Which call."""
        return CYCLE[self.number % len(CYCLE)]

    @property
    def round(self) -> int:
        """How many rounds of pictures came before it."""
        rounds, rest = divmod(self.number, len(CYCLE))
        return rounds * 3 + min(rest // 4, 2)

    @property
    def lap(self) -> int:
        """How many trainings came before it."""
        return self.number // len(CYCLE)

    @property
    def pictures(self) -> range:
        """The pictures of its round."""
        return range(self.round * EACH + 1, (self.round + 1) * EACH + 1)

    @property
    def category(self) -> str:
        """The category of its round."""
        return ("dark", "light")[self.round // 2 % 2]

    def fate(self, picture: int) -> str:
        """What the platform answers for a picture in this round: every fourth answer is that nothing arrived."""
        if self.round % 4 == 3:
            return "ready"
        return "refused" if (picture + self.round) % 7 == 0 else "confirmed"


@dataclass(slots=True)
class Diary:
    """What the ledger holds: by the steps, or as it was found."""

    pictures: dict[int, tuple[str, str, str, int, str]] = field(default_factory=dict)
    """Picture -> category, state, remote id, number of its batch (from 1), name of the training that counted it."""
    batches: list[str] = field(default_factory=list)
    runs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name -> state, task id."""
    cleared: int = 0

    def do(self, step: Step) -> None:
        """The step, as it ought to work."""
        name, task = f"run-{step.lap}", f"task-{step.lap}"
        match step.kind:
            case "record":
                self.pictures |= dict.fromkeys(step.pictures, (step.category, "ready", "", 0, ""))
            case "clear":
                self.cleared = max([self.cleared, *self._ready()])
            case "claim":
                self._claim()
            case "answer":
                self._answer(step)
            case "begin":
                self._begin(name)
            case "started":
                self.runs[name] = ("running", task)
            case "trained":
                self.runs[name] = ("trained", task)

    def _claim(self) -> None:
        waiting = [number for number in self._ready() if number <= self.cleared]
        if not waiting:
            return
        self.batches.append("sending")
        category = self.pictures[waiting[0]][0]
        for number in waiting:
            if self.pictures[number][0] == category:
                self.pictures[number] = (category, "claimed", "", len(self.batches), "")

    def _begin(self, name: str) -> None:
        self.runs[name] = ("starting", "")
        for number, (category, state, remote, batch, run) in self.pictures.items():
            if state == "confirmed" and not run:
                self.pictures[number] = (category, state, remote, batch, name)

    def _ready(self) -> list[int]:
        return [number for number, (_, state, *_) in self.pictures.items() if state == "ready"]

    def _answer(self, step: Step) -> None:
        if "sending" not in self.batches:
            return
        fates = set()
        for number, (category, state, _, batch, run) in self.pictures.items():
            if state == "claimed":
                fates.add(fate := step.fate(number))
                remote = f"r-{number}" if fate == "confirmed" else ""
                self.pictures[number] = (category, fate, remote, 0 if fate == "ready" else batch, run)
        self.batches[-1] = "released" if fates == {"ready"} else "confirmed"


def after(steps: int) -> Diary:
    """What the first so many steps make."""
    diary = Diary()
    for number in range(steps):
        diary.do(Step(number))
    return diary


def found(state: Path) -> Diary:
    """What the ledger in this folder holds; the test fails if it is damaged."""
    with closing(sqlite3.connect(state / FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        order = {key: at for at, (key,) in enumerate(db.execute("SELECT id FROM batch ORDER BY rowid"), 1)}
        batches = [word for (word,) in db.execute("SELECT state FROM batch ORDER BY rowid")]
        runs = {key: values for key, *values in db.execute("SELECT id, name, state, task_id FROM training")}
        question = "SELECT sha256, category, state, remote_id, batch_id, training_id FROM picture ORDER BY id"
        rows = db.execute(question).fetchall()
        cleared = db.execute("SELECT cleared_to FROM target").fetchone()
    return Diary(
        pictures={
            int(sha[:16], 16): (category, word, remote, order.get(batch, 0), runs[run][0] if run else "")
            for sha, category, word, remote, batch, run in rows
        },
        batches=batches,
        runs={name: (word, task) for name, word, task in runs.values()},
        cleared=cleared[0] if cleared else 0,
    )


def settled(state: Path, acknowledged: int) -> int:
    """How many steps the ledger holds: the acknowledged ones, or these and the one that was under way.

    The ledger is opened as the program does it, so that what SQLite has to roll back is rolled back.
    """
    aimed(state).close()
    seen = found(state)
    if seen == after(acknowledged):
        return acknowledged
    assert seen == after(acknowledged + 1), f"{acknowledged} steps were acknowledged, and this was found: {seen}"
    return acknowledged + 1


def aimed(state: Path) -> Ledger:
    """The ledger in this folder, ready for the steps."""
    with Lock(state) as lock:
        ledger = open_ledger(state, lock=lock)
    ledger.use_target(*AIM)
    if not ledger.target.dataset_id:
        ledger.dataset(DATASET)
    return ledger


class Writer:
    """Does the steps on a ledger."""

    def __init__(self, state: Path) -> None:
        self._file = state / FILE
        self._ledger = aimed(state)

    def do(self, step: Step) -> None:
        """The step; durable when this returns."""
        batches, runs = self._ledger.batches, self._ledger.trainings
        match step.kind:
            case "record":
                self._ledger.files.record(ROOT, [_sighting(step, number) for number in step.pictures])
            case "clear":
                batches.clear()
            case "claim":
                batches.claim(DATASET, 100, 1 << 30)
            case "answer":
                self._answer(step)
            case "begin":
                assert runs.begin(f"run-{step.lap}", "") is not None
            case "started":
                runs.started(self._run(), f"task-{step.lap}")
            case "trained":
                runs.trained(self._run(), 0.5)

    def _answer(self, step: Step) -> None:
        rows = self._ask("SELECT batch_id, id, sha256 FROM picture WHERE state = 'claimed'")
        fates = {key: (int(sha[:16], 16), step.fate(int(sha[:16], 16))) for _, key, sha in rows}
        stored = {key: f"r-{number}" for key, (number, fate) in fates.items() if fate == "confirmed"}
        refused = {key: "no" for key, (_, fate) in fates.items() if fate == "refused"}
        if rows:
            self._ledger.batches.confirm(rows[0][0], stored, refused)

    def _run(self) -> int:
        return int(self._ask("SELECT max(id) FROM training")[0][0])

    def _ask(self, question: str) -> list[Any]:
        with closing(sqlite3.connect(self._file)) as db:
            return db.execute(question).fetchall()


def _sighting(step: Step, number: int) -> Sighting:
    folder = ROOT + b"/" + step.category.encode()
    return Sighting(
        folder,
        b"%d.jpg" % number,
        Stamp(9, number, number, number),
        step.category,
        f"{number:016x}".ljust(64, "0"),
        "jpg",
    )


def main() -> int:
    """Do the steps; a failing ledger is told as the program tells it."""
    state, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    try:
        writer = Writer(state)
        for number in range(first, last):
            writer.do(Step(number))
            os.write(1, b"%d\n" % number)
    except LedgerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def said(output: Path, first: int = 0) -> int:
    """How many steps were acknowledged in all, by what the program wrote."""
    lines = output.read_text().split()
    assert lines == [str(number) for number in range(first, first + len(lines))]
    return first + len(lines)


if __name__ == "__main__":
    sys.exit(main())
