"""Faults: what goes wrong on purpose, so that clients can be tested and users can rehearse.

``Fault`` is one switch, ``Kind`` a named one, ``Faults`` all that are on. The help of ``image-sync serve`` reads this
without the extra ``[server]``, so nothing of it is imported here.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, get_type_hints


class Action(StrEnum):
    """What goes wrong.

    The request is not carried out: ``status`` answers with an error status, ``soft_failure`` with 200 and ``result:
    fail``, ``html`` with a proxy's error page, ``unauthorised`` with 401 after making all session tokens invalid;
    ``reset`` cuts the connection at once, ``reset_body`` when half of the body is here.

    It is carried out: ``status_after`` and ``soft_failure_after`` answer as above, ``empty`` with 200 and no body,
    ``truncate`` with a whole HTTP answer of half the body; ``lose_answer`` cuts the connection instead of answering,
    ``cut_answer`` in the middle of the answer; ``trickle`` spreads the answer's body over ``seconds``, byte by byte
    if it is short enough; ``twice`` carries it out twice and gives the second answer. ``late`` cuts the connection
    at once and carries it out ``seconds`` later. ``slow`` waits ``seconds`` first. ``expire_tokens`` makes all session
    tokens invalid, then goes on.

    Inside an upload: ``partial`` refuses some of its pictures, ``not_stored`` does so for want of room, even a single
    one, ``late_zip`` says success to an archive and unpacks it
    ``seconds`` later, ``lag`` keeps the new files out of listings, queries and counts for ``seconds``. Inside a
    status call: ``stumble`` answers 500 to the two calls that would be the first to tell a training's end.
    """

    STATUS = "status"
    STATUS_AFTER = "status_after"
    SOFT_FAILURE = "soft_failure"
    SOFT_FAILURE_AFTER = "soft_failure_after"
    UNAUTHORISED = "unauthorised"
    HTML = "html"
    RESET = "reset"
    RESET_BODY = "reset_body"
    LOSE_ANSWER = "lose_answer"
    CUT_ANSWER = "cut_answer"
    TRUNCATE = "truncate"
    TRICKLE = "trickle"
    TWICE = "twice"
    LATE = "late"
    EMPTY = "empty"
    SLOW = "slow"
    EXPIRE_TOKENS = "expire_tokens"
    PARTIAL = "partial"
    NOT_STORED = "not_stored"
    LATE_ZIP = "late_zip"
    LAG = "lag"
    STUMBLE = "stumble"


INSIDE = frozenset({Action.PARTIAL, Action.NOT_STORED, Action.LATE_ZIP, Action.LAG, Action.STUMBLE})
"""Drawn by the handler that they strike; all others are drawn when a request comes in."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One switch: which requests it hits, how often, and what happens to them.

    Attributes:
        method: ``GET``, ``POST``, ...; empty hits all.
        path: regular expression searched in the path without context root and ``/api``, such as ``/files$``.
        count: how many requests it hits before it is used up; None never ends.
        probability: 0 to 1, the share of matching requests that it hits.
        status: for ``status``, ``status_after`` and ``html``; retry_after: seconds for that header.
        seconds: for ``slow``, ``late``, ``late_zip``, ``lag`` and ``trickle``.
        kind: the preset that it came from; a new one takes the place of the old one of its kind.
        session: hits only requests that carry a valid session token.
    """

    action: Action
    method: str = ""
    path: str = ""
    count: int | None = 1
    probability: float = 1.0
    status: int = 503
    retry_after: float | None = None
    seconds: float = 1.0
    kind: str = ""
    session: bool = False

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError("count must be 1 or more, or null for no end")
        if not 0 <= self.probability <= 1:
            raise ValueError("probability must be between 0 and 1")
        if not 400 <= self.status <= 599:  # noqa: PLR2004 - the error statuses of HTTP
            raise ValueError("status must be between 400 and 599")
        if not 0 <= self.seconds <= _DAY or not 0 <= (self.retry_after or 0) <= _DAY:
            raise ValueError("seconds and retry_after must be between 0 and 86400")
        try:
            re.compile(self.path)
        except re.error as error:
            raise ValueError(f"path is not a regular expression: {error}") from None

    @property
    def name(self) -> str:
        """What it is counted under: its kind, or its action when it came from no preset."""
        return self.kind or self.action.value

    @classmethod
    def from_json(cls, raw: Any) -> Fault:
        """A fault from its JSON form. Raises ValueError: one sentence about what is wrong with it."""
        if not isinstance(raw, Mapping):
            raise ValueError("a fault is a JSON object with an action")  # noqa: TRY004 - one kind of error for callers
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(raw) - known):
            raise ValueError(f"unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
        values = dict(raw)
        try:
            values["action"] = Action(values.get("action", ""))
        except ValueError:
            raise ValueError(f"action must be one of {', '.join(Action)}") from None
        hints = get_type_hints(cls)
        for name, value in values.items():
            kind = hints[name]
            number = isinstance(value, int) and isinstance(1.0, kind)  # a whole number is a number, too
            if not (number or isinstance(value, kind)) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{name} has the wrong type")
        return cls(**values)


_DAY = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Kind:
    """One named fault.

    Attributes:
        text: what it does, for tables and help.
        fault: what is switched on, at rate 1 and without end.
        timed: the attribute of the fault that its seconds set; empty when it has none.
    """

    text: str
    fault: Fault
    timed: str = ""

    @property
    def seconds(self) -> float | None:
        """Its seconds unless others are given; None when it has none."""
        return getattr(self.fault, self.timed) if self.timed else None


def preset(kinds: Mapping[str, Kind], name: str, rate: float = 1.0, seconds: float | None = None) -> Fault:
    """What to give to ``Faults.add`` for a kind.

    Raises:
        ValueError: there is no such kind, or the rate or the seconds cannot be; one sentence.
    """
    if not 0 <= rate <= 1:
        raise ValueError("the rate must be between 0 and 1, or 0% and 100%")
    if name not in kinds:
        raise ValueError(f"there is no kind {name[:40]!r}; known: {', '.join(kinds)}")
    kind = kinds[name]
    if seconds is not None and not kind.timed:
        raise ValueError(f"{name} takes no seconds")
    given = {} if seconds is None else {kind.timed: seconds}
    return replace(kind.fault, kind=name, count=None, probability=rate, **given)  # type: ignore[arg-type]


_NUMBER = r"(\d*\.?\d+)"
_WORD = re.compile(rf"\s*([^=]*?)\s*=\s*{_NUMBER}\s*(%?)\s*(?::\s*{_NUMBER}\s*)?", re.ASCII)


def parsed(text: str, example: str) -> tuple[str, float, float | None]:
    """Kind, rate and seconds of a word of the command line. Raises ValueError, which shows the example."""
    word = _WORD.fullmatch(text)
    if word is None:
        raise ValueError(f"a fault is written KIND=RATE or KIND=RATE:SECONDS, such as {example}")
    return word[1], float(word[2]) / (100 if word[3] else 1), None if word[4] is None else float(word[4])


class _Switch:
    """A fault that is on, how often it may still strike, and luck of its own.

    With a seed the n-th request that it looks at has always the same fate, whatever other switches there are.
    """

    def __init__(self, fault: Fault, seed: int | None) -> None:
        self.fault = fault
        self.left = fault.count
        place = f"{seed} {fault.name} {fault.method} {fault.path}"
        self._chance = random.Random(None if seed is None else place)  # noqa: S311 - luck, not secrecy

    def fits(self, method: str, path: str, *, session: bool) -> bool:
        fault = self.fault
        if fault.method and fault.method.upper() != method:
            return False
        return (session or not fault.session) and re.search(fault.path, path) is not None

    def fires(self) -> bool:
        return self._chance.random() < self.fault.probability


class Faults:
    """All switches that are on; may be set from any thread, while the server works.

    Args:
        seed: makes the same things go wrong again when the same requests come in the same order.
        several: there may be several of a kind; else one takes the place of the earlier one.
    """

    def __init__(self, seed: int | None = None, *, several: bool = False) -> None:
        self.stopping = asyncio.Event()
        """Set in the server's loop when it ends: all waits of what is slow on purpose end then."""
        self._seed = seed
        self._several = several
        self._switches: list[_Switch] = []
        self._lock = threading.RLock()
        self._chance = random.Random(seed)  # noqa: S311 - luck, not secrecy
        self._counts: Counter[str] = Counter()
        self._stumbles: dict[str, int] = {}

    @property
    def counts(self) -> Counter[str]:
        """How often each kind has struck since the start or the last ``forget``; a copy."""
        with self._lock:
            return self._counts.copy()

    def add(self, *faults: Fault) -> None:
        """Switch on; a kind with probability 0 is switched off."""
        with self._lock:
            for fault in faults:
                if fault.kind and not self._several:
                    self._switches = [switch for switch in self._switches if switch.fault.kind != fault.kind]
                if fault.probability or not fault.kind:
                    self._switches.append(_Switch(fault, self._seed))

    def clear(self) -> None:
        """Switch all off; what has struck stays counted."""
        with self._lock:
            self._switches.clear()
            self._stumbles = dict.fromkeys(self._stumbles, 0)

    def forget(self) -> None:
        """Begin to count anew."""
        with self._lock:
            self._counts.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """What is on, with the counts that are left."""
        with self._lock:
            return [asdict(replace(switch.fault, count=switch.left)) for switch in self._switches]

    def pick(self, method: str, path: str, inside: Action | None = None, *, session: bool = False) -> Fault | None:
        """The fault that hits this request, if any; its count falls.

        Of those without a kind the first one that matches counts. Each kind draws its own lot, and when several win,
        one of them strikes.

        Args:
            inside: what a handler asks for; without it, what is drawn when a request comes in.
            session: whether the request carries a valid session token.
        """
        with self._lock:
            at_hand = [
                switch
                for switch in self._switches
                if (switch.fault.action is inside if inside else switch.fault.action not in INSIDE)
                and switch.fits(method, path, session=session)
            ]
            plain = (switch for switch in at_hand if not switch.fault.kind)
            struck = next((switch for switch in plain if switch.fires()), None)
            if struck is None:
                # A list, not a generator: every kind must draw, or its luck would depend on the others'.
                won = [switch for switch in at_hand if switch.fault.kind and switch.fires()]
                if not won:
                    return None
                struck = self._chance.choice(won)
            self._counts[struck.fault.name] += 1
            if struck.left is not None:
                struck.left -= 1
                if not struck.left:
                    self._switches.remove(struck)
            return struck.fault

    async def pause(self, seconds: float) -> bool:
        """Wait in the server's loop; False when the server ends meanwhile."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        return not self.stopping.is_set()

    def some_of(self, count: int) -> set[int]:
        """Some of so many things, by number: at least one and never all. ``count`` is 2 or more."""
        with self._lock:
            return set(self._chance.sample(range(count), self._chance.randint(1, count - 1)))

    def stumbles(self, task_id: str) -> bool:
        """Whether a status call that would tell a training's end fails; drawn once for each training, for two calls."""
        with self._lock:
            left = self._stumbles.get(task_id)
            if left is None:
                left = 2 if self.pick("GET", f"/dltasks/{task_id}/status", Action.STUMBLE) else 0
            self._stumbles[task_id] = max(0, left - 1)
            return left > 0
