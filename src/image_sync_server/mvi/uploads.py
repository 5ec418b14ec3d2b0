"""What comes in by ``POST /datasets/{id}/files``: pictures, and archives of pictures."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from image_sync_server.mvi import zips
from image_sync_server.mvi.limits import Limits
from image_sync_server.mvi.pictures import NotAPicture, examine, is_video
from image_sync_server.mvi.records.files import NewFile, discard
from image_sync_server.mvi.store import Store, new_id
from image_sync_server.web import Part

TAKEN = (".jpg", ".jpeg", ".png", ".mp4")
"""Entries of an archive with another suffix are passed over."""


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
            if part.start().startswith(zips.SIGNATURES):
                found.extend(_archive(part, store, limits))
            else:
                found.append(_picture(part, store, limits))
    except BaseException:
        discard(one.file.scratch for one in found if one.file)
        raise
    return found


def _picture(part: Part, store: Store, limits: Limits) -> Received:
    name = shown_name(part.filename, limits.name)
    if part.path is not None and is_video(part.start()):  # of any length, so it is not read to memory
        file = NewFile.video(name, store.scratch(), part.size)
        part.path.replace(file.scratch)
        part.path = None
        return Received(name, file)
    if part.size > limits.picture:
        return Received(name, fault=f"The picture has {part.size} bytes; at most {limits.picture} are taken.")
    if part.path is None:
        return taken(name, bytes(part.data), store, limits)
    received = taken(name, part.read(), store, limits, write=False)
    if received.file is None:
        return received
    # It lies on the right file system already.
    part.path.replace(received.file.scratch)
    part.path = None
    return received


def taken(name: str, data: bytes, store: Store, limits: Limits, *, write: bool = True) -> Received:
    """One picture examined and, if it is sound, written to a scratch file; a video is written as it is."""
    if is_video(data):
        file = NewFile.video(name, store.scratch(), len(data))
        if write:
            file.scratch.write_bytes(data)
        return Received(name, file)
    try:
        picture = examine(data, limits.pixels)
    except NotAPicture as error:
        return Received(name, fault=str(error))
    scratch = store.scratch()
    if write:
        scratch.write_bytes(data)
    file = NewFile(new_id(), name, picture.suffix, scratch, len(data), picture.width, picture.height)
    return Received(name, file)


def _archive(part: Part, store: Store, limits: Limits) -> list[Received]:
    name = shown_name(part.filename, limits.name)
    found: list[Received] = []
    try:
        with part.open() as file, zips.opened(file, limits) as archive:
            for member in wanted(archive):
                inside = shown_name(zips.base_name(member), limits.name)
                found.append(taken(inside, zips.read(archive, member), store, limits))
    except zips.BadZip as error:
        discard(one.file.scratch for one in found if one.file)
        return [Received(name, fault=str(error))]
    return found or [Received(name, fault="The archive holds no picture.")]


def wanted(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """The pictures of an archive; folders in it mean nothing, so their names must differ.

    Raises:
        BadZip: two of them have the same base name.
    """
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir() and not zips.is_litter(member) and member.filename.lower().endswith(TAKEN)
    ]
    seen = set()
    for member in members:
        name = zips.base_name(member)
        if name in seen:
            raise zips.BadZip(f"The archive has two entries named {name[:80]!a}. Folders in it mean nothing.")
        seen.add(name)
    yield from members


def labelled(received: list[Received], category_id: str | None, metadata: str) -> list[Received]:
    """The same files, with category and metadata of the request."""
    return [
        replace(one, file=replace(one.file, category_id=category_id, metadata=metadata)) if one.file else one
        for one in received
    ]
