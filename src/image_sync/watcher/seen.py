"""How folders looked when the catalogue last agreed with all that is in them: most look the same every time."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator

AT_ONCE = 256
"""Entries looked at between two yields."""
_MOST = 20_000
"""Folders remembered: some megabytes."""


class Seen:
    """A number for each folder in place of all its files' stamps, which would take a hundred times the memory.

    A folder that looks as it did then, and has as many files recorded as then, needs no comparison file by file:
    what is recorded is replaced only after its file has changed, and forgotten only with its row.
    """

    def __init__(self) -> None:
        self._folders: dict[bytes, tuple[int, int]] = {}

    def agreed(self, folder: bytes, likeness: int, recorded: int) -> None:
        """All that is in the folder, and nothing else, is what these many records say."""
        if len(self._folders) < _MOST or folder in self._folders:
            self._folders[folder] = likeness, recorded

    def recorded(self, folder: bytes, likeness: int) -> int | None:
        """How many files were recorded when it last looked like this; None: it never did."""
        known, recorded = self._folders.get(folder, (None, None))
        return recorded if known == likeness else None

    def clear(self) -> None:
        """Have everything compared again."""
        self._folders.clear()


def likeness(fd: int, inner: Callable[[bytes], None], *, local: bool) -> Generator[None, None, int | None]:
    """A number that changes with whatever changes in the folder itself; None if something vanished meanwhile.

    Yields now and then, where the look may be interrupted. ``inner`` is told the name of each folder in it; ``local``:
    inode numbers count.
    """
    number = 0
    with os.scandir(fd) as entries:
        for count, entry in enumerate(entries, 1):
            if count % AT_ONCE == 0:
                yield
            if entry.is_file(follow_symlinks=False):
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    return None
                inode = found.st_ino if local else 0
                number = hash((number, entry.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, inode))
                continue
            if entry.is_dir(follow_symlinks=False):
                inner(os.fsencode(entry.name))
            number = hash((number, entry.name))
    return number
