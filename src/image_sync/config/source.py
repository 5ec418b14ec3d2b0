"""Small files that a person wrote: read whole, at most so large, never hanging on a pipe, decoded on purpose."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

from image_sync.config.problems import Mistake

LARGEST_CONFIGURATION = 1024 * 1024
MISSING = "does not exist"
_REMEDY = "save the file as UTF-8"


def read_bytes(path: Path, *, at_most: int) -> tuple[bytes, os.stat_result]:
    """The content and the status of a regular file. Raises :class:`Mistake` for whatever cannot be read so."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise Mistake(MISSING) from None
    except IsADirectoryError:  # Windows says PermissionError, which reads well enough
        raise Mistake("is a folder; name the file in it") from None
    except (OSError, ValueError) as error:
        raise Mistake(f"cannot be opened: {_reason(error)}") from None
    try:
        status = os.fstat(descriptor)  # of what is open: a path could be swapped for a pipe in between
        if stat.S_ISDIR(status.st_mode):
            raise Mistake("is a folder; name the file in it")
        if not stat.S_ISREG(status.st_mode):
            raise Mistake("is not a regular file; pipes and devices are not read")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(at_most + 1)
    except OSError as error:
        raise Mistake(f"cannot be read: {_reason(error)}") from None
    finally:
        os.close(descriptor)
    if len(data) > at_most:
        raise Mistake(f"is larger than {at_most} bytes; is it the right file?")
    return data, status


def decode(data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 when it begins with a byte order mark. Raises :class:`Mistake`."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise Mistake(f"is written in UTF-32; {_REMEDY}")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise Mistake(f"begins like UTF-16 but does not go on so; {_REMEDY}") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise Mistake(f"holds a byte that is not UTF-8 (0x{data[error.start]:02x} in line {line}); {_REMEDY}") from None
    if "\0" in text:
        raise Mistake(f"holds zero bytes, as UTF-16 without a byte order mark does; {_REMEDY}")
    return text


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
