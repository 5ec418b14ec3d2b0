"""The named faults of ``image-sync serve --fault`` and ``/_faults``: each one happens in the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from image_sync_server import faults
from image_sync_server.faults import Action, Fault, Kind

ALL = "all"
_EXAMPLE = "429=5% or late=0.1:3"
_UPLOAD = ("POST", "/files$")
_MAKES = ("POST", r"^/dltasks$|^/datasets(/[^/]+/(files|categories))?$")
_JSON = ("", r"^(?!/uploads/).*(?<!/export)(?<!/download)$")
_NOT_LOGIN = ("", r"^(?!/tokens$|/version-info$)")
_STATUS = ("GET", "/status$")
WHERE = {
    ("", ""): "every call",
    _NOT_LOGIN: "every call but signing in",
    _JSON: "every call that answers with JSON",
    ("POST", ""): "every `POST`",
    _UPLOAD: "uploads",
    _MAKES: "uploads and what makes datasets, categories and trainings",
    _STATUS: "status calls of trainings",
}
"""The requests that a kind hits, in words, by method and path."""
KINDS: dict[str, Kind] = {
    "500-before": Kind("status 500, and nothing is done", Fault(Action.STATUS, status=500)),
    "500-after": Kind("it is done, then status 500", Fault(Action.STATUS_AFTER, status=500)),
    "lost-answer": Kind("it is done, then the connection is reset without an answer", Fault(Action.LOSE_ANSWER)),
    "reset-body": Kind(
        "the connection is reset in the middle of the request's body; nothing is done", Fault(Action.RESET_BODY, "POST")
    ),
    "reset-answer": Kind("it is done, and the connection ends in the middle of the answer", Fault(Action.CUT_ANSWER)),
    "429": Kind(
        "status 429 with `Retry-After: SECONDS`, and nothing is done",
        Fault(Action.STATUS, status=429, retry_after=1),
        timed="retry_after",
    ),
    "401": Kind(
        "all session tokens become invalid, and this request gets 401; an API key is good again afterwards",
        Fault(Action.UNAUTHORISED, *_NOT_LOGIN),
    ),
    "trickle": Kind(
        "it is done, and the answer comes byte by byte, over SECONDS", Fault(Action.TRICKLE, *_JSON), timed="seconds"
    ),
    "html": Kind("status 502 with a proxy's page instead of JSON, and nothing is done", Fault(Action.HTML, status=502)),
    "truncated-json": Kind("it is done, and the JSON of the answer ends half-way", Fault(Action.TRUNCATE, *_JSON)),
    "soft-fail": Kind("status 200 with `result: fail`, and nothing is stored", Fault(Action.SOFT_FAILURE, *_UPLOAD)),
    "soft-fail-after": Kind(
        "everything is stored, then status 200 with `result: fail`", Fault(Action.SOFT_FAILURE_AFTER, *_UPLOAD)
    ),
    "partial": Kind(
        "some pictures are refused, the others stored: status 422, `resultList` says which; a single one is spared",
        Fault(Action.PARTIAL, *_UPLOAD),
    ),
    "not-stored": Kind(
        "as `partial`, but even a single picture is refused: `The file could not be stored`, which may pass",
        Fault(Action.NOT_STORED, *_UPLOAD),
    ),
    "late": Kind(
        "the connection is reset, and what was asked for happens SECONDS later",
        Fault(Action.LATE, *_MAKES),
        timed="seconds",
    ),
    "late-zip": Kind(
        "an upload with a zip archive gets its success at once and is unpacked SECONDS later",
        Fault(Action.LATE_ZIP, *_UPLOAD),
        timed="seconds",
    ),
    "train-500": Kind(
        "the first two calls that would tell a training's end get 500 with `result: fail`; drawn once a training",
        Fault(Action.STUMBLE, *_STATUS, status=500),
    ),
    "listing-lag": Kind(
        "the new files appear in listings, queries and counts only after SECONDS",
        Fault(Action.LAG, *_UPLOAD, seconds=2),
        timed="seconds",
    ),
    "duplicate": Kind(
        "it is stored twice, as when a proxy repeats a `POST`; the answer is the second one's",
        Fault(Action.TWICE, *_UPLOAD),
    ),
}


def preset(name: str, rate: float = 1.0, seconds: float | None = None) -> list[Fault]:
    """What to give to ``Faults.add`` for a kind; ``all`` gives every kind. Raises ValueError, in one sentence."""
    if name != ALL:
        if name not in KINDS:
            raise ValueError(f"there is no kind {name[:40]!r}; known: {', '.join([*KINDS, ALL])}")
        return [faults.preset(KINDS, name, rate, seconds)]
    if seconds is not None:
        raise ValueError(f"{ALL} takes no seconds; give them to a kind of its own")
    return [faults.preset(KINDS, one, rate) for one in KINDS]


def parsed(text: str) -> list[Fault]:
    """The faults that a word of the command line stands for. Raises ValueError, in one sentence.

    >>> [(fault.kind, fault.probability, fault.seconds) for fault in parsed("late=5%:3")]
    [('late', 0.05, 3.0)]
    """
    return preset(*faults.parsed(text, _EXAMPLE))


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
    if isinstance(rate, str):
        _, rate, timed = faults.parsed(f"{name}={rate}", _EXAMPLE)
        if timed is not None:
            raise ValueError("seconds are a key of their own, not part of the rate")
    seconds = rest.pop("seconds", None)
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
        raise ValueError("seconds has the wrong type")
    return [Fault.from_json({**asdict(fault), **rest}) for fault in preset(name, rate, seconds)]
