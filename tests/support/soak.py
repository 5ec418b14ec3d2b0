"""Kills the daemon again and again among faults and file actions, and compares the server with the folders.

The daemon and the server are only ever touched as a person could: signals, files, HTTP. The judge does not believe the
ledger: it reads the folders, downloads every picture from the server, and counts.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from image_sync.cli.session import ledger_of, settings_of
from image_sync.domain import TrainingState
from image_sync.ledger import exists
from image_sync.ledger.batches import PAUSES
from support.daemon import Daemon, Plant
from support.mvi_server import Caller
from support.pictures import jpeg
from support.stored import stored_contents

STRATEGY = {"max_iter": 20, "test_interval": 10, "learning_rate": 0.01}
UPLOADS = (
    *("500-before", "500-after", "lost-answer", "reset-body", "reset-answer", "429", "html", "truncated-json"),
    *("soft-fail", "soft-fail-after", "partial", "not-stored", "late", "listing-lag", "duplicate", "401"),
)
"""Kinds of faults that an upload may meet; most of them hit other requests, too."""
STARTS = ("401", "500-before", "500-after", "lost-answer", "reset-answer", "truncated-json", "late")
"""Kinds of faults that the start of a training may meet."""
_SECONDS = {"late": 0.5, "listing-lag": 0.7, "429": 0.5}
_MOST = 10_000


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        faults: share of the uploads that meet each kind of fault.
        threshold: pictures until a training is due; after each so many the folders rest until one has started.
        short, long: seconds that the daemon lives; long lives are a share of ``lasting``.
        grace: seconds after which an answer that got lost is no longer waited for; rescan: between two looks.
    """

    seed: int
    pictures: int = 10_000
    categories: int = 20
    faults: float = 0.05
    kills: int = 200
    threshold: int = 400
    short: tuple[float, float] = (0.3, 1.6)
    long: tuple[float, float] = (3.0, 5.0)
    lasting: float = 0.15
    grace: float = 2.0
    rescan: float = 3.0
    kinds: tuple[str, ...] = UPLOADS


@dataclass
class Outcome:
    """What came of it."""

    made: int = 0
    stored: int = 0
    missing: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    """Pictures that lie in two categories and were not sent before they did: a person has to decide, as promised."""
    double: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Pictures at the server that never lay in a folder."""
    due: int = 0
    started: int = 0
    training_faults: list[str] = field(default_factory=list)
    kills: int = 0
    own_ends: list[str] = field(default_factory=list)
    """How the daemon ended when nobody killed it."""
    refused: int = 0
    """Pictures that wait for a person at the end."""
    struck: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled, misplaced, and every due training was started, once."""
        bad = (self.missing, self.double, self.wrong, self.foreign, self.training_faults, self.own_ends)
        return not any(bad) and not self.refused and self.due == self.started

    def table(self, plan: Plan) -> str:
        """All of it for people, one figure a line."""
        rows = [
            ("seed", plan.seed),
            ("pictures made", self.made),
            ("at the server", self.stored),
            ("missing", len(self.missing)),
            ("held between categories", len(self.held)),
            ("double", len(self.double)),
            ("wrong category", len(self.wrong)),
            ("never in a folder", len(self.foreign)),
            ("trainings due", self.due),
            ("trainings started", self.started),
            ("training mistakes", len(self.training_faults)),
            ("kills", self.kills),
            ("ends of its own", len(self.own_ends)),
            ("refused for good", self.refused),
            *((f"file actions: {name}", count) for name, count in sorted(self.acts.items())),
            ("faults injected", sum(self.struck.values())),
            *((f"  {name}", count) for name, count in sorted(self.struck.items())),
            ("seconds", round(self.seconds)),
        ]
        lines = [f"{name:<28}{count:>8}" for name, count in rows]
        for name in ("missing", "double", "wrong", "foreign", "training_faults", "own_ends"):
            lines += [f"{name}: {one}" for one in getattr(self, name)[:10]]
        return "\n".join(lines)


class Hands:
    """Somebody who works in the folders: puts, moves, copies, rewrites and deletes pictures."""

    def __init__(self, root: Path, plan: Plan, luck: random.Random) -> None:
        self._root = root
        self._plan = plan
        self._luck = luck
        self._looks = [jpeg(seed) for seed in range(2 * plan.categories)]
        self._files: list[Path] = []
        self.ever: set[str] = set()
        """SHA-256 of everything that was ever put there."""
        self.made = 0
        self.acts: Counter[str] = Counter()

    def work(self, actions: int) -> None:
        """So many actions, most of them new pictures."""
        for _ in range(actions):
            drawn = self._luck.random()
            if drawn < 0.9 or len(self._files) < 10:
                if self.made < self._plan.pictures:
                    self.put()
                continue
            self._act(self._luck.choice(("move", "move", "rename", "rewrite", "copy", "delete")))

    def finish(self) -> None:
        """Put the pictures that are still to come."""
        while self.made < self._plan.pictures:
            self.put()

    def put(self) -> None:
        """A new picture."""
        path = self._somewhere()
        self._write(path)
        self._files.append(path)
        self.acts["put"] += 1

    def _act(self, what: str) -> None:
        at = self._luck.randrange(len(self._files))
        path = self._files[at]
        self.acts[what] += 1
        if what in {"move", "rename"}:
            to = self._somewhere() if what == "move" else path.with_name(f"r{self.made}-{path.name[-40:]}")
            path.rename(to)
            self._files[at] = to
        elif what == "rewrite":
            self._write(path)
        elif what == "copy":
            to = path.with_name(f"c{self.made}-{self._luck.randrange(1 << 30)}.jpg")
            shutil.copyfile(path, to)
            self._files.append(to)
        else:
            path.unlink()
            del self._files[at]

    def _somewhere(self) -> Path:
        category = self._luck.randrange(self._plan.categories)
        folder = self._root / f"c{category:02}" / self._luck.choice(("", "day1", "day2"))
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"p{self.made}-{self._luck.randrange(1 << 30)}.jpg"

    def _write(self, path: Path) -> None:
        # bytes after the end of a JPEG make pictures that differ, cheaply
        content = self._luck.choice(self._looks) + f"{self._plan.seed}-{self.made:08}".encode()
        self.ever.add(hashlib.sha256(content).hexdigest())
        path.write_bytes(content)
        self.made += 1


class Soak:
    """One run.

    Args:
        folder: for pictures, configuration and ledger.
        url: of an embedded server with nothing on it.
    """

    def __init__(self, plan: Plan, folder: Path, url: str, *, say: Any = None) -> None:
        self._plan = plan
        self._caller = Caller(url)
        self._url = url
        self._say = say or (lambda _text: None)
        self._luck = random.Random(plan.seed)
        self._pause = threading.Event()
        self.plant = Plant(
            folder,
            url,
            threshold={"upload": 1, "training": plan.threshold},
            model={"name": "soak", "strategy": STRATEGY, "grace": plan.grace, "poll": 0.2},
            upload={"grace": plan.grace, "batch_files": 5, "parallel": 4},
            watch={"settle": 0.2, "rescan": plan.rescan},
        )
        self._hands = Hands(self.plant.root, plan, self._luck)
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Kill, rest, kill, rest; then wait until it is quiet, and compare."""
        began = time.monotonic()
        plan, outcome = self._plan, self._outcome
        self._switch_on()
        rounds = max(1, plan.pictures // (plan.threshold + plan.threshold // 10))
        for number in range(rounds):
            lives = (number + 1) * plan.kills // rounds - outcome.kills - 1
            busy = max(1, lives - 2)
            for life in range(lives):
                # the last ones of a round find nothing new in the folders: that is when trainings start
                self._live_and_die(plan.pictures // rounds // busy + 1 if life < busy else 0)
            self._rest(number)
            if number % 5 == 4:
                words = f"{outcome.kills} kills, {self._hands.made} pictures, {len(self._tasks())} trainings"
                self._say(f"{words}, {time.monotonic() - began:.0f} s")
        self._switch_off()
        self._end_well()
        outcome.made, outcome.acts = self._hands.made, self._hands.acts
        self._compare()
        self._compare_trainings()
        outcome.seconds = time.monotonic() - began
        return outcome

    def _rest(self, number: int) -> None:
        """Nobody works in the folders, only starts of trainings fail, until one counts these pictures; then a kill."""
        self._switch_off()
        self._switch_on(starts=True)
        with self.plant.running() as daemon:
            deadline = time.monotonic() + 60
            while self._untrained() >= self._plan.threshold:
                if time.monotonic() > deadline:
                    self._outcome.training_faults.append(f"none started in 60 s after round {number + 1}")
                    break
                self._note_end(daemon)
                self._pause.wait(0.1)
            self._pause.wait(self._luck.random() / 2)
            daemon.kill()
            self._outcome.kills += 1
        self._switch_off()
        self._switch_on()

    def _untrained(self) -> int:
        """Pictures in the folders that no training has counted yet, as far as one can see from outside the ledger."""
        with ledger_of(settings_of(self.plant.config)) as ledger:
            tally = ledger.tally()
        return tally.untrained + tally.sending + tally.cleared + tally.ready

    def _tasks(self) -> list[dict[str, Any]]:
        """The server's trainings, oldest first; asked again where a fault struck."""
        while True:
            with suppress(ValueError, KeyError, requests.RequestException):
                answer = self._caller.call("GET", "/dltasks/")
                if answer.status_code == 200:
                    return sorted(answer.json(), key=lambda task: str(task["created_at"]))

    def _switch_on(self, *, starts: bool = False) -> None:
        """Let things go wrong: everywhere, or where trainings are started, much more often."""
        rate, kinds = (3 * self._plan.faults, STARTS) if starts else (self._plan.faults, self._plan.kinds)
        faults: list[dict[str, Any]] = [
            {"kind": kind, "rate": rate, **({"seconds": _SECONDS[kind]} if kind in _SECONDS else {})} for kind in kinds
        ]
        if starts:
            faults = [{**fault, "path": "^/dltasks$"} for fault in faults]
        else:
            # slow, but within the time that the daemon allows
            faults.append({"action": "slow", "probability": rate, "count": None, "seconds": 0.5})
        faults.append({"kind": "train-500", "rate": self._plan.faults})
        answer = self._caller.call("POST", "/_faults", json=faults)
        assert answer.status_code == 200, answer.text

    def _switch_off(self) -> None:
        """No more faults; those that struck are counted."""
        self._outcome.struck.update(self._caller.call("DELETE", "/_faults").json()["struck"])

    def _live_and_die(self, pictures: int) -> None:
        plan = self._plan
        life = self._luck.uniform(*(plan.long if self._luck.random() < plan.lasting or not pictures else plan.short))
        if self._luck.random() < 0.3:
            self._hands.work(pictures // 3)
            pictures -= pictures // 3
        with self.plant.running() as daemon:
            bursts = self._luck.randint(1, 4)
            for _ in range(bursts):
                self._pause.wait(life / bursts * self._luck.random())
                self._hands.work(pictures // bursts)
            self._pause.wait(life / 4 * self._luck.random())
            self._note_end(daemon)
            daemon.kill()
            self._outcome.kills += 1

    def _note_end(self, daemon: Daemon) -> None:
        code = daemon.process.poll()
        if code is not None:
            self._outcome.own_ends.append(f"exit code {code} after {self._outcome.kills} kills: {self._last_words()}")

    def _last_words(self) -> str:
        return " | ".join(self.plant.log().splitlines()[-3:])[-600:]

    def _end_well(self) -> None:
        """No more faults: the rest of the pictures, and what was refused comes again by itself, until it is quiet."""
        with self.plant.running() as daemon:
            self._hands.finish()
            self._wait_until_quiet(daemon)
            self._outcome.refused = self.plant.tally().refused
            assert daemon.stop() == 0

    def _wait_until_quiet(self, daemon: Daemon) -> None:
        """Until nothing has moved for longer than anything may take: graces, sweeps, looks at the folders."""
        calm = 2 * self._plan.grace + self._plan.rescan + 1.0
        deadline = time.monotonic() + 240 + PAUSES[3]  # a picture that was refused four times
        since: float | None = None
        last: object = None
        while since is None or time.monotonic() - since < calm:
            assert daemon.process.poll() is None, f"it ended: {self._last_words()}"
            assert time.monotonic() < deadline, f"it does not come to rest: {last} {self._last_words()}"
            self._pause.wait(0.25)
            standing = self._standing()
            if standing is None or standing != last:
                since = None if standing is None else time.monotonic()
            last = standing

    def _standing(self) -> object | None:
        """What does not change when it is quiet; None when work is left."""
        if not exists(self.plant.folder / "state"):
            return None
        with ledger_of(settings_of(self.plant.config)) as ledger:
            tally, census, runs = ledger.tally(), ledger.census(), ledger.trainings.history(_MOST)
            relabels, again = ledger.changes.relabels(1), ledger.batches.next_up()
        if again is not None:
            return None
        waiting = tally.ready or tally.cleared or tally.sending or tally.active or census.settling or relabels
        files = sum(len(names) for _, _, names in os.walk(self.plant.root))
        if waiting or census.total.found != files or tally.untrained >= self._plan.threshold:
            return None
        return tally.confirmed, tally.refused, tally.untrained, len(runs)

    # -- the judge

    def _compare(self) -> None:
        outcome = self._outcome
        on_disk: dict[str, set[str]] = {}
        for top, _, names in os.walk(self.plant.root):
            category = os.path.relpath(top, self.plant.root).split(os.sep)[0]
            for name in names:
                digest = hashlib.sha256((Path(top) / name).read_bytes()).hexdigest()
                on_disk.setdefault(digest, set()).add(category)
        at_server = stored_contents(self._url)
        outcome.stored = sum(map(len, at_server.values()))
        unsent = set(on_disk) - set(at_server)
        outcome.held = {digest for digest in unsent if len(on_disk[digest]) > 1}
        outcome.missing = sorted(unsent - outcome.held)
        outcome.double = sorted(digest for digest, files in at_server.items() if len(files) > 1)
        outcome.foreign = sorted(set(at_server) - self._hands.ever)
        outcome.wrong = [
            f"{file['original_file_name']} lies in {file.get('category_name')!r}, its file in {sorted(on_disk[digest])}"
            for digest, files in at_server.items()
            for file in files
            if digest in on_disk and file.get("category_name") not in on_disk[digest]
        ]

    def _compare_trainings(self) -> None:
        """The server's list against the ledger's, and both against what was there to be trained on.

        A training is due for every ``threshold`` pictures that were uploaded since the one before. The ledger says
        which pictures each one counted; the server says, independently, how many it had when the training was made.
        """
        outcome, threshold = self._outcome, self._plan.threshold
        tasks = self._tasks()
        with ledger_of(settings_of(self.plant.config)) as ledger:
            runs = [run for run in ledger.trainings.history(_MOST) if run.state is not TrainingState.REFUSED]
            untrained = ledger.tally().untrained
            with ledger._context.db.reading() as tx:
                rows = tx.exec_driver_sql(
                    "SELECT training_id, count(*) FROM picture WHERE training_id > 0 GROUP BY training_id"
                )
                counted = {run_id: count for run_id, count in rows}  # noqa: C416 - rows are not pairs to mypy
        outcome.started = len(tasks)
        outcome.due = len(runs) + untrained // threshold
        faults = outcome.training_faults
        names = Counter(task["name"] for task in tasks)
        faults += [f"{count} trainings are called {name}" for name, count in names.items() if count > 1]
        ids, known = {task["_id"] for task in tasks}, {run.task_id for run in runs}
        faults += [f"the ledger does not know the training {one}" for one in sorted(ids - known)]
        faults += [f"the server does not know the training {one}" for one in sorted(known - ids)]
        for run in runs:
            if counted.get(run.id, 0) < threshold:
                faults.append(f"{run.name} counts {counted.get(run.id, 0)} new pictures, not {threshold}")
        uploaded = sorted(
            file["uploaded_at"]
            for dataset in self._caller.get("/datasets")
            for file in self._caller.get(f"/datasets/{dataset['_id']}/files")
        )
        for number, task in enumerate(tasks, 1):
            there = sum(moment <= task["created_at"] for moment in uploaded)
            if there < number * threshold:
                faults.append(f"training {number} was made when {there} pictures were there")
        if len(tasks) > len(uploaded) // threshold:
            faults.append(f"{len(tasks)} trainings for {len(uploaded)} pictures")


def clear(folder: Path) -> None:
    """Remove what a run left."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
