"""Puts the parts together for one configuration: the only module that knows every part. No logic but the choice."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from image_sync.backoff import Backoff
from image_sync.config import Settings
from image_sync.daemon.worker import Worker, alive
from image_sync.errors import ConfigError, LedgerError, PlatformError
from image_sync.fresh import FreshPictures
from image_sync.ledger import RETRYING, Ledger, open_ledger
from image_sync.ledger.lock import Lock
from image_sync.platforms import registry
from image_sync.platforms.base import Platform, Traits
from image_sync.reconcile.stage import Reconciler
from image_sync.tracker import Thresholds, thresholds_of
from image_sync.trainer.start import Trainer
from image_sync.upload import Uploader, UploadRules
from image_sync.watcher.rules import Rules
from image_sync.watcher.watcher import Watcher

_KEPT = 16 << 20  # bytes of pictures that ``run --once``, which finds and sends at the same time, reads only once
_PATIENCE = 60.0  # seconds that ``run --once`` waits for a ledger on a full disk; the daemon waits for ever
_A_TICK = 0.1  # seconds; file systems stamp files with the kernel's clock, which ticks every 1 to 10 ms
_NO_HURRY = 0.3  # these stages count everything at each step; during an upload there is news all the time


@dataclass(frozen=True, slots=True)
class Components:
    """All parts, ready to start."""

    settings: Settings
    ledger: Ledger
    platform: Platform
    watcher: Watcher
    uploader: Uploader
    reconciler: Reconciler
    trainer: Trainer
    thresholds: Thresholds
    workers: tuple[Worker, ...]
    stop: threading.Event


def assemble(
    settings: Settings, *, once: bool = False, failed: Callable[[BaseException], None], lock: Lock | None = None
) -> Components:
    """Build every part for these settings. Nothing runs yet.

    Args:
        settings: the configuration.
        lock: the lock on the ledger, which a worker keeps from here on.
        once: work off what is there without waiting for more.
        failed: called when a stage cannot go on.

    Raises:
        LedgerError: the state folder or database cannot be used.
        ConfigError: the platform cannot do what is configured.
    """
    stop = threading.Event()
    ledger = _ledger(settings, lock)

    def retrying(error: PlatformError | None) -> None:
        """Calls are repeated for about 15 seconds before a stage hears of it: ``status`` says so at once."""
        with contextlib.suppress(LedgerError):
            ledger.trouble(RETRYING, error)

    retrying(None)
    backoff = Backoff(ledger.trouble)
    platform = registry.make(settings, stop, backoff=backoff, state=ledger.notes, notice=retrying, alive=alive)
    _check_annotations(settings, platform)
    roots = [os.fsencode(folder) for folder in settings.folders]
    ledger.files.keep_roots(roots)
    ledger.count_deletions(settings.deletions)
    thresholds = thresholds_of(settings, platform.traits)
    upload_rules = UploadRules(
        batch_files=settings.upload.batch_files,
        batch_bytes=settings.upload.batch_bytes,
        grace=settings.upload.grace,
        once=once,
        # A file changed twice within one tick of the clock has one stamp: whoever hashes at once must hash again.
        trusting=settings.watch.settle >= _A_TICK,
    )
    fresh = FreshPictures(_KEPT if once else 0)
    uploader = Uploader(ledger, platform, thresholds, upload_rules, stop, backoff, fresh=fresh)
    reconciler = Reconciler(
        ledger,
        platform,
        stop,
        backoff,
        grace=settings.upload.grace,
        # A file that only moved is seen again within one full look: only then is it known to be deleted.
        remove_after=2 * settings.watch.rescan if settings.deletions == "remove" else None,
        most_removals=settings.most_removals,
        repair=settings.repair == "auto",
    )
    watch: list[Worker] = []

    def wake() -> None:
        for one in watch:
            one.wake()

    rules = watch_rules(settings, platform.traits, once=once)
    watcher = Watcher(roots, ledger.files, rules, stop, wake, alive=alive, fresh=fresh)
    # What was moved while nothing ran is found first: a training would learn it under its old category.
    trainer = Trainer(ledger, platform, thresholds, settings.model, stop, backoff, looked=watcher.looked)

    def help_out(now: float) -> float:
        return min(uploader.help(now), reconciler.help(now))

    worker = partial(Worker, stop=stop, failed=failed, patience=_PATIENCE if once else math.inf)
    watch.append(worker("watcher", watcher.step))
    senders = [worker("uploader", uploader.step)]
    senders += [worker(f"uploader-{number}", help_out) for number in range(2, settings.upload.parallel + 1)]
    others = [worker("reconciler", reconciler.step, gap=_NO_HURRY), worker("trainer", trainer.step, gap=_NO_HURRY)]
    for one in (*senders, *others):
        ledger.listen(one.wake)
    if lock is not None and lock.term:
        watch.append(worker("lock", lock.keep))
    return Components(
        settings=settings,
        ledger=ledger,
        platform=platform,
        watcher=watcher,
        uploader=uploader,
        reconciler=reconciler,
        trainer=trainer,
        thresholds=thresholds,
        workers=(*watch, *senders, *others),
        stop=stop,
    )


def prove(settings: Settings, stop: threading.Event) -> None:
    """That these settings can be assembled, and that the platform lets us in with them. Touches no ledger.

    Raises:
        ConfigError: they cannot be used. Transient: nobody is there to be asked. PlatformError: they are not accepted.
    """
    platform = registry.make(settings, stop)
    try:
        _check_annotations(settings, platform)
        platform.sign_in()
    finally:
        platform.close()


def _check_annotations(settings: Settings, platform: Platform) -> None:
    if settings.annotations.mode != "none" and platform.traits.min_labelled is None:
        raise ConfigError(
            f"the platform {settings.platform} takes no annotations", hint='Set annotations to "none", or leave it out.'
        )


def _ledger(settings: Settings, lock: Lock | None) -> Ledger:
    ledger = open_ledger(
        settings.state,
        skip_duplicates=settings.skip_duplicates,
        plain_names=settings.upload.names == "original",
        annotations=settings.annotations.mode,
        lock=lock,
        alive=alive,
    )
    dataset = settings.dataset
    name = dataset.name
    if dataset.action == "create":
        name = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    ledger.use_target(settings.platform, settings.address, dataset.name, dataset.action, name)
    return ledger


def watch_rules(settings: Settings, traits: Traits, *, once: bool = False) -> Rules:
    """What counts as a finished picture."""
    watch = settings.watch
    return Rules(
        settle=watch.settle,
        rescan=watch.rescan,
        poll=watch.poll,
        mode=watch.mode,
        recursive=settings.recursive,
        category_from=settings.category_from,
        exclude=settings.exclude,
        categories=settings.categories,
        negatives=traits.negatives,
        annotations=settings.annotations.mode,
        ignored_labels=frozenset(settings.annotations.ignore_labels),
        annotation_format=settings.annotation_format,
        suffixes=traits.suffixes,
        validate=watch.validation,
        max_pixels=watch.max_pixels,
        max_bytes=watch.max_bytes,
        once=once,
    )
