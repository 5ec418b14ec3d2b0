"""Pictures to hand to a platform that lie in memory: made with what is read of them when they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from image_sync.domain import Annotation, Picture

Read = Callable[[], bytes | Iterator[bytes]]


class _Held(Picture):
    read: Read


def held(
    key: str, size: int, sha256: str, read: Read, annotation: Annotation | None = None, path: bytes = b""
) -> Picture:
    """A picture of which ``read`` gives the bytes."""
    picture = _Held(0, key, path, size, sha256, "" if annotation is None else annotation.to_text())
    picture.read = read
    return picture


def annotated(picture: Picture, annotation: Annotation) -> Picture:
    """The same picture with other objects."""
    return held(picture.key, picture.size, picture.sha256, cast("_Held", picture).read, annotation, picture.path)


def read_held(picture: Picture) -> bytes | Iterator[bytes]:
    """Its bytes: what an upload reads with."""
    return cast("_Held", picture).read()
