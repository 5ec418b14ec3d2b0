"""Rules for the texts in a configuration: names, keys and whatever else is sent to a platform."""

from __future__ import annotations

import re
import unicodedata

from image_sync.config.problems import Mistake

LONGEST_NAME = 200
_PLACEHOLDER = re.compile(r"<[^<>]*>")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_placeholder(text: str) -> bool:
    """Whether the text is still the template's ``<something>``."""
    return _PLACEHOLDER.fullmatch(text.strip()) is not None


def refuse_unprintable(text: str) -> None:
    """Raise :class:`Mistake` for control characters and halves of characters, which no name, path or key may hold."""
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cs"}:
            raise Mistake(f"holds the character U+{ord(char):04X}, which cannot be part of it; remove it", bare=True)


def name(text: str) -> str:
    """A name for a dataset, model or category, in Unicode's composed form. Raises :class:`Mistake`."""
    if not text.strip():
        raise Mistake("is empty; write a name")
    if is_placeholder(text):
        raise Mistake("is a placeholder; write a name of your own")
    refuse_unprintable(text)
    if text != text.strip():
        raise Mistake("begins or ends with a space; remove it")
    text = composed(text)
    if len(text) > LONGEST_NAME:
        raise Mistake(f"has {len(text)} characters; write at most {LONGEST_NAME}")
    return text


def model_id(text: str) -> str:
    """The id of a model at the platform, which becomes part of an address. Raises :class:`Mistake`."""
    if is_placeholder(text):
        raise Mistake('is a placeholder; write the id of a model, "latest" or "none", or leave the key out')
    if not _ID.fullmatch(text):
        raise Mistake('is not a model id; write letters, digits, - and _ only, or "latest" or "none"')
    return text


def composed(text: str) -> str:
    """The text in Unicode's composed form: two that look the same become the same."""
    return unicodedata.normalize("NFC", text)


def alike(text: str) -> str:
    """What the text has in common with others that a person would take for the same."""
    return composed(text).casefold()
