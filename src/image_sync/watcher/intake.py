"""Takes in one new or changed file: waits until it rests, checks it, reads its annotation, and reports it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from image_sync.domain import Sighting, Stamp
from image_sync.errors import Changed, Unreadable
from image_sync.log import get_logger
from image_sync.watcher.digest import Digest
from image_sync.watcher.filters import Category
from image_sync.watcher.folders import VANISHED, stamp_of
from image_sync.watcher.outbox import Outbox
from image_sync.watcher.picture import Verdict, examine
from image_sync.watcher.roots import Root
from image_sync.watcher.rules import Rules
from image_sync.watcher.settle import Settling, being_written

if TYPE_CHECKING:
    from image_sync.annotations import Source

log = get_logger(__name__)

_HOUR = 3600.0
_MOST_WARNINGS = 1000
_FOREIGN = 5
"""A file of another user, of which the system does not say whether it is open for writing, rests so many times
``settle``."""
_REMEMBERED = 20_000
"""Sound pictures that are not read again when only their annotations change; others are."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Intake:
    """What becomes of single files.

    Args:
        now: the monotonic clock; wall: Unix time, as the file system stamps files.
        later: called with a folder that needs another look, because too many files settle for one more.
    """

    def __init__(
        self,
        rules: Rules,
        stop: threading.Event,
        outbox: Outbox,
        digest: Digest,
        now: Callable[[], float],
        wall: Callable[[], float],
        later: Callable[[Root, bytes], None],
    ) -> None:
        self._rules = rules
        self._stop = stop
        self._outbox = outbox
        self._digest = digest
        self._now = now
        self._wall = wall
        self._later = later
        self._warned: dict[bytes, float] = {}
        self._sound: dict[tuple[bytes, bytes], tuple[Stamp, Verdict]] = {}
        self.settling = Settling(rules)

    def consider(
        self,
        root: Root,
        folder: bytes,
        fd: int,
        name: bytes,
        stamp: Stamp,
        category: Category,
        ground: str,
        *,
        source: Source | None = None,
        newest: float = 0.0,
    ) -> bool:
        """Take in one new or changed file. True when that took time.

        Args:
            fd: its folder.
            ground: on which its folder stands.
            source: its annotation.
            newest: Unix time since which that is as it is.
        """
        place = (root.path, folder, name)
        now = self._now()
        if not self.settling.quiet(*place, stamp, now=now, wall=self._wall(), local=root.local, newest=newest):
            if self.settling.holds(*place):
                self._warn_restless(place, now)
            else:
                self._later(root, folder)
            return False
        if category.name is None:
            sighting = Sighting(folder, name, stamp, None, fault=category.fault, ground=ground)
        else:
            verdict = self._remembered(folder, name, stamp) if self._sound else None
            verdict = verdict or self._examine(root, folder, fd, name, stamp)
            if verdict is None:
                self._warn_restless(place, now)
                return True
            found = (verdict.sha256, verdict.suffix, verdict.fault)
            sighting = Sighting(folder, name, stamp, category.name, *found, ground=ground)
            if stamp.annotation and not verdict.fault:
                marked = self._with_annotation(root, sighting, verdict, source)
                if marked is None:
                    return True
                sighting = marked
            if sighting.fault:
                self._digest.note("watch.quarantined", file=folder + b"/" + name, reason=sighting.fault)
        self.settling.forget(*place)
        root.seen_content = True
        self._outbox.put(root.path, sighting, self._now())
        return True

    def _with_annotation(self, root: Root, seen: Sighting, verdict: Verdict, source: Source | None) -> Sighting | None:
        """The sighting of a sound picture with what is marked in it; None when it must be looked at another time."""
        if source is None:
            return replace(seen, waits=True)
        from image_sync.annotations import AnnotationError

        place = (root.path, seen.folder, seen.name)
        try:
            annotation = source.read(verdict.width, verdict.height)
        except AnnotationError as error:
            return replace(seen, fault=f"its annotation cannot be used: {error}")
        except Changed:
            self.settling.busy(*place, seen.stamp, self._now())
            return None
        except Unreadable as error:
            self.settling.forget(*place)
            self.cannot_look(root, source.path, error)
            return None
        root.troubles.pop(source.path, None)
        if ignored := self._rules.ignored_labels:
            kept = tuple(box for box in annotation.boxes if box.label.casefold() not in ignored)
            annotation = replace(annotation, boxes=kept)
        labels = dict.fromkeys(box.label for box in annotation.boxes)
        return replace(seen, annotation=annotation.to_text(), labels=tuple(labels))

    def _examine(self, root: Root, folder: bytes, folder_fd: int, name: bytes, stamp: Stamp) -> Verdict | None:
        """The verdict on a file that rests; None when it must be looked at another time."""
        place = (root.path, folder, name)
        plain = stamp._replace(annotation="") if stamp.annotation else stamp
        try:
            fd = os.open(name, _OPEN, dir_fd=folder_fd)
        except BlockingIOError:  # a file server holds a lease on it for one of its clients
            self.settling.busy(*place, stamp, self._now())
            return None
        except OSError as error:
            self._cannot_read(root, folder, name, error)
            return None
        try:
            if stamp_of(os.fstat(fd), local=root.local) != plain or (root.local and self._written(place, fd, stamp)):
                self.settling.busy(*place, stamp, self._now())
                return None
            verdict = examine(fd, stamp.size, name, self._rules, self._stop)
            if verdict is not None and stamp_of(os.fstat(fd), local=root.local) != plain:
                self.settling.busy(*place, stamp, self._now())
                return None
        except OSError as error:
            self._cannot_read(root, folder, name, error)
            return None
        finally:
            os.close(fd)
        root.troubles.pop(folder + b"/" + name, None)
        if (
            verdict
            and not verdict.fault
            and self._rules.annotations != "none"
            and ((folder, name) in self._sound or len(self._sound) < _REMEMBERED)
        ):
            self._sound[folder, name] = plain, verdict
        return verdict

    def _written(self, place: tuple[bytes, bytes, bytes], fd: int, stamp: Stamp) -> bool:
        """Whether somebody writes to the file, or may: of another user's file only its rest tells, a longer one."""
        writing = being_written(fd)
        if writing is not None:
            return writing
        self._digest.note("watch.writers_unknown", file=place[1] + b"/" + place[2], waits=_FOREIGN * self._rules.settle)
        rested = self.settling.rested(*place, stamp, now=self._now(), wall=self._wall())
        return rested < _FOREIGN * self._rules.settle

    def _remembered(self, folder: bytes, name: bytes, stamp: Stamp) -> Verdict | None:
        """The verdict on a picture of which only the annotation has changed: a COCO file concerns thousands."""
        plain, verdict = self._sound.get((folder, name), (None, None))
        return verdict if plain is not None and plain[:4] == stamp[:4] else None

    def _cannot_read(self, root: Root, folder: bytes, name: bytes, error: OSError) -> None:
        self.settling.forget(root.path, folder, name)
        if error.errno not in VANISHED:
            self.cannot_look(root, folder + b"/" + name, error)

    def cannot_look(self, root: Root, path: bytes, error: OSError | Unreadable) -> None:
        """Remember, and say at most once an hour, that there is something that cannot be looked at."""
        cause = error if isinstance(error, OSError) else error.__cause__
        told = (cause.strerror or str(cause)) if isinstance(cause, OSError) else str(error)
        root.trouble(path, told if cause is error else str(error))
        now = self._now()
        if now - self._warned.get(path, -_HOUR) < _HOUR:
            return
        if len(self._warned) >= _MOST_WARNINGS:
            self._warned = {path: since for path, since in self._warned.items() if now - since < _HOUR}
        if len(self._warned) < _MOST_WARNINGS:
            self._warned[path] = now
            log.warning("watch.cannot_look", path=path, error=told, hint=_hint(cause))

    def _warn_restless(self, place: tuple[bytes, bytes, bytes], now: float) -> None:
        if self.settling.restless_too_long(*place, now):
            log.warning(
                "watch.never_rests",
                file=place[1] + b"/" + place[2],
                hint="it has been changing, or open for writing, for more than an hour: see which program holds it",
            )


def _hint(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM}:
        return "give the user that image-sync runs as the right to read it; it is tried again at every full look"
    return "check the disk, or the network it lies on; it is tried again at every full look"
