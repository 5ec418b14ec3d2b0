"""The ``.lst`` files that image classification reads: number, class, path below the channel, parted by tabs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def lines(entries: Iterable[tuple[int, str]]) -> Iterator[str]:
    r"""One line for each picture, given its class number and its path below the channel.

    >>> list(lines([(0, "crack-1a/a.jpg"), (3, "good-2b/b.jpg")]))
    ['0\\t0\\tcrack-1a/a.jpg\\n', '1\\t3\\tgood-2b/b.jpg\\n']
    """
    for number, (class_number, path) in enumerate(entries):
        yield f"{number}\t{class_number}\t{path}\n"


def encoded(entries: Iterable[tuple[int, str]]) -> bytes:
    """The whole file."""
    return "".join(lines(entries)).encode()
