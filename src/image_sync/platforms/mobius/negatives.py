"""Chooses a tag's negatives: the same ones again and again, as long as the pictures stay the same."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable


def choose(tag: str, own: Collection[str], others: Iterable[str], *, kept: Collection[str], most: int) -> list[str]:
    """The negatives of a tag: all of its ``own``, filled up to ``most`` from the ``others``.

    Those of the others are drawn by a hash of tag and picture: each tag draws its own sample, a new picture takes the
    place of one other at most, and the order in which pictures came does not matter.

    Args:
        own: from the folders for negatives.
        others: of other categories, without those that are positives of the tag.
        kept: assigned earlier: they stay, as long as they are among ``own`` and ``others``, since nothing takes an
            assignment back.
    """
    chosen = sorted(own)
    pool = set(others) - set(chosen)
    stay = sorted(pool & set(kept))
    room = max(0, most - len(chosen) - len(stay))
    fresh = heapq.nsmallest(room, pool - set(stay), key=lambda image: _draw(tag, image))
    return [*chosen, *stay, *fresh]


def _draw(tag: str, image: str) -> bytes:
    return hashlib.sha256(f"{tag}\0{image}".encode()).digest()
