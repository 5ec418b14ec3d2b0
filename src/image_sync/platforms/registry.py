"""Makes the platform that the configuration names. Vendors' code is loaded only when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module

from image_sync.backoff import Backoff
from image_sync.config import Settings
from image_sync.config.adapters import OURS, adapter
from image_sync.errors import PlatformError
from image_sync.platforms.base import Adapter, MemoryState, Platform, PlatformState, Site
from image_sync.platforms.retry import Retrying


def make(
    settings: Settings,
    stop: threading.Event,
    *,
    attempts: int = 4,
    backoff: Backoff | None = None,
    state: PlatformState | None = None,
    notice: Callable[[PlatformError | None], None] = lambda _error: None,
    alive: Callable[[], None] = lambda: None,
) -> Platform:
    """The platform, with patience around it.

    Args:
        settings: read and checked.
        stop: ends every wait.
        attempts: how often a call is tried that found nobody there.
        backoff: the wait of all that call it.
        state: where it writes down what its server cannot tell; None: it forgets.
        notice: told the error before a call is repeated, and None once nothing is repeated any more.
        alive: called for each attempt, each request, and each block of it that is sent or read.

    Raises:
        ConfigError: the settings cannot be used for it.
    """
    name = settings.platform
    found: Adapter = import_module(f"image_sync.platforms.{name}.platform").ADAPTER if name in OURS else adapter(name)
    platform = found.make(Site(settings, stop, state or MemoryState(), alive))
    return Retrying(platform, stop, backoff=backoff, attempts=attempts, notice=notice, alive=alive)
