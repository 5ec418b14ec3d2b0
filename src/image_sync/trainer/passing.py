"""Which failures of a training pass by themselves, so that a second try is worth it."""

from __future__ import annotations

import re

# Platforms give no code for it, only words, and most often English ones. What is not recognised is not repeated: a
# person who stopped a training, or a dataset that cannot be learnt, would only meet it again.
_PASSING = re.compile(
    r"\bgpus?\b|memory|resources?\b|capacity|time[sd]?[ -]?out|restart|interrupt|evict|preempt|unavailable"
    r"|no space left|disk is full|connection|server (?:was |has )?(?:stopped|ended|shut)|\bbusy\b",
    re.IGNORECASE,
)


def passes(reason: str) -> bool:
    """Whether the platform's words name a cause that is likely to be gone a little later.

    >>> passes("No free GPU"), passes("It was stopped on request.")
    (True, False)
    """
    return _PASSING.search(reason) is not None
