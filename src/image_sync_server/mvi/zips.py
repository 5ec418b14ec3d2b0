"""Archives from strangers: looked at before anything is unpacked, and unpacked only to memory, member by member."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from image_sync_server.mvi.limits import Limits

SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
_RATIO_FROM = 1024 * 1024
_HEADER = 30
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class BadZip(ValueError):  # noqa: N818 - the verdict, named as such
    """The archive is refused as a whole; the text says why, in one sentence."""


@contextmanager
def opened(file: BinaryIO, limits: Limits) -> Iterator[zipfile.ZipFile]:
    """The archive in a file, found harmless by its directory.

    Raises:
        BadZip: it is damaged, encrypted, too large, grows too much, or has names that lead out of a folder.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check(archive.infolist(), limits)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise BadZip("The archive is damaged or of a kind that is not taken.") from error


def _check(members: list[zipfile.ZipInfo], limits: Limits) -> None:
    if len(members) > limits.zip_members:
        raise BadZip(f"The archive has {len(members)} entries; at most {limits.zip_members} are taken.")
    end = 0
    for member in sorted(members, key=lambda entry: entry.header_offset):
        fault = _name_fault(member) or _kind_fault(member) or _size_fault(member, limits)
        # Many entries that share the same bytes are a bomb too.
        if not fault and member.header_offset < end:
            fault = "overlaps another one"
        if fault:
            raise BadZip(f"The archive's entry {member.filename[:80]!a} {fault}.")
        end = member.header_offset + _HEADER + member.compress_size
    total = sum(member.file_size for member in members)
    if total > limits.zip_total:
        raise BadZip(f"The archive unpacks to {total} bytes; at most {limits.zip_total} are taken.")


def _name_fault(member: zipfile.ZipInfo) -> str:
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
        return "leads out of its folder"
    return "has a name that cannot be used" if "\x00" in member.orig_filename else ""


def _kind_fault(member: zipfile.ZipInfo) -> str:
    if stat.S_IFMT(member.external_attr >> 16) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "is a link or a device"
    if member.flag_bits & 1:
        return "is encrypted"
    return "" if member.compress_type in _METHODS else "is compressed in a way that is not taken; use deflate"


def _size_fault(member: zipfile.ZipInfo, limits: Limits) -> str:
    if member.file_size > limits.zip_member:
        return f"has {member.file_size} bytes; at most {limits.zip_member} are taken"
    if member.file_size > _RATIO_FROM and member.file_size > limits.zip_ratio * max(1, member.compress_size):
        return f"grows more than {limits.zip_ratio} times when unpacked"
    return ""


def read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """One member, whole, never more than its entry promised.

    Raises:
        BadZip: it is damaged, or longer than it says.
    """
    try:
        with archive.open(member) as file:
            raw = file.read(member.file_size + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadZip(f"The archive's entry {member.filename[:80]!a} is damaged.") from error
    if len(raw) != member.file_size:
        raise BadZip(f"The archive's entry {member.filename[:80]!a} is not as long as it says.")
    return raw


def base_name(member: zipfile.ZipInfo) -> str:
    """The last part of an entry's name; folders mean nothing here."""
    return member.filename.replace("\\", "/").rpartition("/")[2]


def is_litter(member: zipfile.ZipInfo) -> bool:
    """Whether an operating system put it there: macOS' resource forks, thumbnails, hidden files."""
    parts = member.filename.replace("\\", "/").split("/")
    return "__MACOSX" in parts or parts[-1].startswith(".") or parts[-1].lower() in {"thumbs.db", "desktop.ini"}
