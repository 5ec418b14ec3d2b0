"""What is read from each format, and what is said of a file that cannot be used."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from image_sync.annotations import AnnotationError
from image_sync.annotations.coco import parse
from image_sync.domain import Annotation, Box
from support.annotations import (
    HEIGHT,
    PICTURE,
    SCRATCH,
    WIDTH,
    YOLO,
    annotation,
    coco,
    put,
    read,
    sagemaker,
    voc,
    voc_object,
)

TRIANGLE = ((4.0, 6.0), (20.0, 6.0), (20.0, 16.0))
POINTS = "".join(f"<point><value>{x}</value><value>{y}</value></point>" for x, y in TRIANGLE)
POLYGON = f"<segment_polygons><polygon>{POINTS}</polygon></segment_polygons>"


def refused(root: Path, files: dict[str, bytes | str]) -> AnnotationError:
    """Why the annotation of x.jpg cannot be used."""
    put(root, {"x.jpg": PICTURE, **files})
    with pytest.raises(AnnotationError) as raised:
        read(root)
    error = raised.value
    assert str(root) in error.what
    assert all(fault.text and fault.hint.endswith((".", "?")) for fault in error.faults)
    assert str(error).isprintable()
    return error


def of_coco(**changes: Any) -> str:
    """A COCO file whose only object is changed; None takes a key away."""
    document = json.loads(coco("x.jpg"))
    record = document["annotations"][0] | changes
    document["annotations"] = [{key: value for key, value in record.items() if value is not None}]
    return json.dumps(document)


@pytest.mark.parametrize(
    "files",
    [
        {"x.xml": voc()},
        {"annotations.json": coco("x.jpg")},
        {"x.txt": YOLO, "classes.txt": "scratch\n"},
        {"x.json": sagemaker()},
    ],
    ids=["voc", "coco", "yolo", "sagemaker"],
)
def test_the_same_box_is_read_from_each_format(tmp_path: Path, files: dict[str, bytes | str]) -> None:
    """All formats end in one type, in pixels from the top left corner."""
    put(tmp_path, {"x.jpg": PICTURE, **files})

    box = read(tmp_path).boxes[0]

    assert box.label == "scratch"
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((4, 6, 20, 16), abs=1e-4)


@pytest.mark.parametrize(
    "files",
    [
        {"x.xml": voc(voc_object(behind=POLYGON))},
        {"annotations.json": of_coco(segmentation=[[value for point in TRIANGLE for value in point]])},
        {"annotations.json": of_coco(segmentation=[[value for point in TRIANGLE for value in point]], bbox=None)},
        {
            "x.txt": "0 " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in TRIANGLE),
            "classes.txt": "scratch",
        },
    ],
    ids=["voc", "coco", "coco without bbox", "yolo"],
)
def test_outlines_are_read(tmp_path: Path, files: dict[str, bytes | str]) -> None:
    """An outline of one part comes along, and gives the box where there is none."""
    put(tmp_path, {"x.jpg": PICTURE, **files})

    box = read(tmp_path).boxes[0]

    assert (box.left, box.top, box.right, box.bottom) == (4, 6, 20, 16)
    assert box.polygon == TRIANGLE


@pytest.mark.parametrize(
    "segmentation", [{"counts": [1, 2], "size": [30, 40]}, [[1, 1, 5, 1, 5, 5], [9, 9, 9, 8, 7, 7]], []]
)
def test_masks_and_outlines_of_several_parts_leave_the_box(tmp_path: Path, segmentation: object) -> None:
    """A run-length mask, or an object in several pieces, is known by its box only."""
    put(tmp_path, {"x.jpg": PICTURE, "annotations.json": of_coco(segmentation=segmentation)})

    assert read(tmp_path) == annotation()


@pytest.mark.parametrize("changes", [{"difficult": 1}, {"difficult": True}, {"iscrowd": 1, "segmentation": {}}])
def test_crowds_and_difficult_objects_are_marked(tmp_path: Path, changes: dict[str, object]) -> None:
    """What COCO calls a crowd is an object that is hard to tell."""
    put(tmp_path, {"x.jpg": PICTURE, "annotations.json": of_coco(**changes)})

    assert read(tmp_path).boxes[0].difficult


def test_a_file_without_objects_is_an_annotation(tmp_path: Path) -> None:
    """A picture in which nothing is marked on purpose is not the same as one without annotation."""
    put(tmp_path, {"a/x.jpg": PICTURE, "a/x.xml": "<annotation/>", "b/x.jpg": PICTURE, "b/x.txt": ""})
    put(tmp_path, {"classes.txt": "scratch", "c/x.jpg": PICTURE, "c/annotations.json": coco("x.jpg", annotations=[])})

    assert {read(tmp_path, folder) for folder in "abc"} == {Annotation(WIDTH, HEIGHT)}


def test_labels_are_brought_into_one_form(tmp_path: Path) -> None:
    """Spaces around a label and the way an accent is stored make no other label."""
    put(tmp_path, {"x.jpg": PICTURE, "x.xml": voc(voc_object("\n  u\u0308bel "))})

    assert read(tmp_path).boxes[0].label == "\u00fcbel"


def test_every_object_that_is_wrong_is_named(tmp_path: Path) -> None:
    """All mistakes of a file are told at once, each with the number and the label of its object."""
    far = voc_object("far", (1, 1, 90, 20))
    error = refused(tmp_path, {"x.xml": voc(far, voc_object(), voc_object("flat", (1, 5, 9, 5)), voc_object(""))})

    assert [fault.text for fault in error.faults] == [
        "object 1 ('far') reaches out of the picture, which has 40 x 30 pixels: left 1, top 1, right 90, bottom 20",
        "object 3 ('flat') has no area: left 1, top 5, right 9, bottom 5",
        "object 4: its name is empty",
    ]
    assert "(and 2 more in this file)" in error.what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a complete XML document"),
        (voc()[:-5], "not a complete XML document (line 1)"),
        ("<html></html>", "so it is not a Pascal VOC file"),
        (voc("<object><bndbox/></object>"), "xmin, ymin, xmax, ymax of its <bndbox> is not a number"),
        (voc("<object><name>a</name></object>"), "object 1 has no <bndbox>"),
        (voc(voc_object(behind="<bndbox/>")), "object 1 has 2 boxes"),
        (voc(voc_object(corners=(1, "x", 3, 4))), "ymin of its <bndbox> is not a number"),
        (voc(voc_object(corners=(1, "nan", 3, 4))), "ymin of its <bndbox> is not a number"),
        (voc(voc_object(corners=(1, "1e999", 3, 4))), "ymin of its <bndbox> is not a number"),
        (voc(voc_object("a\u202eb")), "object 1: its name holds the character U+202E"),
        (voc(voc_object("a" * 201)), "object 1: its name has 201 characters"),
        (voc(voc_object().replace("<name>scratch</name>", "")), "object 1: its name is missing"),
        (voc(voc_object(behind=POLYGON.replace("<value>4.0</value>", ""))), "a corner of its outline is not two"),
        (voc(voc_object(behind=POLYGON.replace("20.0", "200"))), "the outline of object 1 ('scratch') reaches out"),
        (voc(size=(HEIGHT, WIDTH)), "made for a picture of 30 x 40 pixels, and the picture has 40 x 30"),
        ("<?xml version='1.0' encoding='utf-7'?><annotation/>", "an encoding that cannot be read"),
        ("<?xml version='1.0' encoding='nonsense'?><annotation/>", "an encoding that cannot be read"),
        (voc(*[voc_object()] * 10_001), "it holds more than 10,000 objects"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_voc_file_is_told(tmp_path: Path, text: str, says: str) -> None:
    """Each kind of mistake has words of its own."""
    assert says in refused(tmp_path, {"x.xml": text}).what


def test_a_picture_that_is_shown_turned_is_told_apart(tmp_path: Path) -> None:
    """Sizes the other way round come from tools that follow the picture's note to be turned."""
    assert "EXIF orientation" in refused(tmp_path, {"x.xml": voc(size=(HEIGHT, WIDTH))}).hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is cut short"),
        (coco("x.jpg")[:-9], "it is cut short"),
        ('{"images": [], x}', "it is not JSON (line 1)"),
        ('{"images": [],\n"annotations": [{}\n, 3 4]}', "it is not JSON (line 3)"),
        ('{"images": [], "annotations": [],}', "it is not JSON (line 1)"),
        ('{"images": [], "annotations": []} {}', "it is not JSON (line 1)"),
        ('{"images": [1,], "annotations": []}', "it is not JSON (line 1)"),
        (f'{{"images": [], "annotations": [{{"x": "{"y" * 9000}"}}, {{\n"y" 5}}]}}', "it is not JSON (line 2)"),
        ('{"other": [x], "images": [], "annotations": []}', "it is not JSON (line 1)"),
        ("[]", "not a COCO file"),
        ('{"images": [], "annotations": {}}', "not a COCO file"),
        (coco("x.jpg", bbox=(4, 6, 16, float("nan"))), "NaN is not a number"),
        (coco("x.jpg", bbox=(4, 6, 1e308, 10)), "the bbox of annotation 11 ('scratch') is not four numbers"),
        (coco("x.jpg", bbox=(4, 6, 16)), "the bbox of annotation 11 ('scratch') is not four numbers"),
        (of_coco(bbox=None), "the bbox of annotation 11 ('scratch') is not four numbers"),
        (of_coco(bbox=["4", "6", "16", "10"]), "is not four numbers"),
        (coco("x.jpg", bbox=(4, 6, -2, 10)), "annotation 11 ('scratch') has no area"),
        (coco("x.jpg", bbox=(4, 6, 160, 10)), "annotation 11 ('scratch') reaches out of the picture"),
        (of_coco(category_id=8), "annotation 11 has the category_id 8, which the file does not name"),
        (of_coco(category_id="7"), "annotation 11 has no category_id"),
        (of_coco(image_id=2), "annotation 1 belongs to no image of the file"),
        (of_coco(segmentation=[[1, 1, 5, 5]]), "outline of annotation 11 ('scratch') is not a list of three corners"),
        (of_coco(segmentation=[[1, 1, 5, 5, "x", 6]]), "is not a list of three corners"),
        (of_coco(segmentation=[[1, 1, 5, 5, 90, 6]]), "the outline of annotation 11 ('scratch') reaches out"),
        (of_coco(segmentation=[[1, 1, 5, 5, 5, 5]]), "has fewer than 3 corners"),
        (coco("x.jpg", categories=[{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]), "two categories have the id 7"),
        (coco("x.jpg", categories=[{"id": 7}]), "category 1 has no id or no name"),
        (coco("x.jpg", images=[{"id": 1, "file_name": "x.jpg"}] * 2), "two images have the id 1"),
        (coco("x.jpg", images=[{"file_name": "x.jpg"}]), "image 1 has no id or no file_name"),
        (coco("x.jpg", "x.jpg"), "it lists 'x.jpg' twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_coco_file_is_told(tmp_path: Path, text: str, says: str) -> None:
    """Each kind of mistake has words of its own."""
    assert says in refused(tmp_path, {"annotations.json": text}).what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 .5 .5 .2", "line 1 ('scratch') has 3 numbers after its class"),
        ("0 .5 .5 .2 .2 .9", "has 5 numbers after its class"),
        ("0 .5 .5 .2 x", "line 1 holds something that is not a number"),
        ("\n\na photo of a dog", "line 3 holds something that is not a number"),
        ("2 .5 .5 .2 .2", "line 1 has the class 2, and the classes go from 0 to 1"),
        ("-1 .5 .5 .2 .2", "line 1 has the class -1"),
        ("0.5 .5 .5 .2 .2", "line 1 has the class 0.5"),
        ("0 20 15 10 10", "they must be parts of the picture's width and height, not pixels"),
        ("0 4 6 20 6 20 16", "not pixels"),
        ("0 .5 .5 -.2 -.2", "has a negative width or height"),
        ("0 .5 .5 0 .2", "has no area"),
        ("0 .95 .5 .3 .2", "line 1 ('scratch') reaches out of the picture"),
        ("0 .1 .1 .2 .2 .3", "has 5 numbers"),
        (b"\xff\xfe0", "it is not text"),
        ("0 .5 .5 .2 .2\n" * 20_001, "it has 20,002 lines"),
        ("0 " + "0.1 " * 300_000, "line 1 has 1,200,002 characters"),
    ],
)
def test_what_is_wrong_with_a_yolo_file_is_told(tmp_path: Path, text: str, says: str) -> None:
    """Each kind of mistake has words of its own."""
    assert says in refused(tmp_path, {"x.txt": text, "classes.txt": "scratch\nspot\n"}).what


def test_a_confidence_is_not_taken_for_a_label(tmp_path: Path) -> None:
    """What a model wrote down is refused with the reason."""
    files: dict[str, bytes | str] = {"x.txt": "0 .5 .5 .2 .2 .9", "classes.txt": "scratch"}

    assert "what a model has guessed must be looked at first" in refused(tmp_path, files).hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "it is cut short"),
        ("[]", "it has no list 'annotations' and so is not one of SageMaker's files"),
        ('{"shapes": []}', "it is a labelme file"),
        (coco("x.jpg"), "it is a COCO file"),
        (sagemaker(image_size=[{"width": 80, "height": 30}]), "made for a picture of 80 x 30 pixels"),
        (sagemaker(categories=[]), "object 1 has the class_id 0, which 'categories' does not name"),
        (sagemaker(categories=[{"class_id": 0}]), "category 1 has no class_id or no name"),
        (
            sagemaker(categories=[{"class_id": 0, "name": "a"}, {"class_id": 0, "name": "b"}]),
            "class_id 0 has two names",
        ),
        (sagemaker(annotations=[7]), "object 1 has no class_id"),
        (sagemaker(annotations=[{"class_id": 0, "left": 1}]), "left, top, width or height is not a number"),
        (sagemaker(annotations=[{"class_id": True, "left": 1}]), "object 1 has no class_id"),
        (sagemaker(annotations=[{"class_id": 0, "left": 1, "top": 1, "width": 0, "height": 5}]), "has no area"),
    ],
)
def test_what_is_wrong_with_a_sagemaker_file_is_told(tmp_path: Path, text: str, says: str) -> None:
    """Each kind of mistake has words of its own."""
    assert says in refused(tmp_path, {"x.json": text}).what


BOMB = "<!DOCTYPE a [<!ENTITY b 'ha'>" + "".join(
    f"<!ENTITY b{n} '&b{n - 1 or ''};&b{n - 1 or ''};&b{n - 1 or ''};&b{n - 1 or ''};'>" for n in range(1, 30)
) + "]><annotation>&b29;</annotation>"  # fmt: skip
HOSTILE: dict[str, tuple[str, bytes, str]] = {
    "entities that multiply": ("x.xml", BOMB.encode(), "it declares a document type"),
    "a file of the machine": (
        "x.xml",
        b"<!DOCTYPE a [<!ENTITY f SYSTEM 'file:///etc/passwd'>]><annotation><object><name>&f;</name></object></annotation>",
        "it declares a document type",
    ),
    "a document type from the network": (
        "x.xml",
        b"<!DOCTYPE annotation SYSTEM 'http://192.0.2.1/x.dtd'><annotation/>",
        "it declares a document type",
    ),
    "deep XML": ("x.xml", b"<annotation>" + b"<a>" * 50_000, "not a complete XML document"),
    "deep XML, whole": (
        "x.xml",
        b"<annotation>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"<object/></annotation>",
        "object 1 has no <bndbox>",
    ),
    "many tags": ("x.xml", b"<annotation>" + b"<a/>" * 600_000 + b"</annotation>", "more than 500,000 tags"),
    "a huge XML file": ("x.xml", b"<annotation>" + b" " * (9 << 20) + b"</annotation>", "bytes and the limit is"),
    "deep JSON": ("annotations.json", b"[" * 900_000, "nested too deeply"),
    "deep JSON, whole": ("annotations.json", b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "nested too deeply"),
    "many brackets": ("annotations.json", b"[" + b"[]," * 2_000_000 + b"1]", "it holds too much"),
    "many numbers": ("annotations.json", b"[" + b"1," * 13_000_000 + b"1]", "it holds too much"),
    "a long number": ("annotations.json", b'{"images": [], "annotations": [' + b"9" * 100_000 + b"]}", "not JSON"),
    "a huge number": (
        "annotations.json",
        coco("x.jpg").replace("40", "4" + "0" * 400).encode(),
        "",
    ),
    "a huge JSON file": ("annotations.json", b" " * (65 << 20), "bytes and the limit is"),
    "no text": ("annotations.json", b'{"images": "\xff\xff\xff"}', "it is not text"),
}


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "a huge number"])
def test_hostile_files_are_refused_quickly(tmp_path: Path, kind: str) -> None:
    """A file made to exhaust memory or time, or to read other files, costs neither."""
    name, data, says = HOSTILE[kind]
    began = time.monotonic()
    tracemalloc.start()
    try:
        error = refused(tmp_path, {name: data})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert says in error.what
    assert peak < 3 * len(data) + (160 << 20)
    assert time.monotonic() - began < 20


def large_coco(images: int, objects: int, more: str = "") -> bytes:
    listed = ",".join(f'{{"id":{number},"file_name":"{number}.jpg"}}' for number in range(images))
    drawn = ",".join(
        f'{{"image_id":{number % images},"category_id":1,"bbox":[1,2,3,4]{more}}}' for number in range(objects)
    )
    return f'{{"annotations":[{drawn}],"categories":[{{"id":1,"name":"a"}}],"images":[{listed}]}}'.encode()


@pytest.mark.parametrize(
    "data",
    [
        large_coco(100, 15_000),
        large_coco(10_000, 100),
        large_coco(10, 40, f',"segmentation":[[{",".join(["1.5"] * 5000)}]]'),
    ],
    ids=["many objects", "many images", "long outlines"],
)
def test_a_large_coco_file_is_not_unpacked_at_once(data: bytes) -> None:
    """What its objects would take is paid for one picture at a time."""
    tracemalloc.start()
    try:
        file = parse(data, b"annotations.json")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert file is not None
    assert peak < 5 * len(data) + (4 << 20)


def test_an_object_that_no_person_draws_is_refused() -> None:
    """One object of 5 MB would be unpacked whole."""
    with pytest.raises(AnnotationError, match="it holds too much"):
        parse(large_coco(1, 1, f',"segmentation":[[{"1.5," * 1_500_000}1]]'), b"annotations.json")


def test_a_number_that_no_picture_has_counts_for_none(tmp_path: Path) -> None:
    """A size beyond all measure is no size: the picture's is taken."""
    put(tmp_path, {"x.jpg": PICTURE, "annotations.json": HOSTILE["a huge number"][1]})

    assert read(tmp_path).width == WIDTH


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    """Files of old Windows tools are read as they say that they are written."""
    declared = "" if encoding == "utf-8-sig" else f"<?xml version='1.0' encoding='{encoding}'?>"
    put(tmp_path, {"x.jpg": PICTURE, "x.xml": (declared + voc(voc_object("caf\u00e9"))).encode(encoding)})

    assert read(tmp_path) == annotation(Box("caf\u00e9", *(4.0, 6.0, 20.0, 16.0)))


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Both JSON formats and the text format may begin with the mark that Windows puts there."""
    put(tmp_path, {"a/x.jpg": PICTURE, "a/annotations.json": coco("x.jpg").encode("utf-8-sig")})
    put(tmp_path, {"b/x.jpg": PICTURE, "b/x.json": sagemaker().encode("utf-8-sig")})
    put(
        tmp_path, {"c/x.jpg": PICTURE, "c/x.txt": YOLO.encode("utf-8-sig"), "c/classes.txt": b"\xef\xbb\xbfscratch\r\n"}
    )

    assert {read(tmp_path, folder).boxes[0].label for folder in "abc"} == {SCRATCH.label}


def test_a_name_that_drives_a_terminal_is_shown_escaped(tmp_path: Path) -> None:
    """Neither the file's name nor a label in it reaches a message raw."""
    name = os.fsdecode(b"\x1b[31m\xff")
    put(tmp_path, {f"{name}.jpg": PICTURE, f"{name}.xml": voc(voc_object("far\u2028", (1, 1, 90, 9)))})

    with pytest.raises(AnnotationError) as raised:
        read(tmp_path, name=f"{name}.jpg")

    assert str(raised.value).isprintable()
    assert "\\x1b[31m\\xff" in raised.value.what
