"""Leaves a platform alone that does not answer: however many threads want something, one call at a time asks again."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from image_sync.errors import Ambiguous, PlatformError, Transient
from image_sync.log import get_logger

_log = get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
_JITTER = 0.25
_MOST_DOUBLINGS = 16


class Unanswered(Transient):
    """Nobody answered: no connection, no answer in time, or a router's word that there is nothing behind it."""


class Resting(Transient):
    """The platform is being left alone for ``retry_after`` seconds: nothing was sent, and no repeat helps earlier."""


class Circuit:
    """Counts calls in a row that nobody answered, over all threads, and then lets one through now and then.

    Closed, it lets everything through. After ``limit`` calls in a row that ended :class:`Unanswered` it opens: calls
    fail at once with :class:`Resting`. When the pause is over, a single call is let through. If that is answered,
    whatever the answer, the circuit closes; if not, the next pause is about twice as long. A call that takes longer
    than the pause itself does not hold up the next try. May be used from several threads.

    Args:
        who: the platform, as errors name it.
        limit: so many calls in a row.
        first, longest: seconds; each pause is up to a quarter shorter, so that many daemons do not come back at once.
        clock: seconds, only their difference matters.
        chance: gives a number from 0 to 1.
    """

    def __init__(
        self,
        who: str,
        *,
        limit: int = 5,
        first: float = FIRST_PAUSE,
        longest: float = LONGEST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._who = who
        self._limit = limit
        self._first = first
        self._longest = longest
        self._clock = clock
        self._chance = chance
        self._lock = threading.Lock()
        self._silent = 0
        self._pauses = 0
        """How many pauses there were since the last answer; 0: closed."""
        self._next_at = 0.0
        self._last: Unanswered | None = None

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call to the platform, which goes into the block. Raises Resting when it must not be made now."""
        pauses = self._admit()
        try:
            yield
        except Unanswered as error:
            self._unanswered(error, pauses)
            raise
        except Ambiguous:
            # The answer is missing or makes no sense: no sign of life, but too little to accuse a server that works.
            self._tried_in_vain(pauses)
            raise
        except PlatformError:
            self._answered()  # it said no, or later: it is there
            raise
        except BaseException:
            self._unused(pauses)  # a file that cannot be read, say: the platform was not to blame
            raise
        self._answered()

    def _admit(self) -> int:
        with self._lock:
            now = self._clock()
            if self._pauses:
                if now < self._next_at:
                    raise self._resting(self._next_at - now)
                self._next_at = now + self._pause()  # this call is the one; the others wait for its outcome
            return self._pauses

    def _unanswered(self, error: Unanswered, pauses: int) -> None:
        with self._lock:
            self._silent += 1
            self._last = error
            # Calls that set out together count as one try: only the first of them makes the pause grow.
            if self._silent < self._limit or pauses != self._pauses:
                return
            self._pauses += 1
            pause = max(self._pause(), error.retry_after or 0.0)
            self._next_at = self._clock() + pause
            silent = self._silent
        _log.warning("platform.silent", platform=self._who, calls=silent, wait=round(pause, 1), error=error.what)

    def _tried_in_vain(self, pauses: int) -> None:
        with self._lock:
            if pauses and pauses == self._pauses:
                self._pauses += 1
                self._next_at = self._clock() + self._pause()

    def _unused(self, pauses: int) -> None:
        with self._lock:
            if pauses and pauses == self._pauses:
                self._next_at = self._clock()

    def _answered(self) -> None:
        with self._lock:
            was, self._pauses, self._silent, self._last = self._pauses, 0, 0, None
        if was:
            _log.info("platform.answers_again", platform=self._who)

    def _pause(self) -> float:
        longest = min(self._longest, self._first * 2.0 ** min(self._pauses - 1, _MOST_DOUBLINGS))
        return longest * (1.0 - _JITTER * self._chance())

    def _resting(self, left: float) -> Resting:
        return Resting(
            f"{self._who} has not answered {self._silent} times in a row; the next try is in {math.ceil(left)} s",
            hint=str(self._last or ""),
            retry_after=left,
        )
