"""The named faults of ``image-sync serve --api mobius --fault``."""

from __future__ import annotations

from dataclasses import replace

from image_sync_server import faults
from image_sync_server.faults import Action, Fault, Kind

KINDS = {
    "500-before": Kind("status 500, and nothing is done", Fault(Action.STATUS, status=500)),
    "500-after": Kind("it is done, then status 500", Fault(Action.STATUS_AFTER, status=500)),
    "lost-answer": Kind("it is done, then the connection is reset without an answer", Fault(Action.LOSE_ANSWER)),
    "reset": Kind("the connection is reset, and nothing is done", Fault(Action.RESET)),
    "429": Kind(
        "status 429 with `Retry-After: SECONDS`, and nothing is done",
        Fault(Action.STATUS, status=429, retry_after=1),
        timed="retry_after",
    ),
    "late": Kind(
        "the connection is reset, and what was asked for happens SECONDS later", Fault(Action.LATE), timed="seconds"
    ),
    "html": Kind("status 502 with a proxy's page instead of JSON, and nothing is done", Fault(Action.HTML, status=502)),
    "truncated-json": Kind("it is done, and the JSON of the answer ends half-way", Fault(Action.TRUNCATE)),
    "unknown-error": Kind("nothing is done, and the body says `unknown_error`", Fault(Action.SOFT_FAILURE)),
    "slow": Kind("it takes SECONDS", Fault(Action.SLOW), timed="seconds"),
    "twice": Kind("it is done twice, as when a proxy repeats it; the answer is the second one's", Fault(Action.TWICE)),
}


def preset(
    kind: str, rate: float = 1.0, seconds: float | None = None, *, path: str = "", count: int | None = None
) -> Fault:
    """What to give to ``Faults.add``. Raises ValueError, in one sentence.

    Args:
        rate: share of the matching requests that it hits.
        path: regular expression searched in the path and its query.
        count: how many requests it hits before it is used up; None never ends.
    """
    return replace(faults.preset(KINDS, kind, rate, seconds), path=path, count=count)


def parsed(text: str) -> Fault:
    """The fault that a word of the command line stands for. Raises ValueError, in one sentence.

    >>> parsed("late=5%:3").probability
    0.05
    """
    return preset(*faults.parsed(text, "lost-answer=5% or late=0.1:3"))
