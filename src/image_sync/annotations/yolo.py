"""YOLO: one text file for each picture, a line for each object, coordinates as parts of the picture's size.

The names of its classes stand in ``classes.txt``, ``obj.names`` or under the key ``names`` of a YAML file. Of YAML only
what such files use is read, by hand: a general reader would guess what a name is, and take time and memory without
bound.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from image_sync.annotations.checks import (
    RIGHT_FILE,
    SOMETHING_ELSE,
    AnnotationError,
    Draft,
    Fault,
    around,
    called,
    label_of,
    number_in,
)
from image_sync.annotations.folders import Folders
from image_sync.domain import Annotation, Box, Stamp
from image_sync.errors import PictureError
from image_sync.log import show_path

_BOX = 4
_WITH_CONFIDENCE = 5
_LEAST_OUTLINE = 6
_MOST_LINES = 20_000
_LONGEST_LINE = 1 << 20

_MOST_CLASSES = 10_000
_LARGEST_CLASS_FILE = 1 << 20
_KEPT_CLASS_FILES = 64
_WRITE_NAMES = (
    "Write one name in each line of a file classes.txt beside the annotations, in the order of the class numbers."
)

_KEY = re.compile(r"names[ \t]*:(?:[ \t]+|$)")
_ITEM = re.compile(r"[ \t]*-(?:[ \t]+(.*))?$")
_MEMBER = re.compile(r"[ \t]*([0-9]{1,6})[ \t]*:(?:[ \t]+(.*))?$")
_QUOTED = r"""(?:"(?:[^"\\]|\\["\\])*+"|'(?:[^']|'')*+')"""
_ENTRY = re.compile(rf"""\s*+(?:([0-9]{{1,6}})\s*+:\s++)?+({_QUOTED}|[^,\[\]{{}}"'#][^,\[\]{{}}]*+)\s*+(?:,|$)""")
_SCALAR = re.compile(rf"""{_QUOTED}|[^\s\[\]{{}}"'#&*!|>%@`,:?-](?:(?!:\s|:$).)*+""")
_PIECE = re.compile(rf"""(?<![^\s,\[{{:]){_QUOTED}|(?<!\S)\#|[^"'#]++|.""")


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
        raise AnnotationError(draft.path, Fault("it is not text", SOMETHING_ELSE)) from None
    lines = text.split("\n")
    if len(lines) > _MOST_LINES:
        raise AnnotationError(
            draft.path, Fault(f"it has {len(lines):,} lines, and {_MOST_LINES:,} is the limit", RIGHT_FILE)
        )
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
        draft.refuse(f"{where} has {len(line):,} characters, and {_LONGEST_LINE:,} is the limit", RIGHT_FILE)
        return
    values = [number_in(word) for word in line.split()]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        hint = f"A line must be: class x y width height. {SOMETHING_ELSE}"
        draft.refuse(f"{where} holds something that is not a number", hint)
        return
    number, *rest = known
    if number != int(number) or not 0 <= number < len(classes):
        draft.refuse(
            f"{where} has the class {number:g}, and the classes go from 0 to {len(classes) - 1}",
            "Add the missing names to the file with the names of the classes, in their order.",
        )
        return
    label = classes[int(number)]
    subject = called(where, label)
    outline = len(rest) >= _LEAST_OUTLINE and len(rest) % 2 == 0
    if len(rest) != _BOX and not outline:
        hint = "A line must be: class x y width height, or class and the corners of an outline, x and y of each."
        if len(rest) == _WITH_CONFIDENCE:
            hint = "Remove the last number (a confidence): what a model has guessed must be looked at first."
        draft.refuse(f"{subject} has {len(rest)} numbers after its class", hint)
    elif max(rest) > 2:  # noqa: PLR2004 - a part of 1 or a little more is told as what it is: out of the picture
        draft.refuse(
            f"{subject} has numbers above 1: they must be parts of the picture's width and height, not pixels",
            "Divide x and width by the picture's width, y and height by its height.",
        )
    elif outline:
        polygon = [(x * draft.width, y * draft.height) for x, y in zip(rest[::2], rest[1::2], strict=True)]
        draft.object(where, label, around(polygon), polygon)
    elif rest[2] < 0 or rest[3] < 0:
        draft.refuse(f"{subject} has a negative width or height", "Draw the box again.")
    else:
        x, y, width, height = rest
        left, top = (x - width / 2) * draft.width, (y - height / 2) * draft.height
        right, bottom = (x + width / 2) * draft.width, (y + height / 2) * draft.height
        draft.object(where, label, (left, top, right, bottom))


@dataclass(frozen=True, slots=True)
class Classes:
    """The names for the annotations of a folder, or why there are none.

    Attributes:
        stamps: of the files that they stand in.
    """

    names: tuple[str, ...] = ()
    stamps: tuple[Stamp, ...] = ()
    error: AnnotationError | None = None

    def names_for(self, path: bytes) -> tuple[str, ...]:
        """The names for an annotation file that is not empty. Raises :class:`AnnotationError`."""
        if self.error is not None:
            raise AnnotationError(self.error.path, *self.error.faults)
        if not self.names:
            raise AnnotationError(path, Fault("no file says what its classes are called", _WRITE_NAMES))
        return self.names


class ClassFiles:
    """Looks for names of classes beside the annotations, then in one folder above the other up to the root."""

    def __init__(self, folders: Folders, root: bytes) -> None:
        self._folders = folders
        self._root = root.rstrip(b"/")
        self._known: OrderedDict[bytes, tuple[Stamp, tuple[str, ...] | AnnotationError | None]] = OrderedDict()

    def nearest(self, folder: bytes) -> Classes:
        """The names for the annotations of this folder."""
        while True:
            if found := self._in(folder):
                return found
            if len(folder) <= len(self._root):
                return Classes()
            folder = folder.rpartition(b"/")[0]

    def _in(self, folder: bytes) -> Classes | None:
        """The names that the files of one folder give, which must agree."""
        found = []
        try:
            with self._folders.opened(folder) as (fd, listing):
                for name in listing.classes:
                    stamp = self._folders.stamp_at(fd, name)
                    path = folder + b"/" + name
                    if stamp and (names := self._names(path, stamp)) is not None:
                        found.append((path, stamp, names))
        except OSError:
            return None
        if not found:
            return None
        stamps = tuple(stamp for _, stamp, _ in found)
        first, _, agreed = found[0]
        for path, _, names in found:
            if isinstance(names, AnnotationError):
                return Classes(stamps=stamps, error=names)
            if names != agreed:
                text = f"it names other classes than {show_path(path)}, or in another order"
                return Classes(stamps=stamps, error=AnnotationError(first, Fault(text, "Keep one of the two files.")))
        return Classes(agreed if isinstance(agreed, tuple) else (), stamps)

    def _names(self, path: bytes, stamp: Stamp) -> tuple[str, ...] | AnnotationError | None:
        old = self._known.get(path)
        if old and old[0] == stamp:
            self._known.move_to_end(path)
            return old[1]
        names: tuple[str, ...] | AnnotationError | None
        try:
            names = names_in(self._folders.read(path, stamp, _LARGEST_CLASS_FILE), path)
        except AnnotationError as error:
            names = error
        except PictureError as error:  # not kept: it may pass
            return AnnotationError(path, Fault(error.what, error.hint))
        self._known[path] = stamp, names
        while len(self._known) > _KEPT_CLASS_FILES:
            self._known.popitem(last=False)
        return names


def names_in(data: bytes, path: bytes) -> tuple[str, ...] | None:
    """The names in a file, in the order of their numbers; None for a YAML file that has no key ``names``.

    Raises:
        AnnotationError: it holds no usable names.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise _refusal(path, "it is not text in UTF-8") from None
    if path.lower().endswith((b".yaml", b".yml")):
        found = _in_yaml(lines, path)
        if found is None:
            return None
    else:
        found = [line.strip() for line in lines]
        while found and not found[-1]:
            found.pop()
    if not found:
        raise _refusal(path, "it names no class")
    if len(found) > _MOST_CLASSES:
        raise _refusal(path, f"it names {len(found):,} classes, and {_MOST_CLASSES:,} is the limit")
    names: list[str] = []
    for number, text in enumerate(found):
        try:
            names.append(label_of(text))
        except ValueError as error:
            raise _refusal(path, f"class {number}: its name {error}") from None
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise _refusal(path, f"it names the class '{name}' twice")
    return tuple(names)


def _refusal(path: bytes, text: str) -> AnnotationError:
    return AnnotationError(path, Fault(text, _WRITE_NAMES))


def _in_yaml(lines: list[str], path: bytes) -> list[str] | None:
    """The entries of the key ``names``: a list or a map of numbers, in brackets or line by line."""
    at = next((number for number, line in enumerate(lines) if _KEY.match(line)), None)
    if at is None:
        return None
    rest = _bare(_KEY.sub("", lines[at], count=1))
    entries = _in_brackets(rest, lines[at + 1 :]) if rest else _line_by_line(lines[at + 1 :])
    names = [_plain(text) for _, text in entries or ()]
    known = [name for name in names if name is not None]
    if entries is None or len({key is None for key, _ in entries}) > 1 or len(known) < len(names):
        raise _refusal(path, f"its key 'names' (line {at + 1}) is not a plain list of names")
    numbers = [int(key) for key, _ in entries if key is not None]
    if not numbers:
        return known
    if sorted(numbers) != list(range(len(numbers))):
        raise _refusal(path, f"the numbers of its key 'names' (line {at + 1}) do not go from 0 without a gap")
    return [name for _, name in sorted(zip(numbers, known, strict=True))]


def _line_by_line(lines: list[str]) -> list[tuple[str | None, str]] | None:
    entries: list[tuple[str | None, str]] = []
    for line in map(_bare, lines):
        if not line:
            continue
        if item := _ITEM.match(line):
            entries.append((None, item[1] or ""))
        elif line[0] in " \t" and (member := _MEMBER.match(line)):
            entries.append((member[1], member[2] or ""))
        elif line[0] in " \t":
            return None
        else:
            break  # the next key
    return entries


def _in_brackets(begin: str, further: list[str]) -> list[tuple[str | None, str]] | None:
    closing = {"[": "]", "{": "}"}.get(begin[0])
    if closing is None:
        return None
    parts = [begin[1:]]
    for line in further:
        if parts[-1].endswith(closing):
            break
        if bare := _bare(line):
            parts.append(bare)
    if not parts[-1].endswith(closing):
        return None
    text, at = " ".join(parts)[:-1].strip(), 0
    entries: list[tuple[str | None, str]] = []
    while at < len(text):
        entry = _ENTRY.match(text, at)
        if not entry or (entry[1] is None) != (closing == "]"):
            return None
        entries.append((entry[1], entry[2]))
        at = entry.end()
    return entries


def _bare(line: str) -> str:
    """The line without a comment: from a # at its beginning or behind a space, outside quotation marks."""
    for piece in _PIECE.finditer(line):
        if piece[0] == "#" and not line[: piece.start()][-1:].strip():
            return line[: piece.start()].rstrip()
    return line.rstrip()


def _plain(text: str) -> str | None:
    """The name that a text stands for, without its quotation marks; None for what is more than a plain name."""
    text = text.strip()
    if not _SCALAR.fullmatch(text):
        return None
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] == '"' else text
