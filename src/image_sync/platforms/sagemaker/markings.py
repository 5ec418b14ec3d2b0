"""Annotations as object detection reads them: one JSON file for each picture, whole pixels, classes as numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from image_sync.domain import Annotation, Box

_DEPTH = 3
_FIGURES = 5
"""What each object adds to the width of a label, after a head of two."""
_HEAD = 2
USUAL_WIDTH = 350
_SLACK = 1.15
_STEP = 10


def usable(annotation: Annotation | None) -> tuple[Box, ...]:
    """The boxes of which at least a pixel lies in the picture."""
    if annotation is None:
        return ()
    return tuple(box for box in annotation.boxes if box.pixels(annotation.width, annotation.height))


def document(path: str, annotation: Annotation, numbers: Mapping[str, int]) -> dict[str, Any]:
    """The content of the JSON file.

    Args:
        path: of the picture, below its channel.
        numbers: label -> class number, from 0 without gaps.
    """
    return {
        "file": path,
        "image_size": [{"width": annotation.width, "height": annotation.height, "depth": _DEPTH}],
        "annotations": [
            {
                "class_id": numbers[box.label],
                "left": edges[0],
                "top": edges[1],
                "width": edges[2] - edges[0],
                "height": edges[3] - edges[1],
            }
            for box in annotation.boxes
            if (edges := box.pixels(annotation.width, annotation.height))
        ],
        "categories": [{"class_id": number, "name": label} for label, number in sorted(numbers.items(), key=_second)],
    }


def encoded(path: str, annotation: Annotation, numbers: Mapping[str, int]) -> bytes:
    """The JSON file."""
    return json.dumps(document(path, annotation, numbers), ensure_ascii=False).encode()


def width_of(objects: int) -> int:
    """The ``label_width`` for so many objects in one picture: too small a one ends the training, and AWS advises one
    that is somewhat larger than needed (60 for ten objects, which need 52).

    >>> width_of(3), width_of(10), width_of(70), width_of(100)
    (350, 350, 410, 580)
    """
    return max(USUAL_WIDTH, math.ceil(_SLACK * (_FIGURES * objects + _HEAD) / _STEP) * _STEP)


def _second(pair: tuple[str, int]) -> int:
    return pair[1]
