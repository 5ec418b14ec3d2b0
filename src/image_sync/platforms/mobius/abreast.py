"""Does the same for many things, a few at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def abreast(width: int, work: Callable[[T], object], things: Iterable[T]) -> None:
    """Call ``work`` with each thing, ``width`` at a time. After the first error nothing new is begun, and it is raised.

    The threads end with the call. They do not keep a program alive that is told to end at once.
    """
    waiting, lock = iter(things), threading.Lock()
    errors: list[BaseException] = []
    nothing = object()

    def run() -> None:
        while not errors:
            with lock:
                thing = next(waiting, nothing)
            if thing is nothing:
                return
            try:
                work(thing)  # type: ignore[arg-type]
            except BaseException as error:  # noqa: BLE001 - raised again below, where somebody hears it
                errors.append(error)

    threads = [threading.Thread(target=run, name="mobius-assign", daemon=True) for _ in range(width)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
