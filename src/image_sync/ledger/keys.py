"""The name that a picture has at the platform: by it the platform can be asked what arrived."""

from __future__ import annotations

import re
import unicodedata
from posixpath import splitext

LONGEST = 100
_DIGEST = 16
_LONGEST_STEM = LONGEST - _DIGEST - len("..jpeg")
_KEY = re.compile(r"\.([0-9a-f]{16})(?:[0-9a-f]{48})?(?:-\d+)?\.(?:jpg|jpeg|png)$")
_SAFE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")
_NOT_SAFE = re.compile(r"[^A-Za-z0-9_-]+")


def key_of(name: bytes, sha256: str, suffix: str, copy: int = 0, *, whole: bool = False) -> str:
    """A key of at most 100 ASCII characters, unique to the content: ``<stem>.<16 hex of the SHA-256>.<suffix>``.

    >>> key_of("Blech 7 (geprüft).JPG".encode(), "ab" * 32, "jpg")
    'Blech-7-gepruft.abababababababab.jpg'

    Args:
        name: the file's name; what is not a plain letter, digit, ``-`` or ``_`` is simplified.
        sha256: 64 hex digits of the content.
        suffix: without the dot.
        copy: above 0 where the same content is wanted more than once in a dataset.
        whole: take all 64 digits: for the one case in 2^64, or the one with bad intent, where 16 are taken.
    """
    tail = f".{sha256 if whole else sha256[:_DIGEST]}{f'-{copy}' if copy else ''}.{suffix}"
    stem = splitext(name.decode("utf-8", "replace"))[0]
    if not _SAFE.fullmatch(stem):
        stem = _ascii(stem)
    return f"{stem[: LONGEST - len(tail)] or 'picture'}{tail}"


def stem_of(name: bytes) -> str:
    """What the key of a file of this name begins with, if it is not very long."""
    return _ascii(splitext(name.decode("utf-8", "replace"))[0]) or "picture"


def digest_of(key: str) -> str:
    """The 16 hex digits of the content that a key made by :func:`key_of` holds; empty for any other name."""
    found = _KEY.search(key)
    return found.group(1) if found else ""


def plain_key(name: bytes) -> str | None:
    """The file's own name as a key (``upload.names: "original"``), or None if it cannot travel in a form field."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return None
    fits = len(text) <= LONGEST and text.isprintable() and text == text.strip() and not set(text) & set('"\\/')
    # A name that looks like a key of ours would be taken for one when the platform's listing is read.
    return text if fits and not digest_of(text) else None


def plain_stem(name: str) -> str:
    """The beginning of the key of a file of this name."""
    return _ascii(splitext(name)[0])[:_LONGEST_STEM]


def _ascii(stem: str) -> str:
    if _SAFE.fullmatch(stem):
        return stem
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return _NOT_SAFE.sub("-", plain).strip("-")
