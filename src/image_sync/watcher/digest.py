"""Log lines about files, gathered: whoever can write to a watched folder must not be able to flood the log."""

from __future__ import annotations

from typing import Any

from image_sync.log import get_logger

log = get_logger(__name__)

_PAUSE = 60.0
"""Seconds between two lines about the same kind of fact."""
_WARNINGS = {"watch.quarantined"}
"""What needs a person."""


class Digest:
    """Counts facts, and now and then says how many there were and what the first was."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._firsts: dict[str, dict[str, Any]] = {}
        self._told: dict[str, float] = {}

    def note(self, event: str, **fields: Any) -> None:
        """One more of these."""
        self._counts[event] = self._counts.get(event, 0) + 1
        self._firsts.setdefault(event, fields)

    def tell(self, now: float) -> None:
        """Log each kind of fact that was noted, unless it was logged within the last minute."""
        for event, number in list(self._counts.items()):
            if now - self._told.get(event, -_PAUSE) >= _PAUSE:
                tell = log.warning if event in _WARNINGS else log.info
                tell(event, number=number, **{f"first_{key}": value for key, value in self._firsts[event].items()})
                self._told[event] = now
                del self._counts[event], self._firsts[event]
