"""Looking at folders and files: what is new, what is ready, what is missing.

Every look is a generator that yields after a bounded piece of work, so that the watcher can go on with something more
urgent, or stop.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

from image_sync.domain import Sighting, Stamp
from image_sync.errors import Changed, Unreadable
from image_sync.fresh import FreshPictures
from image_sync.log import get_logger
from image_sync.watcher.catalogue import Catalogue, SightingBuffer
from image_sync.watcher.folders import AT_ONCE, VANISHED, absent, fingerprint, open_folder, remote_filesystem, stamp_of
from image_sync.watcher.image_check import ImageCheck, WritersUnknown, check_file
from image_sync.watcher.root import Root
from image_sync.watcher.rules import DEEPEST, Category, Filter, Rules
from image_sync.watcher.settle import Place, SettleQueue
from image_sync.watcher.sidecars import Sidecars

if TYPE_CHECKING:
    from image_sync.annotations import Source

log = get_logger(__name__)

_SLICE = 0.005
"""Seconds that files are checked before whatever is more urgent is asked for."""
_FOREIGN = 5
"""A file of another user, of which the system does not say whether it is open for writing, rests so many times
``settle``."""
_HOUR = 3600.0
_MOST_WARNINGS = 1000
_REMEMBERED = 20_000
"""Sound pictures that are not read again when only their annotations change; others are."""
_FOLDERS_ASKED = 4096
"""Folders of which is remembered what their names mean: every event asks."""
_FOLDERS = 20_000
"""Folders of which is remembered how they looked: some megabytes."""
_CHECK_THE_DISK = "check the disk, or the network it lies on"
_NEVER_ASK = 1 << 63
_UNMOUNTED = (
    "another file system belongs there, which is not mounted: mount it; if it is gone for good, take it out of "
    "/etc/fstab and restart image-sync"
)


@dataclass(slots=True, eq=False)  # two looks at one folder are two, however alike
class _Look:
    """A look at one folder that is going on, possibly over several steps.

    Attributes:
        fd: the open folder; ground: what it stands on.
        news: files of it that were reported since it began; what the catalogue said then no longer holds for them.
        agrees: whether the catalogue was right about everything so far.
    """

    root: Root
    folder: bytes
    fd: int
    category: Category
    ground: str
    news: dict[bytes, Stamp] = field(default_factory=dict)
    agrees: bool = True


class LogThrottle:
    """Counts facts about files, and says once a minute how many there were and what the first was.

    Whoever can write to a watched folder must not be able to flood the log.
    """

    PAUSE = 60.0
    WARNINGS = frozenset({"watch.quarantined"})
    """What needs a person."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self._firsts: dict[str, dict[str, Any]] = {}
        self._told: dict[str, float] = {}

    def note(self, event: str, **fields: Any) -> None:
        """One more of these."""
        self.counts[event] += 1
        self._firsts.setdefault(event, fields)

    def tell(self, now: float) -> None:
        """Log each kind of fact that was noted, unless it was logged within the last minute."""
        for event, number in list(self.counts.items()):
            if now - self._told.get(event, -self.PAUSE) >= self.PAUSE:
                tell = log.warning if event in self.WARNINGS else log.info
                tell(event, number=number, **{f"first_{key}": value for key, value in self._firsts[event].items()})
                self._told[event] = now
                del self.counts[event], self._firsts[event]


class Scanner:
    """Looks at folders and files, and reports what it finds.

    Args:
        roots: all of them; one that lies inside another is looked at only as itself.
        now: the monotonic clock; wall: Unix time, as the file system stamps files.
        fresh: where small pictures are kept for the senders.
        later: called with a folder that needs another look, because too many files settle for one more.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        rules: Rules,
        stop: threading.Event,
        roots: Collection[bytes],
        now: Callable[[], float],
        wall: Callable[[], float],
        later: Callable[[Root, bytes], None],
        fresh: FreshPictures,
        alive: Callable[[], None],
    ) -> None:
        self._fresh = fresh
        self._keep = fresh.keep
        self._alive = alive
        self._catalogue = catalogue
        self._rules = rules
        self._stop = stop
        self._now = now
        self._wall = wall
        self._later = later
        self._inner = {
            root: tuple(other + b"/" for other in roots if other.startswith(root.rstrip(b"/") + b"/")) for root in roots
        }
        self._looked_like: dict[bytes, tuple[int, int]] = {}
        """Folder -> its fingerprint, and how many files were recorded, when the catalogue agreed with all of it.

        A number in place of all its files' stamps, which would take a hundred times the memory. What is recorded is
        replaced only after its file has changed, and forgotten only with its row.
        """
        self._warned: dict[bytes, float] = {}
        self._sound: dict[tuple[bytes, bytes], tuple[Stamp, ImageCheck]] = {}
        self.filters = Filter(rules)
        self._admits = lru_cache(_FOLDERS_ASKED)(self.filters.admits)
        self._category = lru_cache(_FOLDERS_ASKED)(self.filters.category)
        self.sidecars = Sidecars(rules, self.filters, wall)
        self.settling = SettleQueue(rules)
        self.buffer = SightingBuffer(catalogue)
        self.throttle = LogThrottle()
        self.entries = 0
        """Directory entries met by the last look at a folder."""

    def compare_all(self) -> None:
        """Take no folder for granted because it looks as it did."""
        self._looked_like.clear()

    # Looks at folders.

    def look(self, root: Root, folder: bytes, inner: list[bytes], *, again: bool = False) -> Iterator[None]:
        """Look at the files of one folder, append its sub-folders to ``inner``. Yields while there is more.

        A folder that is not there (any more) is no error: the root's ``reap`` is set. ``again``: there is no reason to
        believe that anything has changed.
        """
        news = self.buffer.open(folder)
        look = self._begin(root, folder)
        if look is None:
            self.buffer.close(news)
            return
        look.news = news
        # Where annotations are used a picture's stamp is made of several files, some of them elsewhere.
        work = self._look_once_more if again and not self.sidecars.used else self._compare
        try:
            yield from work(look, inner)
        except (OSError, Unreadable) as error:  # it broke off: nothing can be said of what was not met
            self._cannot_look(root, folder, error)
        else:
            root.troubles.pop(folder, None)
        finally:
            self.buffer.close(news)
            os.close(look.fd)

    def files(self, root: Root, folder: bytes, names: Collection[bytes], *, heard: bool) -> Iterator[None]:
        """Look at single files of a folder.

        Args:
            heard: events named them; else they were settling, and so are known to differ from what is recorded.
        """
        look = self._begin(root, folder)
        if look is None:
            self._forget(root, folder, names)
            return
        known: Mapping[bytes, Stamp] = {}
        try:
            if heard:
                look.news = self.buffer.open(folder)
                recorded_as, known = self._catalogue.known(folder, names)
                if recorded_as != look.category.name:  # also when nothing is recorded of the folder
                    yield from self.look(root, folder, [])
                    return
            sources = None
            if self.sidecars.used:
                sources = self.sidecars.beside(root, folder, _pictures_in(look.fd, self.filters))
            yield from self._take_in(look, self._changed(look, names, known), sources, lost=True)
        except (OSError, Unreadable) as error:
            self._forget(root, folder, names)
            self._cannot_look(root, folder, error)
        finally:
            if heard:
                self.buffer.close(look.news)
            os.close(look.fd)

    def _changed(
        self, look: _Look, names: Iterable[bytes], known: Mapping[bytes, Stamp]
    ) -> Iterator[tuple[bytes, Stamp, None]]:
        """Those of these files that are there, wanted, and not as they are known."""
        root, folder = look.root, look.folder
        for name in names:
            try:
                found = os.stat(name, dir_fd=look.fd, follow_symlinks=False)
            except OSError:
                found = None
            if found is None or not stat.S_ISREG(found.st_mode):
                if name in known:
                    root.miss(folder, (name,), self._now())
            elif not (self.filters.selective and self.filters.excluded(root.path, folder, name)):
                stamp = stamp_of(found, local=root.local)
                if stamp != known.get(name):
                    yield name, stamp, None
                    continue
            self.settling.forget(Place(root.path, folder, name))

    def _begin(self, root: Root, folder: bytes) -> _Look | None:
        """Open a folder, if it is wanted and there."""
        inside_another = (folder + b"/").startswith(self._inner[root.path])
        if inside_another or not self._admits(root.path, folder):
            return None
        if root.mounts and self._lacks_its_share(root, folder):
            return None
        try:
            fd = open_folder(root.path, folder)
            try:
                ground = root.enter(folder, fd)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            if error.errno in VANISHED:
                root.reap = True
            else:
                self._cannot_look(root, folder, error)
            return None
        return _Look(root, folder, fd, self._category(root.path, folder), ground)

    def _compare(self, look: _Look, inner: list[bytes]) -> Iterator[None]:
        """Compare all files of a folder with what is recorded of them."""
        root, folder = look.root, look.folder
        known = self._known(look)
        passed_over, number = Counter[str](), 0
        pictures: list[tuple[bytes, Stamp, Stamp | None]] = []
        with os.scandir(look.fd) as entries:
            while piece := list(islice(entries, AT_ONCE)):
                number += len(piece)
                found = self._sift(look, piece, known, inner, passed_over)
                if self.sidecars.used:
                    pictures += found
                else:
                    yield from self._take_in(look, found)
                yield
        self.entries = number
        root.passed_over.pop(folder, None)
        if passed_over.total():
            root.passed_over[folder] = passed_over
        if pictures:
            names = [name for name, _, _ in pictures]
            yield from self._take_in(look, pictures, self.sidecars.beside(root, folder, names))
        if known:  # what was met has been taken out of it
            look.agrees = False
            self._look_for(look, known)
        elif look.agrees and self._catalogue.ground(folder) not in {None, look.ground}:
            self._catalogue.stands(folder, look.ground)

    def _look_for(self, look: _Look, known: Iterable[bytes]) -> None:
        """See what became of recorded files that were not met in their folder."""
        excluded = {name for name in known if self.filters.excluded(look.root.path, look.folder, name)}
        if excluded:
            self._leave_alone(look.folder, list(excluded))
        missing = [name for name in known if name not in excluded and absent(look.fd, name)]
        if missing:
            look.root.miss(look.folder, missing, self._now())

    def _look_once_more(self, look: _Look, inner: list[bytes]) -> Iterator[None]:
        """The same for a folder that was looked at before, which mostly is as it was."""
        met: list[bytes] = []
        found = yield from fingerprint(look.fd, met, local=look.root.local)
        recorded_as, number = self._catalogue.recorded(look.folder)
        same_category = not number or recorded_as == look.category.name
        if found is not None and same_category and self._looked_like.get(look.folder) == (found, number):
            for name in met:
                self._descend(look, name, inner)
            return
        yield from self._compare(look, inner)
        if (
            found is not None
            and look.agrees
            and (len(self._looked_like) < _FOLDERS or look.folder in self._looked_like)
        ):
            self._looked_like[look.folder] = found, number

    def _sift(
        self,
        look: _Look,
        entries: Iterable[os.DirEntry[Any]],
        known: dict[bytes, Stamp],
        inner: list[bytes],
        passed_over: Counter[str],
    ) -> list[tuple[bytes, Stamp, Stamp | None]]:
        """The files that are not what is recorded of them (all of them where annotations are used): name, stamp, and
        the recorded stamp.

        Whatever is there is taken out of ``known``. A million files come by here: most are what they were, and for
        those nothing is done that need not be.
        """
        root, wanted, everything = look.root, self.filters.file, self.sidecars.used
        selective, local = self.filters.selective, root.local
        found = []
        for entry in entries:
            name = os.fsencode(entry.name)
            if selective and self.filters.excluded(root.path, look.folder, name):
                continue  # if it is recorded, that is seen to afterwards
            if not entry.is_file(follow_symlinks=False):
                if entry.is_dir(follow_symlinks=False):
                    self._descend(look, name, inner)
                else:
                    self.filters.pass_over(passed_over, entry)
                continue
            was = known.get(name)
            if was is None and not wanted(name):
                self.filters.pass_over(passed_over, entry)
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone since the listing, or not to be told: asked again afterwards if it is recorded
            stamp = Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino if local else 0)
            if was is not None:
                del known[name]
                if not wanted(name) or (was == stamp and not everything):
                    continue
            found.append((name, stamp, was))
        return found

    def _descend(self, look: _Look, name: bytes, inner: list[bytes]) -> None:
        path = look.folder + b"/" + name
        if not self.filters.folder(name) or (path + b"/").startswith(self._inner[look.root.path]):
            return
        if not self.filters.too_deep(look.root.path, path):
            inner.append(path)
        elif self._rules.recursive:
            look.root.trouble(path, f"deeper than {DEEPEST} folders")

    def _known(self, look: _Look) -> dict[bytes, Stamp]:
        folder, category = look.folder, look.category.name
        recorded_as, stamps = self._catalogue.known(folder)
        known = dict(stamps)
        if not known or recorded_as == category:
            return known
        self.throttle.note("watch.recategorised", folder=folder, old=recorded_as, new=category)
        if recorded_as is None:
            # They were never read. Forgotten first, so that a restart half-way reads the rest as well.
            self._catalogue.gone(folder, list(known), deleted=False)
            return {}
        self._catalogue.recategorise(folder, category)
        return known

    # Single files.

    def _take_in(
        self,
        look: _Look,
        files: Iterable[tuple[bytes, Stamp, Stamp | None]],
        sources: Mapping[bytes, Source] | None = None,
        *,
        lost: bool = False,
    ) -> Iterator[None]:
        """Check and report the new and changed files that rest; the others settle. Yields now and then.

        Args:
            files: name, stamp, and the recorded stamp.
            sources: their annotations, where they are used. lost: a picture without one may have had one.
        """
        root = look.root
        believed = (root.local or self._rules.once) and sources is None
        sightings: list[Sighting] = []
        began, wall = perf_counter(), self._wall()
        rests = int((wall - self._rules.settle) * 1e9)
        for name, plain, was in files:
            stamp, source, newest = plain, None, 0.0
            if sources is not None:
                source = sources.get(name)
                stamp = self.sidecars.stamped(plain, source)
                if was == stamp:
                    continue
                newest = source.newest if source else wall if lost or self.sidecars.lost(was, stamp) else 0.0
            look.agrees = False
            if look.news.get(name) == stamp:
                continue
            place = Place(root.path, look.folder, name)
            # A backlog's files are older than settle: for them this comparison is all.
            if (believed and stamp.mtime_ns <= rests and stamp.ctime_ns <= rests) or self._rests(
                root, place, stamp, newest
            ):
                sighting = self._check(look, place, stamp, source)
                if sighting is not None:
                    sightings.append(sighting)
            if perf_counter() - began >= _SLICE or self._stop.is_set():
                self._report(look, sightings)
                sightings = []
                yield
                began, wall = perf_counter(), self._wall()
                rests = int((wall - self._rules.settle) * 1e9)
        self._report(look, sightings)

    def _report(self, look: _Look, sightings: list[Sighting]) -> None:
        if sightings:
            look.root.seen_content = True
            self.buffer.put(look.root.path, look.folder, sightings, self._now())
            if self._fresh.full:
                self.buffer.flush()
                self._fresh.wait_for_room(self._stop, self._alive)

    def _rests(self, root: Root, place: Place, stamp: Stamp, newest: float) -> bool:
        now = self._now()
        quiet = self.settling.quiet(place, stamp, now=now, wall=self._wall(), local=root.local, newest=newest)
        if quiet is None:
            self._later(root, place.folder)
        elif not quiet:
            self._warn_restless(place, now)
        return bool(quiet)

    def _check(self, look: _Look, place: Place, stamp: Stamp, source: Source | None) -> Sighting | None:
        """The sighting of a file that rests; None when it must be looked at another time."""
        category, fault = look.category
        if category is None:
            self.settling.forget(place)
            return Sighting(look.folder, place.name, stamp, None, "", "", fault, ground=look.ground)
        found = None
        if self._sound:  # a COCO file concerns thousands of pictures, which themselves have not changed
            plain, check = self._sound.get((look.folder, place.name), (None, None))
            found = check if plain is not None and plain[:4] == stamp[:4] else None
        found = found or self._read(look, place, stamp)
        if found is None:
            self._warn_restless(place, self._now())
            return None
        sha256, suffix, fault, width, height = found
        sighting = Sighting(look.folder, place.name, stamp, category, sha256, suffix, fault, "", (), False, look.ground)
        if stamp.annotation and not fault:
            annotated = self._with_annotation(look.root, sighting, width, height, source)
            if annotated is None:
                return None
            sighting = annotated
        self.settling.forget(place)
        if look.root.troubles:
            look.root.troubles.pop(place.folder + b"/" + place.name, None)
        if sighting.fault:
            self.throttle.note("watch.quarantined", file=place.folder + b"/" + place.name, reason=sighting.fault)
        return sighting

    def _with_annotation(
        self, root: Root, seen: Sighting, width: int, height: int, source: Source | None
    ) -> Sighting | None:
        """The sighting of a sound picture with what is marked in it; None when it must be looked at another time."""
        if source is None:
            return seen._replace(waits=True)
        from image_sync.annotations import AnnotationError

        place = Place(root.path, seen.folder, seen.name)
        try:
            annotation = source.read(width, height)
        except AnnotationError as error:
            return seen._replace(fault=f"its annotation cannot be used: {error}")
        except Changed:
            self.settling.busy(place, seen.stamp, self._now())
            return None
        except Unreadable as error:
            self.settling.forget(place)
            self._cannot_look(root, source.path, error)
            return None
        root.troubles.pop(source.path, None)
        if ignored := self._rules.ignored_labels:
            kept = tuple(box for box in annotation.boxes if box.label.casefold() not in ignored)
            annotation = replace(annotation, boxes=kept)
        labels = dict.fromkeys(box.label for box in annotation.boxes)
        return seen._replace(annotation=annotation.to_text(), labels=tuple(labels))

    def _read(self, look: _Look, place: Place, stamp: Stamp) -> ImageCheck | None:
        """What the check says of a file that rests; None when it must be looked at another time."""
        root = look.root
        plain = stamp._replace(annotation="") if stamp.annotation else stamp
        wall = self._wall()
        # Whoever has a file open and wrote nothing for an hour has forgotten it. To ask costs as much as to read it,
        # and should it be written to after all, its times tell.
        asked_since = int((wall - _HOUR) * 1e9)
        try:
            try:
                found = check_file(
                    look.fd,
                    place.name,
                    plain,
                    self._rules,
                    self._stop,
                    local=root.local,
                    asked_since=asked_since,
                    keep=self._keep,
                )
            except WritersUnknown:
                longer = _FOREIGN * self._rules.settle
                self.throttle.note("watch.writers_unknown", file=place.folder + b"/" + place.name, waits=longer)
                if self.settling.rested(place, stamp, now=self._now(), wall=wall) < longer:
                    raise
                found = check_file(
                    look.fd, place.name, plain, self._rules, self._stop, local=root.local, asked_since=_NEVER_ASK
                )
        except (Changed, BlockingIOError):  # or a file server holds a lease on it for one of its clients
            self.settling.busy(place, stamp, self._now())
            return None
        except OSError as error:
            self.settling.forget(place)
            if error.errno not in VANISHED:
                self._cannot_look(root, place.folder + b"/" + place.name, error)
            return None
        if found and not found.fault and self.sidecars.used:
            key = place.folder, place.name
            if key in self._sound or len(self._sound) < _REMEMBERED:
                self._sound[key] = plain, found
        return found

    def _forget(self, root: Root, folder: bytes, names: Iterable[bytes]) -> None:
        for name in names:
            self.settling.forget(Place(root.path, folder, name))

    def _cannot_look(self, root: Root, path: bytes, error: OSError | Unreadable) -> None:
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
            denied = isinstance(cause, OSError) and cause.errno in {errno.EACCES, errno.EPERM}
            remedy = "give the user that image-sync runs as the right to read it" if denied else _CHECK_THE_DISK
            log.warning(
                "watch.cannot_look", path=path, error=told, hint=f"{remedy}; it is tried again at every full look"
            )

    def _warn_restless(self, place: Place, now: float) -> None:
        if self.settling.restless_too_long(place, now):
            log.warning(
                "watch.never_rests",
                file=place.folder + b"/" + place.name,
                hint="it has been changing, or open for writing, for more than an hour: see which program holds it",
            )

    # What is not there.

    def depart(self, root: Root, folder: bytes, names: Collection[bytes] | None) -> bool:
        """Report the recorded files of a folder (only these, if names are given) that are not there.

        Returns:
            False, and nothing was reported, when the root itself is in doubt.
        """
        missing = _missing_in(root, folder, self._catalogue.known(folder, names)[1])
        if not missing:
            return True
        ground = root.ground_of(folder)
        # Asked last: had the root been unmounted before one of the answers above, this one would tell.
        if not root.unchanged(self.filters):
            return False
        if self._lacks_its_share(root, folder):
            return True
        deleted = ground == self._catalogue.ground(folder)
        self.throttle.note("watch.gone" if deleted else "watch.out_of_sight", folder=folder, files=len(missing))
        self._catalogue.gone(folder, missing, deleted=deleted)
        return True

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
                    root.miss(folder, None, self._now())
            if number % AT_ONCE == 0:
                yield

    def _lacks_its_share(self, root: Root, folder: bytes) -> bool:
        place = root.unmounted(folder, self.filters)
        if place is not None:
            root.trouble(place, _UNMOUNTED)
        return place is not None

    def _leave_alone(self, folder: bytes, names: list[bytes]) -> None:
        """The rules say now that these recorded files are not wanted. What was sent of them stays where it is."""
        self.throttle.note("watch.excluded", folder=folder, files=len(names))
        if names:
            self._catalogue.gone(folder, names, deleted=False)


def missing(path: bytes, catalogue: Catalogue, filters: Filter) -> Iterator[tuple[bytes, list[bytes]]]:
    """Recorded files of a root that would be taken for deleted if it were looked at now: folder and names."""
    root = Root(path, local=not remote_filesystem(path))
    root.identity = root.inspect(filters).identity
    for folder in catalogue.folders(path) if root.identity else ():
        names = _missing_in(root, folder, catalogue.known(folder)[1])
        if names and filters.admits(path, folder) and root.ground_of(folder) == catalogue.ground(folder):
            yield folder, names


def _missing_in(root: Root, folder: bytes, known: Iterable[bytes]) -> list[bytes]:
    try:
        fd = open_folder(root.path, folder)
    except OSError as error:
        return list(known) if error.errno in VANISHED else []
    try:
        return [name for name in known if absent(fd, name)]
    finally:
        os.close(fd)


def _pictures_in(fd: int, filters: Filter) -> list[bytes]:
    with os.scandir(fd) as entries:
        return [name for entry in entries if filters.file(name := os.fsencode(entry.name))]
