"""How long a platform is left alone: one wait for all that call it, the longer the more often it fails them.

Two things make it grow. Calls that nobody answers, over all threads, end in a rest of the whole platform, during which
one call at a time asks again. Any other error of a stage makes that stage wait, and says why where people look.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from image_sync.errors import Ambiguous, ImageSyncError, PlatformError, Resting, Transient, Unanswered, Unauthorised
from image_sync.log import get_logger

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
_JITTER = 0.25
_MOST_DOUBLINGS = 16

log = get_logger(__name__)


class Backoff:
    """One platform's. May be used from several threads.

    Calls go through :meth:`attempt`. After ``limit`` calls in a row that ended ``Unanswered`` the platform rests: calls
    fail at once with ``Resting``. When the rest is over, a single call is let through. If that is answered, whatever
    the answer, all is well; if not, the next rest is about twice as long. A call that takes longer than the rest
    itself does not hold up the next try.

    Args:
        trouble: told what keeps a stage from its work, and None when nothing does any more.
        limit: so many calls in a row.
        first, longest: seconds; each rest is up to a quarter shorter, so that many daemons do not come back at once.
        clock: seconds, only their difference matters. Asked when something fails: a step may last for minutes.
        chance: gives a number from 0 to 1.
    """

    def __init__(
        self,
        trouble: Callable[[str, ImageSyncError | None], None] = lambda _stage, _error: None,
        *,
        limit: int = 5,
        first: float = FIRST_PAUSE,
        longest: float = LONGEST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.trouble = trouble
        self.clock = clock
        self._limit = limit
        self._first = first
        self._longest = longest
        self._chance = chance
        self._lock = threading.Lock()
        self._silent = 0
        self._rests = 0
        """How many there were since the last answer; 0: the platform does not rest."""
        self._next_at = 0.0
        self._last: Unanswered | None = None

    def stage(self, name: str) -> StageBackoff:
        """What makes one stage wait, under the name that it has in logs and in ``status``."""
        return StageBackoff(name, self)

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self._longest, self._first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))

    @contextmanager
    def attempt(self, who: str) -> Iterator[None]:
        """One call to the platform, which goes into the block. Raises Resting when it must not be made now.

        Args:
            who: the platform, as errors name it.
        """
        with self._lock:
            rests = self._rests
            if rests:
                now = self.clock()
                left = self._next_at - now
                if left > 0:
                    raise Resting(
                        f"{who} has not answered {self._silent} times in a row; the next try is in {math.ceil(left)} s",
                        hint=str(self._last or ""),
                        retry_after=left,
                    )
                self._next_at = now + self._rest()  # this call is the one; the others wait for its outcome
        try:
            yield
        except Unanswered as error:
            self._unanswered(who, error, rests)
            raise
        except Ambiguous:
            # The answer is missing or makes no sense: no sign of life, but too little to accuse a server that works.
            with self._lock:
                if rests and rests == self._rests:
                    self._rests += 1
                    self._next_at = self.clock() + self._rest()
            raise
        except PlatformError:
            self._answered(who)  # it said no, or later: it is there
            raise
        except BaseException:
            with self._lock:  # a file that cannot be read, say: the platform was not to blame
                if rests and rests == self._rests:
                    self._next_at = self.clock()
            raise
        self._answered(who)

    def _unanswered(self, who: str, error: Unanswered, rests: int) -> None:
        with self._lock:
            self._silent += 1
            self._last = error
            # Calls that set out together count as one try: only the first of them makes the rest grow.
            if self._silent < self._limit or rests != self._rests:
                return
            self._rests += 1
            wait = max(self._rest(), error.retry_after or 0.0)
            self._next_at = self.clock() + wait
            silent = self._silent
        log.warning("platform.silent", platform=who, calls=silent, wait=round(wait, 1), error=error.what)

    def _answered(self, who: str) -> None:
        with self._lock:
            was, self._rests, self._silent, self._last = self._rests, 0, 0, None
        if was:
            log.info("platform.answers_again", platform=who)

    def _rest(self) -> float:
        return self.pause(self._rests) * (1.0 - _JITTER * self._chance())


class StageBackoff:
    """One stage's. May be used from several threads."""

    def __init__(self, stage: str, backoff: Backoff) -> None:
        self._stage = stage
        self._backoff = backoff
        self._lock = threading.Lock()
        self._failures = 0
        self._not_before = 0.0
        self._since = 0.0
        self.error: ImageSyncError | None = None
        """What keeps the stage from its work at present."""
        backoff.trouble(stage, None)

    def remaining(self) -> float:
        """Seconds that the stage still has to wait; 0 when it may work."""
        return max(0.0, self._not_before - self._backoff.clock())

    def hopeless(self, patience: float) -> bool:
        """Whether it fails, and waiting is no use. Who is not let in now may be a little later, so much later."""
        error = self.error
        passes = isinstance(error, Unauthorised) and self._backoff.clock() - self._since < patience
        return error is not None and not passes

    def failed(self, error: ImageSyncError) -> float:
        """Something failed: wait before anything else is tried. Returns seconds."""
        with self._lock:
            now = self._backoff.clock()
            self._since = self._since if self._failures else now
            self._failures += 1
            pause = self._backoff.pause(self._failures)
            if isinstance(error, Transient) and error.retry_after is not None:
                pause = max(error.retry_after, 1.0)
            self._not_before = now + pause
            self.error = error
        self._backoff.trouble(self._stage, error)
        log.error("stage.paused", stage=self._stage, error=error.what, hint=error.hint, seconds=round(pause))
        return pause

    def succeeded(self) -> None:
        """It works again."""
        with self._lock:
            was, self.error, self._failures, self._not_before = self.error, None, 0, 0.0
        if was is not None:
            self._backoff.trouble(self._stage, None)
            log.info("stage.resumed", stage=self._stage)
