"""What the readers share: JSON within bounds, numbers, labels, and the check of every object with all its mistakes.

The readers are our own, since no library says "object 3 reaches out of the picture", and a bad file must not take more
memory than its size allows.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from image_sync.domain import Annotation, Box
from image_sync.errors import PictureError
from image_sync.log import show_path, show_text

MOST_OBJECTS = 10_000
LONGEST_LABEL = 200
"""Characters; the same as for names of categories and datasets."""
_MOST_CORNERS = 100_000
_FEWEST_CORNERS = 3
_OVERHANG = 1.0
"""Pixels by which tools that round, or count from 1, reach over the edge: that much is cut off without a word."""
_LEAST = 0.01
"""Pixels: whatever is narrower has no area."""
_MOST_FAULTS = 100
_LONGEST_SHOWN = 60
_REDRAW = "Draw it again, or delete it from the file."

_LARGEST_NUMBER = 1e9
_LONGEST_NUMBER = 60
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")

_MOST_BRACKETS = 1_000_000
_MOST_VALUES = 12_000_000
_WINDOWS = (4 << 10, 128 << 10, 4 << 20)
"""Characters that are looked at for one JSON value; no object that a person draws takes more than the last."""
_SPACE = re.compile(r"[ \t\n\r]*")
_SAVE_AGAIN = "Export it again, or restore it from a copy."

Point = tuple[float, float]
Corners = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake in a file.

    Attributes:
        text: one clause without full stop; it names the object, as in "object 3 ('scratch') has no area".
        hint: what to do, one sentence.
    """

    text: str
    hint: str


class AnnotationError(PictureError):
    """An annotation file cannot be used; ``faults`` holds every mistake that was found in it, at least one."""

    def __init__(self, path: bytes, *faults: Fault) -> None:
        more = f" (and {len(faults) - 1} more in this file)" if len(faults) > 1 else ""
        super().__init__(f"{show_path(path)}: {faults[0].text}{more}", hint=faults[0].hint)
        self.path = path
        self.faults = faults


SOMETHING_ELSE = "Is it something else that has the picture's name? Then move it away."
RIGHT_FILE = "Is this the right file? One picture hardly holds that many objects."
_TOO_MUCH = Fault(
    f"it holds too much: more than {_MOST_BRACKETS:,} lists and objects, {_MOST_VALUES:,} values, or {_WINDOWS[-1]:,} "
    "characters in one object",
    "Split it: one file for each folder.",
)


def label_of(text: object) -> str:
    """The label in Unicode's composed form, without spaces around it.

    Raises:
        ValueError: it cannot be a label; the text continues a sentence that begins with "its name".
    """
    if not isinstance(text, str):
        raise ValueError("is not text" if text is not None else "is missing")  # noqa: TRY004 - one error for all
    name = unicodedata.normalize("NFC", text.strip())
    if not name:
        raise ValueError("is empty")
    for char in name:
        if not char.isprintable():
            raise ValueError(f"holds the character U+{ord(char):04X}, which cannot be printed")
    if len(name) > LONGEST_LABEL:
        raise ValueError(f"has {len(name)} characters, and {LONGEST_LABEL} is the limit")
    return name


def number_of(value: object) -> float | None:
    """The number that a JSON value is; None for anything else, and for numbers that no picture can have."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) <= _LARGEST_NUMBER else None


def whole_of(value: object) -> int | None:
    """The whole number that a JSON value is, also when it was written as 3.0; None for anything else."""
    number = number_of(value)
    return int(number) if number is not None and number == int(number) else None


def number_in(text: str | None) -> float | None:
    """The number that a text says; None for anything else."""
    text = (text or "").strip()
    return number_of(float(text)) if len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text) else None


def shown(number: float) -> str:
    """A coordinate as a person reads it, and as it is written: at most six decimals, none where they are zero."""
    text = f"{number:.6f}".rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


def called(where: str, label: object) -> str:
    """An object as messages name it: ``object 3 ('scratch')``."""
    if not isinstance(label, str) or not label.strip():
        return where
    name = show_text(label.strip())
    return f"{where} ('{name if len(name) <= _LONGEST_SHOWN else name[:_LONGEST_SHOWN] + '...'}')"


def around(polygon: Sequence[Point]) -> Corners:
    """The smallest box that holds an outline of one corner or more."""
    xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
    return min(xs), min(ys), max(xs), max(ys)


class Draft:
    """The annotation of one picture while its file is read: each object is checked, each mistake is kept.

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
        """Keep a mistake; reading may go on to find more."""
        if len(self._faults) < _MOST_FAULTS:
            self._faults.append(Fault(text, hint))

    def size(self, width: float | None, height: float | None) -> None:
        """Compare the size that the file gives with the picture's; None and 0 mean that it gives none."""
        if not width or not height or (width, height) == (self.width, self.height):
            return
        hint = "Label the picture again, or put the picture back that was labelled: boxes are not rescaled."
        if (height, width) == (self.width, self.height):
            hint = (
                "The labelling tool has followed the picture's note to be shown turned (EXIF orientation): "
                "save the picture turned for good, and label it again."
            )
        made_for = f"it was made for a picture of {shown(width)} x {shown(height)} pixels"
        self.refuse(f"{made_for}, and the picture has {self.width} x {self.height}", hint)

    def object(
        self, where: str, label: object, corners: Corners, polygon: Sequence[Point] = (), *, difficult: bool = False
    ) -> None:
        """Add one object; ``where`` is what it is called in the file, such as "object 3"."""
        try:
            name = label_of(label)
        except ValueError as error:
            self.refuse(f"{where}: its name {error}", "Give it a name of printable characters.")
            return
        subject = called(where, name)
        self._corners += len(polygon)
        if len(self._boxes) >= MOST_OBJECTS or self._corners > _MOST_CORNERS:
            text = f"it holds more than {MOST_OBJECTS:,} objects, or outlines of more than {_MOST_CORNERS:,} corners"
            if not any(fault.text == text for fault in self._faults):
                self._faults.insert(0, Fault(text, RIGHT_FILE))
            return
        left, top, right, bottom = corners
        box_inside = self._inside((left, top)) and self._inside((right, bottom))
        if not box_inside or not all(map(self._inside, polygon)):
            self.refuse(
                f"{'the outline of ' if box_inside else ''}{subject} reaches out of the picture, "
                f"which has {self.width} x {self.height} pixels: {_listed(corners)}",
                f"{_REDRAW} If all are wrong: does the file belong to this picture?",
            )
            return
        (left, top), (right, bottom) = self._clipped((left, top)), self._clipped((right, bottom))
        if right - left < _LEAST or bottom - top < _LEAST:
            self.refuse(f"{subject} has no area: {_listed((left, top, right, bottom))}", _REDRAW)
            return
        outline = tuple(map(self._clipped, polygon))
        if outline and len(set(outline)) < _FEWEST_CORNERS:
            self.refuse(f"the outline of {subject} has fewer than {_FEWEST_CORNERS} corners", _REDRAW)
            return
        self._boxes.append(Box(name, left, top, right, bottom, outline, difficult))

    def finish(self) -> Annotation:
        """The annotation. Raises :class:`AnnotationError` with everything that was refused."""
        if self._faults:
            raise AnnotationError(self.path, *self._faults)
        return Annotation(self.width, self.height, tuple(self._boxes))

    def _inside(self, point: Point) -> bool:
        x, y = point
        return -_OVERHANG <= x <= self.width + _OVERHANG and -_OVERHANG <= y <= self.height + _OVERHANG

    def _clipped(self, point: Point) -> Point:
        x, y = point
        return min(max(x, 0.0), float(self.width)), min(max(y, 0.0), float(self.height))


def _listed(corners: Corners) -> str:
    left, top, right, bottom = map(shown, corners)
    return f"left {left}, top {top}, right {right}, bottom {bottom}"


class JsonFile:
    """JSON that anybody may have written, read within bounds by the standard library's decoder.

    A file that is unpacked at once takes ten times its size and more, so the lists of a large one are read item by
    item. ijson, the library for that, sets no bound on a single item, gives no text of it to keep in place of its
    objects, and does not tell the line of a mistake.

    Raises:
        AnnotationError: it is not text, or would take too much memory. The methods raise it where it is not JSON, is
            nested too deeply, or holds NaN.
    """

    def __init__(self, data: bytes, path: bytes) -> None:
        # Counting is cheap, and bounds what a hostile file of the permitted size can take when it is unpacked.
        if data.count(b"{") + data.count(b"[") > _MOST_BRACKETS or data.count(b",") > _MOST_VALUES:
            raise AnnotationError(path, _TOO_MUCH)
        try:
            self._text = data.decode(json.detect_encoding(data), "surrogatepass")
        except UnicodeDecodeError:
            raise AnnotationError(path, Fault("it is not text", _SAVE_AGAIN)) from None
        self._path = path
        self._at = 0

    def whole(self) -> Any:
        """The document, unpacked at once."""
        found, _ = self._value((len(self._text),))
        self._end()
        return found

    def lists(self) -> Iterator[tuple[str, Iterator[tuple[Any, str]]]]:
        """The lists in a JSON object by their keys, each item with its JSON text; other values are passed over.

        Each list must be read before the next one is asked for. A document that is not an object has no lists.
        """
        if not self._takes("{"):
            self._value(_WINDOWS)
            self._end()
            return
        more = not self._takes("}")
        while more:
            self._skip_space()
            if not self._text.startswith('"', self._at):
                self._refuse("Expecting property name enclosed in double quotes")
            key, _ = self._value(_WINDOWS)
            if not self._takes(":"):
                self._refuse("Expecting ':' delimiter")
            if self._takes("["):
                items = self._items()
                yield key, items
                for _ in items:  # what the caller passed over must be JSON too
                    pass
            else:
                self._value(_WINDOWS)
            more = self._goes_on("}")
        self._end()

    def _items(self) -> Iterator[tuple[Any, str]]:
        more = not self._takes("]")
        while more:
            yield self._value(_WINDOWS)
            more = self._goes_on("]")

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _takes(self, sign: str) -> bool:
        self._skip_space()
        if not self._text.startswith(sign, self._at):
            return False
        self._at += 1
        return True

    def _goes_on(self, end: str) -> bool:
        if self._takes(end):
            return False
        if not self._takes(","):
            self._refuse("Expecting ',' delimiter")
        return True

    def _end(self) -> None:
        self._skip_space()
        if self._at < len(self._text):
            self._refuse("Extra data")

    def _value(self, windows: tuple[int, ...]) -> tuple[Any, str]:
        """The next value and its text, decoded from the smallest window that holds it."""
        self._skip_space()
        for window in windows:
            piece = self._text[self._at : self._at + window]
            try:
                found, end = _DECODER.raw_decode(piece)
            except json.JSONDecodeError as error:
                if self._at + len(piece) == len(self._text):
                    self._refuse(error.msg, error.pos)
            except RecursionError:
                fault = Fault("it is nested too deeply", "Is this the right file? No annotation is nested like that.")
                raise AnnotationError(self._path, fault) from None
            except ValueError as error:
                reason = str(error).partition(":")[0].partition(";")[0]
                raise AnnotationError(self._path, Fault(f"it is not JSON ({reason})", _SAVE_AGAIN)) from None
            else:
                self._at += end
                return found, piece[:end]
        raise AnnotationError(self._path, _TOO_MUCH)

    def _refuse(self, message: str, offset: int = 0) -> NoReturn:
        at = self._at + offset
        end = at >= len(self._text.rstrip()) or message.startswith("Unterminated string")
        what = "it is cut short" if end else f"it is not JSON (line {self._text.count(chr(10), 0, at) + 1})"
        raise AnnotationError(self._path, Fault(what, _SAVE_AGAIN)) from None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
