"""What is sent: the bytes of pictures, proved to be those that were checked, and what is marked in them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from image_sync.domain import Annotation, Batch, Claimed
from image_sync.errors import Changed, PictureError, Unreadable
from image_sync.platforms.base import Item, Shipment

_PIECE = 1 << 18
_OPEN = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def shipment_of(batch: Batch, pictures: Iterable[Claimed], spoiled: list[Claimed]) -> Shipment:
    """These pictures of a batch, ready to be sent. Those that turn out to have changed are added to ``spoiled``."""
    items = tuple(
        Item(
            item.key,
            item.size,
            item.sha256,
            _reader(item, spoiled),
            annotation_of(item) if item.annotation else None,
            tuple(os.fsdecode(name) for name in reversed(item.path.split(b"/")[:-1]) if name),
        )
        for item in pictures
    )
    return Shipment(batch.id, batch.dataset, batch.category, items, batch.claimed_at)


def annotation_of(item: Claimed) -> Annotation:
    """What is marked in a picture that has an annotation."""
    from image_sync.annotations import from_text  # late: most daemons never need it

    return from_text(item.annotation)


def _reader(item: Claimed, spoiled: list[Claimed]) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        try:
            yield from read_verified(item.path, item.size, item.sha256)
        except PictureError:
            spoiled.append(item)
            raise

    return read


def read_verified(path: bytes, size: int, sha256: str) -> Iterator[bytes]:
    """The file's bytes, piece by piece; the last piece comes only if all are proved to be the ones that were checked.

    Raises:
        Changed: it holds something else now. Unreadable: it cannot be read.
    """
    shown = os.fsdecode(path)
    digest, at = hashlib.sha256(), 0
    while True:
        try:
            piece = _piece(path, at, min(_PIECE, size - at + 1))
        except OSError as error:
            raise Unreadable(f"{shown!a} cannot be read: {error.strerror}") from error
        at += len(piece)
        digest.update(piece)
        if at >= size or not piece:
            break
        yield piece
    if at != size or digest.hexdigest() != sha256:
        raise Changed(f"{shown!a} changed after it was checked")
    yield piece


def _piece(path: bytes, at: int, size: int) -> bytes:
    # Opened for each piece: whoever gives up in the middle of a request leaves no open file behind.
    handle = os.open(path, _OPEN)
    try:
        return os.pread(handle, size, at) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
    finally:
        os.close(handle)
