"""Secrets that must not show up anywhere, and the search for them."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

KEY = "CANARY-k3y7-Ab12-\xa7\xdf!"
"""An API key with letters that a header can carry and that JSON, a repr or a URL would write in another way."""
PASSWORD = 'CANARY p4ss"w\\rd %41 \u20ac'
"""A password with everything that is spelt differently somewhere: quotes, a backslash, a blank, a percent sign."""


def spellings(secret: str) -> set[bytes]:
    """Every way in which the secret might be written down; the start of the canary's name is enough of a find."""
    texts = {secret, repr(secret), ascii(secret), json.dumps(secret), quote(secret), quote(secret, safe="")}
    texts |= {quote_plus(secret), secret[:11]}
    found = {text.strip("\"'").encode() for text in texts} | {secret.encode("utf-16-le")}
    if secret.isprintable() and all(ord(char) < 256 for char in secret):
        found |= {secret.encode("latin-1"), base64.b64encode(secret.encode("latin-1"))}
    return found | {base64.b64encode(secret.encode())}


def leaks(content: bytes, *secrets: str) -> list[str]:
    """Where in the content a secret stands, with what stands around it; empty when it holds none."""
    found = []
    for spelling in {one for secret in secrets for one in spellings(secret)}:
        at = content.find(spelling)
        if at >= 0:
            found.append(ascii(content[max(0, at - 80) : at + len(spelling) + 20]))
    return found


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file at any depth."""
    for place, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(place, name)).is_file() and not path.is_symlink())


def leaking_files(folder: Path, *secrets: str, except_for: tuple[Path, ...] = ()) -> dict[str, list[str]]:
    """The files below the folder that hold a secret, in their content or their name."""
    found = {}
    for path in files_below(folder):
        if path not in except_for and (where := leaks(os.fsencode(path) + b"\n" + path.read_bytes(), *secrets)):
            found[str(path)] = where
    return found
