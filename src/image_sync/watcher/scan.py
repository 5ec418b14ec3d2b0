"""Looking at one folder: what is new in it, what is ready, what is missing.

Every look is a generator that yields after a bounded piece of work, so that the watcher can go on with something more
urgent, or stop.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator

from image_sync.domain import Sighting, Stamp
from image_sync.logs import get_logger
from image_sync.watcher.catalogue import Catalogue
from image_sync.watcher.digest import Digest
from image_sync.watcher.filters import DEEPEST, Category, Filter
from image_sync.watcher.folders import VANISHED, Presence, open_folder, presence, stamp_of
from image_sync.watcher.outbox import OpenLook, Outbox
from image_sync.watcher.picture import Verdict, examine
from image_sync.watcher.roots import Root
from image_sync.watcher.rules import Rules
from image_sync.watcher.settle import Settling, being_written

log = get_logger(__name__)

_AT_ONCE = 256
"""Names looked at between two yields."""
_HOUR = 3600.0
_MOST_WARNINGS = 1000
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Scanner:
    """Looks at folders and reports what it finds.

    Args:
        nested: roots; one that lies inside another is looked at only as itself.
        now: the monotonic clock; wall: Unix time, as the file system stamps files.
        later: called with a folder that needs another look, because too many files settle for one more.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        rules: Rules,
        stop: threading.Event,
        nested: Iterable[bytes],
        now: Callable[[], float],
        wall: Callable[[], float],
        later: Callable[[Root, bytes], None],
    ) -> None:
        self._catalogue = catalogue
        self._stop = stop
        self._nested = frozenset(nested)
        self._now = now
        self._wall = wall
        self._later = later
        self._warned: dict[bytes, float] = {}
        self._rules = rules
        self.filters = Filter(rules)
        self.settling = Settling(rules)
        self.outbox = Outbox(catalogue)
        self.digest = Digest()
        self.entries = 0
        """Directory entries met by the last look that ended."""

    def use(self, rules: Rules) -> None:
        """Take other rules from now on."""
        self._rules = self.settling.rules = rules
        self.filters = Filter(rules)

    def wants(self, name: bytes) -> bool:
        """Whether a file of this name is wanted, by the present rules."""
        return self.filters.file(name)

    def look(self, root: Root, folder: bytes, inner: list[bytes]) -> Iterator[None]:
        """Look at the files of one folder, append its sub-folders to ``inner``. Yields while there is more.

        A folder that is not there (any more) is no error: the root's ``reap`` is set.
        """
        if not self.filters.admits(root.path, folder):
            return
        try:
            fd = open_folder(root.path, folder)
        except OSError as error:
            if error.errno in VANISHED:
                root.reap = True
            else:
                self._cannot_look(root, folder, error)
            return
        look = self.outbox.open(folder)
        try:
            yield from self._look(root, look, fd, inner)
        except OSError as error:  # the listing broke off: nothing can be said of what was not met
            self._cannot_look(root, folder, error)
        else:
            root.troubles.pop(folder, None)
        finally:
            self.outbox.close(look)
            os.close(fd)

    def again(self, root: Root, folder: bytes, names: list[bytes]) -> Iterator[None]:
        """Look again at files that were settling."""
        category = self.filters.category(root.path, folder)
        try:
            fd = open_folder(root.path, folder)
        except OSError:
            for name in names:
                self.settling.forget(root.path, folder, name)
            return
        try:
            for name in names:
                try:
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError:
                    found = None
                if found is None or not stat.S_ISREG(found.st_mode) or not self.filters.file(name):
                    self.settling.forget(root.path, folder, name)
                    continue
                self._consider(root, folder, fd, name, stamp_of(found, local=root.local), category)
                yield
        finally:
            os.close(fd)

    def depart(self, root: Root, folder: bytes) -> bool:
        """Report the recorded files of a folder that are not there.

        Returns:
            False, and nothing was reported, when the root itself is in doubt.
        """
        _, known = self._catalogue.known(folder)
        try:
            fd = open_folder(root.path, folder)
        except OSError as error:
            missing = list(known) if error.errno in VANISHED else []
        else:
            try:
                missing = [name for name in known if presence(fd, name) is Presence.ABSENT]
            finally:
                os.close(fd)
        if not missing:
            return True
        # Asked last: had the root been unmounted before one of the answers above, this one would tell.
        if not root.unchanged(self.filters):
            return False
        self.digest.note("watch.gone", folder=folder, files=len(missing))
        self._catalogue.gone(folder, missing)
        return True

    def vanished_folders(self, root: Root) -> Iterator[None]:
        """Note the departure of every recorded folder that is not there."""
        for number, folder in enumerate(self._catalogue.folders(root.path)):
            try:
                os.close(open_folder(root.path, folder))
            except OSError as error:
                if error.errno in VANISHED:
                    root.departures.setdefault(folder, self._now())
            if number % _AT_ONCE == 0:
                yield

    def _look(self, root: Root, look: OpenLook, fd: int, inner: list[bytes]) -> Iterator[None]:
        folder = look.folder
        category = self.filters.category(root.path, folder)
        known = self._known(folder, category)
        missing = set(known)
        number = 0
        with os.scandir(fd) as entries:
            for number, entry in enumerate(entries, 1):
                if number % _AT_ONCE == 0:
                    yield
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    self._inner(root, folder, name, inner)
                    continue
                if not self.filters.file(name) or not entry.is_file(follow_symlinks=False):
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # gone since the listing, or not to be told: asked again below if it is recorded
                missing.discard(name)
                stamp = stamp_of(found, local=root.local)
                if known.get(name) == stamp or look.news.get(name) == stamp:
                    continue
                if self._consider(root, folder, fd, name, stamp, category):
                    yield
        self.entries = number
        if any(presence(fd, name) is Presence.ABSENT for name in missing):
            root.departures.setdefault(folder, self._now())

    def _known(self, folder: bytes, category: Category) -> dict[bytes, Stamp]:
        recorded, stamps = self._catalogue.known(folder)
        known = dict(stamps)
        if not known or recorded == category.name:
            return known
        self.digest.note("watch.recategorised", folder=folder, old=recorded, new=category.name)
        if recorded is None:
            # They were never read. Forgotten first, so that a restart half-way reads the rest as well.
            self._catalogue.gone(folder, list(known))
            return {}
        self._catalogue.recategorise(folder, category.name)
        return known

    def _inner(self, root: Root, folder: bytes, name: bytes, inner: list[bytes]) -> None:
        path = folder + b"/" + name
        if not self.filters.folder(name) or path in self._nested:
            return
        if not self.filters.too_deep(root.path, path):
            inner.append(path)
        elif self._rules.recursive:
            root.trouble(path, f"deeper than {DEEPEST} folders")

    def _consider(self, root: Root, folder: bytes, fd: int, name: bytes, stamp: Stamp, category: Category) -> bool:
        """Take in one new or changed file. True when that took time."""
        place = (root.path, folder, name)
        now = self._now()
        if not self.settling.quiet(*place, stamp, now=now, wall=self._wall(), local=root.local):
            if self.settling.holds(*place):
                self._warn_restless(place, now)
            else:
                self._later(root, folder)
            return False
        if category.name is None:
            sighting = Sighting(folder, name, stamp, None, fault=category.fault)
        else:
            verdict = self._examine(root, folder, fd, name, stamp)
            if verdict is None:
                self._warn_restless(place, now)
                return True
            sighting = Sighting(folder, name, stamp, category.name, verdict.sha256, verdict.suffix, verdict.fault)
            if verdict.fault:
                self.digest.note("watch.quarantined", file=folder + b"/" + name, reason=verdict.fault)
        self.settling.forget(*place)
        root.seen_content = True
        self.outbox.put(root.path, sighting, self._now())
        return True

    def _examine(self, root: Root, folder: bytes, folder_fd: int, name: bytes, stamp: Stamp) -> Verdict | None:
        """The verdict on a file that rests; None when it must be looked at another time."""
        place = (root.path, folder, name)
        try:
            fd = os.open(name, _OPEN, dir_fd=folder_fd)
        except BlockingIOError:  # a file server holds a lease on it for one of its clients
            self.settling.busy(*place, stamp, self._now())
            return None
        except OSError as error:
            self._cannot_read(root, folder, name, error)
            return None
        try:
            if stamp_of(os.fstat(fd), local=root.local) != stamp or (root.local and being_written(fd)):
                self.settling.busy(*place, stamp, self._now())
                return None
            verdict = examine(fd, stamp.size, name, self._rules, self._stop)
            if verdict is not None and stamp_of(os.fstat(fd), local=root.local) != stamp:
                self.settling.busy(*place, stamp, self._now())
                return None
        except OSError as error:
            self._cannot_read(root, folder, name, error)
            return None
        finally:
            os.close(fd)
        root.troubles.pop(folder + b"/" + name, None)
        return verdict

    def _cannot_read(self, root: Root, folder: bytes, name: bytes, error: OSError) -> None:
        self.settling.forget(root.path, folder, name)
        if error.errno not in VANISHED:
            self._cannot_look(root, folder + b"/" + name, error)

    def _cannot_look(self, root: Root, path: bytes, error: OSError) -> None:
        root.trouble(path, error.strerror or str(error))
        now = self._now()
        if now - self._warned.get(path, -_HOUR) < _HOUR:
            return
        if len(self._warned) >= _MOST_WARNINGS:
            self._warned = {path: since for path, since in self._warned.items() if now - since < _HOUR}
        if len(self._warned) < _MOST_WARNINGS:
            self._warned[path] = now
            log.warning("watch.cannot_look", path=path, error=error.strerror, hint=_hint(error))

    def _warn_restless(self, place: tuple[bytes, bytes, bytes], now: float) -> None:
        if self.settling.restless_too_long(*place, now):
            log.warning(
                "watch.never_rests",
                file=place[1] + b"/" + place[2],
                hint="it has been changing, or open for writing, for more than an hour: see which program holds it",
            )


def _hint(error: OSError) -> str:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "give the user that image-sync runs as the right to read it; it is tried again at every full look"
    return "check the disk, or the network it lies on; it is tried again at every full look"
