"""The real program, which ends without a word at a chosen step: ``CRASH_AT=n python -m support.soak_crasher``.

Steps are counted over all threads: before, inside and after a transaction of the ledger, before and after a call of the
platform. Nothing else of the program is changed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from image_sync.cli.main import run
from image_sync.config import Settings
from image_sync.ledger.database import Database
from image_sync.platforms import registry
from image_sync.platforms.base import Platform

EXIT = 9


class _Countdown:
    def __init__(self, left: int) -> None:
        self._left = left
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os._exit(EXIT)


class _Doorway:
    def __init__(self, platform: Platform, countdown: _Countdown) -> None:
        self._platform = platform
        self._countdown = countdown

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._platform, name)

        def call(*arguments: Any) -> Any:
            self._countdown.step()
            answer = method(*arguments)
            self._countdown.step()
            return answer

        return call


def main() -> None:
    """The program, on borrowed time."""
    countdown = _Countdown(int(os.environ["CRASH_AT"]))
    plainly, make = Database.writing, registry.make

    @contextmanager
    def writing(self: Database) -> Iterator[Any]:
        countdown.step()
        with plainly(self) as transaction:
            yield transaction
            countdown.step()
        countdown.step()

    def made(settings: Settings, stop: threading.Event, **options: Any) -> Platform:
        return cast("Platform", _Doorway(make(settings, stop, **options), countdown))

    Database.writing = writing  # type: ignore[method-assign]
    registry.make = made
    run()


if __name__ == "__main__":
    main()
