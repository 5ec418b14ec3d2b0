"""Converting annotations for SageMaker: each mistake that well-known scripts make, and what happens here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from image_sync.cli.annotations import app
from support.annotations import HEIGHT, PICTURE, WIDTH, coco, put, voc, voc_object
from support.pictures import jpeg


def convert(root: Path, *options: str, to: str = "sagemaker") -> Result:
    """Convert ``root/in`` to ``root/out``."""
    return CliRunner().invoke(app, ["convert", str(root / "in"), "-o", str(root / "out"), "--to", to, *options])


def converted(root: Path, files: dict[str, bytes | str], *options: str) -> dict[str, Any]:
    """What was written, by path; everything must have been sound."""
    put(root / "in", files)
    done = convert(root, *options)
    assert done.exit_code == 0, done.output
    return written(root)


def written(root: Path) -> dict[str, Any]:
    out = root / "out"
    return {str(path.relative_to(out)): json.loads(path.read_text()) for path in sorted(out.rglob("*.json"))}


def one(label: str = "scratch", corners: tuple[object, ...] = (4, 6, 20, 16), **options: Any) -> dict[str, bytes | str]:
    return {"x.jpg": PICTURE, "x.xml": voc(voc_object(label, corners, **options))}


def boxes(document: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    return [(box["left"], box["top"], box["width"], box["height"]) for box in document["annotations"]]


def test_class_ids_begin_at_0(tmp_path: Path) -> None:
    """Eight labels get the ids 0 to 7: with ids 1 to 8 the last would be out of range."""
    labels = ["D00", "D01", "D10", "D11", "D20", "D40", "D43", "D44"]
    files: dict[str, bytes | str] = {"x.jpg": PICTURE, "x.xml": voc(*map(voc_object, labels))}

    document = converted(tmp_path, files)["x.json"]

    assert [box["class_id"] for box in document["annotations"]] == list(range(8))


def test_one_table_of_classes_serves_all_files(tmp_path: Path) -> None:
    """A label that only one picture has is in the table of every file, with the same id."""
    files: dict[str, bytes | str] = {
        "a/1.jpg": PICTURE,
        "a/1.xml": voc(voc_object("D30")),
        "b/2.jpg": jpeg(2, WIDTH, HEIGHT),
        "b/2.xml": voc(voc_object("D00"), voc_object("D99")),
    }

    documents = converted(tmp_path, files)

    table = [{"class_id": 0, "name": "D00"}, {"class_id": 1, "name": "D30"}, {"class_id": 2, "name": "D99"}]
    assert [document["categories"] for document in documents.values()] == [table, table]
    assert documents["a/1.json"]["annotations"][0]["class_id"] == 1


def test_an_unknown_class_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The picture with a class that nothing names is told and left out; the others are written."""
    good = json.loads(coco("x.jpg", "y.jpg"))
    good["annotations"][1]["category_id"] = 99
    put(tmp_path / "in", {"x.jpg": PICTURE, "y.jpg": jpeg(2, WIDTH, HEIGHT), "annotations.json": json.dumps(good)})

    done = convert(tmp_path)

    assert done.exit_code == 1
    assert "annotation 12 has the category_id 99, which the file does not name" in done.output
    assert list(written(tmp_path)) == ["x.json"]


def test_a_class_can_be_renamed_or_left_out(tmp_path: Path) -> None:
    """`--label-map old=new` renames, `--label-map old=` leaves out; the ids have no gap."""
    files: dict[str, bytes | str] = {
        "x.jpg": PICTURE,
        "x.xml": voc(voc_object("scrach"), voc_object("unsure"), voc_object("spot")),
    }

    document = converted(tmp_path, files, "--label-map", "scrach=scratch", "--label-map", "unsure=")["x.json"]

    assert document["categories"] == [{"class_id": 0, "name": "scratch"}, {"class_id": 1, "name": "spot"}]
    assert [box["class_id"] for box in document["annotations"]] == [0, 1]


def test_children_are_found_by_their_tags(tmp_path: Path) -> None:
    """A ymin before xmin does not transpose the box, and further children do no harm."""
    swapped = (
        "<object><pose/><truncated>0</truncated><occluded>0</occluded><bndbox><ymin>6</ymin><xmin>4</xmin>"
        "<ymax>16</ymax><xmax>20</xmax></bndbox><part><name>no</name><bndbox/></part><name>scratch</name></object>"
    )
    size = f"<size><depth>3</depth><height>{HEIGHT}</height><width>{WIDTH}</width></size>"
    xml = f"<annotation><object>{swapped[8:-9]}</object>{size}</annotation>"

    document = converted(tmp_path, {"x.jpg": PICTURE, "x.xml": xml})["x.json"]

    assert boxes(document) == [(4, 6, 16, 10)]


def test_decimals_widen_the_box_to_whole_pixels(tmp_path: Path) -> None:
    """No part of the object is cut off: the box of whole pixels holds the one with decimals."""
    files: dict[str, bytes | str] = {
        "x.jpg": PICTURE,
        "x.xml": voc(
            voc_object(corners=("4.4", "5.5", "20.6", "16.49")), voc_object(corners=("39.6", "1.1", "39.9", "1.3"))
        ),
    }

    assert boxes(converted(tmp_path, files)["x.json"]) == [(4, 5, 17, 12), (39, 1, 1, 1)]


def test_swapped_corners_are_put_in_order(tmp_path: Path) -> None:
    """A box drawn from right to left stays where it is."""
    assert boxes(converted(tmp_path, one(corners=(20, 16, 4, 6)))["x.json"]) == [(4, 6, 16, 10)]


def test_pictures_without_objects_are_left_out_with_their_files(tmp_path: Path) -> None:
    """Neither the picture nor a file for it is written, so that both are as many."""
    files = one() | {"empty.jpg": jpeg(2, WIDTH, HEIGHT), "empty.xml": "<annotation/>", "none.jpg": jpeg(3)}

    documents = converted(tmp_path, files, "--copy")

    assert list(documents) == ["x.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x.jpg", "x.json"]


@pytest.mark.parametrize("filename", ["x", "", "C:\\pictures\\other.png", "IMG_1.jpg"])
def test_the_stem_of_the_file_decides_not_its_filename(tmp_path: Path, filename: str) -> None:
    """x.xml belongs to x.jpg whatever stands in it, with or without a suffix."""
    document = converted(tmp_path, {"x.jpg": PICTURE, "x.xml": voc(filename=filename)})["x.json"]

    assert document["file"] == "x.jpg"


def test_the_target_has_the_folders_and_stems_of_the_source(tmp_path: Path) -> None:
    """Files are called as their pictures, in the same folders, none beside the target."""
    files = {f"in/{folder}/{name}": content for folder in ("a", "a/b") for name, content in one().items()}
    put(tmp_path, files)

    assert convert(tmp_path).exit_code == 0
    assert list(written(tmp_path)) == ["a/b/x.json", "a/x.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_file_is_relative_to_the_channel_with_its_folders(tmp_path: Path) -> None:
    """The key `file` tells the folder too, and there the copied picture lies."""
    document = converted(tmp_path, {f"a/b/{name}": content for name, content in one().items()}, "--copy")["a/b/x.json"]

    assert document["file"] == "a/b/x.jpg"
    assert (tmp_path / "out" / document["file"]).read_bytes() == PICTURE


def test_categories_name_every_class_of_the_file(tmp_path: Path) -> None:
    """Not only that of the first object."""
    files: dict[str, bytes | str] = {"x.jpg": PICTURE, "x.xml": voc(voc_object("b"), voc_object("a"))}

    document = converted(tmp_path, files)["x.json"]

    assert {entry["class_id"] for entry in document["categories"]} >= {
        box["class_id"] for box in document["annotations"]
    }


def test_objects_are_gathered_by_picture_wherever_they_stand(tmp_path: Path) -> None:
    """Objects of one picture that are not neighbours in the file come together."""
    document = json.loads(coco("x.jpg", "y.jpg", "x.jpg"))
    document["images"].pop()
    document["annotations"][2]["image_id"] = 1

    files: dict[str, bytes | str] = {
        "x.jpg": PICTURE,
        "y.jpg": jpeg(2, WIDTH, HEIGHT),
        "annotations.json": json.dumps(document),
    }

    assert {name: len(one["annotations"]) for name, one in converted(tmp_path, files).items()} == {
        "x.json": 2,
        "y.json": 1,
    }


def test_one_name_in_two_folders_makes_two_files(tmp_path: Path) -> None:
    """The later one does not overwrite the earlier."""
    files = {f"a/{name}": content for name, content in one("first").items()}
    files |= {f"b/{name}": content for name, content in one("second").items()}

    documents = converted(tmp_path, files)

    names = {
        path: document["categories"][document["annotations"][0]["class_id"]] for path, document in documents.items()
    }
    assert {path: entry["name"] for path, entry in names.items()} == {"a/x.json": "first", "b/x.json": "second"}


def test_two_pictures_of_one_stem_are_refused(tmp_path: Path) -> None:
    """x.jpg and x.png would have the same file: both are told, neither is written."""
    put(
        tmp_path / "in", {"x.jpg": PICTURE, "x.png": jpeg(2, WIDTH, HEIGHT), "annotations.json": coco("x.jpg", "x.png")}
    )

    done = convert(tmp_path)

    assert done.exit_code == 1
    assert done.output.count("would have the same annotation file") == 2
    assert not (tmp_path / "out").exists()


def test_the_size_is_the_pictures_own(tmp_path: Path) -> None:
    """Width and height are read from the picture, the depth is the only one that SageMaker knows."""
    document = converted(tmp_path, {"x.jpg": PICTURE, "x.xml": voc(size=None)})["x.json"]

    assert document["image_size"] == [{"width": WIDTH, "height": HEIGHT, "depth": 3}]


def test_a_size_of_0_counts_as_none(tmp_path: Path) -> None:
    """Tools that do not know the size write 0: the picture's is taken."""
    document = converted(tmp_path, {"x.jpg": PICTURE, "x.xml": voc(size=(0, 0))})["x.json"]

    assert document["image_size"][0]["width"] == WIDTH


def test_a_wrong_size_is_refused(tmp_path: Path) -> None:
    """Boxes drawn in a picture of another size are not taken over."""
    put(tmp_path / "in", {"x.jpg": PICTURE, "x.xml": voc(size=(80, 60))})

    done = convert(tmp_path)

    assert done.exit_code == 1
    assert "it was made for a picture of 80 x 60 pixels, and the picture has 40 x 30" in done.output
    assert written(tmp_path) == {}


def test_counting_from_1_is_an_option(tmp_path: Path) -> None:
    """Coordinates are taken as they stand; with --voc-one-based the box begins one pixel earlier, its end included."""
    files = one(corners=(1, 1, WIDTH, HEIGHT))

    assert boxes(converted(tmp_path / "plain", files)["x.json"]) == [(1, 1, WIDTH - 1, HEIGHT - 1)]
    assert boxes(converted(tmp_path / "shifted", files, "--voc-one-based")["x.json"]) == [(0, 0, WIDTH, HEIGHT)]


def test_an_overhang_of_a_pixel_is_cut_off(tmp_path: Path) -> None:
    """Tools that round, or count from 1, reach one pixel too far."""
    assert boxes(converted(tmp_path, one(corners=(-1, -0.4, WIDTH + 1, HEIGHT)))["x.json"]) == [(0, 0, WIDTH, HEIGHT)]


def test_an_overhang_of_more_is_refused(tmp_path: Path) -> None:
    """A box that lies partly outside is no box of this picture."""
    put(tmp_path / "in", one(corners=(4, 6, WIDTH + 1.01, 16)))

    done = convert(tmp_path)

    assert done.exit_code == 1
    assert "object 1 ('scratch') reaches out of the picture" in done.output


@pytest.mark.parametrize("corners", [(4, 6, 4, 16), (4, 6, 20, 6), (-1, 6, 0, 16), (40, 6, 41, 16)])
def test_no_area_after_cutting_is_reported(tmp_path: Path, corners: tuple[int, ...]) -> None:
    """A box without area is named with its file and number, and its picture left out."""
    put(tmp_path / "in", {"x.jpg": PICTURE, "x.xml": voc(voc_object(), voc_object("spot", corners))})

    done = convert(tmp_path)

    assert done.exit_code == 1
    assert "x.xml" in done.output
    assert "object 2 ('spot') has no area" in done.output
    assert written(tmp_path) == {}


def test_difficult_objects_can_be_left_out(tmp_path: Path) -> None:
    """They are kept, or skipped with --skip-difficult."""
    difficult = voc_object("blur", behind="<difficult>1</difficult>")
    files: dict[str, bytes | str] = {"x.jpg": PICTURE, "x.xml": voc(voc_object(), difficult)}

    assert len(boxes(converted(tmp_path / "kept", files)["x.json"])) == 2
    assert len(boxes(converted(tmp_path / "skipped", files, "--skip-difficult")["x.json"])) == 1


def test_the_split_is_the_same_in_every_run(tmp_path: Path) -> None:
    """Which pictures are for validation depends on their paths only: more pictures change nothing for the others."""
    files: dict[str, bytes | str] = {}
    for number in range(60):
        files |= {f"{number}.jpg": PICTURE, f"{number}.xml": voc()}
        if number == 29:
            first = converted(tmp_path / "first", files, "--validation", "0.3", "--copy")
    second = converted(tmp_path / "second", files, "--validation", "0.3")

    assert set(first) < set(second)
    assert {path.split("/")[0] for path in second} == {"train_annotation", "validation_annotation"}
    assert 8 <= sum(path.startswith("validation") for path in second) <= 28
    for path, document in first.items():
        channel = path.split("_")[0]
        assert (tmp_path / "first/out" / channel / document["file"]).is_file()
