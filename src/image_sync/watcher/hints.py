"""Where to look: what the observer heard since the last step, kept small however much it hears."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

MOST = 10_000
"""Folders remembered per root; beyond that the root as a whole is looked at."""


class Hint(NamedTuple):
    """A folder to look at; ``tree``: and everything below it; ``echo``: and once more a little later; ``left``: one of
    this name was deleted or moved away, perhaps with others in it, though there may be another by now."""

    root: bytes
    folder: bytes
    tree: bool = False
    echo: bool = False
    left: bool = False
    not_before: float = 0.0


class Note(NamedTuple):
    """A folder in which annotations changed; ``below``: or in any folder in it; ``echo``: tell it once more later."""

    root: bytes
    folder: bytes
    below: bool = False
    echo: bool = False
    not_before: float = 0.0


class Hints:
    """Folders that want a look. Filled by the observer's threads, emptied by the watcher's; safe for both.

    Args:
        wake: called, by the thread that brought the hint, after each hint.
    """

    def __init__(self, roots: Sequence[bytes], wake: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._wake = wake
        self._folders: dict[bytes, dict[bytes, Hint]] = {root: {} for root in roots}
        self._notes: dict[bytes, dict[bytes, Note]] = {root: {} for root in roots}
        self._batch: deque[Hint] = deque()
        self._floods: set[bytes] = set()
        self._doubts: set[bytes] = set()
        self._overflows = 0

    def __len__(self) -> int:
        with self._lock:
            waiting = sum(map(len, self._folders.values())) + sum(map(len, self._notes.values()))
            return waiting + len(self._batch) + len(self._floods) + len(self._doubts) + self._overflows

    def mark(self, hint: Hint) -> None:
        """Remember a folder to look at, and wake whoever looks."""
        self.later(hint)
        self._wake()

    def later(self, hint: Hint) -> None:
        """Remember a folder to look at; one that is remembered already is looked at once, the earlier time counts."""
        with self._lock:
            folders = self._folders[hint.root]
            old = folders.get(hint.folder)
            if old is None and len(folders) >= MOST:
                folders.clear()
                self._floods.add(hint.root)
            elif old is None:
                folders[hint.folder] = hint
            else:
                folders[hint.folder] = Hint(
                    hint.root,
                    hint.folder,
                    old.tree or hint.tree,
                    old.echo or hint.echo,
                    old.left or hint.left,
                    min(old.not_before, hint.not_before),
                )

    def note(self, note: Note) -> None:
        """Remember a folder in which annotations changed, and wake whoever looks."""
        with self._lock:
            notes = self._notes[note.root]
            old = notes.get(note.folder, note)
            if len(notes) >= MOST:
                notes.clear()
                self._floods.add(note.root)
            else:
                notes[note.folder] = Note(
                    note.root,
                    note.folder,
                    old.below or note.below,
                    old.echo or note.echo,
                    min(old.not_before, note.not_before),
                )
        self._wake()

    def take_notes(self, now: float) -> list[Note]:
        """The folders in which annotations changed; then forgets them."""
        with self._lock:
            taken = [note for notes in self._notes.values() for note in notes.values() if note.not_before <= now]
            for note in taken:
                del self._notes[note.root][note.folder]
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
            self._notes[root].clear()
            self._floods.discard(root)
            self._batch = deque(hint for hint in self._batch if hint.root != root)

    def take_roots(self) -> tuple[set[bytes], set[bytes], int]:
        """Roots with too many folders to remember, roots in doubt, and how often events were dropped; then forgets."""
        with self._lock:
            taken = self._floods, self._doubts, self._overflows
            self._floods, self._doubts, self._overflows = set(), set(), 0
            return taken

    def take(self, now: float) -> Hint | None:
        """The next folder to look at, or None when there is none now."""
        with self._lock:
            if not self._batch:
                self._fill(now)
            return self._batch.popleft() if self._batch else None

    def next_due(self) -> float | None:
        """The time of the earliest hint; None when there is none."""
        with self._lock:
            if self._batch or self._floods or self._doubts or self._overflows:
                return 0.0
            times = [hint.not_before for held in self._folders.values() for hint in held.values()]
            times += [note.not_before for held in self._notes.values() for note in held.values()]
            return min(times, default=None)

    def _fill(self, now: float) -> None:
        # In order of their paths, so that a folder below a tree that is looked at whole is not looked at again: a
        # copied tree tells of each of its folders.
        for folders in self._folders.values():
            ready = sorted(
                (hint for hint in folders.values() if hint.not_before <= now), key=lambda hint: hint.folder + b"/"
            )
            cover: Hint | None = None
            for hint in ready:
                del folders[hint.folder]
                below = cover is not None and hint.folder.startswith(cover.folder + b"/")
                if below and cover and (cover.echo or not hint.echo) and not hint.left:
                    continue
                self._batch.append(hint)
                if hint.tree:
                    cover = hint
