"""YOLO: one text file for each picture, a line for each object, coordinates as parts of the picture's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from image_sync.annotations.draft import Draft, around, called
from image_sync.annotations.fault import AnnotationError, Fault
from image_sync.annotations.figure import written_figure
from image_sync.domain import Annotation, Box

_BOX = 4
_WITH_CONFIDENCE = 5
_LEAST_OUTLINE = 6
_MOST_LINES = 20_000
_LONGEST_LINE = 1 << 20


def read(data: bytes, draft: Draft, classes: Sequence[str]) -> Annotation:
    """What the file says: ``class centre-x centre-y width height``, or ``class x1 y1 x2 y2 x3 y3 ...`` for an outline.

    Args:
        classes: names in the order of their numbers.

    Raises:
        AnnotationError: it cannot be used.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        hint = "Is it something else that has the picture's name? Then move it away."
        raise AnnotationError(draft.path, [Fault("it is not text", hint)]) from None
    lines = text.split("\n")
    if len(lines) > _MOST_LINES:
        raise AnnotationError(draft.path, [Fault(f"it has {len(lines):,} lines", "Is this the right file?")])
    for number, line in enumerate(lines, 1):
        if line.strip():
            _line(line, f"line {number}", draft, classes)
    return draft.finish()


def write(annotation: Annotation, classes: Mapping[str, int]) -> bytes:
    """The file for a picture. An outline takes the place of its box, as in the data sets of YOLO's own trainers."""
    lines = [
        " ".join([str(classes[box.label]), *(f"{value:.9f}" for value in _values(box, annotation))])
        for box in annotation.boxes
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _values(box: Box, annotation: Annotation) -> list[float]:
    width, height = annotation.width, annotation.height
    if box.polygon:
        return [part for x, y in box.polygon for part in (x / width, y / height)]
    return [
        (box.left + box.right) / 2 / width,
        (box.top + box.bottom) / 2 / height,
        (box.right - box.left) / width,
        (box.bottom - box.top) / height,
    ]


def _line(line: str, where: str, draft: Draft, classes: Sequence[str]) -> None:
    if len(line) > _LONGEST_LINE:
        draft.refuse(f"{where} has {len(line):,} characters", "Is this the right file?")
        return
    values = [written_figure(word) for word in line.split()]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        draft.refuse(
            f"{where} holds something that is not a number",
            "A line must be: class x y width height. Is it something else that has the picture's name?",
        )
        return
    number, *rest = known
    if number != int(number) or not 0 <= number < len(classes):
        draft.refuse(
            f"{where} has the class {number:g}, and the classes go from 0 to {len(classes) - 1}",
            "Add the missing names to the file with the names of the classes, in their order.",
        )
        return
    label = classes[int(number)]
    if len(rest) == _BOX:
        _box(rest, where, label, draft)
    elif len(rest) >= _LEAST_OUTLINE and len(rest) % 2 == 0:
        xs, ys = rest[::2], rest[1::2]
        polygon = [(x * draft.width, y * draft.height) for x, y in zip(xs, ys, strict=True)]
        if not _in_pixels(rest, called(where, label), draft):
            draft.object(where, label, around(polygon), polygon)
    else:
        hint = "A line must be: class x y width height, or class and the corners of an outline, x and y of each."
        if len(rest) == _WITH_CONFIDENCE:
            hint = "Remove the last number (a confidence): what a model has guessed must be looked at first."
        draft.refuse(f"{called(where, label)} has {len(rest)} numbers after its class", hint)


def _box(rest: list[float], where: str, label: str, draft: Draft) -> None:
    if _in_pixels(rest, called(where, label), draft):
        return
    x, y, width, height = rest
    if width < 0 or height < 0:
        draft.refuse(f"{called(where, label)} has a negative width or height", "Draw the box again.")
        return
    draft.object(
        where,
        label,
        (
            (x - width / 2) * draft.width,
            (y - height / 2) * draft.height,
            (x + width / 2) * draft.width,
            (y + height / 2) * draft.height,
        ),
    )


def _in_pixels(values: list[float], subject: str, draft: Draft) -> bool:
    """Whether these are no parts of the size but pixels; that is refused."""
    if max(values) <= 2:  # noqa: PLR2004 - a part of 1 or a little more is told as what it is: out of the picture
        return False
    draft.refuse(
        f"{subject} has numbers above 1: they must be parts of the picture's width and height, not pixels",
        "Divide x and width by the picture's width, y and height by its height.",
    )
    return True
