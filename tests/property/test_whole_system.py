"""Whatever happens to files, process and platform, in the end the platform has what the folders say, once.

The real watcher, ledger, uploader and trainer work on real files; only the platform and the clocks are made up. Run
``HYPOTHESIS_PROFILE=deep pytest tests/property`` for a long search.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from image_sync.errors import Ambiguous, NotFound, Refused, Transient
from support.model import MODEL_GRACE, UPLOAD_GRACE, World, digest

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
SEARCH = settings(
    max_examples=2000 if DEEP else 60,
    stateful_step_count=40 if DEEP else 20,
    derandomize=not DEEP,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

CATEGORIES = ("cat", "dog", "owl")
FOLDERS = (*CATEGORIES, "cat/deep", "dog/deep")


places = st.builds("{}/{}".format, st.sampled_from(FOLDERS), st.sampled_from(("a.jpg", "b.jpg", "c.png")))
numbers = st.integers(0, 9)
folders = st.sampled_from(FOLDERS)
afterwards = st.sampled_from(("", "look", "work", "work", "work"))
waits = st.sampled_from((1.0, 6.0, 20.0, UPLOAD_GRACE, UPLOAD_GRACE, 130.0, 400.0))
LOST = Ambiguous("the answer got lost")
OFFLINE = Transient("no connection")
CALLS = (
    *("sign_in", "find_dataset", "ensure_dataset", "count", "listing", "find", "copies", "upload", "relabel", "remove"),
    *("start_training", "find_trainings", "progress", "models_of", "model_of"),
)


class WholeSystem(RuleBasedStateMachine):
    """Files, crashes, faults and time in any order."""

    @initialize(
        upload=st.sampled_from((1, 1, 2, 4)),
        training=st.sampled_from((2, 3, 5)),
        deletions=st.sampled_from(("keep", "keep", "remove")),
        skip=st.sampled_from((True, True, True, False)),
        first=st.integers(2, 6),
        then=st.sampled_from(("", "work", "work")),
    )
    def begin(self, upload: int, training: int, deletions: str, skip: bool, first: int, then: str) -> None:
        self.world = World(upload=upload, training=training, deletions=deletions, skip_duplicates=skip)
        for number in range(first):
            self.world.put(f"{CATEGORIES[number % 2]}/a{number}.jpg", number)
        self.then(then)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.finish()
        finally:
            self.world.close()

    def then(self, what: str) -> None:
        """Let the process notice, or do all that it would."""
        if what == "look":
            self.world.look()
        elif what == "work":
            self.world.work()

    # Files.

    @rule(place=places, number=numbers, then=afterwards)
    def put(self, place: str, number: int, then: str) -> None:
        self.world.put(place, number)
        self.then(then)

    @rule(first=numbers, count=st.integers(2, 6), folder=folders, then=afterwards)
    def put_many(self, first: int, count: int, folder: str, then: str) -> None:
        for number in range(first, first + count):
            self.world.put(f"{folder}/n{number}.jpg", number)
        self.then(then)

    @rule(place=places, then=afterwards)
    def spoil(self, place: str, then: str) -> None:
        self.world.put(place, -1)
        self.then(then)

    @rule(how=st.sampled_from(("rename", "copy")), old=st.integers(0, 9), new=places, then=afterwards)
    def rename_or_copy(self, how: str, old: int, new: str, then: str) -> None:
        getattr(self.world, how)(self.world.some_file(old), new)
        self.then(then)

    @rule(old=st.integers(0, 9), then=afterwards)
    def delete(self, old: int, then: str) -> None:
        self.world.delete(self.world.some_file(old))
        self.then(then)

    @rule(how=st.sampled_from(("out", "in", "rename", "copy")), folder=folders, other=folders, then=afterwards)
    def tree(self, how: str, folder: str, other: str, then: str) -> None:
        world = self.world
        if how == "out":
            world.move_tree(world.root / folder, world.outside / "tree")
        elif how == "in":
            world.move_tree(world.outside / "tree", world.root / folder)
        elif how == "rename":
            world.move_tree(world.root / folder, world.root / other)
        else:
            world.copy_tree(folder, other)
        self.then(then)

    # Work and time.

    @rule(seconds=waits)
    def work(self, seconds: float) -> None:
        self.world.work()
        self.world.pass_time(seconds)
        self.world.work()

    @rule(seconds=waits)
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    # Crashes.

    @rule(reboot=st.booleans())
    def crash(self, reboot: bool) -> None:
        (self.world.reboot if reboot else self.world.crash)()

    @rule(steps=st.integers(1, 30), then=afterwards)
    def crash_soon(self, steps: int, then: str) -> None:
        self.world.fuse.left = steps
        self.then(then)

    # Faults.

    @rule(
        how=st.sampled_from(("before", "after", "late", "very late", "twice")),
        applied=st.sampled_from((None, None, 0, 1, 2)),
        times=st.sampled_from((1, 1, 3)),
        seconds=st.floats(1.0, UPLOAD_GRACE - 5),
    )
    def lose_answers(self, how: str, applied: int | None, times: int, seconds: float) -> None:
        remote = self.world.remote
        for _ in range(times):
            if how in {"before", "after"}:
                remote.fail_next("upload", LOST, after=how == "after", applied=applied)
            else:
                remote.trick_next(how.removeprefix("very "), seconds + (UPLOAD_GRACE if "very" in how else 0.0))

    @rule(method=st.sampled_from(CALLS), after=st.booleans(), times=st.sampled_from((1, 1, 3)))
    def fail(self, method: str, after: bool, times: int) -> None:
        repeatable = method not in {"upload", "start_training"}
        self.world.remote.fail_next(method, OFFLINE, after=after and repeatable, times=times)

    @rule(how=st.sampled_from(("before", "after", "late", "refused", "vanished")))
    def spoil_training(self, how: str) -> None:
        remote = self.world.remote
        if how == "late":
            remote.late_start_next(MODEL_GRACE - 10)
        elif how == "refused":
            remote.fail_next("start_training", Refused("not now"))
        elif how == "vanished":
            remote.fail_next("progress", NotFound("no such task"))
        else:
            remote.fail_next("start_training", LOST, after=how == "after")

    @rule(number=numbers, lag=st.sampled_from((0.0, 5.0, 12.0)))
    def refuse_or_lag(self, number: int, lag: float) -> None:
        self.world.remote.lag = lag
        if not lag:
            self.world.remote.cursed.add(digest(number))

    # What happens while a request is on its way.

    @rule(
        how=st.sampled_from(("help", "look", "reconcile", "put", "rename", "delete", "nothing")),
        old=st.integers(0, 9),
        new=places,
        number=numbers,
        look=st.booleans(),
    )
    def meanwhile(self, how: str, old: int, new: str, number: int, look: bool) -> None:
        world = self.world
        happens: dict[str, Callable[[], object]] = {
            "help": world.help,
            "look": world.look_meanwhile,
            "reconcile": world.reconcile_meanwhile,
            "put": lambda: world.put(new, number),
            "rename": lambda: world.rename(world.some_file(old), new),
            "delete": lambda: world.delete(world.some_file(old)),
            "nothing": lambda: None,
        }
        world.meanwhile.append(happens[how])
        if look:
            world.meanwhile.append(world.look_meanwhile)


TestWholeSystem: Any = WholeSystem.TestCase
TestWholeSystem.settings = SEARCH
TestWholeSystem = pytest.mark.timeout(14_400 if DEEP else 120)(TestWholeSystem)
