"""What is sent: the bytes of pictures, proved to be those that were checked, and what is marked in them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from functools import partial

from image_sync.domain import Annotation, Batch, Picture, Stamp
from image_sync.errors import Changed, PictureError, Unreadable
from image_sync.platforms.base import Item, Shipment

_PIECE = 1 << 18
_OPEN = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def shipment_of(
    batch: Batch, pictures: Iterable[Picture], spoiled: list[Picture], *, trusting: bool = False
) -> Shipment:
    """These pictures of a batch, ready to be sent. Those that turn out to have changed are added to ``spoiled``.

    Args:
        trusting: a file that has the stamp it had when it was hashed need not be hashed again.
    """
    items = tuple(
        Item(
            item.key,
            item.size,
            item.sha256,
            partial(_read, item, spoiled, item.stamp if trusting else None),
            annotation_of(item) if item.annotation else None,
            item.path,
        )
        for item in pictures
    )
    return Shipment(batch.id, batch.dataset, batch.category, items, batch.claimed_at)


def annotation_of(item: Picture) -> Annotation:
    """What is marked in a picture that has an annotation."""
    from image_sync.annotations import from_text  # late: most daemons never need it

    return from_text(item.annotation)


def _read(item: Picture, spoiled: list[Picture], stamp: Stamp | None) -> bytes | Iterator[bytes]:
    pieces = read_verified(item.path, item.size, item.sha256, stamp)
    if item.size > _PIECE:
        return _noted(pieces, item, spoiled)
    try:
        return b"".join(pieces)
    except PictureError:
        spoiled.append(item)
        raise


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
