"""What a command needs to look at a configuration, its ledger and its platform."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from image_sync import log
from image_sync.config import Settings, load, restored, secrets, state_of
from image_sync.domain import DatasetRef
from image_sync.errors import ConfigError, NotFound
from image_sync.ledger import Ledger, exists, open_ledger
from image_sync.ledger.lock import Lock, holder_of
from image_sync.platforms import registry
from image_sync.platforms.base import Platform, PlatformState, Traits

SECRETS = "Run this as a user that may read it: the one that runs the daemon, or root (sudo)."


def settings_of(config: Path, *, secrets_needed: bool = False) -> Settings:
    """The configuration, its secrets hidden from all output from here on.

    Args:
        config: its file.
        secrets_needed: whether one that cannot be read is a mistake. Looking needs none; :func:`platform_of` asks.

    Raises:
        ConfigError: it cannot be used; the text lists every mistake.
    """
    settings = load(config, secrets=secrets_needed)
    log.hide(*secrets(settings))
    return settings


def settings_in_force(config: Path) -> tuple[Settings, ConfigError | None]:
    """The configuration; while it has mistakes, the one that the daemon still works by, and the mistakes.

    Raises:
        ConfigError: it has mistakes, and no daemon runs.
    """
    try:
        return settings_of(config), None
    except ConfigError as error:
        found = _running(config)
        if found is None:
            raise
        return found, error


def _running(config: Path) -> Settings | None:
    state = state_of(config)
    if state is None or holder_of(state) is None:
        return None
    ledger = open_ledger(state)
    try:
        known = json.loads(ledger.works_by() or "{}")
    finally:
        ledger.close()
    if not known or os.path.abspath(known["file"]) != os.path.abspath(config):
        return None
    return restored(known["document"], config, state)


@contextlib.contextmanager
def ledger_of(settings: Settings, lock: Lock | None = None) -> Iterator[Ledger]:
    """The ledger as the daemon left it, or an empty one if it has not run yet: looking must not make files."""
    with contextlib.ExitStack() as stack:
        state = settings.state
        if not exists(state):
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="image-sync-")))
        ledger = open_ledger(state, annotations=settings.annotations.mode, lock=lock)
        stack.callback(ledger.close)
        dataset = settings.dataset
        ledger.take(settings.platform, settings.address, dataset.name, dataset.action)
        yield ledger


@contextlib.contextmanager
def platform_of(settings: Settings, *, called: bool = True) -> Iterator[Platform]:
    """The platform, ready for calls. Whoever waits at a terminal is told at once when nobody answers.

    Args:
        settings: what says which one.
        called: False if it may turn out that we cannot sign in.

    Raises:
        ConfigError: a secret cannot be read that is needed to call it.
    """
    if settings.unread and called:
        raise ConfigError("\n".join(settings.unread), hint=SECRETS)
    with notes_of(settings) as notes:
        platform = registry.make(settings, threading.Event(), attempts=1, state=notes)
        try:
            yield platform
        finally:
            platform.close()


def traits_of(settings: Settings) -> Traits:
    """Facts about the platform; nobody is called for them."""
    return registry.make(settings, threading.Event()).traits


@contextlib.contextmanager
def notes_of(settings: Settings) -> Iterator[PlatformState | None]:
    """What the platform wrote down for itself, where it does."""
    if settings.platform != "mobius":
        yield None
        return
    with ledger_of(settings) as ledger:
        yield ledger.notes


def tell_if_nobody_acts(settings: Settings) -> None:
    """Say that what was asked for waits for the daemon, if none runs."""
    if holder_of(settings.state) is None:
        print("The daemon is not running: it will happen when it is started (image-sync run).")


def dataset_of(ledger: Ledger, platform: Platform) -> DatasetRef:
    """The dataset as the ledger knows it, else as the platform does.

    Raises:
        NotFound: there is none yet.
    """
    target = ledger.target
    if target.dataset_id:
        return target.dataset
    found = platform.pictures.find_dataset(target.dataset_name)
    if found is None:
        raise NotFound(
            f"there is no dataset {target.dataset_name!r} at the platform yet",
            hint="The daemon makes it with the first upload: image-sync run",
        )
    return found
