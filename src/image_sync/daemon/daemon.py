"""The process: starts all parts, waits, reloads, stops in order, and knows how it went."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from image_sync.config import Settings, difference, load, secrets
from image_sync.daemon.assemble import Components, assemble, prove
from image_sync.daemon.signals import Signals
from image_sync.daemon.systemd import Notifier
from image_sync.daemon.worker import Worker
from image_sync.domain import ModelOutcome, Tally
from image_sync.errors import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    ConfigError,
    ImageSyncError,
    LedgerError,
    PlatformError,
    Transient,
)
from image_sync.ledger.lock import Lock
from image_sync.log import get_logger, hide
from image_sync.tracker import training_verdict, upload_verdict

_LOOK = 1.0  # seconds between two looks at the configuration file and the workers
_GLANCE = 0.05  # seconds between two looks at the work left, with --once
_PATIENCE = {"watcher": 60.0}
_LONG_PATIENCE = 900.0  # an upload of a large picture over a slow line may take its time
_STATUS = 10.0
_MANY = 1000  # no more removals are counted
_ANEW = 60.0  # seconds until a configuration that the platform refused is tried once more
_SOON = 30.0  # seconds within which `run --once` waits for a picture to be tried again
_AT_THE_DOOR = 60.0  # seconds for which `run --once` waits to be let in
_CONFIGURATION = "configuration"
_EARLIER = "the earlier configuration stays in force"

log = get_logger(__name__)


class Daemon:
    """One image-sync process.

    Args:
        settings: the configuration to begin with.
        path: its file, watched for changes; None: it never changes.
        once: end when everything that is there is worked off.
    """

    def __init__(self, settings: Settings, path: Path | None = None, *, once: bool = False) -> None:
        self._settings = settings
        self._path = path
        self._once = once
        self._notifier = Notifier()
        self._signals = Signals()
        self._news = threading.Event()
        self._failure: BaseException | None = None
        self._files = () if path is None else (path, *settings.secret_files)
        self._stamp = [_stamp(file) for file in self._files]
        self._again_at = math.inf
        """When a configuration that the platform refused is tried once more, monotonic seconds."""
        self._mistake: ImageSyncError | None = None
        self.parts: Components | None = None
        """The parts at work; replaced when the configuration changes."""

    def run(self) -> int:
        """Work until a signal, a fatal error or, with ``once``, the end of the work. Returns the exit code.

        Raises:
            AlreadyRunning: another process has the state folder. LedgerError: it cannot be used.
            ConfigError: the platform cannot do what is configured.
        """
        with self._signals.listening(self._news.set), Lock(self._settings.state) as lock:
            earlier: Settings | None = None
            while True:
                try:
                    self._begin(lock)
                except (ConfigError, PlatformError) as error:
                    if earlier is None:
                        raise
                    self._refuse(error)
                    self._settings, earlier = earlier, None
                    continue
                new = self._watch()
                code = self._end(reload=new is not None)
                if new is None or self._signals.stop:
                    return code
                earlier, self._settings = self._settings, new

    def stop(self) -> None:
        """Ask it to end, as SIGTERM does. May be called from any thread."""
        self._signals.stop = True
        self._news.set()

    def _begin(self, lock: Lock) -> None:
        hide(*secrets(self._settings))
        for warning in self._settings.warnings:
            log.warning("configuration.warning", text=warning)
        parts = assemble(self._settings, once=self._once, failed=self._fail, lock=lock)
        self.parts = parts
        self._say_mistake(self._mistake)
        with contextlib.suppress(LedgerError):  # only for who looks: no reason not to begin
            parts.ledger.work_by(json.dumps({"file": str(self._path), "document": self._settings.document}))
        now = time.time()
        doubtful = parts.ledger.batches.doubt_all(not_before=now + self._settings.upload.grace)
        starting = parts.ledger.trainings.doubt_all(not_before=now + self._settings.model.grace)
        if doubtful or starting:
            log.warning("ledger.recovered", batches_in_doubt=doubtful, trainings_in_doubt=starting)
        parts.watcher.start()
        for worker in parts.workers:
            worker.start()
        log.info(
            "daemon.started",
            platform=self._settings.platform,
            endpoint=self._settings.address,
            dataset=parts.ledger.target.dataset_name,
            folders=[str(folder) for folder in self._settings.folders],
            ledger=parts.ledger.where,
        )
        self._notifier.ready(_line(parts))

    def _watch(self) -> Settings | None:
        """Wait. Returns new settings to go on with, or None to end."""
        parts = self.parts
        interval = self._notifier.watchdog_interval
        said = time.monotonic()
        while parts is not None:
            self._news.wait(min(_GLANCE if self._once else _LOOK, interval or _LOOK))
            self._news.clear()
            if self._signals.stop or self._failure is not None:
                break
            now = time.monotonic()
            self._ping(parts.workers)
            if now - said >= _STATUS:
                said = now
                self._notifier.status(_line(parts))
            if self._once and self._done(parts):
                break
            settings = self._changed()
            if settings is not None and self._accepted(settings, parts):
                self._notifier.reloading()
                return settings
        return None

    def _ping(self, workers: Iterable[Worker]) -> None:
        """Tell systemd that this process lives, if these workers do."""
        now = time.monotonic()
        if all(worker.healthy(now, _PATIENCE.get(worker.name, _LONG_PATIENCE)) for worker in workers):
            self._notifier.watchdog()

    def _accepted(self, settings: Settings, parts: Components) -> bool:
        """Whether these settings can be assembled and let us in. The parts works on meanwhile, and if they do not.

        A server that does not answer just now can refuse nothing: they are taken over then.
        """
        hide(*secrets(settings))
        stop = threading.Event()
        refusals: list[BaseException] = []

        def step(_now: float) -> float:
            prove(settings, stop)
            stop.set()
            return 0.0

        worker = Worker("reload", step, stop, refusals.append)
        worker.start()
        while not worker.join(_GLANCE):
            self._ping(parts.workers)
            if self._signals.stop or self._failure is not None:
                stop.set()
                return False
        error = refusals[0] if refusals else None
        if error is None or isinstance(error, Transient):
            return True
        if not isinstance(error, ImageSyncError):
            raise error
        self._refuse(error)
        if isinstance(error, PlatformError):
            self._again_at = time.monotonic() + _ANEW  # a new key may be known here earlier than there
        return False

    def _refuse(self, error: ImageSyncError) -> None:
        log.error("configuration.refused", error=error.what, hint=" ".join(filter(None, (error.hint, _EARLIER))))
        self._say_mistake(ConfigError(error.what, hint=f"Until then {_EARLIER}."))

    def _end(self, *, reload: bool) -> int:
        """Stop taking work, finish what is in flight, close the ledger last.

        For a reload, requests that take longer than ``shutdown`` are waited for: else the new parts would ask what
        became of them while they still go on.
        """
        parts, self.parts = self.parts, None
        if parts is None:
            return EXIT_DONE
        if self._signals.stop or self._failure is not None or self._once:
            self._notifier.stopping()
        log.info("daemon.stopping")
        parts.stop.set()
        for worker in parts.workers:
            worker.wake()
        deadline = time.monotonic() + self._settings.shutdown
        waiting = list(parts.workers)
        while waiting:
            waiting = [worker for worker in waiting if not worker.join(_LOOK / len(parts.workers))]
            if reload and (self._signals.stop or self._failure is not None):
                reload, deadline = False, time.monotonic() + self._settings.shutdown
            if time.monotonic() >= deadline and not reload:
                break
            self._ping(waiting) if reload else self._notifier.watchdog()  # ending in order is work, too
        late = [worker.name for worker in waiting]
        if late:
            log.warning("daemon.unfinished", workers=late, hint="what they were sending is asked for at the next start")
        parts.watcher.close()
        code = self._outcome(parts)
        if not late:
            parts.platform.close()
            parts.ledger.close()
        if self._failure is not None:
            raise self._failure
        log.info("daemon.stopped", exit_code=code)
        return code

    def _outcome(self, parts: Components) -> int:
        """With ``once``: how it went. Else stopping is success."""
        if not self._once or self._failure is not None:
            return EXIT_DONE
        for stage in (parts.reconciler, parts.uploader, parts.trainer, parts.trainer.keeper):
            if stage.backoff.error is not None:
                return stage.backoff.error.exit_code
        census = parts.ledger.census()
        troubled = census.total.quarantined + census.total.refused + census.total.conflicts
        troubled += parts.ledger.annotations.refusals()
        tally = parts.ledger.tally()
        last, refusal = tally.last, tally.refusal
        failed = last is not None and (last.reason or last.fate is ModelOutcome.REFUSED)
        failed = failed or (refusal is not None and (last is None or refusal.id > last.id))
        removals = len(parts.ledger.changes.removals(_MANY))
        if parts.settings.deletions == "remove":
            removals += len(parts.ledger.changes.orphans(before=math.inf, limit=_MANY).pictures)
        if not (troubled or failed or removals or not parts.watcher.complete):
            return EXIT_DONE
        log.warning(
            "once.incomplete",
            pictures_set_aside=troubled,
            training_failed=bool(failed),
            removals_owed=removals,
            folders_looked_at=parts.watcher.complete,
            hint="image-sync status names what needs a person",
        )
        return EXIT_SOME_FAILED

    def _done(self, parts: Components) -> bool:
        """Whether nothing is left that can be worked off now."""
        if any(stage.backoff.hopeless(_AT_THE_DOOR) for stage in (parts.reconciler, parts.uploader, parts.trainer)):
            return True  # the platform was tried as often as its calls allow
        try:
            return _idle(parts)
        except LedgerError as error:
            if not error.passing:
                raise
            return False  # the workers wait for it, too, and give up when it takes too long

    def _changed(self) -> Settings | None:
        """New settings, if the file changed (or SIGHUP asks) and they are valid and different."""
        stamp = [_stamp(file) for file in self._files]
        asked = self._signals.reload or time.monotonic() >= self._again_at
        if self._path is None or (stamp == self._stamp and not asked):
            return None
        self._signals.reload, self._again_at, self._stamp = False, math.inf, stamp
        try:
            settings = load(self._path)
        except ConfigError as error:
            self._refuse(error)
            return None
        if self._files != (files := (self._path, *settings.secret_files)):
            self._files, self._stamp = files, [_stamp(file) for file in files]
        changes = difference(self._settings, settings)
        if not changes:
            self._say_mistake(None)
            return None
        if settings.state != self._settings.state:
            log.error("configuration.refused", error="`state` cannot change while running", hint="restart image-sync")
            return None
        log.info("configuration.changed", changes=changes)
        self._mistake = None
        return settings

    def _say_mistake(self, error: ImageSyncError | None) -> None:
        """Let ``status`` say why the configuration is not the one at work; None: it is."""
        self._mistake = error
        with contextlib.suppress(LedgerError):  # it is away at the moment: the log has it
            if self.parts is not None:
                self.parts.ledger.trouble(_CONFIGURATION, error)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._news.set()


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _idle(parts: Components) -> bool:
    again = parts.ledger.batches.next_up()
    if again is not None and again - time.time() < _SOON:
        return False
    if not parts.watcher.idle or not parts.ledger.remote_index.checked:
        return False
    # Then once more: between the two questions the watcher may have begun the look that was wanted.
    if parts.ledger.files.rescan_wanted() or not parts.watcher.idle:
        return False
    tally = parts.ledger.tally()
    upload = upload_verdict(tally, parts.uploader.thresholds, quiet_for=float("inf"))
    training = training_verdict(tally, parts.thresholds, now=time.time())
    moving = upload.due or tally.sending or tally.unmarked or tally.active is not None or training.due
    return not moving and not parts.ledger.changes.relabels(1) and not parts.trainer.keeper.busy


def _line(parts: Components) -> str:
    """One line for ``systemctl status``."""
    try:
        tally: Tally = parts.ledger.tally()
    except ImageSyncError as error:
        return error.what
    upload = f"upload {tally.ready} / {parts.thresholds.upload}"
    return f"{upload}, training {tally.untrained} / {parts.thresholds.training}, {tally.confirmed} uploaded"
