"""Folders: those that are watched, and the one where image-sync keeps its memory."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from image_sync.config import source
from image_sync.config.context import Context, Root
from image_sync.config.problems import Mistake, password_in, printable
from image_sync.config.texts import is_placeholder, refuse_unprintable

_SYSTEM = tuple(map(Path, ("/etc", "/proc", "/sys", "/dev", "/boot", "/private/etc")))
_MEMORY = Path("/dev/shm")  # noqa: S108 - cameras that write to memory write here
_TOO_MUCH = tuple(map(Path, ("/", "/home", "/Users", "/usr", "/var")))
_LARGEST_CERTIFICATES = 16 * 1024 * 1024
_LEDGER_SCHEMES = frozenset({"postgresql", "postgresql+psycopg", "postgres"})


def expand(text: str, context: Context) -> Path:
    """The absolute path that the text means: ``~`` is the home folder, a relative path starts at the file's folder.

    Symbolic links stay as they are, so that the path is shown as it was written. Raises :class:`Mistake`.
    """
    if not text.strip():
        raise Mistake("is empty; write a path")
    if is_placeholder(text) or "<" in text[:1]:
        raise Mistake("is a placeholder; write the path of a folder on this machine")
    refuse_unprintable(text)
    if text == "~" or text.startswith("~/"):
        path = Path(context.home, text[2:])
    elif text.startswith("~"):
        path = Path(os.path.expanduser(text))
        if not path.is_absolute():
            raise Mistake("names a user that this machine does not have; write the whole path")
    else:
        path = Path(context.file.parent, text)
    # "link/.." is not where the link stands: only the system knows.
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def folder(text: str, context: Context, index: int) -> Path:
    """The folder to watch that stands at this index. Raises :class:`Mistake` if it must not or cannot be watched."""
    path = expand(text, context)
    real = Path(os.path.realpath(path))
    _refuse_dangerous(real, context)
    identity = None
    try:
        status = _status(path)
    except Mistake as mistake:
        context.warn(("folders", index), f"{_shown(path)} {mistake.text}")
    else:
        if status is None:
            context.warn(("folders", index), f"{_shown(path)} does not exist yet; it is watched as soon as it does")
        elif not stat.S_ISDIR(status.st_mode):
            raise Mistake("is a file; write the folder that holds the category folders")
        else:
            identity = (status.st_dev, status.st_ino)
    for root in context.roots:
        if root.real == real or (identity and root.identity == identity):
            raise Mistake(f"is the same folder as {root.key}; remove one of the two")
        if root.real in real.parents:
            raise Mistake(f"lies inside {root.key}, where its pictures would be counted twice; remove one of the two")
        if real in root.real.parents:
            raise Mistake(f"contains {root.key}, whose pictures would be counted twice; remove one of the two")
    if real in Path(os.path.realpath(context.file)).parents:
        context.warn(
            ("folders", index),
            f"{_shown(path)} holds this configuration file; only pictures are uploaded, but whoever can write there "
            "can change the settings: better keep it elsewhere",
        )
    context.roots.append(Root(f"folders[{index}]", real, identity))
    return path


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Mistake(f"cannot be looked at: {error.strerror}") from None


def _refuse_dangerous(real: Path, context: Context) -> None:
    remedy = "write the folder that holds the category folders"
    if real in _TOO_MUCH:
        raise Mistake(f"holds far more than pictures for training; {remedy}")
    if real == Path(os.path.realpath(context.home)):
        raise Mistake(f"is your home folder, where every picture would be uploaded; {remedy}")
    for system in _SYSTEM:
        if (real == system or system in real.parents) and _MEMORY not in real.parents:
            raise Mistake(f"belongs to the operating system; {remedy}")


def certificates(text: str, context: Context) -> Path:
    """A file with certificates, or a folder of them. Raises :class:`Mistake`."""
    path = expand(text, context)
    status = _status(path)
    if status and stat.S_ISDIR(status.st_mode):
        return path
    try:
        data, _ = source.read_bytes(path, at_most=_LARGEST_CERTIFICATES)
    except Mistake as mistake:
        raise Mistake(f"{mistake.text}; write the path of a file in PEM format") from None
    if b"-----BEGIN CERTIFICATE-----" not in data and b"-----BEGIN TRUSTED CERTIFICATE-----" not in data:
        raise Mistake("holds no certificate in PEM format; ask whoever runs the server for one")
    return path


def state(value: object, context: Context) -> Path | str:
    """Where the ledger lives: a folder, or the URL of a PostgreSQL database. Raises :class:`Mistake`."""
    if value is None:
        return _apart(_default_state(context), context, default=True)
    if not isinstance(value, str):
        raise Mistake("is not text; write the path of a folder, or postgresql://user@host/database")
    if "://" in value:
        return _database(value.strip(), context)
    return _apart(expand(value, context), context, default=False)


def _database(url: str, context: Context) -> str:
    refuse_unprintable(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Mistake("is not a database URL; write postgresql://user@host/database") from None
    if parts.scheme not in _LEDGER_SCHEMES or port == 0 or "<" in url:
        raise Mistake("is not a PostgreSQL URL; write postgresql://user@host/database, or the path of a folder")
    if not parts.path.strip("/"):
        raise Mistake("names no database; write postgresql://user@host/database")
    if password_in(url):
        context.literal_secret = True
    return url


def _apart(path: Path, context: Context, *, default: bool) -> Path:
    real = Path(os.path.realpath(path))
    subject = f"the default state folder {_shown(path)} " if default else ""
    if os.path.exists(path) and not os.path.isdir(
        path
    ):  # one that this user may not look at is told by the ledger, which says what to do
        raise Mistake(f"{subject}is a file; write the path of a folder", bare=default)
    for root in context.roots:
        if root.real == real or root.real in real.parents:
            raise Mistake(f"{subject}lies inside {root.key}; write a folder that is not watched", bare=default)
        if real in root.real.parents:
            raise Mistake(f"{subject}contains {root.key}; write a folder of its own", bare=default)
    return path


def _default_state(context: Context) -> Path:
    file, environ = context.file, context.environ
    if folders := environ.get("STATE_DIRECTORY"):  # systemd: several are joined by colons
        return Path(folders.split(":")[0])
    if file.parent == Path("/etc/image-sync"):
        return Path("/var/lib/image-sync", file.stem)
    base = environ.get("XDG_STATE_HOME", "")
    folders_of_user = Path(base) if base.startswith("/") else context.home / ".local" / "state"
    digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
    return folders_of_user / "image-sync" / f"{file.stem}-{digest}"


def _shown(path: Path) -> str:
    return printable(str(path))
