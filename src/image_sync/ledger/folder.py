"""The state folder, made so that a power cut cannot take it back."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from image_sync.errors import LedgerError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_GENERATION = "generation"
_WRITING = 3.0  # seconds that writing it may take
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_LITTLE = 128 << 10
"""Bytes of room below which a ledger cannot be written to: a transaction needs some pages, twice."""


def make_folder(folder: Path) -> None:
    """Make it, and what is missing above it, if it is not there. Raises OSError.

    SQLite syncs its files and the folder they are in; that the folder itself is there is for its maker to sync.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unusable(folder: Path, error: OSError) -> LedgerError:
    """What to tell a person whose state folder cannot be used."""
    hint = "Make it readable and writable for the user that runs image-sync, or point `state` at another folder."
    if error.errno in _FULL:
        hint = "The disk is full: free some space. Nothing was sent without being written down first."
    elif error.errno in _DENIED:
        hint = f"Run this as the user that runs the daemon, or as root (sudo). Else: {hint[0].lower()}{hint[1:]}"
    return LedgerError(f"the state folder {folder} cannot be used: {error.strerror}", hint=hint)


def full(folder: Path) -> bool:
    """Whether the disk has no room for the ledger any more. A daemon cannot write that down in the ledger itself."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False  # not there: another trouble, told elsewhere
    return disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < _LITTLE


def generation(folder: Path) -> tuple[int, bool]:
    """The number in the file beside the ledger (0: there is none), and whether that file is itself a copy.

    It names the time at which it was written, and no copy can have its own time of change set to that.
    """
    file = folder / _GENERATION
    try:
        number, written = file.read_text(encoding="ascii").split()
        return int(number), abs(file.stat().st_ctime - float(written)) > _WRITING
    except (OSError, ValueError):
        return 0, False


def write_generation(folder: Path, number: int) -> None:
    """Write the number down. Where that fails a ledger from a backup is not recognised: no reason to stop."""
    file = folder / _GENERATION
    with contextlib.suppress(OSError):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as text:
            text.write(f"{number} {time.time()!r}\n")
