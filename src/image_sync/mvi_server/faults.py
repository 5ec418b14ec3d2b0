"""Fault switches: things that go wrong on purpose, so that clients can be tested and users can rehearse."""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What goes wrong.

    ``status`` answers with an error status, ``soft_failure`` with 200 and ``result: fail``, ``html`` with a proxy's
    error page: in all three the request is not carried out. ``reset`` cuts the connection before it is carried out,
    ``lose_answer`` after, ``cut_answer`` in the middle of the answer. ``late`` cuts the connection at once and
    carries it out ``seconds`` later. ``empty`` carries it out and answers 200 with no body. ``slow`` waits ``seconds``
    first. ``expire_tokens`` makes all session tokens invalid, then goes on.
    """

    STATUS = "status"
    SOFT_FAILURE = "soft_failure"
    HTML = "html"
    RESET = "reset"
    LOSE_ANSWER = "lose_answer"
    CUT_ANSWER = "cut_answer"
    LATE = "late"
    EMPTY = "empty"
    SLOW = "slow"
    EXPIRE_TOKENS = "expire_tokens"


@dataclass(frozen=True, slots=True)
class Fault:
    """One switch: which requests it hits, how often, and what happens to them.

    Attributes:
        method: ``GET``, ``POST``, ...; empty hits all.
        path: regular expression searched in the path without context root and ``/api``, such as ``/files$``.
        count: how many requests it hits before it is used up; None never ends.
        probability: 0 to 1, the share of matching requests that it hits.
        status: for ``status`` and ``html``; retry_after: seconds for that header.
        seconds: for ``slow`` and ``late``.
    """

    action: Action
    method: str = ""
    path: str = ""
    count: int | None = 1
    probability: float = 1.0
    status: int = 503
    retry_after: float | None = None
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError("count must be 1 or more, or null for no end")
        if not 0 <= self.probability <= 1:
            raise ValueError("probability must be between 0 and 1")
        if not 400 <= self.status <= 599:  # noqa: PLR2004 - the error statuses of HTTP
            raise ValueError("status must be between 400 and 599")
        if self.seconds < 0 or (self.retry_after is not None and self.retry_after < 0):
            raise ValueError("seconds and retry_after must not be negative")
        try:
            re.compile(self.path)
        except re.error as error:
            raise ValueError(f"path is not a regular expression: {error}") from None

    @classmethod
    def from_json(cls, raw: Any) -> Fault:
        """A fault from its JSON form.

        Raises:
            ValueError: one sentence about what is wrong with it.
        """
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
        for name, kinds in _KINDS.items():
            if name in values and (isinstance(values[name], bool) or not isinstance(values[name], kinds)):
                raise ValueError(f"{name} has the wrong type")
        return cls(**values)


_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "path": (str,),
    "count": (int, _NONE),
    "probability": (int, float),
    "status": (int,),
    "retry_after": (int, float, _NONE),
    "seconds": (int, float),
}


class Faults:
    """All switches that are on; may be set from any thread, while the server works."""

    def __init__(self, seed: int | None = None) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._chance = random.Random(seed)  # noqa: S311 - luck, not secrecy
        self.stopping = asyncio.Event()
        """Set in the server's loop when it ends: whoever is slow on purpose gives up then."""

    def add(self, *faults: Fault) -> None:
        """Switch on; the first one that matches a request hits it."""
        with self._lock:
            self._faults += faults

    def clear(self) -> None:
        """Switch all off."""
        with self._lock:
            self._faults.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """What is on, with the counts that are left."""
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def draw(self, method: str, path: str) -> Fault | None:
        """The fault that hits this request, if any; its count falls."""
        with self._lock:
            for at, fault in enumerate(self._faults):
                if fault.method and fault.method.upper() != method:
                    continue
                if re.search(fault.path, path) is None or self._chance.random() >= fault.probability:
                    continue
                if fault.count == 1:
                    del self._faults[at]
                elif fault.count is not None:
                    self._faults[at] = replace(fault, count=fault.count - 1)
                return fault
            return None
