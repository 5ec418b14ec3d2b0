"""Pictures with three channels: the algorithms know no grey, no palette, no alpha and no CMYK."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from PIL import Image

from image_sync.errors import Refused

_QUALITY = 95
_SIDES = (2048, 1024, 512, 256)
_JPEG, _PNG = "JPEG", "PNG"
_SUFFIXES = {_JPEG: "jpg", _PNG: "png"}
_WHITE = (255, 255, 255)
_DEEP = {"I;16", "I;16B", "I;16L", "I"}
_BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def inspect(file: IO[bytes]) -> tuple[str, bool]:
    """The ending that its content calls for, and whether it has three channels already.

    The file stands at its beginning afterwards.

    Raises:
        Refused: it is no picture, or cannot be decoded: a single one would end a training that is paid for.
    """
    image = _opened(file)
    plain = image.mode == "RGB" and "transparency" not in image.info
    if plain:
        with _decoding():
            image.load()
    file.seek(0)
    return _SUFFIXES[str(image.format)], plain


def convert(file: IO[bytes], target: IO[bytes]) -> None:
    """Write the picture with three channels, in the same format; what shines through becomes white.

    Raises:
        Refused: it cannot be decoded.
    """
    image = _opened(file)
    kind = str(image.format)
    with _decoding():
        plain = _flat(image)
    exif = image.info.get("exif", b"")  # it may say which way is up
    plain.save(target, kind, **({"quality": _QUALITY, "exif": exif} if kind == _JPEG else {}))
    target.seek(0)


def fitting(picture: bytes, limit: int) -> tuple[bytes, str]:
    """The picture as an endpoint takes it, and its content type: three channels, at most so many bytes.

    Raises:
        Refused: it is no picture, or cannot be decoded.
    """
    file = io.BytesIO(picture)
    suffix, plain = inspect(file)
    if plain and len(picture) <= limit:
        return picture, "image/png" if suffix == "png" else "image/jpeg"
    with _decoding():
        original = _opened(file)
        image, exif = _flat(original), original.info.get("exif", b"")  # it may say which way is up
        for side in _SIDES:  # the endpoint makes it smaller in any case
            image.thumbnail((side, side))
            target = io.BytesIO()
            image.save(target, _JPEG, quality=_QUALITY, exif=exif)
            if target.tell() <= limit:
                break
    return target.getvalue(), "image/jpeg"


def size_of(picture: bytes) -> tuple[int, int]:
    """Width and height in pixels. Raises Refused for no picture."""
    return _opened(io.BytesIO(picture)).size


def _opened(file: IO[bytes]) -> Image.Image:
    try:
        return Image.open(file, formats=(_JPEG, _PNG))
    except _BROKEN as error:
        raise Refused("The picture is not a JPEG or PNG that can be read") from error


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise Refused(f"The picture cannot be decoded: {error}", hint="Save it anew as an RGB picture") from error


def _flat(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP:
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        seen = image.convert("RGBA")
        flat = Image.new("RGB", seen.size, _WHITE)
        flat.paste(seen, mask=seen.getchannel("A"))
        return flat
    return image.convert("RGB")
