"""Is it a whole JPEG or PNG of a size that may be decoded? Decided from the bytes, without decoding them."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">II")
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END = 0xDA, 0xD9
_FRAME_LENGTH = 8
_STILLS = frozenset({b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"qt  "})
"""Brands of HEIF and AVIF pictures, and of QuickTime, which MVI does not take."""


class NotAPicture(ValueError):  # noqa: N818 - the verdict, named as such
    """The bytes cannot be taken as a picture; the text says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What the header of a picture says."""

    suffix: str
    """``jpg`` or ``png``, from the content."""
    width: int
    height: int


def is_video(start: bytes) -> bool:
    """Whether a file that begins with these bytes is an MP4 video, not a picture in the same box format."""
    return start[4:8] == b"ftyp" and start[8:12] not in _STILLS


def examine(data: bytes, pixels: int) -> Picture:
    """The picture in these bytes; data after its end is allowed, as cameras append some.

    Args:
        data: the whole file.
        pixels: most pixels (width times height) that are taken.

    Raises:
        NotAPicture: neither JPEG nor PNG, damaged, cut short, or too large to be decoded.
    """
    if data.startswith(b"\xff\xd8\xff"):
        picture = Picture("jpg", *_jpeg(data))
    elif data.startswith(_PNG):
        picture = Picture("png", *_png(data))
    elif not data:
        raise NotAPicture("The file is empty.")
    else:
        raise NotAPicture("The file is neither a JPEG nor a PNG picture, nor an MP4 video.")
    if not picture.width or not picture.height:
        raise NotAPicture("The picture has no width or no height.")
    if picture.width * picture.height > pixels:
        raise NotAPicture(f"The picture has {picture.width} x {picture.height} pixels; at most {pixels} are taken.")
    return picture


def _jpeg(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG that goes on to its end mark."""
    at, size = 2, (0, 0)
    while True:
        if data[at : at + 1] != b"\xff":
            raise NotAPicture("The JPEG is damaged or cut short.")
        while data[at : at + 1] == b"\xff":
            at += 1
        marker = data[at] if at < len(data) else _END
        at += 1
        if marker == _END:
            raise NotAPicture("The JPEG holds no image data, or is cut short.")
        if marker in _BARE_MARKERS:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):  # noqa: PLR2004 - the length counts its own two bytes
            raise NotAPicture("The JPEG is damaged or cut short.")
        if marker in _FRAMES and length >= _FRAME_LENGTH:
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = max(size, (width, height), key=lambda found: found[0] * found[1])
        at += length
        if marker == _START_OF_SCAN:
            break
    # Inside image data every 0xFF is followed by 0 or a restart mark, so this cannot be a thumbnail's end.
    if data.find(b"\xff\xd9", at) < 0:
        raise NotAPicture("The JPEG is cut short: its end is missing.")
    return size


def _png(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG that goes on to its end chunk."""
    at, size, has_data = len(_PNG), (0, 0), False
    while True:
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if len(kind) < 4 or end > len(data):  # noqa: PLR2004 - a chunk's type has four letters
            raise NotAPicture("The PNG is cut short.")
        if at == len(_PNG):
            if kind != b"IHDR" or zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise NotAPicture("The PNG is damaged: its header cannot be read.")
            size = _IHDR.unpack_from(data, at + 8)
        has_data = has_data or kind == b"IDAT"
        at = end
        if kind == b"IEND":
            break
    if not has_data:
        raise NotAPicture("The PNG holds no image data.")
    return size
