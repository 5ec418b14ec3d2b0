"""Patience, written once: a platform around a platform, which calls again when nothing was done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any, TypeVar

import tenacity

from image_sync.backoff import Backoff
from image_sync.domain import DatasetRef, RemotePicture
from image_sync.errors import PlatformError, Resting, Transient, Unauthorised
from image_sync.log import get_logger
from image_sync.platforms.base import Models, Pictures, Platform, Trainings

T = TypeVar("T")

_log = get_logger(__name__)

_FIRST_WAIT = 1.0
_CHUNK = 1000


class Retrying:
    """Repeats a call of the wrapped platform that ended with ``Transient`` or ``Unauthorised``, and no other.

    Both say that nothing was done, so every call may be repeated then, an upload and the start of a training too. Who
    is turned away at the door may be let in a second later: the server restarts, its clock was set, a key is replaced.
    ``Ambiguous`` from those two is never repeated here: whoever called must ask first. For the other calls adapters
    turn a lost answer into ``Transient``, because doing them twice is the same as doing them once.

    A wait that the platform asks for is kept to; one that is longer than ``ceiling`` is left to the caller, who
    finds it in the error. A platform that does not answer at all is left alone by the back-off, which ends
    the repeats of all callers.

    Args:
        backoff: through which every attempt goes; one for each platform.
        stop: ends a wait at once, and no attempt begins after it; the last error is raised.
        attempts: most calls before the error is passed on.
        first: seconds before the second one, about; then twice as long each time.
        ceiling: longest wait in seconds.
        notice: told the error before each repeat, and None once nothing is repeated any more.
        alive: called for each attempt: waits between them may be long.
    """

    def __init__(
        self,
        platform: Platform,
        stop: threading.Event,
        *,
        backoff: Backoff | None = None,
        attempts: int = 4,
        first: float = _FIRST_WAIT,
        ceiling: float = 300.0,
        notice: Callable[[PlatformError | None], None] = lambda _error: None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._platform = platform
        self._stop = stop
        self._backoff = backoff or Backoff()
        self._who = platform.traits.who or f"The platform {platform.traits.name}"
        self._attempts = attempts
        self._ceiling = ceiling
        self._notice = notice
        self._alive = alive
        self._growing = tenacity.wait_exponential(multiplier=first, max=ceiling) + tenacity.wait_random(0, first)
        self.traits = platform.traits
        self.pictures: Pictures = self._patient(Pictures, platform.pictures, listing=self._listing)
        self.trainings: Trainings = self._patient(Trainings, platform.trainings, log=self._lines)
        self.models: Models = self._patient(Models, platform.models)

    def sign_in(self) -> None:
        """Repeated."""
        self._call("sign_in", self._platform.sign_in)

    def close(self) -> None:
        """The wrapped platform's."""
        self._platform.close()

    def _patient(self, protocol: type, part: object, **streams: Callable[..., Any]) -> Any:
        """An object with the protocol's calls, each of which is repeated; ``streams`` are repeated in their own way."""
        calls: dict[str, Callable[..., Any]] = {}
        for name in vars(protocol):
            if name.startswith("_"):
                continue
            call = getattr(part, name)
            title = f"{protocol.__name__.lower()}.{name}"
            calls[name] = partial(streams[name], call) if name in streams else partial(self._call, title, call)
        return SimpleNamespace(**calls)

    def _listing(
        self, listing: Callable[[DatasetRef], Iterator[RemotePicture]], dataset: DatasetRef
    ) -> Iterator[RemotePicture]:
        """Begun again after an error, without repeating pictures that were given out already."""
        seen: set[str] = set()
        rows = listing(dataset)

        def chunk() -> list[RemotePicture]:
            nonlocal rows
            try:
                return list(islice((row for row in rows if row.remote_id not in seen), _CHUNK))
            except Transient:
                rows = listing(dataset)
                raise

        while found := self._call("pictures.listing", chunk):
            seen.update(row.remote_id for row in found)
            yield from found

    def _lines(self, log: Callable[[str], Iterator[str]], task_id: str) -> Iterator[str]:
        """Repeated up to the first line; one that breaks off later is passed on."""
        lines = log(task_id)
        yield from self._call("trainings.log", lambda: list(islice(lines, 1)))
        yield from lines

    def _call(self, name: str, call: Callable[..., T], *args: Any, **named: Any) -> T:
        last: BaseException | None = None

        def tell(state: tenacity.RetryCallState) -> None:
            nonlocal last
            last = state.outcome.exception() if state.outcome else None
            if isinstance(last, Transient | Unauthorised):
                self._notice(last)
            _log.warning(
                "platform.retry",
                call=name,
                attempt=state.attempt_number,
                of=self._attempts,
                wait=round(state.upcoming_sleep, 1),
                error=getattr(last, "what", ""),
            )

        calls = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._worth_it),
            stop=tenacity.stop_after_attempt(self._attempts) | tenacity.stop_when_event_set(self._stop),
            wait=self._wait,
            sleep=tenacity.sleep_using_event(self._stop),
            before_sleep=tell,
            reraise=True,
        )
        try:
            for attempt in calls:
                if last is not None and self._stop.is_set():
                    raise last  # the stop event has ended the wait: no attempt begins after it
                with attempt:
                    self._alive()
                    try:
                        with self._backoff.attempt(self._who):
                            return call(*args, **named)
                    finally:
                        self._alive()
            raise AssertionError("the last attempt returns or raises")
        finally:
            if last is not None:
                self._notice(None)

    def _worth_it(self, error: BaseException) -> bool:
        if isinstance(error, Resting):
            return False
        if isinstance(error, Unauthorised):
            return True
        return isinstance(error, Transient) and (error.retry_after or 0.0) <= self._ceiling

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, Transient) else None
        return max(self._growing(state), asked or 0.0)
