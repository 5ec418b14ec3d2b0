"""Folders full of pictures, made quickly: sound JPEGs of one exact size, each with other bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sink import categories
from support.pictures import jpeg
from support.resources import SEGMENT

_EACH = 1000
"""Pictures in a folder, at most."""
_HEAD = 4
_MARK = 12
_START = 2


@dataclass(frozen=True, slots=True)
class Tree:
    """A root with a folder per category, and pictures that are all of one size."""

    root: Path
    count: int
    size: int

    @property
    def names(self) -> set[str]:
        """The stem of every picture: no two are the same."""
        return {_stem(number) for number in range(self.count)}


def make(root: Path, count: int, size: int) -> Tree:
    """So many pictures of so many bytes, spread evenly over the categories, 1,000 in a folder at most.

    With at most 1,000 in a category they lie directly in its folder, else in folders below it.
    """
    template = _template(size)
    jobs = [(folder, begin, end, *template) for folder, begin, end in _layout(root, count)]
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(fill, jobs))
    return Tree(root, count, size)


def make_folders(root: Path, count: int) -> None:
    """The folders that so many pictures will lie in, empty."""
    for folder, _, _ in _layout(root, count):
        folder.mkdir(parents=True)


def _layout(root: Path, count: int) -> Iterator[tuple[Path, int, int]]:
    """Each folder, and from which to which number pictures lie in it."""
    names = categories()
    share = -(-count // len(names))
    for first in range(0, count, share):
        category = root / names[first // share]
        end = min(first + share, count)
        for begin in range(first, end, _EACH):
            folder = category if share <= _EACH else category / f"f{(begin - first) // _EACH:03}"
            yield folder, begin, min(begin + _EACH, end)


def fill(job: tuple[Path, int, int, bytes, bytes]) -> None:
    """Write the pictures of one folder."""
    folder, begin, end, start, rest = job
    folder.mkdir(parents=True, exist_ok=True)
    directory = f"{folder}/"
    for number in range(begin, end):
        handle = os.open(f"{directory}{_stem(number)}.jpg", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.writev(handle, (start, f"{number:0{_MARK}}".encode(), rest))
        os.close(handle)


def content(size: int, number: int) -> bytes:
    """One picture."""
    start, rest = _template(size)
    return start + f"{number:0{_MARK}}".encode() + rest


def _stem(number: int) -> str:
    return f"p{number:07}"


def _template(size: int) -> tuple[bytes, bytes]:
    """What comes before and behind the mark that tells one picture from another."""
    picture = _noise(size - _HEAD - _MARK - 2 * _HEAD)
    missing = size - len(picture) - _HEAD - _MARK
    mark = b"\xff\xfe" + (_MARK + 2).to_bytes(2, "big")
    return picture[:_START] + mark, _comments(missing) + picture[_START:]


def _noise(most: int) -> bytes:
    """A picture of noise, as large as fits."""
    small, larger = len(jpeg(0, 8, 8)), len(jpeg(0, 64, 64))
    if small > most:
        raise ValueError(f"no JPEG has only {most} bytes")
    pixels = max(64.0, (most - small) / (larger - small) * 64 * 64)
    while len(found := jpeg(0, max(8, int(pixels**0.5)), max(8, int(pixels**0.5)))) > most:
        pixels *= 0.97
    return found


def _comments(size: int) -> bytes:
    """Comments of so many bytes in all: decoders pass over them."""
    pieces = []
    while size:
        length = min(size, SEGMENT + _HEAD - 2)
        if 0 < size - length < _HEAD:
            length -= _HEAD  # the rest must hold a comment's head
        pieces.append(b"\xff\xfe" + (length - 2).to_bytes(2, "big") + bytes(length - _HEAD))
        size -= length
    return b"".join(pieces)
