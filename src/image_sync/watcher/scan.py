"""Looking at one folder: what is new in it, what is ready, what is missing.

Every look is a generator that yields after a bounded piece of work, so that the watcher can go on with something more
urgent, or stop.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from image_sync.domain import Stamp
from image_sync.errors import Unreadable
from image_sync.watcher.catalogue import Catalogue
from image_sync.watcher.companions import Companions
from image_sync.watcher.digest import Digest
from image_sync.watcher.filters import DEEPEST, Category, Filter
from image_sync.watcher.folders import VANISHED, Presence, open_folder, presence, stamp_of
from image_sync.watcher.intake import Intake
from image_sync.watcher.mounts import remote_filesystem
from image_sync.watcher.outbox import OpenLook, Outbox
from image_sync.watcher.roots import Root
from image_sync.watcher.rules import Rules
from image_sync.watcher.seen import AT_ONCE, Seen, likeness
from image_sync.watcher.settle import Settling

_UNMOUNTED = (
    "another file system belongs there, which is not mounted: mount it; if it is gone for good, take it out of "
    "/etc/fstab and restart image-sync"
)


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
        self._rules = rules
        self.filters = Filter(rules)
        self.companions = Companions(rules, self.filters, wall)
        self.outbox = Outbox(catalogue)
        self.digest = Digest()
        self.seen = Seen()
        self.intake = Intake(rules, stop, self.outbox, self.digest, now, wall, later)
        self.entries = 0
        """Directory entries met by the last look that ended."""

    @property
    def settling(self) -> Settling:
        """The files that may still change."""
        return self.intake.settling

    def look(self, root: Root, folder: bytes, inner: list[bytes], *, again: bool = False) -> Iterator[None]:
        """Look at the files of one folder, append its sub-folders to ``inner``. Yields while there is more.

        A folder that is not there (any more) is no error: the root's ``reap`` is set. ``again``: there is no reason to
        believe that anything has changed.
        """
        if not self.filters.admits(root.path, folder) or self._lacks_its_share(root, folder):
            return
        try:
            fd = open_folder(root.path, folder)
        except OSError as error:
            if error.errno in VANISHED:
                root.reap = True
            else:
                self.intake.cannot_look(root, folder, error)
            return
        root.met(folder, fd)
        look = self.outbox.open(folder)
        # Where annotations are used a picture's stamp is made of several files, some of them elsewhere.
        work = self._look_once_more if again and not self.companions.used else self._look
        try:
            yield from work(root, look, fd, inner)
        except (OSError, Unreadable) as error:  # it broke off: nothing can be said of what was not met
            self.intake.cannot_look(root, folder, error)
        else:
            root.troubles.pop(folder, None)
        finally:
            self.outbox.close(look)
            os.close(fd)

    def again(self, root: Root, folder: bytes, names: list[bytes]) -> Iterator[None]:
        """Look again at files that were settling."""
        category, annotated = self.filters.category(root.path, folder), self.companions.used
        try:
            fd = open_folder(root.path, folder)
        except OSError:
            self._forget(root, folder, names)
            return
        try:
            pictures = _pictures_in(fd, self.filters) if annotated else []
            sources = self.companions.beside(root, folder, pictures) if annotated else {}
            ground = root.ground(fd)
            for name in names:
                try:
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError:
                    found = None
                wanted = self.filters.file(name) and not self.filters.excluded(root.path, folder, name)
                if found is None or not stat.S_ISREG(found.st_mode) or not wanted:
                    self._forget(root, folder, [name])
                    continue
                stamp, source, newest = stamp_of(found, local=root.local), sources.get(name), 0.0
                if annotated:
                    stamp = self.companions.stamped(stamp, source)
                    # One that lost its annotation has to be seen so twice: it may be about to get another.
                    newest = source.newest if source else self._wall()
                self.intake.consider(root, folder, fd, name, stamp, category, ground, source=source, newest=newest)
                yield
        except (OSError, Unreadable) as error:
            self._forget(root, folder, names)
            self.intake.cannot_look(root, folder, error)
        finally:
            os.close(fd)

    def _forget(self, root: Root, folder: bytes, names: Iterable[bytes]) -> None:
        for name in names:
            self.settling.forget(root.path, folder, name)

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
        ground = _ground(root, folder)
        # Asked last: had the root been unmounted before one of the answers above, this one would tell.
        if not root.unchanged(self.filters):
            return False
        if self._lacks_its_share(root, folder):
            return True
        deleted = ground == self._catalogue.ground(folder)
        self.digest.note("watch.gone" if deleted else "watch.out_of_sight", folder=folder, files=len(missing))
        self._catalogue.gone(folder, missing, deleted=deleted)
        return True

    def _lacks_its_share(self, root: Root, folder: bytes) -> bool:
        place = root.unmounted(folder, self.filters)
        if place is not None:
            root.trouble(place, _UNMOUNTED)
        return place is not None

    def _leave_alone(self, folder: bytes, names: list[bytes]) -> None:
        """The rules say now that these recorded files are not wanted. What was sent of them stays where it is."""
        self.digest.note("watch.excluded", folder=folder, files=len(names))
        if names:
            self._catalogue.gone(folder, names, deleted=False)

    def vanished_folders(self, root: Root) -> Iterator[None]:
        """Note the departure of every recorded folder that is not there, or not wanted any more."""
        for number, folder in enumerate(self._catalogue.folders(root.path)):
            if not self.filters.too_deep(root.path, folder) and not self.filters.admits(root.path, folder):
                self._leave_alone(folder, list(self._catalogue.known(folder)[1]))
                continue
            try:
                os.close(open_folder(root.path, folder))
            except OSError as error:
                if error.errno in VANISHED:
                    root.departures.setdefault(folder, self._now())
            if number % AT_ONCE == 0:
                yield

    def _look(self, root: Root, look: OpenLook, fd: int, inner: list[bytes]) -> Iterator[None]:
        category, here = self.filters.category(root.path, look.folder), root.ground(fd)
        known = self._known(look.folder, category)
        annotated, pictures = self.companions.used, dict[bytes, tuple[Stamp, Stamp | None]]()
        for found in self._found(root, look.folder, fd, known, inner):
            if found is None:
                yield
                continue
            look.agrees = False
            name, stamp, was = found
            if annotated:
                pictures[name] = stamp, was
            elif look.news.get(name) != stamp and self.intake.consider(
                root, look.folder, fd, name, stamp, category, here
            ):
                yield
        yield from self._look_with_annotations(root, look, fd, pictures, category, here)
        excluded = [name for name in known if self.filters.excluded(root.path, look.folder, name)]
        if excluded:
            self._leave_alone(look.folder, excluded)
        if known:  # what was met has been taken out of it
            look.agrees = False
            if any(presence(fd, name) is Presence.ABSENT for name in known if name not in excluded):
                root.departures.setdefault(look.folder, self._now())
        elif look.agrees and self._catalogue.ground(look.folder) not in {None, here}:
            self._catalogue.stands(look.folder, here)

    def _look_once_more(self, root: Root, look: OpenLook, fd: int, inner: list[bytes]) -> Iterator[None]:
        """The same for a folder that was looked at before, which mostly is as it was."""
        met: list[bytes] = []
        found = yield from likeness(fd, lambda name: self._inner(root, look.folder, name, met), local=root.local)
        recorded_as, number = self._catalogue.recorded(look.folder)
        same_category = not number or recorded_as == self.filters.category(root.path, look.folder).name
        if found is not None and same_category and self.seen.recorded(look.folder, found) == number:
            inner += met
            return
        yield from self._look(root, look, fd, inner)
        if found is not None and look.agrees:
            self.seen.agreed(look.folder, found, number)

    def _found(
        self, root: Root, folder: bytes, fd: int, missing: dict[bytes, Stamp], inner: list[bytes]
    ) -> Iterator[tuple[bytes, Stamp, Stamp | None] | None]:
        """The files that are not what is recorded of them (all of them where annotations are used): name, stamp, and
        the recorded stamp. None now and then, where the look may be interrupted.

        Whatever is there is taken out of ``missing``, which holds what is recorded. A million files come by here: most
        are what they were, and for those nothing is done that need not be.
        """
        everything, number, local = self.companions.used, 0, root.local
        selective, passed_over = self.filters.selective, Counter[str]()
        with os.scandir(fd) as entries:
            for number, entry in enumerate(entries, 1):
                if number % AT_ONCE == 0:
                    yield None
                name = os.fsencode(entry.name)
                if selective and self.filters.excluded(root.path, folder, name):
                    continue  # if it is recorded, that is seen to below
                if not entry.is_file(follow_symlinks=False):
                    if entry.is_dir(follow_symlinks=False):
                        self._inner(root, folder, name, inner)
                    else:
                        self.filters.pass_over(passed_over, entry)
                    continue
                if name not in missing and not self.filters.file(name):
                    self.filters.pass_over(passed_over, entry)
                    continue
                try:
                    stamp = stamp_of(entry.stat(follow_symlinks=False), local=local)
                except OSError:
                    continue  # gone since the listing, or not to be told: asked again below if it is recorded
                was = missing.pop(name, None)
                if (everything or was != stamp) and self.filters.file(name):
                    yield name, stamp, was
        self.entries = number
        root.passed_over.pop(folder, None)
        if passed_over.total():
            root.passed_over[folder] = passed_over

    def _look_with_annotations(
        self,
        root: Root,
        look: OpenLook,
        fd: int,
        pictures: Mapping[bytes, tuple[Stamp, Stamp | None]],
        category: Category,
        ground: str,
    ) -> Iterator[None]:
        """The pictures of a folder, each together with its annotation: where either has changed, it is looked at."""
        sources = self.companions.beside(root, look.folder, pictures) if pictures else {}
        for number, (name, (plain, was)) in enumerate(pictures.items(), 1):
            if number % AT_ONCE == 0:
                yield
            source = sources.get(name)
            stamp = self.companions.stamped(plain, source)
            if was == stamp or look.news.get(name) == stamp:
                continue
            newest = source.newest if source else self._wall() if self.companions.lost(was, stamp) else 0.0
            if self.intake.consider(root, look.folder, fd, name, stamp, category, ground, source=source, newest=newest):
                yield

    def _known(self, folder: bytes, category: Category) -> dict[bytes, Stamp]:
        recorded, stamps = self._catalogue.known(folder)
        known = dict(stamps)
        if not known or recorded == category.name:
            return known
        self.digest.note("watch.recategorised", folder=folder, old=recorded, new=category.name)
        if recorded is None:
            # They were never read. Forgotten first, so that a restart half-way reads the rest as well.
            self._catalogue.gone(folder, list(known), deleted=False)
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


def missing(path: bytes, catalogue: Catalogue, filters: Filter) -> Iterator[tuple[bytes, list[bytes]]]:
    """Recorded files of a root that would be taken for deleted if it were looked at now: folder and names."""
    root = Root(path, local=not remote_filesystem(path))
    root.identity = root.inspect(filters).identity
    for folder in catalogue.folders(path) if root.identity else ():
        _, known = catalogue.known(folder)
        try:
            fd = open_folder(path, folder)
        except OSError as error:
            names = list(known) if error.errno in VANISHED else []
        else:
            try:
                names = [name for name in known if presence(fd, name) is Presence.ABSENT]
            finally:
                os.close(fd)
        if names and filters.admits(path, folder) and _ground(root, folder) == catalogue.ground(folder):
            yield folder, names


def _ground(root: Root, folder: bytes) -> str:
    """The ground of a folder; if it is not there, that of the nearest one above it which is."""
    while True:
        try:
            fd = open_folder(root.path, folder)
        except OSError:
            if len(folder) <= len(root.path):
                return ""
            folder = folder.rpartition(b"/")[0]
            continue
        try:
            return root.ground(fd)
        finally:
            os.close(fd)


def _pictures_in(fd: int, filters: Filter) -> list[bytes]:
    with os.scandir(fd) as entries:
        return [name for entry in entries if filters.file(name := os.fsencode(entry.name))]
