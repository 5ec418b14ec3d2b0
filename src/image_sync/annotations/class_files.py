"""Finds the file that names the classes of YOLO annotations."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from image_sync.annotations.classes import LARGEST, by_rank, names_in
from image_sync.annotations.content import Disk
from image_sync.annotations.draft import Draft
from image_sync.annotations.fault import AnnotationError, Fault
from image_sync.annotations.format import Format
from image_sync.annotations.listing import Listings
from image_sync.annotations.source import Source
from image_sync.domain import Annotation, Stamp
from image_sync.errors import PictureError
from image_sync.log import show_path

_KEPT = 64
_WRITE = "Write one name in each line of a file classes.txt beside it, in the order of the class numbers."

Names = tuple[str, ...] | AnnotationError | None


@dataclass(frozen=True, slots=True)
class Classes:
    """The names for the annotations of a folder, or why there are none."""

    names: tuple[str, ...]
    stamps: tuple[Stamp, ...] = ()
    error: AnnotationError | None = None


class ClassFiles:
    """Looks for names of classes beside the annotations, then in one folder above the other up to the root."""

    def __init__(self, disk: Disk, listings: Listings, root: bytes) -> None:
        self._disk = disk
        self._listings = listings
        self._root = root.rstrip(b"/")
        self._known: OrderedDict[bytes, tuple[Stamp, Names]] = OrderedDict()
        self._last: tuple[bytes, Classes] | None = None

    def begin(self) -> None:
        """Forget what was found last: the files may have changed since."""
        self._last = None

    def source(
        self, folder: bytes, name: bytes, stamp: Stamp, read: Callable[[bytes, Draft, tuple[str, ...]], Annotation]
    ) -> Source:
        """The source of a picture whose annotation is this file."""
        path = folder + b"/" + name
        if self._last is None or self._last[0] != folder:
            self._last = folder, self._nearest(folder)
        classes = self._last[1]

        def reader(width: int, height: int) -> Annotation:
            data = self._disk.read(folder, name, stamp, Format.YOLO.largest)
            draft = Draft(path, width, height)
            if not data.strip():
                return draft.finish()  # nothing is marked: no names are needed
            if classes.error is not None:
                raise AnnotationError(classes.error.path, classes.error.faults)
            if not classes.names:
                fault = Fault("nothing says what its classes are called", _WRITE)
                raise AnnotationError(path, [fault])
            return read(data, draft, classes.names)

        return Source(Format.YOLO, (path,), (stamp, *classes.stamps), reader)

    def _nearest(self, folder: bytes) -> Classes:
        while True:
            if found := self._in(folder):
                return found
            if len(folder) <= len(self._root):
                return Classes(())
            folder = folder.rpartition(b"/")[0]

    def _in(self, folder: bytes) -> Classes | None:
        """The names that the files of one folder give, which must be of one mind."""
        try:
            fd, listing = self._listings.of(folder)
        except OSError:
            return None
        found: dict[bytes, tuple[Stamp, Names]] = {}
        try:
            for name in by_rank(list(listing.classes)):
                stamp = self._disk.stamp_at(fd, name)
                names = self._names(folder, name, stamp) if stamp else None
                if stamp and names is not None:
                    found[folder + b"/" + name] = stamp, names
        finally:
            os.close(fd)
        if not found:
            return None
        stamps = tuple(stamp for stamp, _ in found.values())
        first = next(iter(found))
        for path, (_, names) in found.items():
            if isinstance(names, AnnotationError):
                return Classes((), stamps, names)
            if names != found[first][1]:
                text = f"it names other classes than {show_path(path)}, or in another order"
                fault = Fault(text, "Keep one of them.")
                return Classes((), stamps, AnnotationError(first, [fault]))
        names = found[first][1]
        return Classes(names if isinstance(names, tuple) else (), stamps)

    def _names(self, folder: bytes, name: bytes, stamp: Stamp) -> Names:
        path = folder + b"/" + name
        old = self._known.get(path)
        if old and old[0] == stamp:
            self._known.move_to_end(path)
            return old[1]
        names: Names
        try:
            names = names_in(self._disk.read(folder, name, stamp, LARGEST), path)
        except AnnotationError as error:
            names = error
        except PictureError as error:
            return AnnotationError(path, [Fault(error.what, error.hint)])
        self._known[path] = stamp, names
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return names
