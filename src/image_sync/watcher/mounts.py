"""Which file system a folder lies on, whether it tells of changes made elsewhere, and which belong below it."""

from __future__ import annotations

import os
from pathlib import Path

_REMOTE = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "coda", "ceph", "lustre", "gfs2", "ocfs2"),
        *("orangefs", "pvfs2", "beegfs", "gpfs", "glusterfs", "davfs", "acfs", "9p", "drvfs", "virtiofs", "vboxsf"),
        *("prl_fs", "vmhgfs", "overlay", "aufs", "shiftfs", "autofs"),
    }
)
_MOUNTS = Path("/proc/self/mountinfo")
_LISTED = Path("/etc/fstab")


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
