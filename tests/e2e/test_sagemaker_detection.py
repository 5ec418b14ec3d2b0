"""From files with boxes beside pictures to a detector at SageMaker: the whole program, nothing in between made up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from image_sync.domain import TrainingState
from support import plates
from support.annotations import HEIGHT, WIDTH, coco, voc, voc_object
from support.commands import one_by_one
from support.daemon import Plant
from support.pictures import jpeg
from support.sagemaker import BUCKET, Aws, as_somebody, somebody

CROWD = 80
"""Boxes in one picture: more than the usual label width has room for."""
Marks = list[tuple[str, int, int, int, int]]
"""Label, left, top, width, height."""


@pytest.fixture
def aws() -> Iterator[Aws]:
    with somebody(), Aws() as running:
        yield running


@pytest.fixture
def plant(aws: Aws, tmp_path: Path) -> Plant:
    """Plates with Pascal VOC files, one of them crowded; scratches in a COCO file; nothing is started yet."""
    made = Plant(tmp_path / "plant", "http://127.0.0.1:9")
    made.environ = as_somebody(made.environ)
    del made.document["credentials"]
    made.document["model"]["strategy"] = {"epochs": 2, "learning_rate": 0.004}
    made.configure(
        platform="sagemaker",
        sagemaker=aws.section(),
        model={"nn_arch": "ssd-resnet-50", "action": "retrain"},
        threshold={"training": 29},
    )
    first, *_ = plates.make(made.root / "plates", 20, 7)
    many = (voc_object("hole", (left, 5, left + 2, 9)) for left in range(CROWD))
    first.with_suffix(".xml").write_text(voc(*many, size=plates.SIZE))
    names = [f"plates/day2/{number}.jpg" for number in range(9)]
    for number, name in enumerate(names):
        made.put(name, jpeg(number, WIDTH, HEIGHT))
    made.put("plates/day2/annotations.json", coco(*(name.rpartition("/")[2] for name in names)).encode())
    return made


def drawn(plant: Plant) -> dict[str, Marks]:
    """What the files say, by the stem of the picture, read in another way than the program's."""
    found: dict[str, Marks] = {}
    for path in plant.root.rglob("*.xml"):
        found[path.stem] = []
        for one in ET.parse(path).getroot().iter("object"):
            left, top, right, bottom = (
                int(one.findtext(f"bndbox/{side}") or -1) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            found[path.stem].append((str(one.findtext("name")), left, top, right - left, bottom - top))
    for path in plant.root.rglob("annotations.json"):
        document = json.loads(path.read_text())
        for image in document["images"]:
            stem = image["file_name"].removesuffix(".jpg")
            boxes = (one["bbox"] for one in document["annotations"] if one["image_id"] == image["id"])
            found[stem] = [("scratch", int(box[0]), int(box[1]), int(box[2]), int(box[3])) for box in boxes]
    return {stem: sorted(marks) for stem, marks in found.items()}


def sent(aws: Aws, body: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The annotation files of a job, by side; each lies under the name of its picture."""
    inputs = {one["ChannelName"]: one["DataSource"]["S3DataSource"]["S3Uri"] for one in body["InputDataConfig"]}
    channels = {name: uri.removeprefix(f"s3://{BUCKET}/") for name, uri in inputs.items()}
    found: dict[str, list[dict[str, Any]]] = {}
    for side in ("train", "validation"):
        folder, pictures = channels[f"{side}_annotation"], channels[side]
        if pictures.endswith(".manifest"):
            pictures = json.loads(aws.content(pictures))[0]["prefix"].removeprefix(f"s3://{BUCKET}/")
        found[side] = []
        for key in aws.listed(folder):
            document = json.loads(aws.content(key))
            path = document["file"]
            assert key == f"{folder}{Path(path).stem}.json"
            assert aws.content(f"{pictures}{path}")[:2] == b"\xff\xd8"
            found[side].append(document)
    return found


def marks(documents: Mapping[str, list[dict[str, Any]]]) -> dict[str, Marks]:
    """What annotation files say, by the stem of the picture in its folder."""
    found: dict[str, Marks] = {}
    for document in (one for side in documents.values() for one in side):
        names = {one["class_id"]: one["name"] for one in document["categories"]}
        assert sorted(names) == list(range(len(names)))
        stem = document["file"].rpartition("/")[2].partition(".")[0]
        assert stem not in found, f"{stem} is there twice"
        found[stem] = sorted(
            (names[one["class_id"]], one["left"], one["top"], one["width"], one["height"])
            for one in document["annotations"]
        )
    return found


def test_drawn_boxes_become_a_detector(aws: Aws, plant: Plant) -> None:
    """Pascal VOC and COCO beside the pictures: one JSON for each picture, the same boxes, classes from 0 without a gap,
    a label width that is enough; then new and edited files, and the detector is continued."""
    done = plant.call("run", "--once")

    assert done.returncode == 0, done.stderr
    (run,) = plant.runs()
    assert (run.state, run.pictures, run.accuracy) == (TrainingState.TRAINED, 29, 0.75)
    (body,) = aws.control.made()
    documents, values = sent(aws, body), body["HyperParameters"]
    assert marks(documents) == drawn(plant)
    tables = {json.dumps(document["categories"]) for side in documents.values() for document in side}
    (table,) = map(json.loads, tables)
    assert {one["name"] for one in table} == {"dent", "hole", "screw", "scratch"}
    assert (values["num_classes"], values["base_network"]) == ("4", "resnet-50")
    assert values["num_training_samples"] == str(len(documents["train"]))
    assert 5 * CROWD + 2 < int(values["label_width"]) <= 1.2 * (5 * CROWD + 2), "with the slack that AWS advises"
    assert {one["image_size"][0]["width"] for side in documents.values() for one in side} == {plates.SIZE[0], WIDTH}
    # The ledger tells the trainer what is marked: nothing is read back for it.
    assert not [label for label in aws.seen if label.startswith("GET") and "/annotations/" in label]

    edited = plant.root / "plates" / "plate-0002.xml"
    edited.write_text(voc(voc_object("dent", ("1.5", "2", "30.2", "40")), size=plates.SIZE))
    plates.make(plant.root / "plates" / "new", 4, 8)
    plant.configure(threshold={"training": 4})

    done = plant.call("run", "--once")

    assert done.returncode == 0, done.stderr
    (latest, _) = plant.runs()
    assert (latest.state, latest.base) == (TrainingState.TRAINED, run.task_id)
    _, body = aws.control.made()
    assert body["InputDataConfig"][-1]["ChannelName"] == "model"
    everything = sent(aws, body)
    assert sum(map(len, everything.values())) == 33
    (changed,) = [
        one
        for side in everything.values()
        for one in side
        if [tuple(box.values())[1:] for box in one["annotations"]] == [(1, 2, 30, 38)]
    ]
    assert "/plate-0002." in changed["file"]
    assert changed["categories"] == table

    picture = str(plant.root / "plates" / "plate-0003.jpg")
    listing, said, gone = one_by_one(
        plant, ("models", "--json"), ("predict", picture, "--deploy", "--json"), ("models", "undeploy", "latest")
    )
    assert [one["categories"] for one in json.loads(listing.stdout)] == [[one["name"] for one in table]] * 2
    (answer,) = json.loads(said.stdout)
    best = answer["predictions"][0]
    assert best["category"] == table[0]["name"]
    assert 0 <= best["box"]["left"] < best["box"]["right"] <= plates.SIZE[0]
    assert gone.returncode == 0, gone.stderr


def test_pictures_wait_for_their_boxes_and_empty_ones_are_left_out(aws: Aws, plant: Plant) -> None:
    """Without a file a picture is not sent; with one that marks nothing it is stored, but not trained on."""
    bare = plant.put("plates/bare.jpg", jpeg(90, WIDTH, HEIGHT))
    done = plant.call("run", "--once")
    assert done.returncode == 0, done.stderr
    assert not [key for key in aws.listed() if "/bare." in key]

    bare.with_suffix(".xml").write_text("<annotation><filename>bare.jpg</filename></annotation>")
    plant.configure(threshold={"training": 1})
    done = plant.call("run", "--once")

    assert done.returncode == 0, done.stderr
    (key,) = [key for key in aws.listed() if "/bare." in key and "/annotations/" not in key]
    first, second = aws.control.made()
    assert "bare" not in marks(sent(aws, second))
    assert second["HyperParameters"]["num_training_samples"] == first["HyperParameters"]["num_training_samples"]
    kinds = {one["ChannelName"]: one["DataSource"]["S3DataSource"]["S3DataType"] for one in second["InputDataConfig"]}
    assert kinds["train" if "/train/" in key else "validation"] == "ManifestFile"
    assert plant.runs()[0].state is TrainingState.TRAINED
