"""What the operating system asks for. Handlers only set flags; the main thread acts on them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Signals:
    """SIGTERM and SIGINT ask to stop, a second one to stop now; SIGUSR1 asks to read the configuration again.

    SIGHUP is two things by custom: to a service it says the same as SIGUSR1; to a process in the foreground it says
    that its terminal was closed, so it stops: nobody would see it go on.
    """

    def __init__(self) -> None:
        self.stop = False
        self.reload = False
        self._woken: Callable[[], None] = lambda: None

    @contextmanager
    def listening(self, woken: Callable[[], None]) -> Iterator[None]:
        """Handle signals inside the block, as before after it. ``woken`` is called after a flag was set.

        Outside the main thread Python allows no handlers: then nothing is handled.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._woken = woken
        wanted: dict[int, Callable[[int, FrameType | None], Any]] = {
            signal.SIGTERM: self._on_stop,
            signal.SIGINT: self._on_stop,
            signal.SIGUSR1: self._on_reload,
            signal.SIGHUP: self._on_hangup if _in_foreground() else self._on_reload,
        }
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop:  # the second one: the ledger is safe at every instruction, so this loses nothing
            os._exit(128 + number)
        self.stop = True
        self._woken()

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        self.stop = True  # both the system and the shell send it: the second one is no impatience
        self._woken()

    def _on_reload(self, _number: int, _frame: FrameType | None) -> None:
        self.reload = True
        self._woken()


def _in_foreground() -> bool:
    """Whether a terminal is attached whose end is meant to reach this process (``nohup`` says that it is not)."""
    attached = any(os.isatty(number) for number in (0, 2))
    return attached and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
