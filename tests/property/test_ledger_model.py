"""The ledger alone against a model of it: places, pictures, batches and trainings in any order of calls.

The model is the rules of docs/decisions in a few lines: whose picture a file is, what may vanish, what may be sent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from image_sync.domain import Batch, BatchState, DatasetRef, PictureState, Sighting, Stamp, TrainingState
from image_sync.ledger import Ledger, open_ledger
from support import temporary

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
SEARCH = settings(
    max_examples=3000 if DEEP else 50,
    stateful_step_count=50 if DEEP else 30,
    derandomize=not DEEP,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

ROOT = b"/pictures"
DATASET = DatasetRef("d-1", "parts")
FOLDERS = (b"/pictures/cat", b"/pictures/dog", b"/pictures/dog/deep", b"/pictures")
CATEGORIES = ("cat", "dog", "owl")
READY, CLAIMED, CONFIRMED, REFUSED = (
    PictureState.READY,
    PictureState.CLAIMED,
    PictureState.CONFIRMED,
    PictureState.REFUSED,
)
UNSENT = (READY, REFUSED)

folders = st.sampled_from(FOLDERS)
names = st.sampled_from((b"a.jpg", b"b.jpg", b"c.jpg"))
contents = st.integers(0, 4)
shares = st.sampled_from((0.0, 0.5, 1.0))


class LedgerModel(RuleBasedStateMachine):
    """The ledger, and beside it what should be in it."""

    @initialize(skip=st.booleans())
    def begin(self, skip: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=temporary.FAST))
        self.skip = skip
        self.clock = 1_000_000.0
        self.setting = "parts"
        self.ledger = self.opened()
        self.category: dict[bytes, str | None] = {
            b"/pictures/cat": "cat",
            b"/pictures/dog": "dog",
            b"/pictures/dog/deep": "dog",
            b"/pictures": None,
        }
        self.files: dict[tuple[bytes, bytes], int | None] = {}
        """Sound files with a category and their content; None for others."""
        self.known: dict[int, PictureState] = {}
        self.runs: dict[int, int | None] = {}
        self.open: dict[str, set[int]] = {}
        self.doubtful: set[str] = set()
        self.run: int | None = None
        self.run_started = False
        self.stamps = 0

    def opened(self) -> Ledger:
        ledger = open_ledger(self.folder, skip_duplicates=self.skip, clock=self.tick)
        ledger.use_target("memory", "", self.setting, "append", self.setting)
        ledger.dataset(DATASET)
        return ledger

    def tick(self) -> float:
        self.clock += 1
        return self.clock

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.folder)

    # -- what the ledger holds

    def rows(self, statement: str) -> list[dict[str, Any]]:
        with self.ledger._context.db.reading() as tx:
            return [dict(row) for row in tx.exec_driver_sql(statement).mappings()]

    def pictures(self) -> dict[int, dict[str, Any]]:
        aim = self.ledger.target.id
        return {row["id"]: row for row in self.rows(f"SELECT * FROM picture WHERE target_id = {aim} ORDER BY id")}

    def places(self) -> dict[tuple[bytes, bytes], dict[str, Any]]:
        found = self.rows(
            "SELECT file.*, folder.path, folder.category FROM file JOIN folder ON folder.id = file.folder_id"
        )
        return {(row["path"], row["name"]): row for row in found}

    # -- files

    @rule(folder=folders, found=st.lists(st.tuples(names, contents), min_size=1, max_size=3))
    def see(self, folder: bytes, found: list[tuple[bytes, int]]) -> None:
        self.record(folder, [(name, content, "") for name, content in found])

    @rule(folder=folders, name=names)
    def see_broken(self, folder: bytes, name: bytes) -> None:
        self.record(folder, [(name, 0, "cut short")])

    def record(self, folder: bytes, found: list[tuple[bytes, int, str]]) -> None:
        category = self.category[folder]
        sightings = []
        for name, content, fault in found:
            self.stamps += 1
            stamp = Stamp(10 + content, self.stamps, self.stamps, 1)
            sha256 = "" if fault or category is None else _digest(content)
            sightings.append(Sighting(folder, name, stamp, category, sha256, "jpg", fault))
            self.files[folder, name] = None if fault or category is None else content
        self.ledger.files.record(ROOT, sightings)
        self.files_changed()

    @rule(folder=folders, gone=st.sets(names, min_size=1))
    def lose(self, folder: bytes, gone: set[bytes]) -> None:
        self.ledger.files.gone(folder, sorted(gone))
        for name in gone:
            self.files.pop((folder, name), None)
        self.files_changed()

    @rule(folder=folders, name=names, content=contents)
    def look_again(self, folder: bytes, name: bytes, content: int) -> None:
        self.ledger.files.look_again(folder + b"/" + name, _digest(content))
        if self.files.get((folder, name)) == content:
            del self.files[folder, name]
        self.files_changed()

    @rule(folder=folders, category=st.sampled_from((*CATEGORIES, None)))
    def recategorise(self, folder: bytes, category: str | None) -> None:
        if category == self.category[folder]:
            return
        self.ledger.files.recategorise(folder, category)
        mine = [place for place in self.files if place[0] == folder]
        for place in mine:
            if category is None:
                self.files[place] = None
            elif self.category[folder] is None:
                # not read before: forgotten, unless it was found broken
                row = self.places().get(place)
                assert row is None or row["state"] == "quarantined"
                if row is None:
                    del self.files[place]
        self.category[folder] = category
        self.files_changed()

    def files_changed(self) -> None:
        """Hold what became of the pictures against the rules: what may vanish, and what may appear."""
        now = self.pictures()
        held = Counter(row["picture_id"] for row in self.places().values() if row["role"])
        wanted = Counter(content for content in self.files.values() if content is not None)
        for picture_id, state in list(self.known.items()):
            if picture_id in now:
                assert held[picture_id] or state not in UNSENT, "an unsent picture without a file"
            else:
                assert state in UNSENT, "what was sent was forgotten"
                del self.known[picture_id], self.runs[picture_id]
        for picture_id, row in now.items():
            if picture_id not in self.known:
                assert row["state"] == (PictureState.HELD if picture_id in self.contradicted() else READY)
                assert held[picture_id], "a new picture without a file"
                self.known[picture_id], self.runs[picture_id] = READY, None
        for content, count in wanted.items():
            mine = [picture_id for picture_id, row in now.items() if row["sha256"] == _digest(content)]
            assert (len(mine) == 1) if self.skip else (len(mine) >= count)

    def contradicted(self) -> set[int]:
        """Pictures whose files lie in two categories."""
        return {row["picture_id"] for row in self.places().values() if row["role"] == "conflict"}

    # -- sending

    @rule()
    def clear(self) -> None:
        self.ledger.batches.clear()

    @rule(files=st.integers(1, 4), size=st.sampled_from((1, 25, 1000)))
    def claim(self, files: int, size: int) -> None:
        (cleared,) = self.rows(f"SELECT cleared_to FROM target WHERE id = {self.ledger.target.id}")
        before = self.pictures()
        ready = {number for number in before if self.known[number] == READY} - self.contradicted()
        waiting = [number for number in before if number in ready and number <= cleared["cleared_to"]]
        batch = self.ledger.batches.claim(DATASET, files, size)
        if batch is None:
            assert not waiting
            return
        chosen = [item.picture_id for item in batch.pictures]
        assert chosen[0] == waiting[0], "not the oldest first"
        assert set(chosen) <= set(waiting)
        assert len(chosen) <= files
        assert len(chosen) == 1 or sum(item.size for item in batch.pictures) <= size
        for item in batch.pictures:
            head, _, name = item.path.rpartition(b"/")
            assert _digest(self.files[head, name]) == item.sha256
            assert self.category[head] == batch.category
            self.known[item.picture_id] = CLAIMED
        self.open[batch.id] = set(chosen)

    def one(self, number: int) -> str:
        return sorted(self.open)[number % len(self.open)]

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9), stored=shares, refused=shares)
    def answer(self, which: int, stored: float, refused: float) -> None:
        batch_id = self.one(which)
        held = sorted(self.open[batch_id])
        there = {number: f"r-{number}" for number in held[: round(len(held) * stored)]}
        rest = held[len(there) :]
        reasons = dict.fromkeys(rest[: round(len(rest) * refused)], "no picture")
        self.ledger.batches.confirm(batch_id, there, reasons)
        self.ended(batch_id, set(there), set(reasons))

    @precondition(lambda self: set(self.open) - self.doubtful)
    @rule(which=st.integers(0, 9))
    def release(self, which: int) -> None:
        batch_id = self.one(which)
        if batch_id not in self.doubtful:
            self.ledger.batches.release(batch_id)
            self.ended(batch_id, set(), set())

    def ended(self, batch_id: str, stored: set[int], refused: set[int]) -> None:
        held = {row["picture_id"] for row in self.places().values() if row["role"]}
        now = self.pictures()
        for number in self.open.pop(batch_id):
            if number in stored:
                self.known[number] = CONFIRMED
            elif number not in held:
                assert number not in now, "neither at the platform nor on the disk, and still in the ledger"
                del self.known[number], self.runs[number]
            else:
                given_up = now[number]["state"] == REFUSED and now[number]["attempts"] >= 5
                self.known[number] = REFUSED if number in refused or given_up else READY
        self.doubtful.discard(batch_id)

    @precondition(lambda self: set(self.open) - self.doubtful)
    @rule(which=st.integers(0, 9))
    def doubt(self, which: int) -> None:
        batch_id = self.one(which)
        if batch_id not in self.doubtful:
            self.ledger.batches.doubt(batch_id, not_before=0)
            self.doubtful.add(batch_id)

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = self.opened()
        in_doubt = self.ledger.batches.doubt_all(not_before=0)
        assert in_doubt == len(set(self.open) - self.doubtful)
        self.doubtful = set(self.open)
        self.ledger.trainings.doubt_all(not_before=0)

    @rule()
    def retry(self) -> None:
        refused = [number for number, state in self.known.items() if state == REFUSED]
        assert self.ledger.changes.requeue_refused() == len(refused)
        self.known |= dict.fromkeys(refused, READY)

    @rule()
    def relabel(self) -> None:
        now = self.pictures()
        changes = self.ledger.changes.relabels(100)
        assert {change.picture_id: change.category for change in changes} == {
            number: row["category"]
            for number, row in now.items()
            if row["state"] == CONFIRMED and row["category"] != row["sent_category"]
        }
        self.ledger.changes.relabelled(changes)
        assert self.ledger.changes.relabels(100) == []

    @rule(done=st.booleans())
    def remove(self, done: bool) -> None:
        held = {row["picture_id"] for row in self.places().values() if row["role"]}
        chores = self.ledger.changes
        owed = set(chores.removals(100))
        for item in chores.orphans(before=self.clock + 1, limit=100).pictures:
            assert item.picture_id not in held
            assert self.known.pop(item.picture_id) == CONFIRMED
            del self.runs[item.picture_id]
            chores.forget(item.picture_id, [f"r-{item.picture_id}"])
            owed.add(f"r-{item.picture_id}")
        assert set(chores.removals(100)) == owed
        for remote_id in owed if done else ():
            chores.removed(remote_id)
        assert set(chores.removals(100)) == (set() if done else owed)

    @rule()
    def remove_what_came_back(self) -> None:
        held = {row["picture_id"] for row in self.places().values() if row["role"]}
        owed = self.ledger.changes.removals(100)
        for number in held:
            self.ledger.changes.forget(number, [f"r-{number}"])
        assert self.ledger.changes.removals(100) == owed

    @precondition(lambda self: not self.open and self.run is None)
    @rule(forget=st.booleans())
    def go_elsewhere_and_back(self, forget: bool) -> None:
        """Another dataset for a while; files may go in the meantime."""
        here = self.setting
        self.ledger.use_target("memory", "", "other", "append", "other")
        if forget:
            for folder, name in list(self.files):
                self.ledger.files.gone(folder, [name])
            self.files.clear()
        self.ledger.use_target("memory", "", here, "append", here)
        self.files_changed()

    # -- training

    @rule()
    def begin_training(self) -> None:
        begun = self.ledger.trainings.begin(f"model-{self.tick():.0f}", "")
        if self.open or self.run is not None:
            assert begun is None
            return
        assert begun is not None
        self.run, self.run_started = begun.id, False
        confirmed = [number for number, state in self.known.items() if state == CONFIRMED]
        assert begun.pictures == len(confirmed)
        for number in confirmed:
            self.runs[number] = self.runs[number] or begun.id

    @precondition(lambda self: self.run is not None)
    @rule(how=st.sampled_from(("started", "started", "doubt", "refused", "abandon", "trained", "failed")))
    def go_on_training(self, how: str) -> None:
        assert self.run is not None
        runs, state = self.ledger.trainings, self.ledger.trainings.active()
        assert state is not None
        if how in {"trained", "failed"}:
            if not self.run_started:
                return
            if how == "trained":
                runs.trained(self.run, None)
            else:
                runs.failed(self.run, "no")
                self.runs = {number: None if run == self.run else run for number, run in self.runs.items()}
            self.run = None
        elif self.run_started:
            return
        elif how == "started":
            runs.started(self.run, f"t-{self.run}")
            self.run_started = True
        elif how == "doubt":
            if state.state is TrainingState.STARTING:
                runs.doubt(self.run, not_before=0)
        else:
            (runs.refused(self.run, "no") if how == "refused" else runs.abandon(self.run))
            self.runs = {number: None if run == self.run else run for number, run in self.runs.items()}
            self.run = None

    # -- what must hold at any time

    @invariant()
    def every_file_is_something_to_its_picture(self) -> None:
        if not hasattr(self, "ledger"):
            return
        pictures, places = self.pictures(), self.places()
        assert set(places) == set(self.files)
        owners: Counter[int] = Counter()
        for place, row in places.items():
            content = self.files[place]
            assert row["category"] == self.category[place[0]]
            if content is None:
                assert (row["role"], row["picture_id"]) == ("", None)
                continue
            mine = pictures[row["picture_id"]]
            assert mine["sha256"] == _digest(content)
            owners[mine["id"]] += row["role"] == "owner"
            if row["role"] == "owner":
                assert mine["category"] == row["category"]
                assert mine["orphaned_at"] is None
            else:
                assert self.skip
                assert row["role"] == ("duplicate" if mine["category"] == row["category"] else "conflict")
        held = {row["picture_id"] for row in places.values() if row["picture_id"]}
        assert all(owners[number] == 1 for number in held), "a picture has not exactly one owner"
        assert all(
            row["state"] not in (*UNSENT, PictureState.HELD) for number, row in pictures.items() if number not in held
        )

    @invariant()
    def states_and_counts_are_what_they_should_be(self) -> None:
        if not hasattr(self, "ledger"):
            return
        contradicted = self.contradicted()
        for number, row in self.pictures().items():
            held = self.known[number] == READY and number in contradicted
            assert row["state"] == (PictureState.HELD if held else self.known[number])
        assert set(self.pictures()) == set(self.known)
        assert {number: row["training_id"] for number, row in self.pictures().items()} == self.runs
        states = Counter(state for n, state in self.known.items() if state != READY or n not in contradicted)
        tally = self.ledger.tally()
        assert tally.ready + tally.cleared == states[READY]
        assert (tally.sending, tally.confirmed, tally.refused) == (states[CLAIMED], states[CONFIRMED], states[REFUSED])
        assert sum(tally.trainable.values()) == states[CONFIRMED]
        untrained = [n for n, state in self.known.items() if state == CONFIRMED and self.runs[n] is None]
        assert tally.untrained == len(untrained)
        in_doubt = {batch.id: batch for batch, _ in self.ledger.batches.doubtful()}
        assert set(in_doubt) == self.doubtful
        assert all(_held(batch) == self.open[batch.id] for batch in in_doubt.values())
        sending = {row["id"] for row in self.rows("SELECT id, state FROM batch") if row["state"] == BatchState.SENDING}
        assert sending == set(self.open) - self.doubtful


def _digest(content: int | None) -> str:
    return hashlib.sha256(f"{content}".encode()).hexdigest()


def _held(batch: Batch) -> set[int]:
    return {item.picture_id for item in batch.pictures}


TestLedgerModel: Any = LedgerModel.TestCase
TestLedgerModel.settings = SEARCH
TestLedgerModel = pytest.mark.timeout(7_200 if DEEP else 120)(TestLedgerModel)
