"""What is heard of changes: file events through watchdog, kept as a small set of folders and names to look at.

The only module that knows watchdog, and its weak spots. What 7.1.0 does that this module answers to:

* An overflow of the kernel's queue is only logged: a logging handler listens. Its repair reads every folder, which with
  opened and closed-unwritten events subscribed overflows again, for ever: those are never subscribed.
* Running out of watches is swallowed for all folders but the root: a watch of our own is tried.
* Threads die singly while the observer lives: all of them are asked.
* It warns with the text of every watch it has: megabytes in a log. Silenced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import math
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from watchdog.events import (
    EVENT_TYPE_DELETED,
    EVENT_TYPE_MOVED,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer as WatchdogObserver
from watchdog.observers.api import BaseObserver, ObservedWatch

from image_sync.log import get_logger
from image_sync.watcher.sidecars import Sidecars

log = get_logger(__name__)

MOST = 10_000
"""Folders remembered per root; beyond that the root as a whole is looked at."""
_NAMES = 64
"""Files remembered per folder; beyond that the folder as a whole is looked at."""
_INOTIFY_LOGGER = "watchdog.observers.inotify_c"
_LIMITS = (Path("/proc/sys/fs/inotify/max_user_watches"), Path("/proc/sys/user/max_inotify_watches"))
_IN_DELETE_SELF = 0x400
_PATIENCE = 5.0
_SUBSCRIBED: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]
if sys.platform != "linux":
    _SUBSCRIBED.append(FileModifiedEvent)  # other systems do not tell when a written file is closed

OUT_OF_WATCHES = (
    "the system's limit of inotify watches is reached: raise fs.inotify.max_user_watches (sysctl), then it is watched "
    "again at the next full look"
)


class DirtyFolder(NamedTuple):
    """A folder to look at.

    Attributes:
        names: only these files of it; None: all of it.
        tree: and everything below it; echo: and once more a little later.
        left: one of this name was deleted or moved away, perhaps with others in it, though there may be another by now.
    """

    root: bytes
    folder: bytes
    names: frozenset[bytes] | None = None
    tree: bool = False
    echo: bool = False
    left: bool = False
    not_before: float = 0.0


class SidecarChange(NamedTuple):
    """A folder in which annotations changed; ``below``: or in any folder in it; ``echo``: tell it once more later."""

    root: bytes
    folder: bytes
    below: bool = False
    echo: bool = False
    not_before: float = 0.0


class DirtyFolders:
    """What wants a look. Filled by the observer's threads, emptied by the watcher's; safe for both.

    Args:
        wake: called, by the thread that brought the news, after all but :meth:`later`.
    """

    def __init__(self, roots: Sequence[bytes], wake: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._wake = wake
        self._folders: dict[bytes, dict[bytes, DirtyFolder]] = {root: {} for root in roots}
        self._changes: dict[bytes, dict[bytes, SidecarChange]] = {root: {} for root in roots}
        self._batch: deque[DirtyFolder] = deque()
        self._floods: set[bytes] = set()
        self._doubts: set[bytes] = set()
        self._overflows = 0

    def __len__(self) -> int:
        with self._lock:
            waiting = sum(map(len, self._folders.values())) + sum(map(len, self._changes.values()))
            return waiting + len(self._batch) + len(self._floods) + len(self._doubts) + self._overflows

    def mark(self, dirty: DirtyFolder) -> None:
        """Remember a folder to look at, and wake whoever looks."""
        self.later(dirty)
        self._wake()

    def later(self, dirty: DirtyFolder) -> None:
        """Remember a folder to look at; one that is remembered already is looked at once, the earlier time counts."""
        with self._lock:
            folders = self._folders[dirty.root]
            old = folders.get(dirty.folder)
            if old is None:
                if len(folders) >= MOST:
                    folders.clear()
                    self._floods.add(dirty.root)
                else:
                    folders[dirty.folder] = dirty
                return
            names = None if old.names is None or dirty.names is None else old.names | dirty.names
            folders[dirty.folder] = DirtyFolder(
                dirty.root,
                dirty.folder,
                names if names and len(names) <= _NAMES else None,
                old.tree or dirty.tree,
                old.echo or dirty.echo,
                old.left or dirty.left,
                min(old.not_before, dirty.not_before),
            )

    def sidecars(self, change: SidecarChange) -> None:
        """Remember a folder in which annotations changed, and wake whoever looks."""
        with self._lock:
            changes = self._changes[change.root]
            old = changes.get(change.folder, change)
            if len(changes) >= MOST:
                changes.clear()
                self._floods.add(change.root)
            else:
                changes[change.folder] = SidecarChange(
                    change.root,
                    change.folder,
                    old.below or change.below,
                    old.echo or change.echo,
                    min(old.not_before, change.not_before),
                )
        self._wake()

    def take_sidecars(self, now: float) -> list[SidecarChange]:
        """The folders in which annotations changed; then forgets them."""
        with self._lock:
            taken = [one for changes in self._changes.values() for one in changes.values() if one.not_before <= now]
            for one in taken:
                del self._changes[one.root][one.folder]
            return taken

    def doubt(self, root: bytes) -> None:
        """The root itself may have been replaced or lost."""
        with self._lock:
            self._doubts.add(root)
        self._wake()

    def overflow(self) -> None:
        """The system dropped events: nobody knows which."""
        with self._lock:
            self._overflows += 1
        self._wake()

    def forget(self, root: bytes) -> None:
        """The root is not available, or about to be looked at as a whole."""
        with self._lock:
            self._folders[root].clear()
            self._changes[root].clear()
            self._floods.discard(root)
            self._batch = deque(dirty for dirty in self._batch if dirty.root != root)

    def take_roots(self) -> tuple[set[bytes], set[bytes], int]:
        """Roots with too many folders to remember, roots in doubt, and how often events were dropped; then forgets."""
        with self._lock:
            taken = self._floods, self._doubts, self._overflows
            self._floods, self._doubts, self._overflows = set(), set(), 0
            return taken

    def take(self, now: float) -> DirtyFolder | None:
        """The next folder to look at, or None when there is none now."""
        with self._lock:
            # In order of their paths, so that a folder below a tree that is looked at whole is not looked at again: a
            # copied tree tells of each of its folders.
            for folders in () if self._batch else self._folders.values():
                ready = sorted((one for one in folders.values() if one.not_before <= now), key=_in_order)
                cover: DirtyFolder | None = None
                for one in ready:
                    del folders[one.folder]
                    below = cover is not None and one.folder.startswith(cover.folder + b"/")
                    if below and cover and (cover.echo or not one.echo) and not one.left:
                        continue
                    self._batch.append(one)
                    if one.tree:
                        cover = one
            return self._batch.popleft() if self._batch else None

    def next_due(self) -> float:
        """The time of the earliest of them; infinite when there is none."""
        with self._lock:
            if self._batch or self._floods or self._doubts or self._overflows:
                return 0.0
            times = [one.not_before for folders in self._folders.values() for one in folders.values()]
            times += [one.not_before for changes in self._changes.values() for one in changes.values()]
            return min(times, default=math.inf)


def _in_order(dirty: DirtyFolder) -> bytes:
    return dirty.folder + b"/"


class Observer:
    """Turns events below any number of roots into dirty folders. Starts its threads with the first root.

    Args:
        wanted: whether a file of this name matters.
        sidecars: tells which files may be annotations.
    """

    def __init__(self, dirty: DirtyFolders, wanted: Callable[[bytes], bool], sidecars: Sidecars) -> None:
        self._dirty = dirty
        self._wanted = wanted
        self._sidecars = sidecars
        self._observer: BaseObserver | None = None
        self._watches: dict[bytes, ObservedWatch] = {}
        self._ears = _OverflowEars(dirty)

    def watch(self, root: bytes) -> str:
        """Subscribe to everything below the root (anew if it is already).

        Returns:
            Empty, or why it cannot be.
        """
        self.unwatch(root)
        real = os.path.realpath(root)
        try:
            observer = self._started()
            self._watches[root] = observer.schedule(
                _Handler(self._dirty, root, real, self._wanted, self._sidecars),
                os.fsdecode(real),
                recursive=True,
                event_filter=_SUBSCRIBED,
            )
        except (OSError, RuntimeError) as error:  # RuntimeError: the system starts no more threads
            return _refusal(error)
        if not self.room(root):
            self.unwatch(root)
            return OUT_OF_WATCHES
        return ""

    def unwatch(self, root: bytes) -> None:
        """End the subscription, if there is one."""
        watch = self._watches.pop(root, None)
        if watch is not None and self._observer is not None:
            with contextlib.suppress(KeyError):
                self._observer.unschedule(watch)

    def hears(self, root: bytes) -> bool:
        """Whether every thread that carries this root's events is alive."""
        if self._observer is None or not self._running(self._observer):
            return False
        watch = self._watches.get(root)
        return any(emitter.watch == watch and emitter.is_alive() for emitter in list(self._observer.emitters))

    @staticmethod
    def room(root: bytes) -> bool:
        """Whether the system has at least one watch left for us; True where it cannot be asked."""
        libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        if libc is None:
            return True
        fd = libc.inotify_init1(os.O_CLOEXEC)
        if fd < 0:
            return True
        try:
            found = libc.inotify_add_watch(fd, root, _IN_DELETE_SELF)
            return found >= 0 or ctypes.get_errno() != errno.ENOSPC
        finally:
            os.close(fd)

    def watching(self) -> int | None:
        """How many folders the system watches for us; None where it does not tell."""
        fd = getattr(getattr(self._observer, "_inotify_fd", None), "_inotify_fd", None)
        try:
            lines = Path(f"/proc/self/fdinfo/{fd}").read_bytes().splitlines()
        except OSError:
            return None
        return sum(line.startswith(b"inotify ") for line in lines)

    def close(self) -> None:
        """End all subscriptions and threads."""
        self._watches.clear()
        observer, self._observer = self._observer, None
        logging.getLogger(_INOTIFY_LOGGER).removeHandler(self._ears)
        if observer is not None:
            observer.stop()
            observer.join(_PATIENCE)

    def _started(self) -> BaseObserver:
        if self._observer is not None and self._running(self._observer):
            return self._observer
        self.close()
        warnings.filterwarnings("ignore", module="watchdog")
        logger = logging.getLogger(_INOTIFY_LOGGER)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        logger.addHandler(self._ears)
        observer = WatchdogObserver()
        observer.start()
        self._observer = observer
        return observer

    @staticmethod
    def _running(observer: BaseObserver) -> bool:
        reader = getattr(observer, "_inotify_fd", None)  # a thread of its own, which nothing public leads to
        return observer.is_alive() and (reader is None or reader.is_alive())


def watch_limit() -> int | None:
    """How many folders one user may watch; None where there is no such limit."""
    limits = []
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(path.read_bytes()))
    return min(limits, default=None)


def _refusal(error: OSError | RuntimeError) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOSPC:
        return OUT_OF_WATCHES
    if code == errno.EMFILE:
        return (
            "the system's limit of inotify instances or open files is reached: raise fs.inotify.max_user_instances "
            "(sysctl) or the limit of open files"
        )
    return f"events cannot be had ({error})"


class _Handler(FileSystemEventHandler):
    """Marks folders; must never raise, since watchdog's thread would end with it."""

    def __init__(
        self, dirty: DirtyFolders, root: bytes, real: bytes, wanted: Callable[[bytes], bool], sidecars: Sidecars
    ) -> None:
        self._dirty = dirty
        self._root = root
        self._real = real
        self._inside = real.rstrip(b"/") + b"/"
        self._wanted = wanted
        self._sidecars = sidecars
        self._failed = False

    def dispatch(self, event: FileSystemEvent) -> None:
        """Take one event."""
        try:
            for path in {event.src_path, event.dest_path} - {"", b""}:
                self._mark(event, os.fsencode(path))
        except Exception:
            if not self._failed:
                log.exception("watch.event_not_understood", root=self._root, event_type=event.event_type)
            self._failed = True
            self._dirty.overflow()

    def _mark(self, event: FileSystemEvent, path: bytes) -> None:
        if path == self._real:
            self._dirty.doubt(self._root)
            return
        if not path.startswith(self._inside):
            return
        place = self._root + path[len(self._real) :]
        folder, _, name = place.rpartition(b"/")
        if event.is_directory:
            left = event.event_type in {EVENT_TYPE_DELETED, EVENT_TYPE_MOVED}
            self._dirty.mark(DirtyFolder(self._root, place, tree=True, echo=True, left=left))
            if self._sidecars.lie_in(place[len(self._root) :]):
                self._dirty.sidecars(SidecarChange(self._root, place, below=True, echo=True))
        elif self._wanted(name):
            # Whether a picture has an annotation may depend on its neighbours: then the whole folder is looked at.
            names = None if self._sidecars.used else frozenset((name,))
            self._dirty.mark(DirtyFolder(self._root, folder, names))
        elif self._sidecars.heard(name):
            self._dirty.sidecars(SidecarChange(self._root, folder, below=self._sidecars.name_classes(name)))


class _OverflowEars(logging.Handler):
    """Hears watchdog say that events were lost: it tells nobody else."""

    def __init__(self, dirty: DirtyFolders) -> None:
        super().__init__(logging.WARNING)
        self._dirty = dirty

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - whatever it says
        """Any warning from there means that we may have missed something."""
        self._dirty.overflow()
