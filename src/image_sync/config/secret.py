"""Passwords and keys: written in the file, or kept elsewhere and only named in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from image_sync.config import source
from image_sync.config.context import Context
from image_sync.config.document import Key
from image_sync.config.locations import expand
from image_sync.config.problems import Mistake, Problem, nearest, printable
from image_sync.config.texts import is_placeholder, refuse_unprintable

_LARGEST = 64 * 1024
_WAYS = '"text", {"file": "path"}, {"env": "NAME"} or {"credential": "NAME"}'
_KEYS = ("env", "file", "credential")


UNREAD = "(a secret that was not read)"
"""Stands for one that is not needed now and cannot be read here: by another user, or outside of the service."""


def resolve(value: object, context: Context, key: Key, *, header: bool = False) -> str:
    """The secret that the value holds or names, without white space around it. Raises :class:`Mistake`.

    Args:
        value: from the file: a text, or an object with one of ``env``, ``file`` and ``credential``.
        context: relative paths and the environment.
        key: where it stands in the file, for warnings.
        header: it will be sent in an HTTP header, which carries Latin-1 only.
    """
    try:
        return _resolved(value, context, key, header=header)
    except Mistake as mistake:
        if context.secrets or not _refers(value):
            raise
        context.unread.append(Problem(key, mistake.text))
        return UNREAD


def _refers(value: object) -> bool:
    """Whether it names one place, as it should: then only what is there can be wrong."""
    return (
        isinstance(value, Mapping)
        and len(value) == 1
        and set(value) <= set(_KEYS)
        and all(isinstance(target, str) and target.strip() for target in value.values())
    )


def _resolved(value: object, context: Context, key: Key, *, header: bool) -> str:
    if isinstance(value, str):
        context.literal_secret = True
        found, where = value, ""
    elif isinstance(value, Mapping):
        found, where = _referred(value, context, key)
    else:
        raise Mistake(f"is not text; write {_WAYS}", bare=True)
    found = found.strip()
    if not found:
        raise Mistake(f"is empty{where}; write {_WAYS}, or leave the key out", bare=True)
    if is_placeholder(found):
        raise Mistake(
            f"is still the template's placeholder{where}; write the real one, or leave the key out", bare=True
        )
    refuse_unprintable(found)
    if header and not _latin(found):
        raise Mistake(f"holds a character that no HTTP header can carry{where}; copy it again", bare=True)
    return found


def _latin(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _referred(value: Mapping[object, object], context: Context, key: Key) -> tuple[str, str]:
    for unknown in set(value) - set(_KEYS):
        meant = nearest(str(unknown), _KEYS)
        remedy = f'did you mean "{meant}"?' if meant else f"write {_WAYS}"
        raise Mistake(f'has the unknown key "{printable(str(unknown))}"; {remedy}', bare=True)
    if len(value) != 1:
        raise Mistake(f"names {len(value)} places; write one of {_WAYS}", bare=True)
    way, target = next(iter(value.items()))
    if not isinstance(target, str) or not target.strip():
        raise Mistake(f'has no text for "{way}"; write {_WAYS}', bare=True)
    if way == "env":
        if target not in context.environ:
            raise Mistake(f"names the environment variable {printable(target)}, which is not set; set it", bare=True)
        return context.environ[target], f" in the environment variable {printable(target)}"
    if way == "credential":
        handed_over = bool(context.environ.get("CREDENTIALS_DIRECTORY"))
        return _contents(_credential(target, context), context, key, credential=handed_over)
    return _contents(expand(target, context), context, key)


def _credential(name: str, context: Context) -> Path:
    """The file that systemd hands over; outside of a service, the file of that name beside the configuration."""
    if name in {".", ".."} or "/" in name or "\0" in name:
        raise Mistake("names a credential with a path; write only the name that LoadCredential= gives it", bare=True)
    if folder := context.environ.get("CREDENTIALS_DIRECTORY"):
        return Path(folder) / name
    path = context.file.parent / name
    if not os.path.lexists(path):
        raise Mistake(
            f"names a systemd credential, but $CREDENTIALS_DIRECTORY is not set, and there is no file "
            f"{printable(str(path))}; put it there, or start image-sync by a unit with "
            f"LoadCredential={printable(name)}:/path",
            bare=True,
        )
    return path


def _contents(path: Path, context: Context, key: Key, *, credential: bool = False) -> tuple[str, str]:
    shown = printable(str(path))
    context.secret_files.append(path)
    try:
        data, status = source.read_bytes(path, at_most=_LARGEST)
        text = source.decode(data)
    except Mistake as mistake:
        raise Mistake(f"names the file {shown}, which {mistake.text}", bare=True) from None
    # Container platforms mount secrets below /run or a volume of their own, readable by all inside the container.
    if os.name != "nt" and status.st_mode & 0o004 and not credential and not shown.startswith("/run/"):
        context.warn(key, f"the file {shown} can be read by every user; run: chmod 600 {shown}")
    return text, f" in the file {shown}"
