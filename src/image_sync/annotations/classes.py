"""The names of YOLO's classes: ``classes.txt``, ``obj.names`` or the key ``names`` of a YAML file."""

from __future__ import annotations

import re
from collections import Counter

from image_sync.annotations.fault import AnnotationError, Fault
from image_sync.annotations.label import label_of

LARGEST = 1 << 20
"""Bytes beyond which such a file is not read."""

_PLAIN = (b"classes.txt", b"obj.names", b"_darknet.labels")
_YAML = (b"data.yaml", b"data.yml")
_MOST = 10_000
_KEY = re.compile(r"names[ \t]*:(?:[ \t]+|$)")
_ITEM = re.compile(r"[ \t]*-(?:[ \t]+(.*))?$")
_MEMBER = re.compile(r"[ \t]*([0-9]{1,6})[ \t]*:(?:[ \t]+(.*))?$")
_QUOTED = r"""(?:"(?:[^"\\]|\\["\\])*+"|'(?:[^']|'')*+')"""
_ENTRY = re.compile(rf"""\s*+(?:([0-9]{{1,6}})\s*+:\s++)?+({_QUOTED}|[^,\[\]{{}}"'#][^,\[\]{{}}]*+)\s*+(?:,|$)""")
_SCALAR = re.compile(rf"""{_QUOTED}|[^\s\[\]{{}}"'#&*!|>%@`,:?-](?:(?!:\s|:$).)*+""")
_PIECE = re.compile(rf"""(?<![^\s,\[{{:]){_QUOTED}|(?<!\S)\#|[^"'#]++|.""")
_LOOK = "Write one name in each line of a file classes.txt beside the annotations, in the order of the class numbers."


def is_class_file(name: bytes) -> bool:
    """Whether a file of this name may hold names of classes."""
    lower = name.lower()
    return lower in _PLAIN or lower.endswith((b".yaml", b".yml"))


def by_rank(names: list[bytes]) -> list[bytes]:
    """The files of a folder that may hold names of classes, the plainest first."""
    order = {name: rank for rank, name in enumerate(_PLAIN + _YAML)}
    return sorted((name for name in names if is_class_file(name)), key=lambda name: (order.get(name.lower(), 99), name))


def names_in(data: bytes, path: bytes) -> tuple[str, ...] | None:
    """The names in a file, in the order of their numbers; None for a YAML file that has no key ``names``.

    Raises:
        AnnotationError: it holds no usable names.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _refusal(path, "it is not text in UTF-8") from None
    lines = text.splitlines()
    if path.lower().endswith((b".yaml", b".yml")):
        found = _in_yaml(lines, path)
        if found is None:
            return None
    else:
        found = [line.strip() for line in lines]
        while found and not found[-1]:
            found.pop()
    if not found or len(found) > _MOST:
        raise _refusal(path, f"it names {len(found):,} classes")
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
    return AnnotationError(path, [Fault(text, _LOOK)])


def _in_yaml(lines: list[str], path: bytes) -> list[str] | None:
    """The entries of the key ``names``: a list or a map of numbers, in brackets or line by line.

    That is all of YAML that such files use; anything else is refused, not guessed.
    """
    at = next((number for number, line in enumerate(lines) if _KEY.match(line)), None)
    if at is None:
        return None
    rest = _bare(_KEY.sub("", lines[at], count=1))
    entries = _in_brackets(rest, lines[at + 1 :]) if rest else _line_by_line(lines[at + 1 :])
    if entries is None or len({key is None for key, _ in entries}) > 1:
        raise _refusal(path, f"its key 'names' (line {at + 1}) is not a plain list of names")
    if entries and entries[0][0] is not None:
        if sorted(int(key or 0) for key, _ in entries) != list(range(len(entries))):
            raise _refusal(path, f"the numbers of its key 'names' (line {at + 1}) do not go from 0 without a gap")
        entries = sorted(entries, key=lambda entry: int(entry[0] or 0))
    names = [name for _, text in entries if (name := _plain(text)) is not None]
    if len(names) < len(entries):
        raise _refusal(path, f"its key 'names' (line {at + 1}) is not a plain list of names")
    return names


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
