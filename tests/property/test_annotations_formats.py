"""Whatever is marked survives every format, and whatever stands in a file is an annotation or a clear refusal."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_sync.annotations import AnnotationError, Format, coco, sagemaker, voc, yolo
from image_sync.annotations.checks import Draft, label_of
from image_sync.annotations.yolo import names_in
from image_sync.domain import Annotation, Box
from support.annotations import HEIGHT, SCRATCH, WIDTH, voc_object
from support.annotations import coco as coco_text
from support.annotations import sagemaker as sagemaker_text
from support.annotations import voc as voc_text

PATH = b"/set/file"
CLASSES = ("scratch", "spot")


def usable(text: str) -> bool:
    try:
        return label_of(text) == text
    except ValueError:
        return False


LABELS = st.text(
    st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" _-&<>\"'\u00fc"), min_size=1, max_size=12
)
SIZES = st.integers(2, 6000)


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int) -> Box:
    label = draw(LABELS.filter(usable))
    part = st.floats(0, 1)

    def span(size: int) -> tuple[float, float]:
        first, second = sorted((draw(part) * size, draw(part) * size))
        return (first, second) if second - first >= 1 else (min(first, size - 1.0), min(first, size - 1.0) + 1)

    (left, right), (top, bottom) = span(width), span(height)
    inner = st.tuples(st.floats(left, right), st.floats(top, bottom))
    corners = draw(st.lists(inner, max_size=4))
    # An outline touches its box, as outlines do.
    polygon = ((left, top), *corners, (right, top), (right, bottom)) if corners else ()
    return Box(label, left, top, right, bottom, polygon, draw(st.booleans()))


@st.composite
def marked_pictures(draw: st.DrawFn) -> Annotation:
    width, height = draw(SIZES), draw(SIZES)
    return Annotation(width, height, tuple(draw(st.lists(boxes(width, height), max_size=5))))


def classes_of(annotation: Annotation) -> dict[str, int]:
    return {label: number for number, label in enumerate(sorted({box.label for box in annotation.boxes}))}


def through_voc(annotation: Annotation, *, one_based: bool = False) -> Annotation:
    data = voc.write(annotation, "x.jpg", one_based=one_based)
    return voc.read(data, Draft(PATH, annotation.width, annotation.height), one_based=one_based)


def through_coco(annotation: Annotation) -> Annotation:
    file = coco.parse(coco.write([("x.jpg", annotation)], classes_of(annotation)), PATH)
    assert file is not None
    return file.read(file.pictures["x.jpg"][0], annotation.width, annotation.height)


def through_yolo(annotation: Annotation) -> Annotation:
    classes = classes_of(annotation)
    return yolo.read(yolo.write(annotation, classes), Draft(PATH, annotation.width, annotation.height), list(classes))


def through_sagemaker(annotation: Annotation) -> Annotation:
    data = sagemaker.write(annotation, "x.jpg", classes_of(annotation))
    return sagemaker.read(data, Draft(PATH, annotation.width, annotation.height))


WAYS: dict[Format, Callable[[Annotation], Annotation]] = {
    Format.VOC: through_voc,
    Format.COCO: through_coco,
    Format.YOLO: through_yolo,
    Format.SAGEMAKER: through_sagemaker,
}
TOLERANCE = {Format.VOC: 1e-5, Format.COCO: 1e-6, Format.YOLO: 1e-4, Format.SAGEMAKER: 1.0}
KEEPS_OUTLINES = {Format.VOC, Format.COCO, Format.YOLO}
KEEPS_DIFFICULT = {Format.VOC, Format.COCO}


def corners(box: Box) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom


def assert_same(before: Annotation, after: Annotation, formats: tuple[Format, ...]) -> None:
    """Both mark the same, as far as these formats can hold it."""
    # Whole pixels may move each side outward by almost one.
    tolerance = 1.01 if Format.SAGEMAKER in formats else sum(TOLERANCE[form] for form in formats)
    assert (after.width, after.height) == (before.width, before.height)
    assert [box.label for box in after.boxes] == [box.label for box in before.boxes]
    for old, new in zip(before.boxes, after.boxes, strict=True):
        assert corners(new) == pytest.approx(corners(old), abs=tolerance)
        assert 0 <= new.left < new.right <= after.width
        assert 0 <= new.top < new.bottom <= after.height
        if KEEPS_DIFFICULT.issuperset(formats):
            assert new.difficult == old.difficult
        if KEEPS_OUTLINES.issuperset(formats):
            assert len(new.polygon) == len(old.polygon)
            for one, other in zip(new.polygon, old.polygon, strict=True):
                assert one == pytest.approx(other, abs=tolerance)


@given(marked_pictures())
def test_what_is_marked_survives_a_format(annotation: Annotation) -> None:
    """Written and read again, labels, boxes and outlines are the same but for the rounding of the format."""
    for form, way in WAYS.items():
        assert_same(annotation, way(annotation), (form,))


@given(marked_pictures())
def test_counting_from_1_comes_back(annotation: Annotation) -> None:
    """Pascal VOC files written in the original way of counting are read in it."""
    assert_same(annotation, through_voc(annotation, one_based=True), (Format.VOC,))


@given(marked_pictures())
def test_what_is_marked_survives_two_formats(annotation: Annotation) -> None:
    """From any format to any other."""
    once = {form: way(annotation) for form, way in WAYS.items()}
    for first, second in itertools.permutations(Format, 2):
        assert_same(annotation, WAYS[second](once[first]), (first, second))


@given(marked_pictures())
def test_whole_pixels_stay(annotation: Annotation) -> None:
    """What has been through SageMaker's whole pixels once is not moved by a second time, or by any other format."""
    whole = through_sagemaker(annotation)

    for way in WAYS.values():
        assert way(whole).to_text() == whole.to_text()


@given(marked_pictures())
def test_the_canonical_text_comes_back(annotation: Annotation) -> None:
    """Text to annotation to text changes nothing, whatever the order of the objects."""
    text = annotation.to_text()
    turned = Annotation(annotation.width, annotation.height, annotation.boxes[::-1])

    assert text.isascii()
    assert "\n" not in text
    assert Annotation.from_text(text).to_text() == text == turned.to_text()
    assert len(Annotation.from_text(text).boxes) == len(annotation.boxes)


def read_voc(data: bytes) -> Annotation:
    return voc.read(data, Draft(PATH, WIDTH, HEIGHT))


def read_coco(data: bytes) -> Annotation | None:
    file = coco.parse(data, PATH)
    if file is None:
        return None
    listed = [one for group in file.pictures.values() for one in group]
    found = [file.read(one, WIDTH, HEIGHT) for one in listed]
    return found[0] if found else None


def read_yolo(data: bytes) -> Annotation:
    return yolo.read(data, Draft(PATH, WIDTH, HEIGHT), CLASSES)


def read_sagemaker(data: bytes) -> Annotation:
    return sagemaker.read(data, Draft(PATH, WIDTH, HEIGHT))


OUTLINED = Annotation(
    WIDTH, HEIGHT, (SCRATCH, Box("spot", 1, 2, 9, 8.5, ((1.0, 2.0), (9.0, 2.0), (9.0, 8.5)), difficult=True))
)
NUMBERS = {"scratch": 0, "spot": 1}
READERS: dict[str, tuple[Callable[[bytes], Annotation | None], list[bytes]]] = {
    "voc": (read_voc, [voc.write(OUTLINED, "x.jpg"), voc_text(voc_object("\u00fc &amp; &#228;")).encode()]),
    "coco": (read_coco, [coco.write([("x.jpg", OUTLINED)], NUMBERS), coco_text("x.jpg").encode("utf-8-sig")]),
    "yolo": (read_yolo, [yolo.write(OUTLINED, NUMBERS)]),
    "sagemaker": (read_sagemaker, [sagemaker.write(OUTLINED, "x.jpg", NUMBERS), sagemaker_text().encode()]),
}


def assert_harmless(read: Callable[[bytes], Annotation | None], data: bytes) -> Annotation | None:
    """What the bytes mean, None when they are refused; anything but a sound annotation and an error fails the test."""
    try:
        found = read(data)
    except AnnotationError as error:
        refusal = error
    else:
        sound(found)
        return found
    assert str(refusal).isprintable()
    assert len(str(refusal)) < 1000
    assert all(fault.text and fault.hint for fault in refusal.faults)
    return None


def sound(found: Annotation | None) -> None:
    """Every object lies in the picture and has a name."""
    for box in found.boxes if found else ():
        assert box.label
        assert box.label.isprintable()
        for x, y in ((box.left, box.top), (box.right, box.bottom), *box.polygon):
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT
        assert box.left < box.right
        assert box.top < box.bottom


@pytest.mark.parametrize("kind", READERS)
def test_the_files_that_are_broken_here_are_whole(kind: str) -> None:
    """The tests below begin from files that can be used."""
    read, files = READERS[kind]

    assert all(assert_harmless(read, data) for data in files)


@pytest.mark.parametrize("kind", READERS)
def test_every_prefix_is_used_or_refused(kind: str) -> None:
    """A file that was cut short anywhere has no other outcome; one of XML or JSON is refused."""
    read, files = READERS[kind]

    for data in files:
        for length in range(len(data.rstrip())):
            assert assert_harmless(read, data[:length]) is None or kind == "yolo"


@pytest.mark.parametrize("kind", READERS)
def test_single_changed_bytes_do_no_harm(kind: str) -> None:
    """1,500 files with one byte changed, added or left out: each is used or refused."""
    read, files = READERS[kind]
    dice = random.Random(4711)

    for _ in range(1500):
        data = dice.choice(files)
        at = dice.randrange(len(data))
        byte = bytes([dice.randrange(256)])
        assert_harmless(read, data[:at] + dice.choice([byte, b"", byte + data[at : at + 1]]) + data[at + 1 :])


@pytest.mark.parametrize("kind", READERS)
def test_pieces_in_another_order_do_no_harm(kind: str) -> None:
    """500 files of which a piece was taken out, doubled or moved."""
    read, files = READERS[kind]
    dice = random.Random(4711)

    for _ in range(500):
        data = dice.choice(files)
        one, two, three = sorted(dice.randrange(len(data)) for _ in range(3))
        a, b, c, d = data[:one], data[one:two], data[two:three], data[three:]
        assert_harmless(read, dice.choice([a + c + d, a + b + b + c + d, a + c + b + d]))


@pytest.mark.parametrize("kind", READERS)
@given(data=st.binary(max_size=300))
def test_random_bytes_do_no_harm(kind: str, data: bytes) -> None:
    """Random bytes are used or refused."""
    assert_harmless(READERS[kind][0], data)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def changed(text: str, place: tuple[str | int, ...], value: object) -> bytes:
    document = {"whole": json.loads(text)}
    holder, key = document, "whole"
    for step in place:
        holder, key = holder[key], step  # type: ignore[assignment]
    holder[key] = value
    return json.dumps(document["whole"]).encode()


@pytest.mark.parametrize("kind", ["coco", "sagemaker"])
@given(draw=st.data())
def test_any_value_in_any_place_does_no_harm(kind: str, draw: st.DataObject) -> None:
    """Whatever stands where in a JSON file, it is used or refused."""
    read, files = READERS[kind]
    text = files[0].decode()
    place = draw.draw(st.sampled_from(places(json.loads(text))))

    assert_harmless(read, changed(text, place, draw.draw(ANYTHING)))


@given(st.text(alphabet="names:[]{}, -'\"#\\\n\t01ab&*", max_size=80))
def test_random_yaml_does_no_harm(text: str) -> None:
    """Whatever follows the key, it is names or a refusal."""
    try:
        names = names_in(f"names: {text}".encode(), b"/data.yaml")
    except AnnotationError:
        return
    assert names
    assert all(usable(name) for name in names)


@given(st.lists(LABELS.filter(usable), min_size=1, max_size=6, unique=True), st.booleans())
def test_quoted_names_come_back_from_yaml(names: list[str], in_brackets: bool) -> None:
    """Any names in quotation marks are read as they were written."""
    quoted = ["'" + name.replace("'", "''") + "'" for name in names]
    text = (
        f"names: [{', '.join(quoted)}]" if in_brackets else "names:\n" + "".join(f"  - {name} # x\n" for name in quoted)
    )

    assert names_in(text.encode(), b"/data.yaml") == tuple(names)
