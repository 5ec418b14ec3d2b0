"""Rules for the names of what is marked."""

from __future__ import annotations

import unicodedata

LONGEST = 200
"""Characters; the same as for names of categories and datasets."""


def label_of(text: object) -> str:
    """The name in Unicode's composed form, without spaces around it.

    Raises:
        ValueError: nothing can be called that; its text continues a sentence that begins with "its name".
    """
    if not isinstance(text, str):
        raise ValueError("is not text" if text is not None else "is missing")  # noqa: TRY004 - one error for all
    name = unicodedata.normalize("NFC", text.strip())
    if not name:
        raise ValueError("is empty")
    for char in name:
        if not char.isprintable():
            raise ValueError(f"holds the character U+{ord(char):04X}, which cannot be part of it")
    if len(name) > LONGEST:
        raise ValueError(f"has {len(name)} characters and may have {LONGEST}")
    return name
