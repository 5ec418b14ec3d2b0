"""Makes the platform that the configuration names. Vendors' code is loaded only when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from image_sync.backoff import Backoff
from image_sync.config import Credentials, Settings
from image_sync.errors import ConfigError, PlatformError
from image_sync.platforms.base import Platform
from image_sync.platforms.notes import MemoryNotes, Notes
from image_sync.platforms.retry import Retrying

if TYPE_CHECKING:
    from image_sync.platforms.http import Timeouts
    from image_sync.platforms.mobius.platform import MobiusPlatform


def make(
    settings: Settings,
    stop: threading.Event,
    *,
    attempts: int = 4,
    backoff: Backoff | None = None,
    notes: Notes | None = None,
    notice: Callable[[PlatformError | None], None] = lambda _error: None,
    alive: Callable[[], None] = lambda: None,
) -> Platform:
    """The platform, with patience around it.

    Args:
        settings: read and checked.
        stop: ends every wait.
        attempts: how often a call is tried that found nobody there.
        backoff: the wait of all that call it.
        notes: where it writes down what its server cannot tell; None: it forgets.
        notice: told the error before a call is repeated, and None once nothing is repeated any more.
        alive: called for each attempt, each request, and each block of it that is sent or read.

    Raises:
        ConfigError: the settings cannot be used for it.
    """
    patient = partial(Retrying, stop=stop, backoff=backoff, attempts=attempts, notice=notice, alive=alive)
    match settings.platform:
        case "memory":
            return patient(_memory(settings, stop))
        case "mvi":
            return patient(_mvi(settings, stop, alive))
        case "sagemaker":
            return patient(_sagemaker(settings, stop, alive))
        case "mobius":
            return patient(mobius(settings, stop, notes or MemoryNotes(), alive))
        case other:
            raise ConfigError(f"There is no platform {other}", hint="platform is mvi, sagemaker, mobius or memory")


def _memory(settings: Settings, stop: threading.Event) -> Platform:
    from image_sync.platforms.memory import MemoryPlatform

    return MemoryPlatform(stop, batch_files=settings.upload.batch_files, batch_bytes=settings.upload.batch_bytes)


def _mvi(settings: Settings, stop: threading.Event, alive: Callable[[], None]) -> Platform:
    from image_sync.platforms.mvi.platform import MviPlatform

    who, upload = settings.credentials, settings.upload
    return MviPlatform(
        who.endpoint,
        stop=stop,
        username=who.username or "",
        password=who.password.get_secret_value() if who.password else "",
        api_key=who.api_key.get_secret_value() if who.api_key else "",
        verify=_trusted(who),
        proxy=who.proxy or "",
        batch_files=upload.batch_files,
        batch_bytes=upload.batch_bytes,
        timeouts=_timeouts(upload.timeout),
        alive=alive,
    )


def _sagemaker(settings: Settings, stop: threading.Event, alive: Callable[[], None]) -> Platform:
    from image_sync.platforms.sagemaker.platform import SageMakerPlatform

    upload = settings.upload
    return SageMakerPlatform(
        settings.sagemaker,
        stop=stop,
        batch_files=upload.batch_files,
        batch_bytes=upload.batch_bytes,
        timeout=upload.timeout,
        alive=alive,
    )


def mobius(
    settings: Settings, stop: threading.Event, notes: Notes, alive: Callable[[], None] = lambda: None
) -> MobiusPlatform:
    """The Mobius SDK of the settings, without patience."""
    from image_sync.platforms.mobius.platform import MobiusPlatform

    who, upload, how = settings.credentials, settings.upload, settings.mobius
    return MobiusPlatform(
        who.endpoint,
        stop=stop,
        notes=notes,
        negatives=how.negatives,
        max_negatives=how.max_negatives,
        parallel=how.parallel,
        tags=how.tags,
        grace=settings.model.grace,
        verify=_trusted(who),
        proxy=who.proxy or "",
        batch_files=upload.batch_files,
        batch_bytes=upload.batch_bytes,
        timeouts=_timeouts(upload.timeout),
        alive=alive,
    )


def _trusted(who: Credentials) -> bool | str:
    """Whether a server's certificate is checked, or the file with those to trust."""
    return str(who.ca_bundle) if who.ca_bundle and who.verify_tls else who.verify_tls


def _timeouts(seconds: float) -> Timeouts:
    from image_sync.platforms.http import Timeouts

    return Timeouts(connect=min(10.0, seconds), read=seconds, total=2 * seconds)
