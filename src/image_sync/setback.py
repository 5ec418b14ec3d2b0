"""What a stage does when the platform fails it: wait, the longer the more often, and say why where people look."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from image_sync.errors import ImageSyncError, Transient, Unauthorised
from image_sync.ledger import Ledger
from image_sync.log import get_logger

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0

log = get_logger(__name__)


class Setback:
    """The state of one stage's luck. May be used from several threads.

    Args:
        stage: its name in logs and in ``status``.
        ledger: where the present trouble is kept for ``status``.
        monotonic: seconds. Asked when something fails, not when the step began: a step may last for minutes.
    """

    def __init__(self, stage: str, ledger: Ledger, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._stage = stage
        self._ledger = ledger
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failures = 0
        self._not_before = 0.0
        self._since = 0.0
        self.error: ImageSyncError | None = None
        """What keeps the stage from its work at present."""
        ledger.trouble(stage, None)

    def left(self) -> float:
        """Seconds that the stage still has to wait; 0 when it may work."""
        return max(0.0, self._not_before - self._monotonic())

    def hopeless(self, patience: float) -> bool:
        """Whether it fails, and waiting is no use. Who is not let in now may be a little later, so much later."""
        error = self.error
        passes = isinstance(error, Unauthorised) and self._monotonic() - self._since < patience
        return error is not None and not passes

    def hit(self, error: ImageSyncError) -> float:
        """Something failed: wait before anything else is tried. Returns seconds."""
        with self._lock:
            now = self._monotonic()
            self._since = self._since if self._failures else now
            self._failures += 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
            if isinstance(error, Transient) and error.retry_after is not None:
                pause = max(error.retry_after, 1.0)
            self._not_before = now + pause
            self.error = error
        self._ledger.trouble(self._stage, error)
        log.error("stage.paused", stage=self._stage, error=error.what, hint=error.hint, seconds=round(pause))
        return pause

    def over(self) -> None:
        """It works again."""
        with self._lock:
            was, self.error, self._failures, self._not_before = self.error, None, 0, 0.0
        if was is not None:
            self._ledger.trouble(self._stage, None)
            log.info("stage.resumed", stage=self._stage)
