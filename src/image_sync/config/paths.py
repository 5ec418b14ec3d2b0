"""Files and folders that a configuration names, and how the small ones among them are read."""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from image_sync.config.values import InvalidValue, is_placeholder, printable, refuse_unprintable

LARGEST_CONFIGURATION = 1024 * 1024
MISSING = "does not exist"
_CATEGORY_FOLDERS = "write the folder that holds the category folders"
_REMEDY = "save the file as UTF-8"
_SYSTEM = tuple(map(Path, ("/etc", "/proc", "/sys", "/dev", "/boot", "/private/etc")))
_MEMORY = Path("/dev/shm")  # noqa: S108 - cameras that write to memory write here
_TOO_MUCH = tuple(map(Path, ("/", "/home", "/Users", "/usr", "/var")))
_LARGEST_CERTIFICATES = 16 * 1024 * 1024
_LEDGER_SCHEMES = frozenset({"postgresql", "postgresql+psycopg", "postgres"})


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration comes from.

    Attributes:
        file: its absolute path, symbolic links not followed: relative paths start from its folder.
    """

    file: Path = field(default_factory=lambda: Path.cwd() / "configuration.json")
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The home folder of whoever runs this."""
        return Path(self.environ.get("HOME") or os.path.expanduser("~"))


class Root(NamedTuple):
    """A watched folder."""

    key: str
    path: Path
    real: Path
    identity: tuple[int, int] | None
    """Device and inode; None while it does not exist."""


def expand(text: str, source: Source) -> Path:
    """The absolute path that the text means: ``~`` is the home folder, a relative path starts at the file's folder.

    Symbolic links stay as they are, so that the path is shown as it was written. Raises :class:`InvalidValue`.
    """
    if not text.strip():
        raise InvalidValue("is empty; write a path")
    if is_placeholder(text) or "<" in text[:1]:
        raise InvalidValue("is a placeholder; write the path of a folder on this machine")
    refuse_unprintable(text)
    if text == "~" or text.startswith("~/"):
        path = Path(source.home, text[2:])
    elif text.startswith("~"):
        path = Path(os.path.expanduser(text))
        if not path.is_absolute():
            raise InvalidValue("names a user that this machine does not have; write the whole path")
    else:
        path = Path(source.file.parent, text)
    # "link/.." is not where the link stands: only the system knows.
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def folder(text: str, source: Source, key: str, others: Sequence[Root]) -> tuple[Root, list[str]]:
    """The folder to watch, and what a person should know of it.

    Args:
        key: where it stands in the file.
        others: those that are watched already.

    Raises:
        InvalidValue: it must not or cannot be watched.
    """
    path = expand(text, source)
    real = Path(os.path.realpath(path))
    _refuse_dangerous(real, source)
    shown, notes, identity = printable(str(path)), [], None
    try:
        status = _status(path)
    except InvalidValue as wrong:
        notes.append(f"{shown} {wrong.text}")
    else:
        if status is None:
            notes.append(f"{shown} does not exist yet; it is watched as soon as it does")
        elif not stat.S_ISDIR(status.st_mode):
            raise InvalidValue(f"is a file; {_CATEGORY_FOLDERS}")
        else:
            identity = (status.st_dev, status.st_ino)
    _refuse_overlap(real, identity, others)
    if real in Path(os.path.realpath(source.file)).parents:
        notes.append(
            f"{shown} holds this configuration file; only pictures are uploaded, but whoever can write there "
            "can change the settings: better keep it elsewhere"
        )
    return Root(key, path, real, identity), notes


def _refuse_dangerous(real: Path, source: Source) -> None:
    if real in _TOO_MUCH:
        raise InvalidValue(f"holds far more than pictures for training; {_CATEGORY_FOLDERS}")
    if real == Path(os.path.realpath(source.home)):
        raise InvalidValue(f"is your home folder, where every picture would be uploaded; {_CATEGORY_FOLDERS}")
    for system in _SYSTEM:
        if (real == system or system in real.parents) and _MEMORY not in real.parents:
            raise InvalidValue(f"belongs to the operating system; {_CATEGORY_FOLDERS}")


def _refuse_overlap(real: Path, identity: tuple[int, int] | None, others: Sequence[Root]) -> None:
    for root in others:
        if root.real == real or (identity and root.identity == identity):
            raise InvalidValue(f"is the same folder as {root.key}; remove one of the two")
        if root.real in real.parents:
            raise InvalidValue(
                f"lies inside {root.key}, where its pictures would be counted twice; remove one of the two"
            )
        if real in root.real.parents:
            raise InvalidValue(f"contains {root.key}, whose pictures would be counted twice; remove one of the two")


def certificates(text: str, source: Source) -> Path:
    """A file with certificates, or a folder of them. Raises :class:`InvalidValue`."""
    path = expand(text, source)
    status = _status(path)
    if status and stat.S_ISDIR(status.st_mode):
        return path
    try:
        data, _ = read_bytes(path, at_most=_LARGEST_CERTIFICATES)
    except InvalidValue as wrong:
        raise InvalidValue(f"{wrong.text}; write the path of a file in PEM format") from None
    if b"-----BEGIN CERTIFICATE-----" not in data and b"-----BEGIN TRUSTED CERTIFICATE-----" not in data:
        raise InvalidValue("holds no certificate in PEM format; ask whoever runs the server for one")
    return path


def state(value: object, source: Source, roots: Sequence[Root]) -> Path | str:
    """Where the ledger lives: a folder, or the URL of a PostgreSQL database. Raises :class:`InvalidValue`."""
    if value is not None and not isinstance(value, str):
        raise InvalidValue("is not text; write the path of a folder, or postgresql://user@host/database")
    if value and "://" in value:
        return _database(value.strip())
    path = _default_state(source) if value is None else expand(value, source)
    real, default = Path(os.path.realpath(path)), value is None
    subject = f"the default state folder {printable(str(path))} " if default else ""
    # One that this user may not look at is told by the ledger, which says what to do.
    if os.path.exists(path) and not os.path.isdir(path):
        raise InvalidValue(f"{subject}is a file; write the path of a folder", bare=default)
    for root in roots:
        if root.real == real or root.real in real.parents:
            raise InvalidValue(f"{subject}lies inside {root.key}; write a folder that is not watched", bare=default)
        if real in root.real.parents:
            raise InvalidValue(f"{subject}contains {root.key}; write a folder of its own", bare=default)
    return path


def _database(url: str) -> str:
    refuse_unprintable(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidValue("is not a database URL; write postgresql://user@host/database") from None
    if parts.scheme not in _LEDGER_SCHEMES or port == 0 or "<" in url:
        raise InvalidValue("is not a PostgreSQL URL; write postgresql://user@host/database, or the path of a folder")
    if not parts.path.strip("/"):
        raise InvalidValue("names no database; write postgresql://user@host/database")
    return url


def _default_state(source: Source) -> Path:
    file, environ = source.file, source.environ
    if folders := environ.get("STATE_DIRECTORY"):  # systemd: several are joined by colons
        return Path(folders.split(":")[0])
    if file.parent == Path("/etc/image-sync"):
        return Path("/var/lib/image-sync", file.stem)
    base = environ.get("XDG_STATE_HOME", "")
    folders_of_user = Path(base) if base.startswith("/") else source.home / ".local" / "state"
    digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
    return folders_of_user / "image-sync" / f"{file.stem}-{digest}"


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidValue(f"cannot be looked at: {error.strerror}") from None


def read_bytes(path: Path, *, at_most: int) -> tuple[bytes, os.stat_result]:
    """The content and the status of a regular file; never hangs on a pipe. Raises :class:`InvalidValue`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise InvalidValue(MISSING) from None
    except IsADirectoryError:  # Windows says PermissionError, which reads well enough
        raise InvalidValue("is a folder; name the file in it") from None
    except (OSError, ValueError) as error:
        raise InvalidValue(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    try:
        status = os.fstat(descriptor)  # of what is open: a path could be swapped for a pipe in between
        if stat.S_ISDIR(status.st_mode):
            raise InvalidValue("is a folder; name the file in it")
        if not stat.S_ISREG(status.st_mode):
            raise InvalidValue("is not a regular file; pipes and devices are not read")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(at_most + 1)
    except OSError as error:
        raise InvalidValue(f"cannot be read: {error.strerror or error}") from None
    finally:
        os.close(descriptor)
    if len(data) > at_most:
        raise InvalidValue(f"is larger than {at_most} bytes; is it the right file?")
    return data, status


def decode(data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 when it begins with a byte order mark. Raises :class:`InvalidValue`."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise InvalidValue(f"is written in UTF-32; {_REMEDY}")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise InvalidValue(f"begins like UTF-16 but does not go on so; {_REMEDY}") from None
        byte, line = data[error.start], data.count(b"\n", 0, error.start) + 1
        raise InvalidValue(f"holds a byte that is not UTF-8 (0x{byte:02x} in line {line}); {_REMEDY}") from None
    if "\0" in text:
        raise InvalidValue(f"holds zero bytes, as UTF-16 without a byte order mark does; {_REMEDY}")
    return text
