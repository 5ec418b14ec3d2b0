"""Makes things that must be made once, at a server that makes another one whenever it is asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from image_sync.errors import Ambiguous, Refused, Transient
from image_sync.platforms.http import Denied

T = TypeVar("T")

_LONGEST_POLL = 5.0


class Making:
    """Looks before it believes that something was not made.

    Args:
        stop: ends the wait for something whose making is in doubt.
        patience: seconds in which a request that got no answer may still be carried out.
        poll: seconds until the second look, about; then twice as long each time.
    """

    def __init__(self, stop: threading.Event, *, patience: float = 30.0, poll: float = 0.5) -> None:
        self._stop = stop
        self.patience = patience
        self.poll = poll

    def made(self, make: Callable[[], T], find: Callable[[], T | None]) -> T:
        """What ``make`` makes, called once; or, after it failed, what ``find`` finds.

        It may be there in spite of the failure: the answer got lost, or somebody else was quicker.

        Raises:
            Refused: the server said no, and it is not there.
            Transient: there was no answer, and it has not appeared. A later call looks first, too.
        """
        try:
            return make()
        except (Refused, Denied) as error:
            found = find()
            if found is not None:
                return found
            if isinstance(error, Denied):
                raise Refused(error.what) from error
            raise
        except Ambiguous as error:
            doubt = error
        give_up, poll = time.monotonic() + self.patience, self.poll
        while (found := find()) is None:
            if time.monotonic() >= give_up or self._stop.wait(poll):
                raise Transient(doubt.what, hint="It was looked for since, and is not there") from doubt
            poll = min(2 * poll, _LONGEST_POLL)
        return found
