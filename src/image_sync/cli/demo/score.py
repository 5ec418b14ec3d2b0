"""How well a model finds what is marked in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from image_sync.domain import Box
from image_sync.platforms.base import Prediction

OVERLAP = 0.5
"""What is found counts as right from this intersection over union with what is marked."""


@dataclass(frozen=True, slots=True)
class Score:
    """How many objects are marked in pictures, how many a model finds, and how many of those are right."""

    marked: int = 0
    found: int = 0
    right: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.marked + other.marked, self.found + other.found, self.right + other.right)


def count(scores: dict[str, Score], truth: Sequence[Box], answers: Sequence[Prediction]) -> None:
    """Add one picture to the scores: the surest answers choose first, and each box is found once at most."""
    open_boxes = list(truth)
    for box in truth:
        scores[box.label] += Score(marked=1)
    for answer in sorted(answers, key=lambda one: -one.confidence):
        scores.setdefault(answer.category, Score())
        alike = [box for box in open_boxes if box.label == answer.category]
        best = max(alike, key=lambda box: overlap(box, answer.box), default=None)
        right = best is not None and overlap(best, answer.box) >= OVERLAP
        if best is not None and right:
            open_boxes.remove(best)
        scores[answer.category] += Score(found=1, right=int(right))


def overlap(one: Box, other: Box | None) -> float:
    """The area that two boxes share, as part of the area that they cover together (IoU); 0 without another one."""
    if other is None:
        return 0.0
    across = min(one.right, other.right) - max(one.left, other.left)
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    shared = max(across, 0.0) * max(down, 0.0)
    both = sum((box.right - box.left) * (box.bottom - box.top) for box in (one, other)) - shared
    return shared / both if both > 0 else 0.0
