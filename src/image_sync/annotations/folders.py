"""The folders in which annotations lie: which they are, what is in them, and the bytes of a file with its stamp."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import NoReturn

from image_sync.annotations.checks import AnnotationError, Fault
from image_sync.domain import Annotation, Stamp
from image_sync.errors import Changed, Unreadable
from image_sync.log import show_path

NAMES = (b"annotations", b"Annotations", b"labels", b"Labels")
"""Folders that hold annotations: of Pascal VOC, COCO and YOLO, as they are handed around."""
CLASS_FILES = (b"classes.txt", b"obj.names", b"_darknet.labels", b"data.yaml", b"data.yml")
"""Files that name the classes of YOLO annotations, the plainest first; other YAML files may do so too."""

_PICTURES = frozenset({b"images", b"jpegimages"})
_SUFFIXES = frozenset({b"xml", b"txt", b"json"})
_COCO = re.compile(rb"(?:_?annotations(?:\.coco)?|instances.*)\.json", re.IGNORECASE | re.DOTALL)
_MOST_NAMES = 400_000
_UNSURE = 2.0
"""Seconds: a folder that changed so recently may change again without its time telling."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Opener = Callable[[bytes], int]
"""Gives a descriptor of a folder, led astray by no symbolic link, or raises OSError; the caller closes it."""


class Format(StrEnum):
    """How annotations are written down; in the order in which they are looked for."""

    VOC = "voc"
    """One XML file for each picture (Pascal VOC, labelImg, MVI's own export)."""
    COCO = "coco"
    """One JSON file for all pictures of a folder."""
    YOLO = "yolo"
    """One text file for each picture, and one with the names of the classes."""
    SAGEMAKER = "sagemaker"
    """One JSON file for each picture (SageMaker's built-in object detection)."""

    @property
    def words(self) -> str:
        """What a person calls it."""
        return {"voc": "Pascal VOC", "coco": "COCO", "yolo": "YOLO", "sagemaker": "SageMaker"}[self]

    @property
    def suffix(self) -> str:
        """How names of its files end, in lower case."""
        return {"voc": ".xml", "coco": ".json", "yolo": ".txt", "sagemaker": ".json"}[self]

    @property
    def largest(self) -> int:
        """Bytes beyond which a file is not read: a COCO file holds many pictures, the others one."""
        return 64 << 20 if self is Format.COCO else 8 << 20


def chosen(name: str) -> tuple[Format, ...]:
    """The formats that a setting means: the one of this name, or all for ``auto``."""
    return tuple(Format) if name == "auto" else (Format(name),)


def is_class_file(name: bytes) -> bool:
    """Whether a file of this name may hold names of classes."""
    lower = name.lower()
    return lower in CLASS_FILES or lower.endswith((b".yaml", b".yml"))


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


@dataclass(frozen=True, slots=True)
class Source:
    """The annotation of one picture, found but not read.

    Attributes:
        paths: the annotation file; more than one when it is not known which of them counts.
        stamps: of all files that have a part in it.
        read: gives the annotation of the picture, which has this width and height in pixels. It raises
            AnnotationError (it cannot be used; each mistake is named), Changed (it is not the file that was found) or
            Unreadable (the system does not let it be read).
    """

    format: Format
    paths: tuple[bytes, ...]
    stamps: tuple[Stamp, ...]
    read: Callable[[int, int], Annotation] = field(repr=False, compare=False)

    @property
    def path(self) -> bytes:
        """The annotation file; the first when there are several."""
        return self.paths[0]

    @property
    def stamp(self) -> str:
        """24 hex digits that change with size, times or inode of any file that has a part in it."""
        return hashlib.blake2b(f"{self.format}{[*map(tuple, self.stamps)]}".encode(), digest_size=12).hexdigest()

    @property
    def newest(self) -> float:
        """When the youngest of the files was changed, Unix time."""
        return max(time for stamp in self.stamps for time in (stamp.mtime_ns, stamp.ctime_ns)) / 1e9


def unusable(form: Format, stamp: Stamp, path: bytes, *faults: Fault) -> Source:
    """A source that can only say why it cannot be used."""
    return Source(form, (path,), (stamp,), partial(_refuse, path, faults))


def several(sources: Sequence[Source]) -> Source:
    """What stands for two sources or more of one picture: reading it names them, since any of them may count."""
    rank = list(Format).index
    sources = sorted(sources, key=lambda one: (rank(one.format), one.paths))
    named = " and ".join(f"{one.format.words} in {show_path(one.path)}" for one in sources)
    fault = Fault(
        f"the picture has several annotations: {named}",
        "Keep only the one that counts, or say which format counts (`annotation_format`, or --from).",
    )
    paths = tuple(path for one in sources for path in one.paths)
    stamps = tuple(stamp for one in sources for stamp in one.stamps)
    return Source(sources[0].format, paths, stamps, partial(_refuse, sources[0].path, (fault,)))


def _refuse(path: bytes, faults: Sequence[Fault], _width: int, _height: int) -> NoReturn:
    raise AnnotationError(path, *faults)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder to look into.

    Attributes:
        shared_in: the folder whose pictures, and those of the folders directly in it, may all have their annotations
            here; empty when this place serves one folder only.
        only_lists: only files that list their pictures by name (COCO) count here.
    """

    folder: bytes
    shared_in: bytes = b""
    only_lists: bool = False


def places(root: bytes, folder: bytes) -> list[Place]:
    """Where annotations of the pictures in this folder, at or below the root, may lie; never outside the root.

    For ``set/good`` these are ``set/good`` itself, ``set/good/annotations``, ``set/annotations`` (shared with other
    folders of ``set``), ``set/annotations/good``, and ``set`` for a COCO file; for ``set/images/train`` also
    ``set/labels/train``. Only names: the disk is not touched.
    """
    found = [Place(folder), *(Place(folder + b"/" + name) for name in NAMES)]
    steps = folder[len(root) :].strip(b"/").split(b"/")
    if steps == [b""]:
        return found
    parent, _, base = folder.rpartition(b"/")
    found.append(Place(parent, shared_in=parent, only_lists=True))
    for name in NAMES:
        found += [Place(parent + b"/" + name, shared_in=parent), Place(parent + b"/" + name + b"/" + base)]
    last = max((at for at, step in enumerate(steps) if step.lower() in _PICTURES), default=None)
    if last is not None and last < len(steps) - 1:
        found += [Place(b"/".join([root.rstrip(b"/"), *steps[:last], name, *steps[last + 1 :]])) for name in NAMES]
    return list({place.folder: place for place in reversed(found)}.values())[::-1]


@dataclass(frozen=True, slots=True)
class Listing:
    """The regular files of one folder, as far as they concern annotations.

    Attributes:
        files: annotation files by the key of their stem.
        lists: files that are called as COCO files are.
        classes: files that may hold names of classes, in the order of :data:`CLASS_FILES`.
        pictures: keys of the stems of its pictures.
    """

    identity: tuple[int, int]
    files: dict[bytes, tuple[bytes, ...]]
    lists: tuple[bytes, ...]
    classes: tuple[bytes, ...]
    pictures: frozenset[bytes]
    folders: tuple[bytes, ...]

    @property
    def weight(self) -> int:
        """About how many names it holds."""
        return 1 + len(self.files) + len(self.pictures) + len(self.folders)


class Folders:
    """Lists folders, each once as long as it does not change, and reads files in them.

    Args:
        open_folder: how folders are opened.
        is_picture: whether a file of this name counts as a picture.
        inodes: whether inode numbers can be relied on (some network file systems make them up anew).
        wall: Unix time, as the file system stamps folders.
    """

    def __init__(
        self,
        open_folder: Opener,
        is_picture: Callable[[bytes], bool],
        *,
        inodes: bool = True,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._open_folder = open_folder
        self._is_picture = is_picture
        self._inodes = inodes
        self._wall = wall
        self._known: OrderedDict[bytes, tuple[Stamp, Listing]] = OrderedDict()
        self._weight = 0

    @contextmanager
    def opened(self, folder: bytes) -> Iterator[tuple[int, Listing]]:
        """A descriptor of the folder, and what is in it. Raises OSError."""
        fd = self._open_folder(folder)
        try:
            yield fd, self._listing(fd, folder)
        finally:
            os.close(fd)

    def stamp_at(self, folder_fd: int, name: bytes) -> Stamp | None:
        """The stamp of a regular file; None when there is none. Symbolic links are not followed."""
        try:
            found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except OSError:
            return None
        return self._stamp(found) if stat.S_ISREG(found.st_mode) else None

    def read(self, path: bytes, expected: Stamp, largest: int) -> bytes:
        """The whole file, which must still have the stamp.

        Raises:
            Changed: it is another file by now. Unreadable: the system says no. AnnotationError: it is too large.
        """
        if expected.size > largest:
            text = f"it has {expected.size:,} bytes and the limit is {largest:,}"
            raise AnnotationError(path, Fault(text, "Is this the right file? Else split it, one for each folder."))
        folder, _, name = path.rpartition(b"/")
        try:
            folder_fd = self._open_folder(folder)
            try:
                with open(name, "rb", opener=lambda at, _: os.open(at, _OPEN, dir_fd=folder_fd)) as file:
                    data = file.read(expected.size + 1) or b""  # None: a pipe by now
                    unchanged = len(data) == expected.size and self._stamp(os.fstat(file.fileno())) == expected
            finally:
                os.close(folder_fd)
        except OSError as error:
            raise Unreadable(
                f"{show_path(path)} cannot be read: {error.strerror or error}",
                hint="Give the user that runs image-sync the right to read it, or check the disk.",
            ) from error
        if not unchanged:
            raise Changed(
                f"{show_path(path)} has changed while it was looked at", hint="Nothing to do: it is looked at again."
            )
        return data

    def _stamp(self, found: os.stat_result) -> Stamp:
        return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino if self._inodes else 0)

    def _listing(self, fd: int, folder: bytes) -> Listing:
        found = os.fstat(fd)
        stamp = self._stamp(found)
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
                    if _COCO.fullmatch(name):
                        lists.append(name)
                elif self._is_picture(name):
                    pictures.add(stem_of(name))
        classes.sort(key=lambda name: ([*CLASS_FILES, name.lower()].index(name.lower()), name))
        return Listing(
            identity, files, tuple(sorted(lists)), tuple(classes), frozenset(pictures), tuple(sorted(folders))
        )
