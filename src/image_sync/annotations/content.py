"""The bytes of an annotation file, and the stamp by which a change is noticed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from image_sync.annotations.fault import AnnotationError, Fault
from image_sync.domain import Stamp
from image_sync.errors import Changed, Unreadable
from image_sync.log import show_path

Opener = Callable[[bytes], int]
"""Gives a descriptor of a folder, led astray by no symbolic link, or raises OSError; the caller closes it."""

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Disk:
    """Reads files in folders.

    Args:
        open_folder: how folders are opened.
        inodes: whether inode numbers can be relied on (some network file systems make them up anew).
    """

    def __init__(self, open_folder: Opener, *, inodes: bool = True) -> None:
        self.open_folder = open_folder
        self._inodes = inodes

    def stamp_of(self, found: os.stat_result) -> Stamp:
        """The stamp of what ``stat`` found."""
        return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino if self._inodes else 0)

    def stamp_at(self, folder_fd: int, name: bytes) -> Stamp | None:
        """The stamp of a regular file; None when there is none. Symbolic links are not followed."""
        try:
            found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except OSError:
            return None
        return self.stamp_of(found) if stat.S_ISREG(found.st_mode) else None

    def read(self, folder: bytes, name: bytes, expected: Stamp, largest: int) -> bytes:
        """The whole file, which must still have the stamp.

        Raises:
            Changed: it is another file by now. Unreadable: the system says no. AnnotationError: it is too large.
        """
        path = folder + b"/" + name
        if expected.size > largest:
            text = f"it has {expected.size:,} bytes and the limit is {largest:,}"
            raise AnnotationError(path, [Fault(text, "Is this the right file? Else split it, one for each folder.")])
        try:
            folder_fd = self.open_folder(folder)
            try:
                fd = os.open(name, _OPEN, dir_fd=folder_fd)
            finally:
                os.close(folder_fd)
            try:
                data = self._whole(fd, expected)
            finally:
                os.close(fd)
        except OSError as error:
            raise Unreadable(
                f"{show_path(path)} cannot be read: {error.strerror or error}",
                hint="Give the user that runs image-sync the right to read it, or check the disk.",
            ) from error
        if data is None:
            raise Changed(f"{show_path(path)} has changed while it was looked at", hint="It is looked at again.")
        return data

    def _whole(self, fd: int, expected: Stamp) -> bytes | None:
        pieces, left = [], expected.size + 1
        while left and (piece := os.read(fd, min(left, 1 << 20))):
            pieces.append(piece)
            left -= len(piece)
        data = b"".join(pieces)
        return data if len(data) == expected.size and self.stamp_of(os.fstat(fd)) == expected else None
