"""The names of YOLO's classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_sync.annotations import AnnotationError
from image_sync.annotations.yolo import names_in
from support.annotations import PICTURE, put, read

YOLO = "1 .5 .5 .2 .2\n"


@pytest.mark.parametrize(
    "text",
    [
        "names: [good, scratch]",
        "names: ['good', \"scratch\"]  # two",
        "# a comment\ntrain: x\nnames:\n  - good\n  # between\n  - 'scratch'\nnc: 2\n",
        "names:\n- good\n- scratch\nnc: 2\n",
        "names:\n  0: good\n  1: scratch\n\nval: y",
        "names:\n  1: scratch\n  0: good\n",
        "names: {0: good, 1: 'scratch'}\n",
        "nc: 2\nnames: [ good,\n  scratch ,\n ]\ntest: z\n",
        "names: [good, # the first\n        scratch]\n",
        "\ufeffnames: [good, scratch]\r\n",
    ],
)
def test_names_are_read_from_yaml(text: str) -> None:
    """Lists and maps, in brackets or line by line, as tools write them."""
    assert names_in(text.encode(), b"/data.yaml") == ("good", "scratch")


def test_names_in_quotation_marks_may_hold_anything(tmp_path: Path) -> None:
    """Commas, brackets, # and quotation marks are part of a quoted name."""
    text = """names: ["a, b", 'it''s #1', "c \\"d\\" [e]", plain words]"""

    assert names_in(text.encode(), b"/data.yaml") == ("a, b", "it's #1", 'c "d" [e]', "plain words")


def test_yaml_without_names_is_something_else() -> None:
    """Such a file is no fault and no help."""
    assert names_in(b"services:\n  names: [a]\n", b"/docker-compose.yml") is None


@pytest.mark.parametrize(
    "text",
    [
        "names: good",
        "names: [good, [scratch]]",
        "names: [good",
        "names: [good, {a: b}]",
        "names: {good, scratch}",
        "names:\n  good: 0\n",
        "names:\n  0: good\n  2: scratch\n",
        "names:\n  0: good\n  - scratch\n",
        "names: &anchor [good]",
        "names: [*anchor]",
        "names:\n  - &a good\n",
        "names:\n  - key: value\n",
        "names:\n  - |\n    good\n",
        "names: []",
        "names:\n",
        "names: [a, a]",
        'names: ["a\\x1b"]\nx: \x1b',
        "names: [" + " " * 500_000 + "[",
        'names: ["' + "a" * 500_000,
        "names:\n" + "  - a\n" * 20_000,
    ],
)
def test_yaml_that_is_not_plain_is_refused(text: str) -> None:
    """Nothing is guessed, and the message says what to write instead."""
    with pytest.raises(AnnotationError, match=r"classes\.txt"):
        print(names_in(text.encode(), b"/data.yaml"))


@pytest.mark.parametrize("data", [b"", b"\n\n", b"a\n\nb\n", b"a\na\n", b"\xff\xfe", b"a\n" + b"x" * 300])
def test_a_list_of_names_has_a_name_in_each_line(data: bytes) -> None:
    """A blank line between names would shift all numbers behind it."""
    with pytest.raises(AnnotationError, match=r"/classes\.txt"):
        names_in(data, b"/classes.txt")


@pytest.mark.parametrize("name", ["classes.txt", "obj.names", "_darknet.labels", "Classes.TXT"])
def test_lists_of_names_are_found(tmp_path: Path, name: str) -> None:
    """Under each name that tools use, beside the annotations or anywhere above up to the root."""
    put(tmp_path, {"s/images/x.jpg": PICTURE, "s/labels/x.txt": YOLO, name: "good\nscratch\n"})

    assert read(tmp_path, "s/images").boxes[0].label == "scratch"


def test_the_nearest_names_count(tmp_path: Path) -> None:
    """A list farther up is not looked at; a YAML file without names is passed by."""
    put(tmp_path, {"classes.txt": "a\nb", "s/classes.txt": "good\nscratch", "s/p/conf.yaml": "x: 1"})
    put(tmp_path, {"s/p/x.jpg": PICTURE, "s/p/x.txt": YOLO})

    assert read(tmp_path, "s/p").boxes[0].label == "scratch"


def test_two_lists_that_differ_are_refused(tmp_path: Path) -> None:
    """The same names in two files are no matter; another order would change every label."""
    put(
        tmp_path,
        {"x.jpg": PICTURE, "x.txt": YOLO, "classes.txt": "good\nscratch", "data.yaml": "names: [good, scratch]"},
    )
    assert read(tmp_path).boxes[0].label == "scratch"
    put(tmp_path, {"data.yaml": "names: [scratch, good]"})

    with pytest.raises(AnnotationError, match="names other classes than"):
        read(tmp_path)


def test_an_empty_file_needs_no_names(tmp_path: Path) -> None:
    """A picture that shows none of the objects is annotated, whatever they are called."""
    put(tmp_path, {"x.jpg": PICTURE, "x.txt": "\n"})

    assert read(tmp_path).boxes == ()


def test_a_broken_list_is_told_for_each_picture(tmp_path: Path) -> None:
    """The file at fault is the list, not the picture's annotation."""
    put(tmp_path, {"x.jpg": PICTURE, "x.txt": YOLO, "classes.txt": "a\na"})

    with pytest.raises(AnnotationError, match=r"classes\.txt: it names the class 'a' twice"):
        read(tmp_path)
