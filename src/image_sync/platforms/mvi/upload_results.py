"""What an answer to an upload says of each picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from image_sync.domain import Picture
from image_sync.platforms.base import Outcome
from image_sync.platforms.http import sanitize
from image_sync.platforms.mvi import wire

_FAULTY = re.compile(
    r"damaged|corrupt|truncated|cut short|is empty|unsupported|unrecogni[sz]ed|cannot identify|decode|neither a"
    r"|\bno (valid |usable )?(image|picture)|\bnot an? (\w+ ){0,2}(image|picture)|invalid (image|picture|file|format)"
    r"|\bpixels\b|no width|too (large|big|small)|at most \d+",
    re.IGNORECASE,
)
_FILE_NAME = re.compile(r"\S+\.(jpe?g|png)\b", re.IGNORECASE)


def unfit(words: str) -> bool:
    """Whether the server's words name a fault of the picture itself.

    MVI gives no code for it. Words in another language are not understood: such a picture is sent some times in vain.

    >>> unfit("The JPEG is cut short."), unfit("damaged/truncated.jpg could not be stored")
    (True, False)
    """
    return _FAULTY.search(_FILE_NAME.sub("", words)) is not None


def outcomes(pictures: Sequence[Picture], body: Any, *, what: str) -> dict[str, Outcome]:
    """Key -> what the answer says of the picture: by name where it has names, by position only if it has none and the
    lengths match.

    One entry that is left over is about the one picture that is: some servers change a name that they do not like.

    Args:
        what: what was being done, for errors.

    Raises:
        Ambiguous: the answer has an unexpected shape.
    """
    if (stored := _all_stored(pictures, body)) is not None:
        return stored
    uploaded = wire.parse(wire.Uploaded, body, what=what, repeatable=False)
    entries = uploaded.result_list or []
    if not entries and uploaded.id and len(pictures) == 1:
        return {pictures[0].key: Outcome(pictures[0].key, uploaded.id)}
    keys = {wire.normal(picture.key): picture.key for picture in pictures}
    named: dict[str, wire.UploadEntry] = {}
    for entry in entries:
        for name in map(wire.normal, entry.names):
            if name in keys:
                named[keys[name]] = entry
                break
    if not named and len(entries) == len(pictures) and not any(_is_foreign(entry) for entry in entries):
        named = {picture.key: entry for picture, entry in zip(pictures, entries, strict=True)}
    elif len(entries) == len(pictures) == len(named) + 1:
        (key,) = {picture.key for picture in pictures} - named.keys()
        spare = [entry for entry in entries if keys.keys().isdisjoint(map(wire.normal, entry.names))]
        if spare:
            named[key] = spare[0]
    return {key: _outcome(key, entry) for key, entry in named.items()}


def _all_stored(pictures: Sequence[Picture], body: Any) -> dict[str, Outcome] | None:
    """The usual answer: every picture in its turn, under its name, stored. None for any other."""
    stored = {}
    try:
        for picture, entry in zip(pictures, body["resultList"], strict=True):
            key, identity = picture.key, entry["id"]
            name = entry.get("original_file_name")
            if name is None and "filename" not in entry:
                name = entry.get("file_name")
            if name != key or entry["result"] != "success" or not wire.ID.fullmatch(identity):
                return None
            stored[key] = Outcome(key, identity)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return stored


def _is_foreign(entry: wire.UploadEntry) -> bool:
    # ``file_name`` may be the server's own name for it, <id>.<suffix>; any other name we would have recognised.
    stored = entry.file_name.rpartition(".")[0]
    return any(name != entry.file_name or stored != entry.id for name in entry.names)


def _outcome(key: str, entry: wire.UploadEntry) -> Outcome:
    if entry.result.lower() == "success":
        return Outcome(key, entry.id)
    why = sanitize(entry.fault or f"result {entry.result or 'missing'}, no reason given")
    return Outcome(key, refused=why, unfit=unfit(entry.fault))
