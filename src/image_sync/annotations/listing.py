"""What lies in a folder, as far as it concerns annotations; remembered as long as the folder does not change."""

from __future__ import annotations

import os
import re
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from image_sync.annotations.classes import is_class_file
from image_sync.annotations.content import Disk
from image_sync.domain import Stamp

_SUFFIXES = frozenset({b"xml", b"txt", b"json"})
_LIST = re.compile(rb"(?:_?annotations(?:\.coco)?|instances.*)\.json", re.IGNORECASE | re.DOTALL)
_MOST_NAMES = 400_000
_UNSURE = 2.0
"""Seconds: a folder that changed so recently may change again without its time telling."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The regular files of one folder.

    Attributes:
        files: annotation files by the key of their stem.
        lists: files that are called as COCO files are.
        classes: files that may hold names of classes.
        pictures: keys of the stems of its pictures.
    """

    identity: tuple[int, int]
    files: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    lists: tuple[bytes, ...] = ()
    classes: tuple[bytes, ...] = ()
    pictures: frozenset[bytes] = frozenset()
    folders: tuple[bytes, ...] = ()

    @property
    def weight(self) -> int:
        """About how many names it holds."""
        return 1 + len(self.files) + len(self.pictures) + len(self.folders)


def stem_of(name: bytes) -> bytes:
    """What a picture and its annotation have in common: the name without suffix.

    In Unicode's composed form, since systems differ in how they store an accented letter.
    """
    stem = name.rpartition(b".")[0]
    if stem.isascii():
        return stem
    try:
        return unicodedata.normalize("NFC", stem.decode()).encode()
    except UnicodeDecodeError:
        return stem


class Listings:
    """Lists folders, each once as long as it does not change.

    Args:
        is_picture: whether a file of this name counts as a picture.
        wall: Unix time, as the file system stamps folders.
    """

    def __init__(self, disk: Disk, is_picture: Callable[[bytes], bool], wall: Callable[[], float] = time.time) -> None:
        self._disk = disk
        self._is_picture = is_picture
        self._wall = wall
        self._known: OrderedDict[bytes, tuple[Stamp, Listing]] = OrderedDict()
        self._weight = 0

    def of(self, folder: bytes) -> tuple[int, Listing]:
        """A descriptor of the folder, which the caller closes, and what is in it. Raises OSError."""
        fd = self._disk.open_folder(folder)
        try:
            return fd, self._at(fd, folder)
        except BaseException:
            os.close(fd)
            raise

    def _at(self, fd: int, folder: bytes) -> Listing:
        found = os.fstat(fd)
        stamp = self._disk.stamp_of(found)
        old = self._known.pop(folder, None)
        if old and old[0] == stamp:
            self._known[folder] = old
            return old[1]
        self._weight -= old[1].weight if old else 0
        asked_at = self._wall()
        listing = self._listed(fd, (found.st_dev, found.st_ino))
        if asked_at - stamp.mtime_ns / 1e9 > _UNSURE:
            self._known[folder] = stamp, listing
            self._weight += listing.weight
            while self._weight > _MOST_NAMES and len(self._known) > 1:
                self._weight -= self._known.popitem(last=False)[1][1].weight
        return listing

    def _listed(self, fd: int, identity: tuple[int, int]) -> Listing:
        files: dict[bytes, tuple[bytes, ...]] = {}
        classes, lists, folders, pictures = [], [], [], set()
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name.startswith(b"."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif not entry.is_file(follow_symlinks=False):
                    continue
                elif is_class_file(name):
                    classes.append(name)
                elif name.rpartition(b".")[2].lower() in _SUFFIXES:
                    stem = stem_of(name)
                    files[stem] = (*files.get(stem, ()), name)
                    if _LIST.fullmatch(name):
                        lists.append(name)
                elif self._is_picture(name):
                    pictures.add(stem_of(name))
        return Listing(
            identity, files, tuple(sorted(lists)), tuple(sorted(classes)), frozenset(pictures), tuple(sorted(folders))
        )
