"""What a platform must remember for itself, because its server cannot be asked: small texts that outlive the process.

The ledger keeps them, for each server and dataset apart (``ledger/notes.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol


class PlatformState(Protocol):
    """Texts under names of at most 52 ASCII characters. May be used from several threads."""

    def get(self, name: str) -> str | None:
        """The text under this name, or None."""
        ...

    def under(self, prefix: str) -> dict[str, str]:
        """Every name that begins so, with its text, in the order of the names."""
        ...

    def write(self, changes: Mapping[str, str | None]) -> None:
        """Set these texts, and remove those that are None: all at one stroke, and for good when it returns."""
        ...


class MemoryState:
    """What lasts as long as the process."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> str | None:
        """The text under this name, or None."""
        with self._lock:
            return self._texts.get(name)

    def under(self, prefix: str) -> dict[str, str]:
        """Every name that begins so, with its text."""
        with self._lock:
            return {name: text for name, text in sorted(self._texts.items()) if name.startswith(prefix)}

    def write(self, changes: Mapping[str, str | None]) -> None:
        """Set these texts, and remove those that are None."""
        with self._lock:
            for name, text in changes.items():
                if text is None:
                    self._texts.pop(name, None)
                else:
                    self._texts[name] = text
