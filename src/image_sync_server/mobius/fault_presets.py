"""The named faults of ``image-sync serve --api mobius --fault``, and the switches that hold them."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from dataclasses import dataclass

from image_sync_server.faults import Action, Pauses
from image_sync_server.faults import Fault as WireFault

KINDS = {
    "500-before": "status 500, and nothing is done",
    "500-after": "it is done, then status 500",
    "lost-answer": "it is done, then the connection is reset without an answer",
    "reset": "the connection is reset, and nothing is done",
    "429": "status 429 with `Retry-After: SECONDS`, and nothing is done",
    "late": "the connection is reset, and what was asked for happens SECONDS later",
    "html": "status 502 with a proxy's page instead of JSON, and nothing is done",
    "truncated-json": "it is done, and the JSON of the answer ends half-way",
    "unknown-error": "nothing is done, and the body says `unknown_error`",
    "slow": "it takes SECONDS",
    "twice": "it is done twice, as when a proxy repeats it; the answer is the second one's",
}
_ACTIONS = {
    "500-before": (Action.STATUS, 500),
    "500-after": (Action.STATUS_AFTER, 500),
    "lost-answer": (Action.LOSE_ANSWER, 500),
    "reset": (Action.RESET, 500),
    "429": (Action.STATUS, 429),
    "late": (Action.LATE, 500),
    "html": (Action.HTML, 502),
    "truncated-json": (Action.TRUNCATE, 500),
    "unknown-error": (Action.SOFT_FAILURE, 500),
    "slow": (Action.SLOW, 500),
    "twice": (Action.TWICE, 500),
}
_TIMED = {"429": 1.0, "late": 1.0, "slow": 1.0}
_FORM = "a fault is written KIND=RATE or KIND=RATE:SECONDS, such as lost-answer=5% or late=0.1:3"
_SPELLING = re.compile(r"(?P<kind>[a-z0-9-]+)=(?P<rate>\d*\.?\d+)(?P<percent>%?)(:(?P<seconds>\d*\.?\d+))?", re.ASCII)


@dataclass(slots=True)
class Fault:
    """One switch.

    Attributes:
        rate: share of the matching requests that it hits.
        path: regular expression searched in ``METHOD /path``.
        left: how many requests it hits before it is used up; None never ends.
    """

    kind: str
    rate: float = 1.0
    seconds: float = 1.0
    path: str = ""
    left: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no kind {self.kind!r}; known: {', '.join(KINDS)}")
        if not 0 <= self.rate <= 1:
            raise ValueError("the rate must be between 0 and 1, or 0% and 100%")

    @property
    def wire(self) -> WireFault:
        """What happens on the wire."""
        action, status = _ACTIONS[self.kind]
        retry_after = self.seconds if self.kind == "429" else None
        return WireFault(action, status=status, retry_after=retry_after, seconds=self.seconds, kind=self.kind)


class Faults(Pauses):
    """The switches that are on; may be set from any thread, while the server works. There may be several of a kind.

    Args:
        seed: makes the same things go wrong again when the same requests come in the same order.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._chance = random.Random(seed)  # noqa: S311 - luck, not secrecy
        self.counts: Counter[str] = Counter()
        """How often each kind has fired."""

    def add(self, *faults: Fault) -> None:
        """Switch on."""
        with self._lock:
            self._faults.extend(faults)

    def clear(self) -> None:
        """Switch all off."""
        with self._lock:
            self._faults.clear()

    def pick(self, call: str) -> Fault | None:
        """The fault that hits this request (``METHOD /path``), if any: the first one that fits and fires."""
        with self._lock:
            for fault in self._faults:
                if re.search(fault.path, call) and self._chance.random() < fault.rate:
                    if fault.left is not None:
                        fault.left -= 1
                        if not fault.left:
                            self._faults.remove(fault)
                    self.counts[fault.kind] += 1
                    return fault
            return None


def parsed(text: str) -> Fault:
    """The fault that a word of the command line stands for.

    >>> parsed("late=5%:3").rate
    0.05

    Raises:
        ValueError: one sentence about what is wrong with it.
    """
    found = _SPELLING.fullmatch(text.strip())
    if found is None:
        raise ValueError(_FORM)
    kind, seconds = found["kind"], found["seconds"]
    if seconds is not None and kind in KINDS and kind not in _TIMED:
        raise ValueError(f"{kind} takes no seconds")
    rate = float(found["rate"]) / (100 if found["percent"] else 1)
    return Fault(kind, rate, float(seconds) if seconds is not None else _TIMED.get(kind, 1.0))
