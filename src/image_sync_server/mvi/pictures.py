"""Pictures and archives of pictures as they come in from strangers: what is taken, and how much of it."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from image_sync_server.mvi.store import VIDEO, Store, new_id
from image_sync_server.web import Part

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds on what a client may send; all sizes in bytes.

    Attributes:
        body: one request's whole body; more is answered with 413.
        json: a JSON body, or all plain fields of a form together.
        parts: parts of one form.
        memory: what the parts of one form may hold in memory before they go to disk.
        picture: one picture; pixels: its width times its height, read from its header.
        zip_members, zip_member, zip_total: entries of an archive, one entry, and all of them unpacked.
        zip_ratio: how many times an entry may grow when unpacked; pictures hardly do.
        name: characters of a name.
        connections: open connections; beyond that the one that has been silent for the longest time is closed.
        silence: seconds until a connection is closed whose headers are not whole, or whose body does not go on.
        points: entries kept of a training's curve; when there are more, every other one is dropped.
        requests: requests remembered by the log of requests.
    """

    body: int = 2048 * _MIB
    json: int = 16 * _MIB
    parts: int = 10_000
    memory: int = 8 * _MIB
    picture: int = 256 * _MIB
    pixels: int = 50_000_000
    zip_members: int = 50_000
    zip_member: int = 256 * _MIB
    zip_total: int = 4096 * _MIB
    zip_ratio: int = 100
    name: int = 255
    connections: int = 500
    silence: float = 20.0
    points: int = 400
    requests: int = 10_000


ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
_RATIO_FROM = 1024 * 1024
_HEADER = 30
_START = 16
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class BadZip(ValueError):  # noqa: N818 - the verdict, named as such
    """The archive is refused as a whole; the text says why, in one sentence."""


@contextmanager
def open_zip(file: BinaryIO, limits: Limits) -> Iterator[zipfile.ZipFile]:
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
        fault = _fault(member, limits)
        # Many entries that share the same bytes are a bomb too.
        if not fault and member.header_offset < end:
            fault = "overlaps another one"
        if fault:
            raise BadZip(f"The archive's entry {member.filename[:80]!a} {fault}.")
        end = member.header_offset + _HEADER + member.compress_size
    total = sum(member.file_size for member in members)
    if total > limits.zip_total:
        raise BadZip(f"The archive unpacks to {total} bytes; at most {limits.zip_total} are taken.")


def _fault(member: zipfile.ZipInfo, limits: Limits) -> str:
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
        return "leads out of its folder"
    if "\x00" in member.orig_filename:
        return "has a name that cannot be used"
    if stat.S_IFMT(member.external_attr >> 16) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "is a link or a device"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type not in _METHODS:
        return "is compressed in a way that is not taken; use deflate"
    if member.file_size > limits.zip_member:
        return f"has {member.file_size} bytes; at most {limits.zip_member} are taken"
    if member.file_size > _RATIO_FROM and member.file_size > limits.zip_ratio * max(1, member.compress_size):
        return f"grows more than {limits.zip_ratio} times when unpacked"
    return ""


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """One member, whole, never more than its entry promised. Raises BadZip: it is damaged, or longer than it says."""
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


_PNG = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">II")
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END = 0xDA, 0xD9
_FRAME_LENGTH = 8
_STILLS = frozenset({b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"qt  "})
"""Brands of HEIF and AVIF pictures, and of QuickTime, which MVI does not take."""


class NotAPicture(ValueError):  # noqa: N818 - the verdict, named as such
    """The bytes cannot be taken as a picture; the text says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What the header of a picture says."""

    suffix: str
    """``jpg`` or ``png``, from the content."""
    width: int
    height: int


def is_video(start: bytes) -> bool:
    """Whether a file that begins with these bytes is an MP4 video, not a picture in the same box format."""
    return start[4:8] == b"ftyp" and start[8:12] not in _STILLS


def examine(data: bytes, pixels: int) -> Picture:
    """The picture in these bytes; data after its end is allowed, as cameras append some.

    Args:
        data: the whole file.
        pixels: most pixels (width times height) that are taken.

    Raises:
        NotAPicture: neither JPEG nor PNG, damaged, cut short, or too large to be decoded.
    """
    if data.startswith(b"\xff\xd8\xff"):
        picture = Picture("jpg", *_jpeg(data))
    elif data.startswith(_PNG):
        picture = Picture("png", *_png(data))
    elif not data:
        raise NotAPicture("The file is empty.")
    else:
        raise NotAPicture("The file is neither a JPEG nor a PNG picture, nor an MP4 video.")
    if not picture.width or not picture.height:
        raise NotAPicture("The picture has no width or no height.")
    if picture.width * picture.height > pixels:
        raise NotAPicture(f"The picture has {picture.width} x {picture.height} pixels; at most {pixels} are taken.")
    return picture


def _jpeg(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG that goes on to its end mark."""
    at, size = 2, (0, 0)
    while True:
        if data[at : at + 1] != b"\xff":
            raise NotAPicture("The JPEG is damaged or cut short.")
        while data[at : at + 1] == b"\xff":
            at += 1
        marker = data[at] if at < len(data) else _END
        at += 1
        if marker == _END:
            raise NotAPicture("The JPEG holds no image data, or is cut short.")
        if marker in _BARE_MARKERS:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):  # noqa: PLR2004 - the length counts its own two bytes
            raise NotAPicture("The JPEG is damaged or cut short.")
        if marker in _FRAMES and length >= _FRAME_LENGTH:
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = max(size, (width, height), key=lambda found: found[0] * found[1])
        at += length
        if marker == _START_OF_SCAN:
            break
    # Inside image data every 0xFF is followed by 0 or a restart mark, so this cannot be a thumbnail's end.
    if data.find(b"\xff\xd9", at) < 0:
        raise NotAPicture("The JPEG is cut short: its end is missing.")
    return size


def _png(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG that goes on to its end chunk."""
    at, size, has_data = len(_PNG), (0, 0), False
    while True:
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if len(kind) < 4 or end > len(data):  # noqa: PLR2004 - a chunk's type has four letters
            raise NotAPicture("The PNG is cut short.")
        if at == len(_PNG):
            if kind != b"IHDR" or zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise NotAPicture("The PNG is damaged: its header cannot be read.")
            size = _IHDR.unpack_from(data, at + 8)
        has_data = has_data or kind == b"IDAT"
        at = end
        if kind == b"IEND":
            break
    if not has_data:
        raise NotAPicture("The PNG holds no image data.")
    return size


_CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png", "mp4": VIDEO}
TAKEN = (".jpg", ".jpeg", ".png", ".mp4")
"""Entries of an archive with another suffix are passed over."""


@dataclass(slots=True)
class NewFile:
    """A picture or video that lies at ``scratch`` and shall become a file of a dataset; a video has no width here.

    Attributes:
        name: base name given by the client; only shown, never used as a path.
        metadata: a JSON object.
        created_at: milliseconds; 0 means now.
    """

    id: str
    name: str
    suffix: str
    scratch: Path
    size: int
    width: int
    height: int
    category_id: str | None = None
    metadata: str = "{}"
    created_at: int = 0

    @property
    def file_name(self) -> str:
        return f"{self.id}.{self.suffix}"

    @property
    def content_type(self) -> str:
        """``image/jpeg``, ``image/png`` or ``video/mp4``."""
        return _CONTENT_TYPES[self.suffix]


def discard(paths: Iterable[Path]) -> None:
    """Remove files that no row needs."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


@dataclass(frozen=True, slots=True)
class Received:
    """One file of an upload: stored as ``file``, or refused with a ``fault``."""

    name: str
    file: NewFile | None = None
    fault: str = ""

    def as_json(self, dataset_id: str) -> dict[str, Any]:
        """The entry of ``resultList``."""
        if self.file is None:
            return {"result": "fail", "file_name": self.name, "dataset_id": dataset_id, "fault": self.fault}
        return {"result": "success", "id": self.file.id, "file_name": self.name, "dataset_id": dataset_id}


def shown_name(filename: str | None, limit: int) -> str:
    r"""The base name of what a client calls its file; only shown and searched, never used as a path.

    >>> shown_name("C:\\pictures\\part 7.jpg", 255)
    'part 7.jpg'
    """
    name = re.split(r"[/\\]", filename or "")[-1]
    name = "".join(char for char in name if char.isprintable()).strip()
    return name[-limit:] or "unnamed"


def receive(parts: list[Part], store: Store, limits: Limits) -> list[Received]:
    """Look at every file of a form; good ones are written to scratch files, ready to be added to a dataset."""
    found: list[Received] = []
    try:
        for part in parts:
            if part.read(_START).startswith(ZIP_SIGNATURES):
                found.extend(_archive(part, store, limits))
            else:
                found.append(_picture(part, store, limits))
    except BaseException:
        discard(one.file.scratch for one in found if one.file)
        raise
    return found


def _picture(part: Part, store: Store, limits: Limits) -> Received:
    name, start = shown_name(part.filename, limits.name), part.read(_START)
    video = is_video(start)  # of any length, so it is not read to memory
    if not video and part.size > limits.picture:
        return Received(name, fault=f"The picture has {part.size} bytes; at most {limits.picture} are taken.")
    received = _looked_at(name, start if video else part.read(), part.size, store, limits)
    if received.file is not None:
        part.move(received.file.scratch)
    return received


def taken(name: str, data: bytes, store: Store, limits: Limits) -> Received:
    """One picture examined and, if it is sound, written to a scratch file; a video is written as it is."""
    received = _looked_at(name, data, len(data), store, limits)
    if received.file is not None:
        received.file.scratch.write_bytes(data)
    return received


def _looked_at(name: str, data: bytes, size: int, store: Store, limits: Limits) -> Received:
    try:
        seen = Picture("mp4", 0, 0) if is_video(data) else examine(data, limits.pixels)
    except NotAPicture as error:
        return Received(name, fault=str(error))
    return Received(name, NewFile(new_id(), name, seen.suffix, store.scratch(), size, seen.width, seen.height))


def _archive(part: Part, store: Store, limits: Limits) -> list[Received]:
    name = shown_name(part.filename, limits.name)
    found: list[Received] = []
    try:
        with part.open() as file, open_zip(file, limits) as archive:
            for member in _wanted(archive):
                inside = shown_name(base_name(member), limits.name)
                found.append(taken(inside, read_member(archive, member), store, limits))
    except BadZip as error:
        discard(one.file.scratch for one in found if one.file)
        return [Received(name, fault=str(error))]
    return found or [Received(name, fault="The archive holds no picture.")]


def _wanted(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The pictures of an archive; folders in it mean nothing, so their names must differ. Raises BadZip."""
    seen: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if not member.is_dir() and not is_litter(member) and member.filename.lower().endswith(TAKEN):
            name = base_name(member)
            if name in seen:
                raise BadZip(f"The archive has two entries named {name[:80]!a}. Folders in it mean nothing.")
            seen[name] = member
    return list(seen.values())
