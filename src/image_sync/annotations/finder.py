"""Finds the annotations of pictures: which file belongs to which."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from image_sync.annotations import sagemaker, voc, yolo
from image_sync.annotations.class_files import ClassFiles
from image_sync.annotations.content import Disk, Opener
from image_sync.annotations.draft import Draft
from image_sync.annotations.fault import Fault
from image_sync.annotations.format import Format
from image_sync.annotations.listing import Listing, Listings, stem_of
from image_sync.annotations.lists import Lists, Opened, broken, listed
from image_sync.annotations.neighbours import Neighbours
from image_sync.annotations.places import Place, places
from image_sync.annotations.source import Source, several, unusable
from image_sync.domain import Annotation, Stamp
from image_sync.errors import Unreadable
from image_sync.log import show_path

_FORMATS = {b"xml": Format.VOC, b"txt": Format.YOLO, b"json": Format.SAGEMAKER}
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


@dataclass(slots=True)
class _Search:
    """What is found while one place after the other is looked at.

    Attributes:
        broken: says what is wrong with a list of pictures, for those that nothing else is found for.
        seen: folders that were looked into.
    """

    folder: bytes
    by_stem: dict[bytes, list[bytes]] = field(default_factory=dict)
    found: dict[bytes, list[Source]] = field(default_factory=dict)
    broken: Source | None = None
    seen: set[tuple[int, int]] = field(default_factory=set)


class Finder:
    """Says for the pictures of a folder where their annotations stand. For one thread at a time.

    Args:
        root: nothing outside this folder is looked at.
        open_folder: gives a descriptor of a folder at or below the root.
        is_picture: whether a file of this name counts as a picture.
        formats: what is looked for.
        voc_one_based: see :func:`image_sync.annotations.voc.read`.
        inodes: whether inode numbers can be relied on.
        wall: Unix time, as the file system stamps files.
    """

    def __init__(
        self,
        root: bytes,
        open_folder: Opener,
        is_picture: Callable[[bytes], bool],
        *,
        formats: Collection[Format] = tuple(Format),
        voc_one_based: bool = False,
        inodes: bool = True,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._formats = frozenset(formats)
        self._voc_one_based = voc_one_based
        self._disk = Disk(open_folder, inodes=inodes)
        self._listings = Listings(self._disk, is_picture, wall)
        self._classes = ClassFiles(self._disk, self._listings, root)
        self._lists = Lists(self._disk)

    def beside(self, folder: bytes, names: Collection[bytes]) -> dict[bytes, Source]:
        """The sources of the pictures in a folder at or below the root; a picture without annotation has none.

        It takes one listing of each folder in which annotations may lie, none while that does not change, and one
        ``stat`` for each annotation.

        Args:
            names: all pictures of the folder, since two of one name but for the suffix get in each other's way.

        Raises:
            Unreadable: a folder in which annotations may lie cannot be looked into.
        """
        self._classes.begin()
        search = _Search(folder)
        for name in names:
            search.by_stem.setdefault(stem_of(name), []).append(name)
        for place in places(self._root, folder):
            try:
                self._visit(place, search)
            except OSError as error:
                if error.errno in _ABSENT:
                    continue
                raise Unreadable(
                    f"{show_path(place.folder)} cannot be looked into for annotations: {error.strerror}",
                    hint="Give the user that runs image-sync the right to read it, or check the disk.",
                ) from error
        found = {name: one[0] if len(one) == 1 else several(one) for name, one in search.found.items()}
        if search.broken:
            found |= {name: search.broken for name in names if name not in found}
        return found

    def _visit(self, place: Place, search: _Search) -> None:
        fd, listing = self._listings.of(place.folder)
        try:
            if listing.identity not in search.seen:  # two spellings of a name may be one folder
                search.seen.add(listing.identity)
                self._look(place, fd, listing, search)
        finally:
            os.close(fd)

    def _look(self, place: Place, fd: int, listing: Listing, search: _Search) -> None:
        folder, by_stem = search.folder, search.by_stem
        neighbours = Neighbours(self._disk, self._listings, place.shared_in, folder)
        lists: dict[bytes, Opened] = {}
        if Format.COCO in self._formats:
            lists = self._lists.of(place, fd, listing, by_stem, neighbours)
            for name, one in listed(lists.values(), place, folder, by_stem, neighbours):
                search.found.setdefault(name, []).append(one)
            search.broken = search.broken or broken(lists.values())
        if place.only_lists:
            return
        for stem, pictures in by_stem.items():
            for name in listing.files.get(stem, ()):
                form = _FORMATS[name.rpartition(b".")[2].lower()]
                if form not in self._formats or name in lists:
                    continue
                stamp = self._disk.stamp_at(fd, name)
                rival = neighbours.rival(stem)
                if stamp is None or (rival and rival == place.shared_in):
                    continue  # gone; or the picture that lies nearer has it
                path = place.folder + b"/" + name
                for picture in pictures:
                    others = [folder + b"/" + other for other in pictures if other != picture]
                    others += [rival] if rival else []
                    if others:
                        one = unusable(form, path, stamp, _doubt(folder + b"/" + picture, others[0]))
                    else:
                        one = self._source(form, place.folder, name, stamp)
                    search.found.setdefault(picture, []).append(one)

    def _source(self, form: Format, folder: bytes, name: bytes, stamp: Stamp) -> Source:
        path = folder + b"/" + name
        if form is Format.YOLO:
            return self._classes.source(folder, name, stamp, yolo.read)

        def read(width: int, height: int) -> Annotation:
            data = self._disk.read(folder, name, stamp, form.largest)
            draft = Draft(path, width, height)
            if form is Format.VOC:
                return voc.read(data, draft, one_based=self._voc_one_based)
            return sagemaker.read(data, draft)

        return Source(form, (path,), (stamp,), read)


def _doubt(picture: bytes, other: bytes) -> Fault:
    return Fault(
        f"it may belong to {show_path(picture)} or to {show_path(other)}",
        "Rename one of them, or put each annotation beside its picture.",
    )
