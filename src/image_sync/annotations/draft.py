"""An annotation while its file is read: every object is checked, every mistake kept."""

from __future__ import annotations

from collections.abc import Sequence

from image_sync.annotations.fault import AnnotationError, Fault
from image_sync.annotations.figure import shown
from image_sync.annotations.label import label_of
from image_sync.domain import Annotation, Box
from image_sync.log import show_text

MOST_OBJECTS = 10_000
_MOST_CORNERS = 100_000
_OVERHANG = 1.0
"""Pixels by which tools that round, or count from 1, reach over the edge: that much is cut off without a word."""
_LEAST = 0.01
"""Pixels: whatever is narrower has no area."""
_FEWEST_CORNERS = 3
_MOST_FAULTS = 100
_LONGEST_SHOWN = 60
_REDRAW = "Draw it again, or delete it from the file."

Metric = tuple[float, float]


class Draft:
    """Gathers what is marked in one picture.

    Coordinates are those of the pixels as they are stored. A note in the picture that it be shown turned (EXIF
    orientation) is not followed, since no format says whether the labelling tool did; where the tool did, its sizes
    are the picture's the other way round, and :meth:`size` refuses them.

    Args:
        path: the annotation file; for messages.
        width, height: the picture's own, in pixels.
    """

    def __init__(self, path: bytes, width: int, height: int) -> None:
        self.path = path
        self.width = width
        self.height = height
        self._boxes: list[Box] = []
        self._faults: list[Fault] = []
        self._corners = 0

    def refuse(self, text: str, hint: str) -> None:
        """Note a mistake; reading may go on to find more."""
        if len(self._faults) < _MOST_FAULTS:
            self._faults.append(Fault(text, hint))

    def size(self, width: float | None, height: float | None) -> None:
        """Compare the size that the file gives with the picture's; nothing and 0 mean that it gives none."""
        if not width or not height or (width, height) == (self.width, self.height):
            return
        made_for = f"it was made for a picture of {shown(width)} x {shown(height)} pixels"
        if (height, width) == (self.width, self.height):
            hint = (
                "The labelling tool has followed the picture's note to be shown turned (EXIF orientation): "
                "save the picture turned for good, and label it again."
            )
        else:
            hint = "Label the picture again, or put the picture back that was labelled: boxes are not rescaled."
        self.refuse(f"{made_for}, and the picture has {self.width} x {self.height}", hint)

    def object(
        self,
        where: str,
        label: object,
        corners: tuple[float, float, float, float],
        polygon: Sequence[Metric] = (),
        *,
        difficult: bool = False,
    ) -> None:
        """Add one object.

        Args:
            where: what it is called in the file, such as "object 3".
            corners: left, top, right, bottom in pixels.
        """
        try:
            name = label_of(label)
        except ValueError as error:
            self.refuse(f"{where}: its name {error}", "Give it a name of printable characters.")
            return
        subject = called(where, name)
        if not self._room(len(polygon)):
            return
        left, top, right, bottom = corners
        outside = [(left, top), (right, bottom), *polygon]
        if not all(self._inside(point) for point in outside):
            figures = _figures(corners)
            what = "the outline of " if self._inside((left, top)) and self._inside((right, bottom)) else ""
            self.refuse(
                f"{what}{subject} reaches out of the picture, which has {self.width} x {self.height} pixels: {figures}",
                f"{_REDRAW} If all are wrong: does the file belong to this picture?",
            )
            return
        (left, top), (right, bottom) = self._clipped((left, top)), self._clipped((right, bottom))
        if right - left < _LEAST or bottom - top < _LEAST:
            self.refuse(f"{subject} has no area: {_figures((left, top, right, bottom))}", _REDRAW)
            return
        outline = tuple(map(self._clipped, polygon))
        if outline and len(set(outline)) < _FEWEST_CORNERS:
            self.refuse(f"the outline of {subject} has fewer than {_FEWEST_CORNERS} corners", _REDRAW)
            return
        self._boxes.append(Box(name, left, top, right, bottom, outline, difficult))

    def finish(self) -> Annotation:
        """The annotation. Raises :class:`AnnotationError` with everything that was refused."""
        if self._faults:
            raise AnnotationError(self.path, self._faults)
        return Annotation(self.width, self.height, tuple(self._boxes))

    def _room(self, corners: int) -> bool:
        self._corners += corners
        if len(self._boxes) < MOST_OBJECTS and self._corners <= _MOST_CORNERS:
            return True
        text = f"it marks more than {MOST_OBJECTS:,} objects, or outlines of more than {_MOST_CORNERS:,} corners"
        if not any(fault.text == text for fault in self._faults):
            self._faults.insert(0, Fault(text, "Is this the right file? One picture hardly holds that many."))
        return False

    def _inside(self, point: Metric) -> bool:
        x, y = point
        return -_OVERHANG <= x <= self.width + _OVERHANG and -_OVERHANG <= y <= self.height + _OVERHANG

    def _clipped(self, point: Metric) -> Metric:
        x, y = point
        return min(max(x, 0.0), float(self.width)), min(max(y, 0.0), float(self.height))


def _figures(corners: tuple[float, float, float, float]) -> str:
    names = ("left", "top", "right", "bottom")
    return ", ".join(f"{name} {shown(value)}" for name, value in zip(names, corners, strict=True))


def called(where: str, label: object) -> str:
    """An object as messages name it: ``object 3 ('scratch')``."""
    if not isinstance(label, str) or not label.strip():
        return where
    name = show_text(label.strip())
    return f"{where} ('{name if len(name) <= _LONGEST_SHOWN else name[:_LONGEST_SHOWN] + '...'}')"


def around(polygon: Sequence[Metric]) -> tuple[float, float, float, float]:
    """The smallest box that holds an outline of one corner or more: left, top, right, bottom."""
    xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
    return min(xs), min(ys), max(xs), max(ys)
