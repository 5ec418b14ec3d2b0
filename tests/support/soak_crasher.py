"""The real program, which ends without a word at a chosen step: ``CRASH_AT=n python -m support.soak_crasher``.

Steps are counted over all threads: before, inside and after a transaction of the ledger, before and after a call of the
platform. ``CRASH_FROM=words`` counts from the first HTTP request whose method and path match these words, that one and
its answer included; so the moments around it can be chosen. Nothing else of the program is changed.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from image_sync.cli.main import run
from image_sync.config import Settings
from image_sync.ledger.database import Database
from image_sync.platforms import registry
from image_sync.platforms.base import Platform
from image_sync.platforms.http import Client

EXIT = 9


class _Countdown:
    def __init__(self, left: int, begins: str) -> None:
        self._left = left
        self._begins = begins
        """What the first step's request matches; empty once it was seen."""
        self._lock = threading.Lock()

    def step(self, request: str = "") -> None:
        with self._lock:
            if self._begins and not (request and re.search(self._begins, request)):
                return
            self._begins = ""
            self._left -= 1
            if self._left == 0:
                os._exit(EXIT)


class _Doorway:
    """Around a platform, and around each of its parts."""

    def __init__(self, platform: object, countdown: _Countdown) -> None:
        self._platform = platform
        self._countdown = countdown

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._platform, name)
        if name in {"pictures", "trainings", "models"}:
            return _Doorway(found, self._countdown)
        if not callable(found):
            return found

        def call(*arguments: Any) -> Any:
            self._countdown.step()
            answer = found(*arguments)
            self._countdown.step()
            return answer

        return call


def main() -> None:
    """The program, on borrowed time."""
    begins = os.environ.get("CRASH_FROM", "")
    countdown = _Countdown(int(os.environ["CRASH_AT"]), begins)
    plainly, make, send = Database.writing, registry.make, Client.send

    @contextmanager
    def writing(self: Database) -> Iterator[Any]:
        countdown.step()
        with plainly(self) as transaction:
            yield transaction
            countdown.step()
        countdown.step()

    def sent(self: Client, method: str, path: str, **request: Any) -> Any:
        countdown.step(f"{method} {path}")
        answer = send(self, method, path, **request)
        countdown.step()
        return answer

    def made(settings: Settings, stop: threading.Event, **options: Any) -> Platform:
        return cast("Platform", _Doorway(make(settings, stop, **options), countdown))

    Database.writing = writing  # type: ignore[method-assign]
    registry.make = made
    if begins:
        Client.send = sent  # type: ignore[method-assign]
    run()


if __name__ == "__main__":
    main()
