"""The check of one picture: what it is, whether it is whole, and its SHA-256.

JPEG and PNG are followed here by hand: a decoder takes fifty times as long, and says less of what is wrong.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zlib
from collections.abc import Callable
from struct import Struct
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from image_sync.domain import Stamp
from image_sync.errors import Changed
from image_sync.watcher.folders import stamp_of
from image_sync.watcher.settle import being_written

if TYPE_CHECKING:
    from image_sync.watcher.rules import Rules

_PIECE = 1 << 20
_PADDING = 4096
_MARGIN = 16
"""Bytes that are looked at together: a marker, or the head of a chunk, with the size of the picture."""
_LOOKS_AT = 4096
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHANGED = "it changes"

# After a scan's header comes compressed data, in which FF is followed by 00 or a restart marker (ITU T.81, B.1.1.5).
# These are the markers that may end it.
_END_OF_SCAN = re.compile(rb"\xff[\xc4\xcc\xd9-\xdd\xe0-\xef\xfe]")
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END, _JPEG_SCAN, _JPEG_FILL = 0xD9, 0xDA, 0xFF
_JPEG_ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_JPEG_SEGMENTS = frozenset(range(0xC0, 0xFF)) - {*_JPEG_ALONE, _JPEG_END}
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SHORTEST_SEGMENT = 2
_FRAME_NEEDS = 9
_segment = Struct(">BBH").unpack_from
_PNG_START = b"\x89PNG\r\n\x1a\n"
_CHUNK_HEAD = 8
_IHDR = b"\0\0\0\x0dIHDR"
_ANCILLARY = 0x20

_SIGNATURES = (
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF or raw camera image"),
    (b"MM\0*", "a TIFF or raw camera image"),
    (b"BM", "a BMP image"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
_BRANDS = {b"heic": "a HEIC image", b"heix": "a HEIC image", b"mif1": "a HEIC image", b"avif": "an AVIF image"}
_RIFF = {b"WEBP": "a WebP image", b"AVI ": "a video"}


class ImageCheck(NamedTuple):
    """What the check says."""

    sha256: str = ""
    """Of the whole content; empty when it was not read to its end."""
    suffix: str = ""
    """``jpg``, ``jpeg`` or ``png``: the name's where the content agrees, else the content's; may be empty."""
    fault: str = ""
    """Why it is no picture that can be used, one sentence; empty when it is sound."""
    width: int = 0
    height: int = 0
    """In pixels, as they are stored; 0 when they are not known."""


class Structure(NamedTuple):
    """What the parts of a JPEG or PNG say."""

    kind: str
    """``JPEG``, ``PNG``, or ``""``: neither."""
    width: int = 0
    height: int = 0
    complete: bool = False
    """Whether the end of the picture was reached."""
    damage: str = ""
    """What is wrong with it; empty when nothing is."""


Keep = Callable[[str, bytes], None]


class WritersUnknown(Changed):
    """The system does not say whether anybody has the file, another user's, open for writing."""


def check_file(
    folder: int,
    name: bytes,
    stamp: Stamp,
    rules: Rules,
    stop: Event,
    *,
    local: bool,
    asked_since: int = 0,
    keep: Keep | None = None,
) -> ImageCheck | None:
    """Check a regular file of an open folder; what is hashed is one version of it, which has this stamp.

    Args:
        local: whether inode numbers count, and the system knows who writes.
        keep: given the SHA-256 and the bytes of a small sound JPEG.
        asked_since: nanoseconds of Unix time; of a file not touched since then is not asked whether somebody writes.

    Returns:
        The verdict, or None when ``stop`` was set meanwhile.

    Raises:
        Changed: it is another version by now, or open for writing. OSError: it cannot be opened or read.
    """
    fd = os.open(name, _OPEN, dir_fd=folder)
    try:
        if stamp_of(os.fstat(fd), local=local) != stamp:
            raise Changed(_CHANGED)
        if local and (stamp.mtime_ns > asked_since or stamp.ctime_ns > asked_since):
            writing = being_written(fd)
            if writing is None:
                raise WritersUnknown(_CHANGED)
            if writing:
                raise Changed(_CHANGED)
        found = examine(fd, stamp.size, name, rules, stop, keep)
        if found is not None and stamp_of(os.fstat(fd), local=local) != stamp:
            raise Changed(_CHANGED)
        return found
    finally:
        os.close(fd)


def examine(fd: int, size: int, name: bytes, rules: Rules, stop: Event, keep: Keep | None = None) -> ImageCheck | None:
    """Check and hash the regular file that is open here, from its beginning.

    Memory does not grow with the file (``validate: full`` holds the decoded picture). Raises OSError when it cannot
    be read.

    Returns:
        The verdict, or None when ``stop`` was set meanwhile.
    """
    if size == 0:
        return ImageCheck(fault="it is empty: copy it again")
    if size > rules.max_bytes:
        return ImageCheck(
            fault=f"it has {size:,} bytes and the limit is {rules.max_bytes:,}: make it smaller, or raise the limit"
        )
    if stop.is_set():
        return None
    first = os.read(fd, min(size + 1, _PIECE))
    digest, read = hashlib.sha256(first), len(first)
    named = name[name.rfind(b".") + 1 :].lower()
    if read == size and first.endswith(b"\xff\xd9") and first.startswith(_JPEG_START) and rules.validate == "header":
        # Nearly every picture of a usual size: its headers are plain, and it ends where it should.
        width, height = jpeg_size(first)
        if 0 < width * height <= rules.max_pixels:
            sha256 = digest.hexdigest()
            if keep:
                keep(sha256, first)
            return ImageCheck(sha256, "jpeg" if named == b"jpeg" else "jpg", "", width, height)
    tail = _hash_the_rest(fd, size, first, digest, stop)
    return None if tail is None else _judge(fd, first, tail, digest.hexdigest(), named, rules)


def _hash_the_rest(fd: int, size: int, first: bytes, digest: hashlib._Hash, stop: Event) -> bytes | None:
    """Hash what follows the first bytes. The last bytes of the file; None when ``stop`` was set meanwhile."""
    tail, read = first[-_PADDING:], len(first)
    while read < size and (piece := os.read(fd, min(_PIECE, size - read + 1))):
        if stop.is_set():
            return None
        digest.update(piece)
        read += len(piece)
        tail = (tail + piece)[-_PADDING:] if len(piece) < _PADDING else piece[-_PADDING:]
    return tail


def _judge(fd: int, first: bytes, tail: bytes, sha256: str, named: bytes, rules: Rules) -> ImageCheck:
    ends = tail.rstrip(b"\0\r\n ").endswith(b"\xff\xd9")
    # A JPEG is followed through its compressed data, which is nearly all of it, only if its end seems to be missing.
    found = structure(fd, first, through=not (ends and first.startswith(_JPEG_START)))
    if not found.kind:
        return ImageCheck(sha256, fault=f"it is not a JPEG or PNG but {looks_like(first)}: save it as JPEG or PNG")
    suffix = "png" if found.kind == "PNG" else "jpeg" if named == b"jpeg" else "jpg"
    pixels = found.width * found.height
    if found.damage:
        fault = f"it is damaged ({found.damage}): copy it again"
    # A few bit errors can lead the walk astray in a JPEG that has its end all the same; decoders live with them.
    elif not (found.complete or (found.kind == "JPEG" and ends)):
        end = "the bytes FF D9" if found.kind == "JPEG" else "an IEND chunk"
        fault = f"it is cut short: a {found.kind} must end with {end}; copy it again"
    elif len(tail) == _PADDING and not tail.strip(b"\0"):
        fault = "it ends in thousands of zero bytes, as a copy that has not finished does: copy it again"
    elif not pixels:
        fault = "there is no picture in it (no width or no height): save it again"
    elif pixels > rules.max_pixels:
        fault = (
            f"it has {found.width:,} x {found.height:,} = {pixels:,} pixels and the limit is {rules.max_pixels:,}: "
            "make it smaller, or raise the limit"
        )
    else:
        fault = _decoding(fd, rules) if rules.validate == "full" else ""
    return ImageCheck(sha256, suffix, fault, found.width, found.height)


def structure(fd: int, first: bytes, *, through: bool) -> Structure:
    """Follow the parts of the JPEG or PNG that is open here.

    Args:
        first: its first bytes.
        through: to its end, checksums included; else only until its size is known.
    """
    file = _File(fd, first)
    if first.startswith(_PNG_START):
        return _png(file, through=through)
    if not first.startswith(_JPEG_START):
        return Structure("")
    width, height = (0, 0) if through else jpeg_size(first)
    return Structure("JPEG", width, height) if width and height else _jpeg(file, through=through)


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG whose headers all lie in these first bytes, up to where its compressed data begins.

    (0, 0) when anything is unusual: :func:`structure` then says what. It gives the same answer in ten times the time.
    """
    at, width, height, end = 2, 0, 0, len(data) - _FRAME_NEEDS
    while at < end:
        fill, code, length = _segment(data, at)
        if fill != _JPEG_FILL or code not in _JPEG_SEGMENTS or length < _SHORTEST_SEGMENT:
            break
        if code == _JPEG_SCAN:
            return width, height
        if code in _JPEG_FRAMES and not width:
            width, height = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
        at += 2 + length
    return 0, 0


class _File:
    """An open file by its offsets; it holds one piece of it at a time."""

    def __init__(self, fd: int, first: bytes) -> None:
        self._fd, self._data, self._start = fd, first, 0

    def bytes_at(self, at: int) -> tuple[bytes, int]:
        """Bytes of the file, and which of them stands at this offset; at least ``_MARGIN`` follow if there are any."""
        inside = at - self._start
        if inside < 0 or inside + _MARGIN > len(self._data):
            self._data, self._start, inside = os.pread(self._fd, _PIECE, at), at, 0
        return self._data, inside


def _jpeg(file: _File, *, through: bool) -> Structure:
    """Follow the markers of a JPEG from its start to its end marker; what comes behind that is not looked at."""
    at, width, height, in_scan = 0, 0, 0, False
    while through or not in_scan:
        data, here = file.bytes_at(at)
        if here >= len(data):
            break
        found = _END_OF_SCAN.search(data, here) if in_scan else None
        begin = found.start() if found else -1 if in_scan else data.find(b"\xff", here)
        if begin != here:
            at += begin - here if begin >= 0 else max(1, len(data) - here - data.endswith(b"\xff"))
            continue
        head = data[here : here + _FRAME_NEEDS]
        code = head[1] if len(head) > 1 else _JPEG_FILL
        if code == _JPEG_END:
            return Structure("JPEG", width, height, complete=True)
        if code == _JPEG_FILL:
            at += 1
            continue
        if code in _JPEG_ALONE:
            at += 2
            continue
        if len(head) < (_FRAME_NEEDS if code in _JPEG_FRAMES else 4):
            break
        length = int.from_bytes(head[2:4], "big")
        if length < _SHORTEST_SEGMENT:
            at += 2
            continue
        if code in _JPEG_FRAMES and not width:
            height, width = int.from_bytes(head[5:7], "big"), int.from_bytes(head[7:9], "big")
        in_scan = code == _JPEG_SCAN
        at += 2 + length
    return Structure("JPEG", width, height)


def _png(file: _File, *, through: bool) -> Structure:
    """Follow the chunks of a PNG to its end chunk, and check the checksums of those that make the picture."""
    found, at = _png_header(file), len(_PNG_START)
    while through and found.width and not (found.complete or found.damage):
        data, here = file.bytes_at(at)
        length, kind = int.from_bytes(data[here : here + 4], "big"), data[here + 4 : here + _CHUNK_HEAD]
        end = at + _CHUNK_HEAD + length
        if len(kind) == 4 and not kind.isalpha():  # noqa: PLR2004 - the length of a name
            return found._replace(damage="one of its parts has no name")
        needed = kind and not kind[0] & _ANCILLARY
        checksum = _checksum(file, at + _CHUNK_HEAD, end, zlib.crc32(kind)) if needed else 0
        data, here = file.bytes_at(end)
        stored = data[here : here + 4]
        if len(stored) < 4:  # noqa: PLR2004 - a checksum
            break
        if needed and checksum != int.from_bytes(stored, "big"):
            return found._replace(damage=f"the checksum of its part {kind.decode()} is wrong")
        found, at = found._replace(complete=kind == b"IEND"), end + 4
    return found


def _png_header(file: _File) -> Structure:
    data, here = file.bytes_at(len(_PNG_START))
    head = data[here : here + _MARGIN]
    if len(head) >= _CHUNK_HEAD and not head[4:8].isalpha():
        return Structure("PNG", damage="one of its parts has no name")
    if len(head) >= _CHUNK_HEAD and head[:8] != _IHDR:
        return Structure("PNG", damage="it does not begin with a header")
    if len(head) < _MARGIN:
        return Structure("PNG")
    width, height = int.from_bytes(head[8:12], "big"), int.from_bytes(head[12:], "big")
    return Structure("PNG", width, height, damage="" if width else "its width is zero")


def _checksum(file: _File, at: int, end: int, checksum: int) -> int:
    while at < end:
        data, here = file.bytes_at(at)
        part = memoryview(data)[here : here + end - at]
        if not part:
            break
        checksum = zlib.crc32(part, checksum)
        at += len(part)
    return checksum


def looks_like(first: bytes) -> str:
    """What a file with these first bytes seems to be, with its article."""
    head = first[:_LOOKS_AT]
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12], "a sound or video file")
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a video")
    if not head.strip(b"\0"):
        return "nothing but zero bytes so far, perhaps a copy that has not finished"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if start.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML document"
    if all(byte >= ord(" ") or byte in b"\t\r\n\f" for byte in head):
        return "a text file"
    return "something else"


def _decoding(fd: int, rules: Rules) -> str:
    """Why Pillow cannot decode it; empty when it can."""
    from PIL import Image  # half of what starting up would cost, and only this mode needs it

    # Pillow warns of harmless oddities in metadata. Set anew each time, since whoever restores filters removes it;
    # catch_warnings would do so for all threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    Image.MAX_IMAGE_PIXELS = rules.max_pixels
    try:
        with os.fdopen(os.dup(fd), "rb") as file:
            # Each finds what the other does not: verify checks sums, load decodes.
            for act in ("verify", "load"):
                file.seek(0)
                with Image.open(file, formats=("JPEG", "PNG")) as image:
                    getattr(image, act)()
    except Exception as error:  # noqa: BLE001 - Pillow raises a dozen types for damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return f"it cannot be decoded ({reason}): save it again"
    return ""
