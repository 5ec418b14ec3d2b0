"""The state folder, made so that a power cut cannot take it back."""

from __future__ import annotations

import os
from pathlib import Path


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
