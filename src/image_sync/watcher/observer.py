"""File events through watchdog. The only module that knows it, and its weak spots.

What 7.1.0 does that this module answers to:

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
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

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
from image_sync.watcher.companions import Companions
from image_sync.watcher.hints import Hint, Hints, Note

log = get_logger(__name__)

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


class Observer:
    """Turns events below any number of roots into hints. Starts its threads with the first root.

    Args:
        wanted: whether a file of this name matters.
        companions: tells which files may be annotations.
    """

    def __init__(self, hints: Hints, wanted: Callable[[bytes], bool], companions: Companions) -> None:
        self._hints = hints
        self._wanted = wanted
        self._companions = companions
        self._observer: BaseObserver | None = None
        self._watches: dict[bytes, ObservedWatch] = {}
        self._ears = _OverflowEars(hints)

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
                _Handler(self._hints, root, real, self._wanted, self._companions),
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
        self,
        hints: Hints,
        root: bytes,
        real: bytes,
        wanted: Callable[[bytes], bool],
        companions: Companions,
    ) -> None:
        self._hints = hints
        self._root = root
        self._real = real
        self._wanted = wanted
        self._companions = companions
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
            self._hints.overflow()

    def _mark(self, event: FileSystemEvent, path: bytes) -> None:
        if path == self._real:
            self._hints.doubt(self._root)
            return
        if not path.startswith(self._real.rstrip(b"/") + b"/"):
            return
        place = self._root + path[len(self._real) :]
        folder, _, name = place.rpartition(b"/")
        if event.is_directory:
            left = event.event_type in {EVENT_TYPE_DELETED, EVENT_TYPE_MOVED}
            self._hints.mark(Hint(self._root, place, tree=True, echo=True, left=left))
            if self._companions.lie_in(place[len(self._root) :]):
                self._hints.note(Note(self._root, place, below=True, echo=True))
        elif self._wanted(name):
            self._hints.mark(Hint(self._root, folder))
        elif self._companions.heard(name):
            self._hints.note(Note(self._root, folder, below=self._companions.name_classes(name)))


class _OverflowEars(logging.Handler):
    """Hears watchdog say that events were lost: it tells nobody else."""

    def __init__(self, hints: Hints) -> None:
        super().__init__(logging.WARNING)
        self._hints = hints

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - whatever it says
        """Any warning from there means that we may have missed something."""
        self._hints.overflow()
