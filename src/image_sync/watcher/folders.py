"""Opening and counting folders without being led astray by symbolic links."""

from __future__ import annotations

import errno
import os
import stat
import threading
from enum import Enum

from image_sync.domain import Stamp

VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening a folder says when it is not there, or is something else now."""

_WALK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Presence(Enum):
    """What a name in a folder stands for now."""

    FILE = "file"
    ABSENT = "absent"
    UNKNOWN = "unknown"


def open_folder(root: bytes, folder: bytes) -> int:
    """A descriptor of a folder at or below the root, no symbolic link on the way from the root to it.

    Opened step by step: whoever can write below the root could otherwise swap a folder for a link between a check and
    the reading, and have other people's files uploaded. Raises OSError, see ``VANISHED``; the caller closes it.
    """
    steps = [step for step in folder[len(root) :].split(b"/") if step]
    if not steps:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = os.open(root, _WALK & ~os.O_NOFOLLOW)
    try:
        for number, step in enumerate(steps, 1):
            inner = os.open(step, _READ if number == len(steps) else _WALK, dir_fd=fd)
            os.close(fd)
            fd = inner
    except OSError:
        os.close(fd)
        raise
    return fd


def stamp_of(found: os.stat_result, *, local: bool) -> Stamp:
    """The stamp of what ``stat`` found.

    Network file systems may make up inode numbers anew whenever they please: there they are left out.
    """
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino if local else 0)


def presence(folder_fd: int, name: bytes) -> Presence:
    """Whether a regular file of this name is in the folder."""
    try:
        found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except OSError as error:
        return Presence.ABSENT if error.errno in VANISHED else Presence.UNKNOWN
    return Presence.FILE if stat.S_ISREG(found.st_mode) else Presence.ABSENT


def count_folders(root: bytes, most: int, stop: threading.Event) -> int:
    """How many folders lie at and below the root, hidden ones too; counting ends above ``most`` or at ``stop``."""
    number, waiting = 1, [root]
    while waiting and number <= most and not stop.is_set():
        try:
            with os.scandir(waiting.pop()) as entries:
                inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        number += len(inner)
        waiting += inner
    return number
