"""The annotations that lie beside the pictures: where they stand, and which folders a changed one concerns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING

from image_sync.domain import Stamp, WatchMode
from image_sync.watcher.folders import open_folder
from image_sync.watcher.rules import Filter, Rules

if TYPE_CHECKING:
    from image_sync.annotations import Finder, Source
    from image_sync.watcher.root import Root

MISSING = "-"
"""Stands in a stamp for an annotation that is required and not there."""

_NONE = frozenset({"", MISSING})
_SUFFIXES = frozenset({b"xml", b"txt", b"json", b"yaml", b"yml", b"names", b"labels"})
_FOLDERS = frozenset({b"annotations", b"labels"})


class Sidecars:
    """Looks for annotations, if the rules say so. For the watcher's thread; the observer's may ask about names.

    Args:
        wall: Unix time, as the file system stamps files.
    """

    def __init__(self, rules: Rules, filters: Filter, wall: Callable[[], float]) -> None:
        self._filters = filters
        self._wall = wall
        self._finders: dict[tuple[bytes, bool], Finder] = {}
        self._concerned: dict[bytes, dict[bytes, set[bytes]]] = {}
        self._required = rules.annotations == "required"
        self._format = rules.annotation_format
        # Part of the stamps, so that all annotations are read again when other labels are left out.
        ignored = repr(sorted(rules.ignored_labels)).encode()
        self._ignored = hashlib.blake2b(ignored, digest_size=4).hexdigest() if rules.ignored_labels else ""
        self.used = rules.annotations != "none"
        """Whether annotations are looked for at all."""

    def heard(self, name: bytes) -> bool:
        """Whether a file of this name may be, or name the classes of, an annotation."""
        return self.used and name.rpartition(b".")[2].lower() in _SUFFIXES and not name.startswith(b".")

    def name_classes(self, name: bytes) -> bool:
        """Whether a file of this name may hold the names of classes, for its folder and all in it."""
        from image_sync.annotations.folders import is_class_file

        return is_class_file(name)

    def lie_in(self, folder: bytes) -> bool:
        """Whether a folder is one that holds annotations, or lies in one, by its name."""
        return self.used and not _FOLDERS.isdisjoint(folder.lower().split(b"/"))

    def beside(self, root: Root, folder: bytes, names: Collection[bytes]) -> dict[bytes, Source]:
        """The annotations of all pictures of a folder, as far as they have one.

        Raises:
            Unreadable: a folder in which they may lie cannot be looked into.
        """
        from image_sync.annotations import Finder, Format  # late: most daemons never need it
        from image_sync.annotations.folders import places

        known = self._concerned.setdefault(root.path, {})
        if root.mode is WatchMode.EVENTS and folder not in known.get(folder, ()):
            for place in places(root.path, folder):
                known.setdefault(place.folder, set()).add(folder)
        finder = self._finders.get((root.path, root.local))
        if finder is None:
            finder = self._finders[root.path, root.local] = Finder(
                root.path,
                partial(open_folder, root.path),
                self._filters.file,
                formats=tuple(Format) if self._format == "auto" else (Format(self._format),),
                inodes=root.local,
                wall=self._wall,
            )
        return finder.beside(folder, names)

    def stamped(self, stamp: Stamp, source: Source | None) -> Stamp:
        """The picture's stamp with that of its annotation."""
        if source is not None:
            return stamp._replace(annotation=source.stamp + self._ignored)
        return stamp._replace(annotation=MISSING) if self._required else stamp

    def lost(self, was: Stamp | None, now: Stamp) -> bool:
        """Whether a picture that had an annotation has none any more."""
        return was is not None and now.annotation in _NONE and was.annotation not in _NONE

    def concerned(self, root: bytes, changed: bytes, *, below: bool) -> Iterable[bytes]:
        """Folders whose pictures may have other annotations after a change in a folder.

        Args:
            below: or in any folder in it, as when names of classes change, or folders are moved.
        """
        known = self._concerned.get(root, {})
        if not below:
            return sorted(known.get(changed, ()))
        inside = changed + b"/"
        return sorted({one for place, those in known.items() if (place + b"/").startswith(inside) for one in those})
