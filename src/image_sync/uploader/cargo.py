"""What is sent: the bytes of pictures, proved to be those that were checked."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

from image_sync.domain import Picture, Stamp
from image_sync.errors import Changed, PictureError, Unreadable
from image_sync.platforms.base import Reader

_PIECE = 1 << 18
_OPEN = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def reader(spoiled: list[Picture], *, trusting: bool = False) -> Reader:
    """Reads pictures as they are sent. Those that turn out to have changed are added to ``spoiled``.

    Args:
        trusting: a file that has the stamp it had when it was hashed need not be hashed again.
    """

    def read(picture: Picture) -> bytes | Iterator[bytes]:
        pieces = read_verified(picture.path, picture.size, picture.sha256, picture.stamp if trusting else None)
        if picture.size > _PIECE:
            return _noted(pieces, picture, spoiled)
        try:
            return b"".join(pieces)
        except PictureError:
            spoiled.append(picture)
            raise

    return read


def _noted(pieces: Iterator[bytes], item: Picture, spoiled: list[Picture]) -> Iterator[bytes]:
    try:
        yield from pieces
    except PictureError:
        spoiled.append(item)
        raise


def read_verified(path: bytes, size: int, sha256: str, stamp: Stamp | None = None) -> Iterator[bytes]:
    """The file's bytes, piece by piece; the last piece comes only if all are proved to be the ones that were checked.

    The proof is the stamp that the file had when it was hashed, if it has it before and after every piece is read,
    else the hash. On file systems whose stamps prove nothing (their inode number is 0), it is always the hash.

    Raises:
        Changed: it holds something else now. Unreadable: it cannot be read.
    """
    trusted = stamp if stamp is not None and stamp.inode else None
    digest, at = None if trusted else hashlib.sha256(), 0
    while True:
        try:
            piece, same = _piece(path, at, min(_PIECE, size - at + 1), trusted)
        except OSError as error:
            raise Unreadable(f"{os.fsdecode(path)!a} cannot be read: {error.strerror}") from error
        if not same:
            if at:
                raise Changed(f"{os.fsdecode(path)!a} changed while it was sent")
            trusted, digest = None, hashlib.sha256()
        at += len(piece)
        if digest is not None:
            digest.update(piece)
        if at >= size or not piece:
            break
        yield piece
    if at != size or (digest is not None and digest.hexdigest() != sha256):
        raise Changed(f"{os.fsdecode(path)!a} changed after it was checked")
    yield piece


def _piece(path: bytes, at: int, size: int, stamp: Stamp | None) -> tuple[bytes, bool]:
    """Bytes of the file from here on, and whether it had this stamp before and after they were read."""
    # Opened for each piece: whoever gives up in the middle of a request leaves no open file behind.
    handle = os.open(path, _OPEN)
    try:
        before = os.fstat(handle)
        piece = os.pread(handle, size, at) if stat.S_ISREG(before.st_mode) else b""
        return piece, stamp is None or (_has(before, stamp) and _has(os.fstat(handle), stamp))
    finally:
        os.close(handle)


def _has(found: os.stat_result, stamp: Stamp) -> bool:
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino) == stamp[:4]
