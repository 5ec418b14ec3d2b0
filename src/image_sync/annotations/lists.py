"""The COCO files of a folder, each parsed once as long as it does not change."""

from __future__ import annotations

import os
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from image_sync.annotations.coco import CocoFile, Listed, parse
from image_sync.annotations.content import Disk
from image_sync.annotations.draft import Draft
from image_sync.annotations.fault import AnnotationError, Fault
from image_sync.annotations.format import Format
from image_sync.annotations.listing import Listing, stem_of
from image_sync.annotations.neighbours import Neighbours
from image_sync.annotations.places import Place
from image_sync.annotations.source import Source, refused, unusable
from image_sync.domain import Annotation, Stamp
from image_sync.errors import PictureError
from image_sync.log import show_path, show_text

_MOST_UNKNOWN = 16
"""JSON files that are neither called like a picture nor like a COCO file: more than these are not opened to see."""
_KEPT, _KEPT_BYTES = 8, 64 << 20
_OTHERS_KEPT = 10_000

Found = CocoFile | AnnotationError
Opened = tuple[Stamp, Found]
"""A COCO file, or what is wrong with it, and the stamp that it has."""


class Lists:
    """Opens COCO files.

    Args:
        disk: reads them.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._files: OrderedDict[bytes, Opened] = OrderedDict()
        self._others: OrderedDict[bytes, Stamp] = OrderedDict()

    def of(
        self, place: Place, fd: int, listing: Listing, by_stem: Mapping[bytes, object], neighbours: Neighbours
    ) -> dict[bytes, Opened]:
        """The COCO files in the listing, by name."""
        found: dict[bytes, Opened] = {}
        for name in listing.lists:
            # Then it may as well be the annotation of that picture alone, in a format of its own.
            stem = stem_of(name)
            like_a_picture = stem in by_stem or stem in listing.pictures or bool(neighbours.rival(stem))
            if one := self._at(place.folder, fd, name, insist=not like_a_picture):
                found[name] = one
        if found:
            return found  # beside instances_train.json there may lie captions and key points of the same pictures
        unknown = [
            name
            for stem, names in listing.files.items()
            if stem not in by_stem
            for name in names
            if name.lower().endswith(b".json") and name not in listing.lists
        ]
        if len(unknown) <= _MOST_UNKNOWN:
            opened = {name: self._at(place.folder, fd, name, insist=False) for name in sorted(unknown)}
            found |= {name: one for name, one in opened.items() if one}
        return found

    def _at(self, folder: bytes, fd: int, name: bytes, *, insist: bool) -> Opened | None:
        """The COCO file of this name; None when it is none, or (unless ``insist``) no JSON that can be read."""
        path = folder + b"/" + name
        stamp = self._disk.stamp_at(fd, name)
        if stamp is None:
            return None
        old = self._files.get(path)
        if old and old[0] == stamp:
            self._files.move_to_end(path)
            return old
        if not insist and self._others.get(path) == stamp:
            return None
        try:
            found = self._parsed(folder, name, stamp, insist=insist)
        except PictureError as error:  # not remembered: it may pass
            return (stamp, AnnotationError(path, [Fault(error.what, error.hint)])) if insist else None
        if found is None:
            self._others[path] = stamp
            while len(self._others) > _OTHERS_KEPT:
                self._others.popitem(last=False)
            return None
        self._files[path] = stamp, found
        while len(self._files) > 1 and (len(self._files) > _KEPT or self._size() > _KEPT_BYTES):
            self._files.popitem(last=False)
        return stamp, found

    def _size(self) -> int:
        return sum(stamp.size for stamp, _ in self._files.values())

    def _parsed(self, folder: bytes, name: bytes, stamp: Stamp, *, insist: bool) -> Found | None:
        path = folder + b"/" + name
        try:
            found = parse(self._disk.read(folder, name, stamp, Format.COCO.largest), path)
        except AnnotationError as error:
            return error if insist else None
        if found is None and insist:
            hint = "If it is something else, call it otherwise."
            fault = Fault("it has no lists 'images' and 'annotations' and so is not a COCO file", hint)
            return AnnotationError(path, [fault])
        return found


def listed(
    lists: Iterable[Opened],
    place: Place,
    folder: bytes,
    by_stem: Mapping[bytes, list[bytes]],
    neighbours: Neighbours,
) -> Iterator[tuple[bytes, Source]]:
    """The pictures of a folder that these files list."""
    above = tuple(unicodedata.normalize("NFC", os.fsdecode(folder)).split("/"))
    for stamp, found in lists:
        if isinstance(found, AnnotationError):
            continue
        for stem, pictures in by_stem.items():
            for picture in pictures:
                if one := _entry(found, stamp, place, folder, above, picture, stem, neighbours):
                    yield picture, one


def broken(lists: Iterable[Opened]) -> Source | None:
    """A source that says what is wrong with the first of these files that cannot be used; None when all can."""
    for stamp, found in lists:
        if isinstance(found, AnnotationError):
            return refused(Format.COCO, found, stamp)
    return None


def _entry(
    file: CocoFile,
    stamp: Stamp,
    place: Place,
    folder: bytes,
    above: tuple[str, ...],
    picture: bytes,
    stem: bytes,
    neighbours: Neighbours,
) -> Source | None:
    name = unicodedata.normalize("NFC", os.fsdecode(picture))
    ranked: dict[int, list[Listed]] = {}
    for listed in file.pictures.get(name, ()):
        *folders, _ = listed.steps
        if not folders:
            ranked.setdefault(0, []).append(listed)
        elif tuple(folders) == above[-len(folders) :]:
            ranked.setdefault(len(folders), []).append(listed)
        elif not place.shared_in:  # the folders of another machine
            ranked.setdefault(-1, []).append(listed)
    if not ranked:
        return None
    rank = max(ranked)
    path = folder + b"/" + picture
    if rank == 0 and (rival := neighbours.has(picture, stem)):
        if rival == place.shared_in:
            return None  # the nearer picture is meant
        text = f"its '{show_text(name)}' may be {show_path(path)} or {show_path(rival + b'/' + picture)}"
        fault = Fault(text, "Write the folder before the file_name, as in folder/name.jpg.")
        return unusable(Format.COCO, file.path, stamp, fault)
    if len(ranked[rank]) > 1:
        fault = Fault(f"it lists '{show_text(name)}' twice", "Leave one of the two images.")
        return unusable(Format.COCO, file.path, stamp, fault)
    return Source(Format.COCO, (file.path,), (stamp,), partial(_read, file, ranked[rank][0]))


def _read(file: CocoFile, listed: Listed, width: int, height: int) -> Annotation:
    return file.read(listed, Draft(file.path, width, height))
