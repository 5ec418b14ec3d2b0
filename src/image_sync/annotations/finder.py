"""Finds the annotations of pictures: which file belongs to which."""

from __future__ import annotations

import errno
import os
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

from image_sync.annotations import sagemaker, voc, yolo
from image_sync.annotations.checks import AnnotationError, Draft, Fault
from image_sync.annotations.coco import CocoFile, CocoFiles, Listed
from image_sync.annotations.folders import (
    NAMES,
    Folders,
    Format,
    Listing,
    Opener,
    Place,
    Source,
    places,
    several,
    stem_of,
    unusable,
)
from image_sync.domain import Annotation, Stamp
from image_sync.errors import Unreadable
from image_sync.log import show_path, show_text

_FORMATS = {b"xml": Format.VOC, b"txt": Format.YOLO, b"json": Format.SAGEMAKER}
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_MOST_UNKNOWN = 16
"""JSON files that are neither called like a picture nor like a COCO file: more than these are not opened to see."""
_NO_CLASSES = yolo.Classes()


@dataclass(slots=True)
class _Search:
    """What is found while one place after the other is looked at.

    Attributes:
        steps: the folder's path, step by step, in Unicode's composed form.
        by_stem: the pictures by the key of their stem.
        broken: says what is wrong with a COCO file, for the pictures that nothing else is found for.
        seen: folders that were looked into.
        classes: names for the YOLO files of a folder.
    """

    folder: bytes
    steps: tuple[str, ...]
    by_stem: dict[bytes, list[bytes]] = field(default_factory=dict)
    found: dict[bytes, list[Source]] = field(default_factory=dict)
    broken: Source | None = None
    seen: set[tuple[int, int]] = field(default_factory=set)
    classes: dict[bytes, yolo.Classes] = field(default_factory=dict)


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
        self._folders = Folders(open_folder, is_picture, inodes=inodes, wall=wall)
        self._class_files = yolo.ClassFiles(self._folders, root)
        self._coco_files = CocoFiles(self._folders)

    def beside(self, folder: bytes, names: Collection[bytes]) -> dict[bytes, Source]:
        """The sources of the pictures in a folder at or below the root; a picture without annotation has none.

        It takes one listing of each folder in which annotations may lie, none while that does not change, and one
        ``stat`` for each annotation.

        Args:
            names: all pictures of the folder, since two of one name but for the suffix get in each other's way.

        Raises:
            Unreadable: a folder in which annotations may lie cannot be looked into.
        """
        search = _Search(folder, tuple(unicodedata.normalize("NFC", os.fsdecode(folder)).split("/")))
        for name in names:
            search.by_stem.setdefault(stem_of(name), []).append(name)
        for place in places(self._root, folder):
            try:
                with self._folders.opened(place.folder) as (fd, listing):
                    if listing.identity not in search.seen:  # two spellings of a name may be one folder
                        search.seen.add(listing.identity)
                        self._look(place, fd, listing, search)
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

    def _look(self, place: Place, fd: int, listing: Listing, search: _Search) -> None:
        rivals = _Rivals(self._folders, place.shared_in, search.folder)
        lists: dict[bytes, tuple[Stamp, CocoFile | AnnotationError]] = {}
        if Format.COCO in self._formats:
            lists = self._lists(place, fd, listing, search, rivals)
            for stamp, file in lists.values():
                if isinstance(file, CocoFile):
                    for picture, source in _listed(file, stamp, place, search, rivals):
                        search.found.setdefault(picture, []).append(source)
                elif search.broken is None:
                    search.broken = unusable(Format.COCO, stamp, file.path, *file.faults)
        if not place.only_lists:
            for stem, pictures in search.by_stem.items():
                for name in listing.files.get(stem, ()):
                    if name not in lists:
                        self._file(place, fd, name, pictures, search, rivals)

    def _file(
        self, place: Place, fd: int, name: bytes, pictures: list[bytes], search: _Search, rivals: _Rivals
    ) -> None:
        """Give an annotation file to the pictures of its stem."""
        form = _FORMATS[name.rpartition(b".")[2].lower()]
        stamp = self._folders.stamp_at(fd, name) if form in self._formats else None
        if stamp is None:
            return
        rival = rivals.of_stem(stem_of(name))
        if rival and rival == place.shared_in:
            return  # the picture that lies nearer has it
        path = place.folder + b"/" + name
        if form is Format.YOLO and place.folder not in search.classes:
            search.classes[place.folder] = self._class_files.nearest(place.folder)
        for picture in pictures:
            others = [search.folder + b"/" + other for other in pictures if other != picture]
            others += [rival] if rival else []
            if others:
                text = f"it may belong to {show_path(search.folder + b'/' + picture)} or to {show_path(others[0])}"
                hint = "Rename one of them, or put each annotation beside its picture."
                source = unusable(form, stamp, path, Fault(text, hint))
            else:
                source = self._source(form, path, stamp, search.classes.get(place.folder, _NO_CLASSES))
            search.found.setdefault(picture, []).append(source)

    def _source(self, form: Format, path: bytes, stamp: Stamp, classes: yolo.Classes) -> Source:
        def read(width: int, height: int) -> Annotation:
            data = self._folders.read(path, stamp, form.largest)
            draft = Draft(path, width, height)
            if form is Format.VOC:
                return voc.read(data, draft, one_based=self._voc_one_based)
            if form is Format.SAGEMAKER:
                return sagemaker.read(data, draft)
            # A file without objects needs no names.
            return yolo.read(data, draft, classes.names_for(path)) if data.strip() else draft.finish()

        return Source(form, (path,), (stamp, *(classes.stamps if form is Format.YOLO else ())), read)

    def _lists(
        self, place: Place, fd: int, listing: Listing, search: _Search, rivals: _Rivals
    ) -> dict[bytes, tuple[Stamp, CocoFile | AnnotationError]]:
        """The COCO files of a folder, or what is wrong with them, by name."""
        found: dict[bytes, tuple[Stamp, CocoFile | AnnotationError]] = {}

        def look_at(name: bytes, *, insist: bool) -> None:
            stamp = self._folders.stamp_at(fd, name)
            if stamp and (file := self._coco_files.at(place.folder + b"/" + name, stamp, insist=insist)):
                found[name] = stamp, file

        for name in listing.lists:
            # One that is called like a picture may as well be the annotation of that picture alone.
            stem = stem_of(name)
            like_a_picture = stem in search.by_stem or stem in listing.pictures or bool(rivals.of_stem(stem))
            look_at(name, insist=not like_a_picture)
        if found:
            return found  # beside instances_train.json there may lie captions and key points of the same pictures
        unknown = [
            name
            for stem, names in listing.files.items()
            if stem not in search.by_stem
            for name in names
            if name.lower().endswith(b".json") and name not in listing.lists
        ]
        for name in sorted(unknown) if len(unknown) <= _MOST_UNKNOWN else ():
            look_at(name, insist=False)
        return found


class _Rivals:
    """Other folders whose pictures may have their annotations in the same place, the nearest to it first.

    Args:
        shared_in: that folder and the folders directly in it; empty for a place that serves one folder only.
        but: the folder that asks.
    """

    def __init__(self, folders: Folders, shared_in: bytes, but: bytes) -> None:
        self._folders = folders
        self._shared_in = shared_in
        self._but = but

    def of_stem(self, stem: bytes) -> bytes:
        """The first folder that has a picture of this stem too; empty when none has."""
        return next((folder for folder, stems in self._pictures if stem in stems), b"")

    def of_name(self, name: bytes, stem: bytes) -> bytes:
        """The first folder that has a file of this very name too; empty when none has."""
        for folder, stems in self._pictures:
            if stem in stems:
                try:
                    with self._folders.opened(folder) as (fd, _):
                        if self._folders.stamp_at(fd, name):
                            return folder
                except OSError:
                    continue
        return b""

    @cached_property
    def _pictures(self) -> list[tuple[bytes, frozenset[bytes]]]:
        if not self._shared_in:
            return []
        with self._folders.opened(self._shared_in) as (_, listing):
            inner = [self._shared_in + b"/" + name for name in listing.folders if name not in NAMES]
        found = []
        for folder in [self._shared_in, *inner]:
            if folder == self._but:
                continue
            try:
                with self._folders.opened(folder) as (_, listing):
                    if listing.pictures:
                        found.append((folder, listing.pictures))
            except OSError:
                continue  # gone, or not for us: its pictures are not taken either
        return found


def _listed(
    file: CocoFile, stamp: Stamp, place: Place, search: _Search, rivals: _Rivals
) -> Iterator[tuple[bytes, Source]]:
    """The pictures of a folder that a COCO file lists."""
    for stem, pictures in search.by_stem.items():
        for picture in pictures:
            name = unicodedata.normalize("NFC", os.fsdecode(picture))
            ranked: dict[int, list[Listed]] = {}
            for listed in file.pictures.get(name, ()):
                above = listed.steps[:-1]
                if not above or above == search.steps[-len(above) :]:
                    ranked.setdefault(len(above), []).append(listed)
                elif not place.shared_in:  # the folders of another machine
                    ranked.setdefault(-1, []).append(listed)
            if not ranked:
                continue
            rank = max(ranked)
            rival = rivals.of_name(picture, stem) if rank == 0 else b""
            if rival and rival == place.shared_in:
                continue  # the nearer picture is meant
            if rival:
                path, other = search.folder + b"/" + picture, rival + b"/" + picture
                text = f"its '{show_text(name)}' may be {show_path(path)} or {show_path(other)}"
                fault = Fault(text, "Write the folder before the file_name, as in folder/name.jpg.")
                yield picture, unusable(Format.COCO, stamp, file.path, fault)
            elif len(ranked[rank]) > 1:
                fault = Fault(f"it lists '{show_text(name)}' twice", "Delete one of the two from its 'images'.")
                yield picture, unusable(Format.COCO, stamp, file.path, fault)
            else:
                yield picture, Source(Format.COCO, (file.path,), (stamp,), partial(file.read, ranked[rank][0]))
