"""The named faults of ``image-sync serve --fault`` and ``/_faults``: each one a mishap that the field knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from image_sync_server.faults import Action, Fault

ALL = "all"
_UPLOAD = "/files$"
_MAKES = r"^/dltasks$|^/datasets(/[^/]+/(files|categories))?$"
_JSON = r"^(?!/uploads/).*(?<!/export)(?<!/download)$"
_NOT_LOGIN = r"^(?!/tokens$|/version-info$)"
_NUMBER = re.compile(r"\d*\.?\d+", re.ASCII)
_RATE = re.compile(rf"(?P<number>{_NUMBER.pattern})(?P<percent>%?)", re.ASCII)
_FORM = "a fault is written KIND=RATE or KIND=RATE:SECONDS, such as 429=5% or late=0.1:3"


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

    @property
    def where(self) -> str:
        """The requests that it hits, in words."""
        return _WHERE[self.fault.method, self.fault.path]


_WHERE = {
    ("", ""): "every call",
    ("", _NOT_LOGIN): "every call but signing in",
    ("", _JSON): "every call that answers with JSON",
    ("POST", ""): "every `POST`",
    ("POST", _UPLOAD): "uploads",
    ("POST", _MAKES): "uploads and what makes datasets, categories and trainings",
    ("GET", "/status$"): "status calls of trainings",
}


def _kind(text: str, action: Action, method: str = "", path: str = "", *, timed: str = "", **options: Any) -> Kind:
    return Kind(text, Fault(action, method, path, None, **options), timed)


KINDS: dict[str, Kind] = {
    "500-before": _kind("status 500, and nothing is done", Action.STATUS, status=500),
    "500-after": _kind("it is done, then status 500", Action.STATUS_AFTER, status=500),
    "lost-answer": _kind("it is done, then the connection is reset without an answer", Action.LOSE_ANSWER),
    "reset-body": _kind(
        "the connection is reset in the middle of the request's body; nothing is done", Action.RESET_BODY, "POST"
    ),
    "reset-answer": _kind("it is done, and the connection ends in the middle of the answer", Action.CUT_ANSWER),
    "429": _kind(
        "status 429 with `Retry-After: SECONDS`, and nothing is done",
        Action.STATUS,
        timed="retry_after",
        status=429,
        retry_after=1,
    ),
    "401": _kind(
        "all session tokens become invalid, and this request gets 401; an API key is good again afterwards",
        Action.UNAUTHORISED,
        path=_NOT_LOGIN,
    ),
    "trickle": _kind(
        "it is done, and the answer comes byte by byte, over SECONDS", Action.TRICKLE, path=_JSON, timed="seconds"
    ),
    "html": _kind("status 502 with a proxy's page instead of JSON, and nothing is done", Action.HTML, status=502),
    "truncated-json": _kind("it is done, and the JSON of the answer ends half-way", Action.TRUNCATE, path=_JSON),
    "soft-fail": _kind("status 200 with `result: fail`, and nothing is stored", Action.SOFT_FAILURE, "POST", _UPLOAD),
    "soft-fail-after": _kind(
        "everything is stored, then status 200 with `result: fail`", Action.SOFT_FAILURE_AFTER, "POST", _UPLOAD
    ),
    "partial": _kind(
        "some pictures are refused, the others stored: status 422, `resultList` says which; a single one is spared",
        Action.PARTIAL,
        "POST",
        _UPLOAD,
    ),
    "not-stored": _kind(
        "as `partial`, but even a single picture is refused: `The file could not be stored`, which may pass",
        Action.NOT_STORED,
        "POST",
        _UPLOAD,
    ),
    "late": _kind(
        "the connection is reset, and what was asked for happens SECONDS later",
        Action.LATE,
        "POST",
        _MAKES,
        timed="seconds",
    ),
    "late-zip": _kind(
        "an upload with a zip archive gets its success at once and is unpacked SECONDS later",
        Action.LATE_ZIP,
        "POST",
        _UPLOAD,
        timed="seconds",
    ),
    "train-500": _kind(
        "the first two calls that would tell a training's end get 500 with `result: fail`; drawn once a training",
        Action.STUMBLE,
        "GET",
        "/status$",
        status=500,
    ),
    "listing-lag": _kind(
        "the new files appear in listings, queries and counts only after SECONDS",
        Action.LAG,
        "POST",
        _UPLOAD,
        timed="seconds",
        seconds=2,
    ),
    "duplicate": _kind(
        "it is stored twice, as when a proxy repeats a `POST`; the answer is the second one's",
        Action.TWICE,
        "POST",
        _UPLOAD,
    ),
}
KINDS = {name: replace(kind, fault=replace(kind.fault, kind=name)) for name, kind in KINDS.items()}


def preset(name: str, rate: float = 1.0, seconds: float | None = None) -> list[Fault]:
    """What to give to ``Faults.add`` for a kind; ``all`` gives every kind.

    Raises:
        ValueError: there is no such kind, or the rate or the seconds cannot be.
    """
    if not 0 <= rate <= 1:
        raise ValueError("the rate must be between 0 and 1, or 0% and 100%")
    if name == ALL:
        if seconds is not None:
            raise ValueError(f"{ALL} takes no seconds; give them to a kind of its own")
        return [replace(kind.fault, probability=rate) for kind in KINDS.values()]
    kind = KINDS.get(name)
    if kind is None:
        raise ValueError(f"there is no kind {name[:40]!r}; known: {', '.join([*KINDS, ALL])}")
    fault = replace(kind.fault, probability=rate)
    if seconds is None:
        return [fault]
    if not kind.timed:
        raise ValueError(f"{name} takes no seconds")
    return [replace(fault, retry_after=seconds) if kind.timed == "retry_after" else replace(fault, seconds=seconds)]


def parsed(text: str) -> list[Fault]:
    """The faults that a word of the command line stands for.

    >>> [(fault.kind, fault.probability, fault.seconds) for fault in parsed("late=5%:3")]
    [('late', 0.05, 3.0)]

    Raises:
        ValueError: one sentence about what is wrong with it.
    """
    name, equals, rest = text.strip().partition("=")
    if not equals:
        raise ValueError(_FORM)
    share, colon, seconds = rest.partition(":")
    if colon and _NUMBER.fullmatch(seconds.strip()) is None:
        raise ValueError(_FORM)
    return preset(name.strip(), _rate(share), float(seconds) if colon else None)


def _rate(text: str) -> float:
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise ValueError(_FORM)
    return float(found["number"]) / (100 if found["percent"] else 1)


def from_json(raw: Any) -> list[Fault]:
    """The faults of a JSON object: one with an ``action`` as ``Fault`` has it, or one with a ``kind``.

    The latter takes ``rate`` (0 to 1, or such as ``"5%"``; 1 when left out), and every key of a fault besides to
    narrow the kind down: ``{"kind": "late", "rate": "5%", "seconds": 3, "path": "/dltasks$", "count": 1}``.

    Raises:
        ValueError: one sentence about what is wrong with it.
    """
    if not isinstance(raw, Mapping) or "kind" not in raw or "action" in raw:
        return [Fault.from_json(raw)]
    rest = {key: value for key, value in raw.items() if key not in {"kind", "rate"}}
    name, rate = raw["kind"], raw.get("rate", 1)
    if not isinstance(name, str) or isinstance(rate, bool) or not isinstance(rate, int | float | str):
        raise ValueError("kind must be a text, and rate a number or a text such as '5%'")  # noqa: TRY004 - one kind of error
    share = _rate(rate) if isinstance(rate, str) else rate
    seconds = rest.pop("seconds", None)
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
        raise ValueError("seconds has the wrong type")
    faults = preset(name, share, seconds)
    return [Fault.from_json({**asdict(fault), **rest}) for fault in faults]
