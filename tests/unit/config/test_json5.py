"""The lenient reader: what it takes, where it says things stand, and what it says of mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from image_sync.config.json5 import Position, read

VALUES: list[tuple[str, Any]] = [
    ('{"a": [1, -2, 3.5, 1e3, true, false, null, "x"]}', {"a": [1, -2, 3.5, 1000.0, True, False, None, "x"]}),
    ("{a: 1, $b_2: 2, 'c d': 3}", {"a": 1, "$b_2": 2, "c d": 3}),
    ("[1, 2,]", [1, 2]),
    ("{'a': 'it\\'s',}", {"a": "it's"}),
    ("// one\n/* two\n*/ {} // three", {}),
    ("[+1, .5, 5., 0x1F, -0x10]", [1, 0.5, 5.0, 31, -16]),
    (r'"\u00fc\x41\n\t\\\/\"\'\0"', "üA\n\t\\/\"'\0"),
    (r'"\ud83d\ude00"', "\N{GRINNING FACE}"),
    (r'"\ud83d"', "\ud83d"),
    ('"one \\\ntwo"', "one two"),
    ("\ufeff\u00a0{ }\u2003", {}),
    ('{\r\n"a":\r1\r\n}', {"a": 1}),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_what_people_write_is_read(text: str, value: Any) -> None:
    """JSON, and JSON as it is written by hand: comments, commas, quotes and numbers of JSON5."""
    document = read(text)

    assert document.flaws == ()
    assert document.value == value


def test_every_key_and_item_has_a_place() -> None:
    """Line and column count from 1, whatever ends the lines."""
    places = read('{\r\n  "a": {"b": 1},\r  c: [\n10, {"d": 2}]\n}').positions

    assert places == {
        ("a",): Position(2, 3),
        ("a", "b"): Position(2, 9),
        ("c",): Position(3, 3),
        ("c", 0): Position(4, 1),
        ("c", 1): Position(4, 5),
        ("c", 1, "d"): Position(4, 6),
    }


BROKEN = [
    ("", (1, 1), "the file is empty"),
    ("  // nothing\n", (2, 1), "the file is empty"),
    ("{", (1, 1), "this { has no }"),
    ('{"a": [1, 2', (1, 7), "this [ has no ]"),
    ('{"a"}', (1, 5), "} stands where a colon after the key is expected"),
    ('{"a": }', (1, 7), "a value is missing before this }"),
    ('{"a": 1,, "b": 2}', (1, 9), ", stands where a key"),
    ('{"a": 1]', (1, 8), "] stands where a comma or } is expected"),
    ('{"a": 1}}', (1, 9), "there is text after the end"),
    ('{"a": "x}', (1, 7), 'this text has no closing " in its line'),
    ('{"a": "x\n"}', (1, 7), 'this text has no closing " in its line'),
    ("{'a': 'x\"}", (1, 7), "this text has no closing ' in its line"),
    ('{"a": /* x', (1, 7), "this comment has no end"),
    ('{"a": /x', (1, 7), "a comment is written //"),
    ("{# x\n}", (1, 2), "a comment begins with //"),
    ('{"a": True}', (1, 7), "write true"),
    ('{"a": None}', (1, 7), "write null"),
    ('{"a": yes}', (1, 7), "write true"),
    ('{"a": hello}', (1, 7), "a text must stand in quotation marks"),
    ('{"a": <url>}', (1, 7), "replace the placeholder by a value in quotes"),
    ("{\N{LEFT DOUBLE QUOTATION MARK}a\N{RIGHT DOUBLE QUOTATION MARK}: 1}", (1, 2), "straight quotation mark"),
    ('{"a": 1_000}', (1, 7), "1 stands where a value is expected"),
    ('{"a": \x07}', (1, 7), "\\x07 stands where"),
    ("{1: 2}", (1, 2), "1 stands where a key"),
]


@pytest.mark.parametrize(("text", "place", "expected"), BROKEN)
def test_mistakes_without_a_plain_meaning_end_the_reading(text: str, place: tuple[int, int], expected: str) -> None:
    """The place is that of the mistake, and the sentence says what to write instead."""
    document = read(text)

    assert document.broken
    assert (document.flaws[-1].position.line, document.flaws[-1].position.column) == place
    assert expected in document.flaws[-1].text


GOES_ON: list[tuple[str, tuple[int, int], str, Any]] = [
    ('{"a": 1\n "b": 2}', (1, 8), "a comma is missing here", {"a": 1, "b": 2}),
    ('["a"\n\n "b" // x\n]', (1, 5), "a comma is missing here", ["a", "b"]),
    ("[{}\n{}]", (1, 4), "a comma is missing here", [{}, {}]),
    ('{"a": 1, "a": 2}', (1, 10), "given twice, first in line 1", {"a": 1}),
    ('{"a": NaN}', (1, 7), "NaN is not a number", {"a": 0}),
    ('{"a": -Infinity}', (1, 7), "-Infinity is not a number", {"a": 0}),
    ('{"a": 1e999}', (1, 7), "too large", {"a": 0}),
    ('{"a": 007}', (1, 7), "without the leading zero", {"a": 0}),
    (f'{{"a": {"9" * 101}}}', (1, 7), "has 101 characters", {"a": 0}),
    ('{"a": "C:\\Users"}', (1, 10), "write \\\\ for a backslash", {"a": "C:Users"}),
    ('{"a": "\\u12"}', (1, 8), "does not begin a known escape", {"a": "u12"}),
]


@pytest.mark.parametrize(("text", "place", "expected", "value"), GOES_ON)
def test_reading_goes_on_where_the_meaning_is_plain(
    text: str, place: tuple[int, int], expected: str, value: Any
) -> None:
    """One mistake does not hide the next: the rest is still read."""
    document = read(text)

    assert not document.broken
    assert [(flaw.position.line, flaw.position.column) for flaw in document.flaws] == [place]
    assert expected in document.flaws[0].text
    assert document.value == value


def test_a_large_file_is_read_in_a_moment() -> None:
    """Reading takes time in proportion to the length, also for nothing but white space, comments or quotes."""
    for piece in ('{"a": [1, "x"]},', " ", "/**/", "'',", "//\n", "\\", '"\\u0041",'):
        assert read("[" + piece * (256 * 1024 // len(piece)) + "]").positions is not None
