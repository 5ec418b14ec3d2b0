"""What a client says is in a picture: a name, and a box or an outline around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from image_sync_server.mvi.answers import Failure, checked_text

SHAPES = ("bndbox", "segment_polygons", "polygon", "point")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
GENERATE_TYPES = ("manual", "auto")
_NAME = 255
_FEWEST = 3  # corners of an outline


@dataclass(frozen=True, slots=True)
class Entry:
    """A label of a picture, checked."""

    name: str
    shape: Mapping[str, Any]
    generate_type: str = "manual"


def entries(listed: Any, width: int, height: int, *, slack: float = 0) -> list[Entry]:
    """The labels of a picture of this size.

    Args:
        slack: pixels by which a label may reach out of the picture; it is cut at the edge.

    Raises:
        Failure: 400 when one of them is no label, with its number and the reason.
    """
    if not isinstance(listed, list):
        raise Failure(400, "labels must be a JSON list.")
    found = []
    for number, entry in enumerate(listed, 1):
        try:
            found.append(_entry(entry, width, height, slack))
        except Failure as failure:
            raise Failure(400, f"Label {number} of {len(listed)}: {failure.fault}") from None
    return found


def _entry(entry: Any, width: int, height: int, slack: float) -> Entry:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise Failure(400, "A label must be an object with a name.")
    kind = entry.get("generate_type")
    shape = shape_of(entry, width, height, slack)
    known = {"generate_type": kind} if kind in GENERATE_TYPES else {}
    return Entry(checked_text("Its name", name, _NAME).strip(), shape, **known)


def shape_of(body: Mapping[str, Any], width: int, height: int, slack: float = 0) -> dict[str, Any]:
    """The geometry in a label as a client sends it, for a picture of this size; an outline gives a box that is missing.

    Boxes are kept in whole pixels, as MVI does: fractions are rounded outwards.

    Raises:
        Failure: 400 when there is none, or it is not made of numbers, or does not lie in the picture.
    """
    shape = {key: body[key] for key in SHAPES if body.get(key) is not None}
    if not shape:
        raise Failure(400, f"A label needs one of {', '.join(SHAPES)}.")
    outlines: list[list[float]] = []
    if "segment_polygons" in shape:
        found = [_outline(outline, width, height, slack) for outline in _list("segment_polygons", shape)]
        shape["segment_polygons"] = found
        outlines = [point for outline in found for point in outline]
    elif "polygon" in shape:
        outlines = shape["polygon"] = _outline(shape["polygon"], width, height, slack)
    if "point" in shape:
        shape["point"] = _point(shape["point"], width, height, slack)
    if "bndbox" in shape:
        shape["bndbox"] = _box(shape["bndbox"], width, height, slack)
    elif outlines:
        across, down = zip(*outlines, strict=True)
        edges = (min(across), min(down), max(across), max(down))
        shape["bndbox"] = _box(dict(zip(CORNERS, edges, strict=True)), width, height, slack)
    return shape


def _list(name: str, shape: Mapping[str, Any]) -> list[Any]:
    found = shape[name]
    if not isinstance(found, list) or not found:
        raise Failure(400, f"{name} must be a list of outlines.")
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _inside(value: float, most: int, slack: float) -> float:
    """A coordinate, cut at the picture's edge if it is no farther out than the slack."""
    return min(max(value, 0.0), most) if -slack <= value <= most + slack else value


def _box(box: Any, width: int, height: int, slack: float) -> dict[str, int]:
    try:
        left, top, right, bottom = (
            _inside(_number(box[corner]), most, slack)
            for corner, most in zip(CORNERS, (width, height) * 2, strict=True)
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Failure(400, "bndbox needs the numbers xmin, ymin, xmax and ymax.") from None
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise Failure(
            400,
            f"The box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) must lie in the picture of {width} x {height}"
            " pixels, with xmin below xmax and ymin below ymax.",
        )
    edges = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    return dict(zip(CORNERS, edges, strict=True))


def _outline(outline: Any, width: int, height: int, slack: float) -> list[list[float]]:
    if not isinstance(outline, list) or len(outline) < _FEWEST:
        raise Failure(400, f"An outline must be a list of at least {_FEWEST} points.")
    return [_point(point, width, height, slack) for point in outline]


def _point(point: Any, width: int, height: int, slack: float) -> list[float]:
    try:
        across, down = (
            _inside(_number(value), most, slack) for value, most in zip(point, (width, height), strict=True)
        )
    except (TypeError, ValueError, OverflowError):
        raise Failure(400, "A point must be a list of two numbers.") from None
    if not (0 <= across <= width and 0 <= down <= height):
        raise Failure(400, f"The point ({across:g}, {down:g}) must lie in the picture of {width} x {height} pixels.")
    return [across, down]
