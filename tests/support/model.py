"""A small world for whole-system tests: real files, real stages stepped by hand, and a platform that plays tricks.

Everything random is decided by whoever drives it; clocks only move when told to. The oracle is short: what lies on the
disk, what the platform stored, and what was ever confirmed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from image_sync.backoff import Backoff
from image_sync.config.model import Model as TrainingSettings
from image_sync.domain import Batch, DatasetRef, Picture, PictureState, RemotePicture, Tally, TrainingState
from image_sync.errors import Ambiguous, ImageSyncError, Refused
from image_sync.ledger import Ledger, open_ledger
from image_sync.platforms.base import Outcome, Platform, Reader, TrainingPlan
from image_sync.reconcile.stage import Reconciler
from image_sync.tracker import Thresholds, training_verdict
from image_sync.trainer.start import Trainer
from image_sync.upload import Uploader, UploadRules
from image_sync.watcher.rules import Rules
from image_sync.watcher.watcher import Watcher
from support import temporary
from support.memory import MemoryPlatform, parts
from support.pictures import jpeg

DATASET = "parts"
UPLOAD_GRACE, MODEL_GRACE = 60.0, 90.0
DAY = 86_400.0

_PLAIN = jpeg(1)


def content(number: int) -> bytes:
    """A sound picture; each has a length of its own, so that a rewritten file never has its old stamp."""
    return _PLAIN + b"x" * (number + 1)


def digest(number: int) -> str:
    """The SHA-256 of that picture."""
    return hashlib.sha256(content(number)).hexdigest()


CUT = _PLAIN[:-2]
"""A picture that is cut short."""


class Crash(BaseException):
    """The process ends here, without another word: what a SIGKILL is to a process."""


class Fuse:
    """Ends the process at the n-th step of those that matter: transactions of the ledger, calls of the platform."""

    def __init__(self) -> None:
        self.left: int | None = None
        """Steps until the process ends; None: it does not."""
        self.at = ""
        """Or the step at which it ends, such as ``after upload``."""
        self.steps: list[str] = []
        """Every step that was come by, for tests that crash at each of them."""

    def burn(self, step: str) -> None:
        """One step; raises Crash at the chosen one."""
        self.steps.append(step)
        if self.left is not None:
            self.left -= 1
        if step == self.at or self.left == 0:
            self.defuse()
            raise Crash(step)

    def defuse(self) -> None:
        """The process lives on."""
        self.left, self.at = None, ""


@dataclass
class _Late:
    due: float
    carry_out: Callable[[], object]


class Remote(MemoryPlatform):
    """The platform: outlives every process. Carries requests out late, twice or in part, and lists with a lag.

    Args:
        clock: Unix time.
        on_disk: the SHA-256 of every file that lies in the folders now.
    """

    def __init__(self, clock: Callable[[], float], on_disk: Callable[[], set[str]]) -> None:
        super().__init__(clock=clock, steps=2)
        self.traits = replace(self.traits, min_categories=1, min_pictures=1)
        self._on_disk = on_disk
        self._tricks: list[tuple[str, float]] = []
        self._late: list[_Late] = []
        self._late_starts: list[float] = []
        self.lag = 0.0
        """Seconds after which a stored picture can be found."""
        self.cursed: set[str] = set()
        """SHA-256 of pictures that are refused, with the whole request they are in."""
        self.asked: set[str] = set()
        """SHA-256 of all that was ever sent, whatever became of it."""
        self.strays: set[str] = set()
        """SHA-256 of all that arrived after everybody had given up on it."""
        self.plans: dict[str, TrainingPlan] = {}
        """Task id -> what was started."""

    def trick_next(self, kind: str, seconds: float = 0.0) -> None:
        """What happens to the next upload: ``late`` by so many seconds, or ``twice``."""
        self._tricks.append((kind, seconds))

    def late_start_next(self, seconds: float) -> None:
        """The next training starts so many seconds after its answer was lost."""
        self._late_starts.append(seconds)

    def calm(self) -> None:
        """No more faults of any kind; what is under way arrives when it is due."""
        self._faults.clear()
        self._tricks.clear()
        self._late_starts.clear()
        self.cursed.clear()
        self.lag = 0.0

    @property
    def next_delivery(self) -> float | None:
        """When (Unix time) the next late request is carried out."""
        return min((late.due for late in self._late), default=None)

    def deliver(self) -> None:
        """Carry out what is due by now."""
        now = self._clock()
        for late in [late for late in self._late if late.due <= now]:
            self._late.remove(late)
            faults, self._faults = self._faults, {}  # those are for who waits for an answer
            with suppress(ImageSyncError):
                late.carry_out()
            self._faults = faults

    def upload(self, batch: Batch, read: Reader) -> list[Outcome]:
        """Every picture must be what lies on the disk at this moment."""
        contents = {picture.sha256: self._content(picture, read) for picture in batch.pictures}
        self.asked |= contents.keys()
        if self.cursed & contents.keys():
            raise Refused("one of these is no picture")
        kind, seconds = self._tricks.pop(0) if self._tricks else ("", 0.0)
        if kind == "late":
            arrive = super().upload
            self._late.append(
                _Late(self._clock() + seconds, lambda: arrive(batch, lambda picture: contents[picture.sha256]))
            )
            if seconds > UPLOAD_GRACE:
                self.strays |= contents.keys()
            raise Ambiguous("the request timed out")
        if kind == "twice":
            super().upload(batch, lambda picture: contents[picture.sha256])
        return super().upload(batch, lambda picture: contents[picture.sha256])

    def find(self, batch: Batch) -> dict[str, str]:
        """By key; of several copies the oldest; nothing that is too new to be listed."""
        found = super().find(batch)
        hidden = self._hidden(batch.dataset)
        return {key: remote_id for key, remote_id in found.items() if remote_id not in hidden}

    def copies(self, batch: Batch) -> dict[str, list[RemotePicture]]:
        """By key, oldest first; nothing that is too new to be listed."""
        hidden = self._hidden(batch.dataset)
        found = super().copies(batch)
        seen = {key: [one for one in several if one.remote_id not in hidden] for key, several in found.items()}
        return {key: several for key, several in seen.items() if several}

    def listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:
        """Newest first; nothing that is too new to be listed."""
        hidden = self._hidden(dataset)
        return (one for one in super().listing(dataset) if one.remote_id not in hidden)

    def start_training(self, plan: TrainingPlan) -> str:
        """Started now, or later than its caller knows."""
        if self._late_starts:
            due = self._clock() + self._late_starts.pop(0)
            self._late.append(_Late(due, lambda: self._begin(plan)))
            raise Ambiguous("the request timed out")
        return self._begin(plan)

    def _begin(self, plan: TrainingPlan) -> str:
        known = set(self._trainings)
        try:
            return super().start_training(plan)
        finally:
            self.plans |= dict.fromkeys(set(self._trainings) - known, plan)

    @property
    def stored(self) -> list[tuple[str, str, str]]:
        """(category, SHA-256, key) of all that the platform has, sorted."""
        return sorted(
            (one.picture.category, one.sha256, one.picture.key)
            for dataset in self._datasets.values()
            for one in dataset.pictures.values()
        )

    @property
    def ids(self) -> dict[str, str]:
        """Id -> SHA-256 of all that the platform has."""
        return {
            remote_id: one.sha256 for dataset in self._datasets.values() for remote_id, one in dataset.pictures.items()
        }

    def _content(self, item: Picture, read: Reader) -> bytes:
        pieces = read(item)
        sent = pieces if isinstance(pieces, bytes) else b"".join(pieces)
        digest = hashlib.sha256(sent).hexdigest()
        assert digest == item.sha256
        assert digest in self._on_disk(), "bytes were sent that lie in no file"
        return sent

    def _hidden(self, dataset: DatasetRef) -> set[str]:
        if not self.lag or dataset.id not in self._datasets:
            return set()
        stored = self._datasets[dataset.id].pictures.values()
        new = self._clock() - self.lag
        return {one.picture.remote_id for one in stored if (one.picture.uploaded_at or 0.0) > new}


class _Doorway:
    """One process's way to the platform: each call can be the last thing that the process does."""

    def __init__(self, remote: Remote, fuse: Fuse, meanwhile: Callable[[], None]) -> None:
        self._remote = remote
        self._fuse = fuse
        self._meanwhile = meanwhile
        self.traits = remote.traits
        self.pictures, self.trainings, self.models = parts(self)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._remote, name)

        def call(*arguments: Any) -> Any:
            self._fuse.burn(f"before {name}")
            if name == "upload":
                self._meanwhile()
            answer = method(*arguments)
            self._fuse.burn(f"after {name}")
            if name == "upload":
                self._meanwhile()
            return answer

        return call


class Process:
    """One life of the daemon: its parts as ``daemon/assemble.py`` puts them together, on clocks of the world's."""

    def __init__(self, world: World) -> None:
        self.stop = threading.Event()
        self.ledger = _opened(world)
        remote = cast("Platform", _Doorway(world.remote, world.fuse, world.between))
        thresholds = Thresholds(
            upload=world.upload_threshold,
            training=world.training_threshold,
            quiet=5,
            max_wait=30,
            min_categories=1,
            min_pictures=1,
        )
        self.thresholds = thresholds
        self.ledger.files.keep_roots([os.fsencode(world.root)])
        backoff = Backoff(self.ledger.trouble, clock=world.monotonic)
        self.reconciler = Reconciler(
            self.ledger,
            remote,
            self.stop,
            backoff,
            grace=UPLOAD_GRACE,
            remove_after=20.0 if world.deletions == "remove" else None,
            clock=world.clock,
        )
        rules = UploadRules(batch_files=3, grace=UPLOAD_GRACE)
        self.uploader = Uploader(self.ledger, remote, thresholds, rules, self.stop, backoff, clock=world.clock)
        training = TrainingSettings(name="parts", grace=MODEL_GRACE, poll=1.0, deadline=300 * DAY, **world.training)
        self.trainer = Trainer(self.ledger, remote, thresholds, training, self.stop, backoff, clock=world.clock)
        watching = Rules(settle=0.0, poll=1.0, rescan=10.0, mode="polling", annotations=world.annotations)
        self.watcher = Watcher(
            [os.fsencode(world.root)], self.ledger.files, watching, self.stop, lambda: None, clock=world.clock
        )
        self.ledger.batches.doubt_all(not_before=world.clock() + UPLOAD_GRACE)
        self.ledger.trainings.doubt_all(not_before=world.clock() + MODEL_GRACE)
        self.watcher.start()

    def leave(self) -> None:
        """What remains of it is nothing: files and sockets are closed by the system, nothing is finished."""
        self.watcher.close()
        self.ledger.close()


def _opened(world: World) -> Ledger:
    ledger = open_ledger(
        world.state, skip_duplicates=world.skip_duplicates, annotations=world.annotations, clock=world.clock
    )
    database: Any = ledger._context.db
    plainly = database.writing

    @contextmanager
    def writing() -> Iterator[Any]:
        world.fuse.burn("before a transaction")
        with plainly() as transaction:
            yield transaction
            world.fuse.burn("inside a transaction")
        world.fuse.burn("after a transaction")

    database.writing = writing
    try:
        ledger.use_target("memory", "", DATASET, "append", DATASET)
    except BaseException:
        ledger.close()
        raise
    return ledger


class World:
    """Folders, a platform and a process between them that may end at any moment.

    Args:
        deletions: ``keep`` or ``remove``.
        folder: where it lives; a temporary one that goes with it if not given.
    """

    training: Mapping[str, Any] = MappingProxyType({})
    """What else the section ``model`` says."""
    annotations: Literal["optional", "none"] = "none"
    """The setting of that name."""

    def __init__(
        self,
        *,
        upload: int = 1,
        training: int = 3,
        deletions: str = "keep",
        skip_duplicates: bool = True,
        folder: Path | None = None,
    ) -> None:
        self.upload_threshold = upload
        self.training_threshold = training
        self.deletions = deletions
        self.skip_duplicates = skip_duplicates
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(dir=temporary.FAST))
        self.root = self.folder / "pictures"
        self.outside = self.folder / "outside"
        self.state = self.folder / "state"
        # an empty root would be taken for an unmounted share
        (self.root / "empty").mkdir(parents=True)
        self.outside.mkdir()
        self.now, self.unix = 1000.0, 1_000_000.0
        self.fuse = Fuse()
        self.remote = Remote(self.clock, lambda: set(self.live().values()))
        self.meanwhile: list[Callable[[], object]] = []
        """What happens while the next upload is on its way."""
        self.confirmed: dict[int, str] = {}
        """Every picture of the ledger that was ever confirmed: its id and its SHA-256."""
        self.crashes = 0
        self.process: Process = self._born()

    def monotonic(self) -> float:
        return self.now

    def clock(self) -> float:
        """Unix time."""
        return self.unix

    # The disk.

    def put(self, place: str, number: int) -> None:
        """The ``number``-th picture at ``category/name``; a negative one is cut short."""
        path = self.root / place
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(number) if number >= 0 else CUT)

    def rename(self, old: str, new: str) -> None:
        """Move one file, over another if there is one."""
        with suppress(OSError):
            (self.root / new).parent.mkdir(parents=True, exist_ok=True)
            (self.root / old).rename(self.root / new)

    def copy(self, old: str, new: str) -> None:
        """Copy one file."""
        with suppress(OSError):
            (self.root / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / old, self.root / new)

    def delete(self, place: str) -> None:
        """Delete one file."""
        with suppress(OSError):
            (self.root / place).unlink()

    def some_file(self, number: int) -> str:
        """One of the pictures that lie in the folders, as ``category/.../name``."""
        files = sorted(self.live())
        return files[number % len(files)] if files else "cat/none.jpg"

    def move_tree(self, old: Path, new: Path) -> None:
        """Move a whole folder, if there is none at its new place."""
        with suppress(OSError):
            if not new.exists():
                new.parent.mkdir(parents=True, exist_ok=True)
                old.rename(new)

    def copy_tree(self, old: str, new: str) -> None:
        """Copy a whole folder into another."""
        with suppress(OSError, shutil.Error):
            shutil.copytree(self.root / old, self.root / new, dirs_exist_ok=True)

    def live(self) -> dict[str, str]:
        """``category/.../name`` -> SHA-256 of every sound picture that lies in the folders now."""
        found = {}
        for top, _, names in os.walk(self.root):
            for name in names:
                raw = (Path(top) / name).read_bytes()
                if raw != CUT and not name.endswith(".xml"):
                    found[str((Path(top) / name).relative_to(self.root))] = hashlib.sha256(raw).hexdigest()
        return found

    # The process.

    def pass_time(self, seconds: float) -> None:
        """Both clocks go on; what was late arrives when it is due."""
        end = self.unix + seconds
        while (due := self.remote.next_delivery) is not None and due <= end:
            self._advance(max(due - self.unix, 0.0))
            self.remote.deliver()
        self._advance(end - self.unix)

    def _advance(self, seconds: float) -> None:
        self.now += seconds
        self.unix += seconds

    def look(self, times: int = 2) -> None:
        """The watcher takes note of everything that is there, and, the second time, of what is gone."""
        for _ in range(times):
            self.pass_time(1.1)
            self._do(self._watch)

    def send(self) -> None:
        """Reconciler and uploader work until they want to rest."""
        self._do(lambda: self._until_rest(self.process.reconciler.step))
        self._do(lambda: self._until_rest(self.process.uploader.step))

    def work(self) -> None:
        """Everything that the process would do by itself within a few seconds."""
        self.look()
        self.send()  # it begins to wait for quiet
        self.pass_time(6.0)
        self.send()
        self.train()

    def train(self) -> None:
        """The trainer works until it wants to rest."""
        self._do(lambda: self._until_rest(self.process.trainer.step))

    def between(self) -> None:
        """While a request is on its way the rest of the world goes on: one thing before it arrives, one after."""
        happening, self.meanwhile = self.meanwhile[:2], self.meanwhile[2:]
        for happens in happening:
            happens()

    def help(self) -> None:
        """Another thread of the uploader's pool sends one batch."""
        self.process.uploader.help(self.now)

    def reconcile_meanwhile(self) -> None:
        """The reconciler's thread takes a turn."""
        self.process.reconciler.step(self.now)

    def look_meanwhile(self) -> None:
        """The watcher's thread takes a look."""
        for _ in range(2):
            self.now += 1.1
            self._watch()

    def crash(self) -> None:
        """The process is gone, and a new one is started; the machine may have been booted, too."""
        self.crashes += 1
        self.fuse.defuse()
        self.meanwhile.clear()
        self.process.leave()
        self.process = self._born()

    def reboot(self) -> None:
        """As :meth:`crash`; the monotonic clock begins anew."""
        self.now = 10.0
        self.crash()

    def _born(self) -> Process:
        while True:
            try:
                return Process(self)
            except Crash:
                self.crashes += 1

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (Crash, ImageSyncError):
            self.crash()
        self._notice()

    def _watch(self) -> None:
        for _ in range(100):
            if self.process.watcher.step(self.now) > 0:
                return
        raise AssertionError("the watcher does not come to rest")

    def _until_rest(self, step: Callable[[float], float]) -> None:
        for _ in range(200):
            if step(self.now) > 0:
                return
            self._notice()
        raise AssertionError("the stage does not come to rest")

    # What is checked.

    def _notice(self) -> None:
        for row in self.pictures():
            if row["state"] == PictureState.CONFIRMED:
                self.confirmed[row["id"]] = row["sha256"]

    def pictures(self) -> list[dict[str, Any]]:
        """The ledger's pictures, as they are stored."""
        return self._rows("SELECT * FROM picture ORDER BY id")

    def runs(self) -> list[dict[str, Any]]:
        """The ledger's trainings, as they are stored."""
        return self._rows("SELECT * FROM training ORDER BY id")

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        with self.process.ledger._context.db.reading() as tx:
            return [dict(row) for row in tx.exec_driver_sql(statement).mappings()]

    @property
    def tally(self) -> Tally:
        """The counts of the ledger."""
        return self.process.ledger.tally()

    def settle(self) -> None:
        """No more faults; time goes by until nothing can change any more."""
        self.fuse.defuse()
        self.meanwhile.clear()
        self.remote.calm()
        ladder = (5.0, UPLOAD_GRACE + 10, 350.0)
        rung = 0
        for _ in range(200):
            before = self._standing()
            self.pass_time(ladder[rung])
            self.look(times=1 if rung else 2)
            self.send()
            self.train()
            rung = rung + 1 if self._standing() == before else 0
            if rung < len(ladder):
                continue
            rung = 0
            if self.tally.sending:  # absence is believed after the grace time, and at the second look
                continue
            if not (sweeps := self._rows("SELECT sweep_at FROM batch WHERE sweep_at IS NOT NULL")):
                return
            self.pass_time(max(0.0, max(row["sweep_at"] for row in sweeps) - self.unix))
        raise AssertionError("it does not come to rest")

    def _standing(self) -> tuple[object, ...]:
        return self.remote.stored, self.pictures(), self.runs(), self._rows("SELECT id, state, sweep_at FROM batch")

    def finish(self) -> None:
        """Quiet; then everything that was set aside is sent, as a person would have it, and quiet again."""
        self.settle()
        self.check(complete=False)
        self.upload_threshold = 1
        self.crash()
        self.process.ledger.changes.requeue_refused()
        self.settle()
        self.check(complete=True)

    def check(self, *, complete: bool) -> None:
        """Hold the platform against the folders. ``complete``: nothing may be left waiting for a threshold."""
        tally = self.tally
        files: dict[str, list[str]] = {}
        for place, digest in self.live().items():
            files.setdefault(digest, []).append(place.split("/")[0])
        stored = self.remote.stored
        copies = Counter(digest for _, digest, _ in stored)
        assert len({key for _, _, key in stored}) == len(stored), f"one key twice: {stored}"
        assert tally.sending == tally.cleared == 0, tally
        unsent = tally.ready + tally.refused
        assert not complete or unsent == 0, tally
        unsent += sum(row["state"] == PictureState.HELD for row in self.pictures())
        assert tally.ready < self.upload_threshold, tally

        missing = 0
        for digest, categories in files.items():
            wanted = 1 if self.skip_duplicates else len(categories)
            missing += max(0, wanted - copies[digest])
            assert not self.skip_duplicates or copies[digest] <= 1, f"{digest} is there {copies[digest]} times"
            there = Counter(category for category, sha256, _ in stored if sha256 == digest)
            if self.skip_duplicates:
                assert set(there) <= set(categories), f"{digest} lies in {there}, its files in {categories}"
            elif complete:
                assert not Counter(categories) - there, f"{digest} lies in {there}, its files in {categories}"
        # without skip_duplicates a copy whose file is gone may stand for one that is waiting
        assert missing == unsent or (missing < unsent and not self.skip_duplicates), f"{missing} missing, not {unsent}"

        confirmed = {row["remote_id"] for row in self.pictures() if row["state"] == PictureState.CONFIRMED}
        ids = self.remote.ids
        assert confirmed <= set(ids), "what the ledger holds to be confirmed is not there"
        unknown = {digest for remote_id, digest in ids.items() if remote_id not in confirmed}
        assert unknown <= self.remote.strays - set(files), "there is something that the ledger does not know"
        assert set(copies) <= set(files) | self.remote.asked, "a picture was sent that never lay there"
        if self.deletions == "keep":
            assert set(self.confirmed.values()) <= set(copies), "a confirmed picture is gone"
        else:
            assert set(copies) <= set(files) | self.remote.strays, "a deleted picture is still there"
        self._check_trainings(tally)

    def _check_trainings(self, tally: Tally) -> None:
        runs = [row for row in self.runs() if row["state"] != TrainingState.REFUSED]
        names = Counter(plan.name for plan in self.remote.plans.values())
        assert all(count == 1 for count in names.values()), f"two trainings of one name: {names}"
        assert {row["task_id"] for row in runs} == set(self.remote.plans), "ledger and platform disagree on trainings"
        assert {row["state"] for row in runs} <= {TrainingState.TRAINED, TrainingState.FAILED}, runs
        most = len(self.confirmed) // self.training_threshold
        assert len(self.remote.plans) <= most, f"{len(self.remote.plans)} trainings for {len(self.confirmed)} pictures"
        verdict = training_verdict(tally, self.process.thresholds, now=self.unix)
        assert not verdict.due, verdict
        assert tally.untrained < self.training_threshold, verdict

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.leave()
        if self._own:
            shutil.rmtree(self.folder)
