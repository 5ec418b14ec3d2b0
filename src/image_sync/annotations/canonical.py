"""One spelling for each annotation, to be kept and compared."""

from __future__ import annotations

import json
from typing import Any

from image_sync.domain import Annotation, Box

_VERSION = 1
_DECIMALS = 3
"""A thousandth of a pixel: finer than anybody draws, coarser than what rounding in a format moves."""


def to_text(annotation: Annotation) -> str:
    """The annotation as one line of ASCII JSON.

    Boxes are sorted and coordinates rounded to a thousandth of a pixel, so that what differs only in the order of its
    objects, or by the rounding of a file format, has the same text.
    """
    boxes = sorted(map(_data, annotation.boxes), key=_order)
    document = {"v": _VERSION, "width": annotation.width, "height": annotation.height, "boxes": boxes}
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def from_text(text: str) -> Annotation:
    """The annotation that :func:`to_text` wrote, with its order and its rounding.

    Raises:
        ValueError: the text is something else.
    """
    try:
        document = json.loads(text)
        if document["v"] != _VERSION:
            raise ValueError(f"annotations of version {document['v']!r} are not known")
        return Annotation(document["width"], document["height"], tuple(map(_box, document["boxes"])))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("this is not an annotation as it is kept") from error


def _data(box: Box) -> dict[str, Any]:
    data: dict[str, Any] = {"label": box.label, "box": [*map(_rounded, (box.left, box.top, box.right, box.bottom))]}
    if box.polygon:
        data["polygon"] = [[_rounded(x), _rounded(y)] for x, y in box.polygon]
    if box.difficult:
        data["difficult"] = True
    return data


def _order(data: dict[str, Any]) -> tuple[object, ...]:
    return data["label"], data["box"], data.get("polygon", []), data.get("difficult", False)


def _box(data: dict[str, Any]) -> Box:
    left, top, right, bottom = map(float, data["box"])
    polygon = tuple((float(x), float(y)) for x, y in data.get("polygon", ()))
    return Box(data["label"], left, top, right, bottom, polygon, data.get("difficult", False))


def _rounded(value: float) -> float:
    return round(value, _DECIMALS) + 0.0  # minus zero becomes zero
