"""The check of one picture: what it is, whether it is whole, and its content hash, in one reading of the open file."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from dataclasses import dataclass

from image_sync.watcher.formats import LOOKS_AT, JpegWalker, Walker, looks_like, walker_for
from image_sync.watcher.rules import Rules

_PIECE = 1 << 18
_PADDING = 4096
_NAMES = {"jpg": "JPEG", "png": "PNG"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check says.

    Attributes:
        sha256: of the whole content; empty when it was not read to its end.
        suffix: ``jpg``, ``jpeg`` or ``png``: the name's where the content agrees, else the content's; may be empty.
        fault: why it is no picture that can be used, one sentence; empty when it is sound.
        width, height: in pixels, as they are stored; 0 when they are not known.
    """

    sha256: str = ""
    suffix: str = ""
    fault: str = ""
    width: int = 0
    height: int = 0


def examine(fd: int, size: int, name: bytes, rules: Rules, stop: threading.Event) -> Verdict | None:
    """Check and hash the regular file that is open here, from its beginning.

    Memory does not grow with the file (``validate: full`` holds the decoded picture). Raises OSError when it cannot
    be read.

    Returns:
        The verdict, or None when ``stop`` was set meanwhile.
    """
    if size == 0:
        return Verdict(fault="it is empty: copy it again")
    if size > rules.max_bytes:
        return Verdict(
            fault=f"it has {size:,} bytes and the limit is {rules.max_bytes:,}: make it smaller, or raise the limit"
        )
    digest = hashlib.sha256()
    head, tail, read = b"", b"", 0
    suffix, walker = "", None
    while read < size and (piece := os.read(fd, min(_PIECE, size - read + 1))):
        if stop.is_set():
            return None
        digest.update(piece)
        if not read:
            head = piece[:LOOKS_AT]
            suffix, walker = walker_for(head) or ("", None)
        if walker:
            walker.feed(piece)
        tail = (tail + piece)[-_PADDING:] if len(piece) < _PADDING else piece[-_PADDING:]
        read += len(piece)
    sha256 = digest.hexdigest()
    if walker is None:
        return Verdict(sha256, fault=f"it is not a JPEG or PNG but {looks_like(head)}: save it as JPEG or PNG")
    named = name.rpartition(b".")[2].lower()
    if suffix == "jpg" and named in {b"jpg", b"jpeg"}:
        suffix = named.decode()
    walker = _to_the_end(walker, fd, tail)
    fault = _structure(suffix, walker, read, tail, rules)
    if not fault and rules.validate == "full":
        fault = _decoding(fd, rules)
    return Verdict(sha256, suffix, fault, walker.width, walker.height)


def _to_the_end(walker: Walker, fd: int, tail: bytes) -> Walker:
    """The walker at the end of the picture. A JPEG is followed all the way only if its end seems to be missing."""
    if not isinstance(walker, JpegWalker) or _ends_jpeg(tail):
        return walker
    walker = JpegWalker()
    os.lseek(fd, 0, os.SEEK_SET)
    while not walker.complete and (piece := os.read(fd, _PIECE)):
        walker.feed(piece)
    return walker


def _structure(suffix: str, walker: Walker, size: int, tail: bytes, rules: Rules) -> str:
    kind = "PNG" if suffix == "png" else "JPEG"
    # A few bit errors can lead the walk astray in a JPEG that has its end all the same; decoders live with them.
    complete = walker.complete or (kind == "JPEG" and _ends_jpeg(tail))
    if walker.damage:
        return f"it is damaged ({walker.damage}): copy it again"
    if not complete:
        end = "the bytes FF D9" if kind == "JPEG" else "an IEND chunk"
        return f"it is cut short: a {kind} must end with {end}; copy it again"
    if size > _PADDING and not tail.strip(b"\0"):
        return "it ends in thousands of zero bytes, as a copy that has not finished does: copy it again"
    if not walker.width or not walker.height:
        return "there is no picture in it (no width or no height): save it again"
    pixels = walker.width * walker.height
    if pixels > rules.max_pixels:
        return (
            f"it has {walker.width:,} x {walker.height:,} = {pixels:,} pixels and the limit is {rules.max_pixels:,}: "
            "make it smaller, or raise the limit"
        )
    return ""


def _ends_jpeg(tail: bytes) -> bool:
    return tail.rstrip(b"\0\r\n ").endswith(b"\xff\xd9")


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
