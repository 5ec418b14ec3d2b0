"""Folders on the disk: how they are opened without being led astray by symbolic links, and what they lie on."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Generator
from pathlib import Path

from image_sync.domain import Stamp

AT_ONCE = 256
"""Entries looked at between two yields."""
VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening a folder says when it is not there, or is something else now."""

_WALK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REMOTE = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "coda", "ceph", "lustre", "gfs2", "ocfs2"),
        *("orangefs", "pvfs2", "beegfs", "gpfs", "glusterfs", "davfs", "acfs", "9p", "drvfs", "virtiofs", "vboxsf"),
        *("prl_fs", "vmhgfs", "overlay", "aufs", "shiftfs", "autofs"),
    }
)
_MOUNTS = Path("/proc/self/mountinfo")
_LISTED = Path("/etc/fstab")


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


def absent(folder_fd: int, name: bytes) -> bool:
    """Whether no regular file of this name is in the folder, as far as the disk can tell."""
    try:
        found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except OSError as error:
        return error.errno in VANISHED
    return not stat.S_ISREG(found.st_mode)


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


def remote_filesystem(folder: bytes, table: Path = _MOUNTS) -> str:
    """The type of the network or container file system that the folder, or something below it, lies on.

    Such a file system does not report changes that others make, and cannot say who writes. Empty when it is local,
    or when the system has no such table.
    """
    try:
        lines = table.read_bytes().splitlines()
    except OSError:
        return ""
    here = os.path.realpath(folder)
    own, own_length, below = "", -1, ""
    for line in lines:
        left, _, right = line.partition(b" - ")
        fields = left.split(b" ")
        if len(fields) < 5 or not right:  # noqa: PLR2004 - proc(5): the fifth field is the mount point
            continue
        place = _unescaped(fields[4])
        kind = right.split(b" ", 1)[0].decode("ascii", "replace")
        if _holds(place, here) and len(place) >= own_length:  # a later mount covers an earlier one
            own, own_length = kind, len(place)
        elif _holds(here, place) and _is_remote(kind):
            below = kind
    return own if _is_remote(own) else below


def listed_below(root: bytes, table: Path = _LISTED) -> set[bytes]:
    """The folders below the root on which the system's administrator has other file systems mounted."""
    try:
        lines = table.read_bytes().splitlines()
    except OSError:
        return set()
    here = os.path.realpath(root)
    places = [_unescaped(fields[1]).rstrip(b"/") for line in lines if len(fields := line.split()) > 1]
    return {root + place[len(here) :] for place in places if place != here and _holds(here, place)}


def _is_remote(kind: str) -> bool:
    return kind in _REMOTE or kind.startswith("fuse")


def _holds(outer: bytes, inner: bytes) -> bool:
    return inner == outer or inner.startswith(outer.rstrip(b"/") + b"/")


def _unescaped(field: bytes) -> bytes:
    for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(code, char)
    return field


def fingerprint(fd: int, inner: list[bytes], *, local: bool) -> Generator[None, None, int | None]:
    """A number that changes with whatever changes in the folder itself; None if something vanished meanwhile.

    Yields now and then, where the look may be interrupted. ``inner``: the names of the folders in it are added here;
    ``local``: inode numbers count.
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
                inner.append(os.fsencode(entry.name))
            number = hash((number, entry.name))
    return number
