"""Boxes as rows of left, top, right, bottom: how they overlap, and how good found ones are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]

HIT = 0.5
"""Overlap (intersection over union) from which on a found box counts as the marked one."""
_SAME, _INSIDE = 0.35, 0.75  # two finds of one label are one thing: overlap, or share of the one that lies in the other
_SAME_PLACE = 0.45  # overlap from which on two finds of two labels are one thing


@dataclass(frozen=True, slots=True)
class Find:
    """One thing found in a picture: what it is, how sure that is (0 to 1), and where, in pixels of the picture."""

    label: str
    confidence: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing marked in a picture, in pixels of the picture."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


def edges(things: Sequence[Find | Mark]) -> Boxes:
    """Their boxes, a row each."""
    rows = [(thing.left, thing.top, thing.right, thing.bottom) for thing in things]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _shared(one: Boxes, other: Boxes) -> NDArray[np.float64]:
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    sides = np.maximum(high - low, 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def overlaps(one: Boxes, other: Boxes) -> NDArray[np.float64]:
    """Intersection over union of each box of the one with each of the other."""
    shared = _shared(one, other)
    union = _areas(one)[:, None] + _areas(other)[None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-9))


def distinct(boxes: Boxes, labels: NDArray[np.intp], scores: NDArray[np.floating], most: int) -> list[int]:
    """Which of these boxes stand for a thing of their own, best first: each drops those that are the same thing.

    Args:
        most: how many are kept.
    """
    order = np.argsort(-scores, kind="stable")
    areas = _areas(boxes)
    kept: list[int] = []
    while order.size and len(kept) < most:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        shared = _shared(boxes[best : best + 1], boxes[order])[0]
        overlap = shared / np.maximum(areas[best] + areas[order] - shared, 1e-9)
        inside = shared / np.maximum(np.minimum(areas[best], areas[order]), 1e-9)
        same = labels[order] == labels[best]
        order = order[~((same & ((overlap > _SAME) | (inside > _INSIDE))) | (overlap > _SAME_PLACE))]
    return kept


def precisions(found: Sequence[Sequence[Find]], marked: Sequence[Sequence[Mark]]) -> Mapping[str, float]:
    """The average precision of each marked label: the area under its curve of precision over recall.

    As in the Pascal VOC challenge since 2010: the finds of all pictures in the order of their confidence, each a hit
    when it overlaps a mark of its label that no better find has hit by at least :data:`HIT`.

    Args:
        found, marked: of each picture, in the same order.
    """
    labels = sorted({mark.label for marks in marked for mark in marks})
    return {label: _precision(label, found, marked) for label in labels}


def _precision(label: str, found: Sequence[Sequence[Find]], marked: Sequence[Sequence[Mark]]) -> float:
    truth = [[mark for mark in marks if mark.label == label] for marks in marked]
    taken = [[False] * len(marks) for marks in truth]
    finds: list[tuple[float, int, Boxes]] = []
    for at, some in enumerate(found):
        own = [find for find in some if find.label == label]
        rows = overlaps(edges(own), edges(truth[at]))
        finds += [(find.confidence, at, row) for find, row in zip(own, rows, strict=True)]
    finds.sort(key=lambda find: -find[0])
    hits = np.zeros(len(finds))
    for rank, (_, at, row) in enumerate(finds):
        overlap = row * ~np.array(taken[at], dtype=bool)
        if overlap.size and overlap.max() >= HIT:
            taken[at][int(overlap.argmax())] = True
            hits[rank] = 1
    if not hits.any():
        return 0.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    ahead = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or a higher one
    return float((ahead * hits).sum() / sum(map(len, truth)))
