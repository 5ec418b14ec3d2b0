"""Boxes around things: labels as they are sent and kept, detection trainings, their models and what these find."""

from __future__ import annotations

import io
import json
import sqlite3
import zipfile
from typing import Any

import numpy as np
import pytest
from defusedxml.ElementTree import fromstring
from PIL import Image

from image_sync_server.mvi.server import MviServer
from support import plates
from support.mvi_server import ENDLESS, Caller, archive, picture, serving, until

JPG = picture("dark", 1)
"""64 x 64 pixels."""
BOX = {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}


@pytest.fixture(name="caller", scope="module")
def _caller(server: MviServer) -> Caller:
    return Caller(server.url)


@pytest.fixture(name="dataset")
def _dataset(caller: Caller) -> str:
    return caller.dataset()


def plate(seed: int) -> tuple[bytes, list[dict[str, Any]]]:
    """A plate, and its labels as a client sends them."""
    raw, marks = plates.draw(np.random.default_rng([7, seed]))
    corners = ("xmin", "ymin", "xmax", "ymax")
    return raw, [{"name": mark.kind, "bndbox": dict(zip(corners, mark[1:], strict=True))} for mark in marks]


def detectable(caller: Caller, count: int = 20) -> str:
    """The id of a dataset of plates with labels."""
    dataset = caller.dataset("plates")
    for number in range(count):
        raw, labels = plate(number)
        response = caller.upload(dataset, [(f"plate{number}.jpg", raw)], {"labels": json.dumps(labels)})
        assert response.status_code == 200, response.text
    return dataset


def detect(caller: Caller, dataset: str, name: str = "model", **body: Any) -> str:
    """The id of a detection training that was started."""
    body = {"action": "create-cod-task", "usage": "cod", "strategy": {"max_iter": 300}, **body}
    return str(caller.post("/dltasks", name=name, dataset_id=dataset, **body)["task_id"])


def detected(caller: Caller, dataset: str, name: str = "model", **body: Any) -> str:
    """The id of a detection model that was trained."""
    task = detect(caller, dataset, name, **body)
    assert caller.ended(task)["status"] == "trained", caller.status(task)
    return task


def deployed(caller: Caller, model: str) -> None:
    caller.post("/webapis", trained_model_id=model, name="live", usage="cod")
    until(lambda: caller.get(f"/webapis/{model}")["status"] == "ready")


@pytest.fixture(name="plates_dataset", scope="module")
def _plates_dataset(caller: Caller) -> str:
    return detectable(caller)


@pytest.fixture(name="model", scope="module")
def _model(caller: Caller, plates_dataset: str) -> str:
    return detected(caller, plates_dataset, "first", nn_arch="yolo_v3")


# Labels


def test_labels_come_with_a_single_picture(caller, dataset):
    """The labels part is kept with the picture, makes the tags, and comes back as it was sent."""
    labels = [{"name": "Dent", "bndbox": BOX}, {"name": "hole 2", "bndbox": BOX | {"xmin": 20}}]
    answer = caller.upload(dataset, [("a.jpg", JPG)], {"labels": json.dumps(labels)}).json()
    shown = caller.get(f"/datasets/{dataset}/files/{answer['id']}/labels")
    assert [(one["name"], one["bndbox"]) for one in shown["labels"]] == [(one["name"], one["bndbox"]) for one in labels]
    assert shown["_id"] == shown["label_file_key"] == answer["id"]
    assert {tag["name"]: tag["label_count"] for tag in caller.get(f"/datasets/{dataset}/tags")} == {
        "Dent": 1,
        "hole 2": 1,
    }
    file = caller.get(f"/datasets/{dataset}/files/{answer['id']}")
    assert {tag["tag_name"]: tag["tag_count"] for tag in file["tag_list"]} == {"Dent": 1, "hole 2": 1}
    assert file["label_type"] == "manual"


def test_posted_labels_replace_all_others(caller, dataset):
    """Twice the same request leaves one set; an empty list takes all away; a bad one changes nothing."""
    file = caller.upload(dataset, [("a.jpg", JPG)]).json()["id"]
    path = f"/datasets/{dataset}/files/{file}/labels"
    for _ in range(2):
        assert caller.post(path, labels=[{"name": "a", "bndbox": BOX}, {"name": "b", "bndbox": BOX}]) == {
            "result": "success"
        }
        assert [one["name"] for one in caller.get(path)["labels"]] == ["a", "b"]
    bad = {"labels": [{"name": "c", "bndbox": BOX}, {"name": "d", "bndbox": BOX | {"xmax": 65}}]}
    assert caller.call("POST", path, json=bad).status_code == 400
    assert [one["name"] for one in caller.get(path)["labels"]] == ["a", "b"]
    assert {tag["name"] for tag in caller.get(f"/datasets/{dataset}/tags")} == {"a", "b"}
    caller.post(path, labels=[])
    assert caller.get(path)["labels"] == []


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ({"name": "x", "bndbox": BOX | {"xmin": -1}}, "64 x 64"),
        ({"name": "x", "bndbox": BOX | {"xmax": 65}}, "64 x 64"),
        ({"name": "x", "bndbox": BOX | {"ymax": 64.5}}, "64 x 64"),
        ({"name": "x", "bndbox": BOX | {"xmin": 30}}, "xmin below xmax"),
        ({"name": "x", "bndbox": BOX | {"ymin": 41}}, "ymin below ymax"),
        ({"name": "x", "bndbox": BOX | {"xmin": "one"}}, "numbers"),
        ({"name": "x", "bndbox": BOX | {"xmin": True}}, "numbers"),
        ({"name": "x", "bndbox": BOX | {"xmin": None}}, "numbers"),
        ({"name": "x", "bndbox": BOX | {"xmin": 10**400}}, "numbers"),
        ({"name": "x", "bndbox": [1, 2, 3, 4]}, "numbers"),
        ({"name": "x", "segment_polygons": [[[1, 1], [9, 9]]]}, "3 points"),
        ({"name": "x", "segment_polygons": []}, "list of outlines"),
        ({"name": "x", "segment_polygons": [[[1, 1], [9, 9], [99, 1]]]}, "64 x 64"),
        ({"name": "x", "segment_polygons": [[[1, 1], [9, 1], [5, 1]]]}, "ymin below ymax"),
        ({"name": "x", "polygon": [1, 2, 3]}, "two numbers"),
        ({"name": "x", "point": {"x": 1}}, "two numbers"),
        ({"name": " ", "bndbox": BOX}, "empty"),
        ({"name": "x" * 256, "bndbox": BOX}, "256 characters"),
        ({"name": "x\ud800", "bndbox": BOX}, "control"),
        ({"name": 3, "bndbox": BOX}, "name"),
        ({"name": "x"}, "needs one of"),
        ("x", "name"),
    ],
)
def test_a_label_that_cannot_be_is_told(caller, dataset, label, word):
    """A box outside the picture or turned around, no numbers, no name: refused with its number, nothing is stored."""
    for count in (1, 2):
        labels = [{"name": "good", "bndbox": BOX}, label][-count:]
        response = caller.upload(dataset, [("a.jpg", JPG)], {"labels": json.dumps(labels)})
        assert response.status_code == 400
        assert word in response.json()["fault"]
        assert f"Label {count} of {count}" in response.json()["fault"]
    assert caller.get(f"/datasets/{dataset}/files") == []
    assert caller.get(f"/datasets/{dataset}/tags") == []


@pytest.mark.parametrize(
    "text", ['[{"name": "x", "point": [NaN, 1]}]', '[{"name": "x", "point": [1e999, 1]}]', "[" * 9999]
)
def test_numbers_that_json_cannot_show_are_refused(caller, dataset, text):
    """NaN, infinity and endless nesting are 400, in a form and in a body; listings go on answering."""
    assert caller.upload(dataset, [("a.jpg", JPG)], {"labels": text}).status_code == 400
    file = caller.upload(dataset, [("a.jpg", JPG)]).json()["id"]
    path = f"/datasets/{dataset}/files/{file}/labels"
    headers = {"Content-Type": "application/json"}
    assert caller.call("POST", path, data=f'{{"labels": {text}}}', headers=headers).status_code == 400
    assert caller.get(path)["labels"] == []


def test_a_refused_picture_with_labels_says_what_is_wrong_with_the_picture(caller, dataset):
    """The fault is the picture's, not that labels need a single picture."""
    response = caller.upload(dataset, [("a.jpg", b"junk")], {"labels": json.dumps([{"name": "x", "bndbox": BOX}])})
    assert response.status_code == 422
    assert "neither a JPEG nor a PNG" in response.json()["resultList"][0]["fault"]
    two = [("a.jpg", JPG), ("b.jpg", JPG)]
    response = caller.upload(dataset, two, {"labels": json.dumps([{"name": "x", "bndbox": BOX}])})
    assert response.status_code == 400
    assert "single picture" in response.json()["fault"]


def test_outlines_are_kept_and_give_the_box(caller, dataset):
    """Polygons come back as sent, with the box around them; fractions of a box are rounded outwards."""
    outline = [[[1.5, 2.25], [20, 2.25], [10, 30.5]], [[40, 40], [50, 40], [45, 60]]]
    labels = [
        {"name": "a", "segment_polygons": outline},
        {"name": "b", "bndbox": dict.fromkeys(BOX, 0.5) | {"xmax": 9.1, "ymax": "63.9"}},
    ]
    file = caller.upload(dataset, [("a.jpg", JPG)], {"labels": json.dumps(labels)}).json()["id"]
    first, second = caller.get(f"/datasets/{dataset}/files/{file}/labels")["labels"]
    assert first["segment_polygons"] == outline
    assert first["bndbox"] == {"xmin": 1, "ymin": 2, "xmax": 50, "ymax": 60}
    assert second["bndbox"] == {"xmin": 0, "ymin": 0, "xmax": 10, "ymax": 64}
    path = f"/datasets/{dataset}/object-labels/{second['_id']}"
    assert caller.call("PUT", path, json={"bndbox": BOX | {"xmax": 99}}).status_code == 400
    assert caller.call("PUT", path, json={"bndbox": BOX}).status_code == 200
    assert caller.get(path)["bndbox"] == BOX
    whole = {"xmin": 0, "ymin": 0, "xmax": 64, "ymax": 64}
    tag = caller.get(f"/datasets/{dataset}/tags")[0]["_id"]
    caller.post(f"/datasets/{dataset}/files/{file}/object-labels", tag_id=tag, bndbox=whole)
    refused = caller.call(
        "POST", f"/datasets/{dataset}/files/{file}/object-labels", json={"tag_id": tag, "bndbox": BOX | {"xmin": 64}}
    )
    assert refused.status_code == 400


def test_two_names_are_two_tags_though_they_look_alike_in_an_address(caller, dataset):
    """Signs keep tags apart, case does not; a renamed tag answers to its new name, and cannot take another's."""
    names = ["M6+", "M6-", "m6+", "\u88c2\u7eb9"]
    file = caller.upload(
        dataset, [("a.jpg", JPG)], {"labels": json.dumps([{"name": name, "bndbox": BOX} for name in names])}
    ).json()["id"]
    path = f"/datasets/{dataset}/files/{file}/labels"
    assert [one["name"] for one in caller.get(path)["labels"]] == ["M6+", "M6-", "M6+", "\u88c2\u7eb9"]
    tags = {tag["name"]: tag for tag in caller.get(f"/datasets/{dataset}/tags")}
    assert len({tag["_id"] for tag in tags.values()}) == len(tags) == 3
    act = f"/datasets/{dataset}/tags/{tags['M6+']['_id']}/action"
    assert caller.call("POST", act, json={"action": "rename", "data": "m6-"}).status_code == 409
    caller.post(act, action="rename", data="bolt")
    caller.post(path, labels=[{"name": "M6+", "bndbox": BOX}, {"name": "bolt", "bndbox": BOX}])
    assert [one["name"] for one in caller.get(path)["labels"]] == ["M6+", "bolt"]
    assert caller.call("GET", f"/datasets/{dataset}/tags/{tags['M6-']['_id']}").status_code == 200


def test_labels_survive_a_clone_and_an_export(caller, dataset):
    """A clone and an imported export have the same labels."""
    labels = [{"name": "a", "segment_polygons": [[[1, 1], [9, 1], [5, 9]]]}, {"name": "b", "bndbox": BOX}]
    caller.upload(dataset, [("a.jpg", JPG)], {"labels": json.dumps(labels)})

    def look(of: str) -> list[Any]:
        keys = ("name", "bndbox", "segment_polygons")
        return sorted(([one.get(key) for key in keys] for one in caller.get(f"/datasets/{of}/object-labels")), key=str)

    clone = caller.post(f"/datasets/{dataset}/action", action="clone", name="copy")["dataset_id"]
    exported = caller.call("GET", f"/datasets/{dataset}/export").content
    new = caller.call("POST", "/datasets/import", files={"files": ("x.zip", exported)}).json()["dataset_id"]
    until(lambda: not caller.get(f"/datasets/{new}")["locked"])
    assert look(clone) == look(new) == look(dataset)


def foreign(entries: str) -> bytes:
    """An annotation as MVI writes it."""
    size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
    return f"<?xml version='1.0' encoding='utf-8'?><annotation>{size}{entries}</annotation>".encode()


def foreign_object(name: str, box: str, more: str = "") -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
    edges = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
    return (
        f"<object><_id>7f-1</_id><name>{name}</name><bndbox>{edges}</bndbox>"
        f"<generate_type>auto</generate_type><file_id>a</file_id>{more}</object>"
    )


def imported(caller: Caller, content: bytes) -> tuple[str, dict[str, Any]]:
    """The dataset that an archive becomes, and the background task that made it."""
    new = caller.call("POST", "/datasets/import", files={"files": ("x.zip", content)}).json()["dataset_id"]
    until(lambda: not caller.get(f"/datasets/{new}")["locked"])
    return new, next(one for one in caller.get("/bgtasks")["task_list"] if one["_id"] == new)


def named(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"name": "d", "usage": "generic", "file_prop_info": json.dumps(entries)}).encode()


OUTLINE = "".join(f"<point><value>{x}</value><value>{y}</value></point>" for x, y in ((1, 2), (9, 2), (5, 9.5)))


@pytest.mark.parametrize("picture_first", [True, False])
def test_an_annotated_archive_of_mvi_is_imported_with_all_its_labels(caller, picture_first):
    """Boxes, outlines and how they were made come from the XML beside each picture, wherever it stands."""
    both = foreign_object("dent", "1 2 9 10", f"<segment_polygons><polygon>{OUTLINE}</polygon></segment_polygons>")
    members = {"d/a.jpg": JPG, "d/a.xml": foreign(both + foreign_object("dent", "20 20 30.5 64.6")), "d/b.jpg": JPG}
    if not picture_first:
        members = dict(reversed(members.items()))
    entry = {"_id": "a", "original_file_name": "door.jpg", "category_name": "doors", "label_type": "manual"}
    new, task = imported(caller, archive({"d/prop.json": named(entry, {"_id": "b"}), **members}))

    assert (task["status"], task["success_count"], task["skipped_count"], task["fail_count"]) == ("completed", 2, 0, 0)
    labels = caller.get(f"/datasets/{new}/object-labels")
    assert [(one["name"], one["bndbox"], one["generate_type"]) for one in reversed(labels)] == [
        ("dent", {"xmin": 1, "ymin": 2, "xmax": 9, "ymax": 10}, "auto"),
        ("dent", {"xmin": 20, "ymin": 20, "xmax": 31, "ymax": 64}, "auto"),
    ]
    assert labels[1]["segment_polygons"] == [[[1, 2], [9, 2], [5, 9.5]]]


def test_an_export_holds_its_outlines_as_mvi_writes_them(caller, dataset):
    """The XML beside a picture has box and outline; nothing of the labels is kept elsewhere."""
    outlines = [[[1, 2], [9, 2], [5, 9.5]], [[20, 20], [30, 20], [30, 30]]]
    labels = [{"name": "<b>", "segment_polygons": outlines}, {"name": "spot", "point": [3, 4]}]
    file = caller.upload(dataset, [("a.jpg", JPG)], {"labels": json.dumps(labels)}).json()["id"]

    content = caller.call("GET", f"/datasets/{dataset}/export").content
    with zipfile.ZipFile(io.BytesIO(content)) as exported:
        (name,) = [name for name in exported.namelist() if name.endswith(f"{file}.xml")]
        root = fromstring(exported.read(name))
        (entry,) = json.loads(json.loads(exported.read(f"{name.partition('/')[0]}/prop.json"))["file_prop_info"])

    assert [root.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["64", "64", "3"]
    first, second = root.findall("object")
    assert [first.findtext(tag) for tag in ("name", "generate_type", "file_id")] == ["<b>", "manual", file]
    assert [first.findtext(f"bndbox/{corner}") for corner in BOX] == ["1", "2", "30", "30"]
    found = [
        [[value.text for value in point.findall("value")] for point in polygon.findall("point")]
        for polygon in first.findall("segment_polygons/polygon")
    ]
    assert found == [[["1", "2"], ["9", "2"], ["5", "9.5"]], [["20", "20"], ["30", "20"], ["30", "30"]]]
    assert [value.text for value in second.findall("point/value")] == ["3", "4"]
    assert "labels" not in entry
    new, task = imported(caller, content)
    assert task["status"] == "completed"
    copies = caller.get(f"/datasets/{new}/object-labels")
    assert [one.get("segment_polygons") or one["point"] for one in reversed(copies)] == [outlines, [3, 4]]


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"d/a.xml": foreign(foreign_object("x", "1 2 70 10"))}, "part.jpg: Label 1 of 1: The box from (1, 2)"),
        ({"d/a.xml": foreign(foreign_object("x", "1 2 many 10"))}, "part.jpg: Label 1 of 1: bndbox needs the numbers"),
        ({"d/a.xml": foreign("<object><name>x</name></object>")}, "part.jpg: Label 1 of 1: A label needs one of"),
        ({"d/a.xml": b"<annotation>"}, "part.jpg: Its XML cannot be read."),
        ({"d/a.xml": b"<a/>"}, "part.jpg: Its XML is not Pascal VOC"),
        ({"d/a.xml": b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'}, "Its XML cannot be read."),
        ({"d/a.jpg": b"junk"}, "part.jpg: The file is neither"),
        ({"d/c.xml": foreign("")}, "c.xml: The archive holds no picture that these labels belong to."),
    ],
)
def test_an_import_that_loses_something_fails_and_says_what(caller, members, fault):
    """The task is failed, counts what was lost and names the first; the rest is imported."""
    content = {"d/prop.json": named({"_id": "a", "original_file_name": "part.jpg"}), "d/a.jpg": JPG, "d/b.jpg": JPG}

    new, task = imported(caller, archive(content | members))

    assert (task["status"], task["fail_count"]) == ("failed", 1)
    assert task["fault"].startswith("1 of the archive's files were not imported. The first: ")
    assert fault in task["fault"]
    assert len(caller.get(f"/datasets/{new}/files")) == task["success_count"] == (2 if "d/c.xml" in members else 1)


def test_a_file_that_is_named_but_not_in_the_archive_is_lost(caller):
    """What prop.json names must be there."""
    listed = named({"_id": "a"}, {"_id": "b", "original_file_name": "gone.jpg"})

    _, task = imported(caller, archive({"d/prop.json": listed, "d/a.jpg": JPG}))

    assert (task["status"], task["success_count"], task["fail_count"]) == ("failed", 1, 1)
    assert "gone.jpg: The archive holds no picture" in task["fault"]


# Trainings


def test_one_label_needs_five_pictures_and_rare_ones_are_named(caller, dataset):
    """Refused with the counts while no label has five pictures; then trained, and labels with fewer are not learned."""
    body = {
        "action": "create-cod-task",
        "name": "m",
        "dataset_id": dataset,
        "usage": "cod",
        "strategy": {"max_iter": 1},
    }

    def add(name: str, number: int) -> None:
        labels = [{"name": name, "bndbox": BOX}, {"name": name, "bndbox": BOX | {"xmin": 20}}]
        raw = picture("dark", number)
        assert caller.upload(dataset, [(f"{number}.jpg", raw)], {"labels": json.dumps(labels)}).status_code == 200

    for number in range(6):
        add("much" if number < 4 else "little", number)
    response = caller.call("POST", "/dltasks/", json=body)
    assert response.status_code == 400
    assert response.json()["fault"] == (
        "A label needs 5 images to be learned, and none has as many (found little: 2, much: 4)."
    )
    assert caller.call("POST", "/dltasks", json=body | {"action": "pre-analysis-cod"}).status_code == 400
    assert caller.call("POST", "/dltasks", json=body | {"action": "create", "nn_arch": "frcnn"}).status_code == 400
    add("much", 6)
    caller.upload(dataset, [("plain.jpg", JPG)])
    assert caller.post("/dltasks", **body | {"action": "pre-analysis-cod"})["estimated_time"] >= 1
    answer = caller.post("/dltasks", **body)
    assert answer["warning"] == "Labels with fewer than 5 images are not learned: little: 2."
    assert caller.ended(answer["task_id"])["status"] == "trained"
    assert caller.get(f"/dltasks/{answer['task_id']}")["dataset_summary"] == {
        "total_file_count": 7,
        "labels": {"little": 2, "much": 5},
        "rare_labels": {"little": 2},
    }
    model = caller.get(f"/trained-models/{answer['task_id']}")
    assert [one["category_name"] for one in model["categories"]] == ["much"]


def test_a_detection_goes_its_way(caller, plates_dataset, model):
    """Task and model are of usage cod, the curve has tests, the accuracy is an mAP, the labels are the categories."""
    task, shown = caller.get(f"/dltasks/{model}"), caller.get(f"/trained-models/{model}")
    for one in (task, shown):
        assert (one["usage"], one["nn_arch"], one["name"]) == ("cod", "yolo_v3", "first")
    assert (task["status"], task["action"]) == ("trained", "create-cod-task")
    tests = [one for one in task["status_data"] if one["type"] == "test_msg"]
    assert tests[-1]["iter"] == "300"
    assert tests[-1]["accuracy"] == shown["accuracy"] == shown["eval_data"]["value"]
    assert shown["eval_data"]["metric"] == "mAP@0.5"
    assert float(shown["accuracy"]) > 0.3
    ids = {tag["name"]: tag["_id"] for tag in caller.get(f"/datasets/{plates_dataset}/tags")}
    assert {one["category_name"]: one["category_id"] for one in shown["categories"]} == ids
    assert model in [one["_id"] for one in caller.get("/trained-models", usage="cod")]
    assert model not in [one["_id"] for one in caller.get("/trained-models", usage="cic")]


def test_the_default_network_is_named(caller, plates_dataset):
    """Without nn_arch it is frcnn, as IBM's tool asks for."""
    task = detect(caller, plates_dataset, strategy=ENDLESS)
    assert caller.get(f"/dltasks/{task}")["nn_arch"] == "frcnn"
    until(lambda: caller.status(task)["status"] == "training")
    caller.post(f"/dltasks/{task}/action", action="stop")
    assert caller.status(task)["status"] == "aborted"


def test_a_detection_continues_from_a_detection_only(caller, plates_dataset, model):
    """The first loss is lower than from the beginning; a base of the other kind is refused at once, both ways."""
    more = detected(caller, plates_dataset, "more", pretrained_model=model)
    from_model, from_nothing = (float(caller.status(one)["data"][0]["loss"]) for one in (more, model))
    assert from_model < from_nothing / 2
    other = caller.trainable(each=5)
    wrong = caller.call(
        "POST", "/dltasks", json={"action": "create", "name": "x", "dataset_id": other, "pretrained_model": model}
    )
    assert wrong.status_code == 400
    assert "usage cod, but this training is of usage cic" in wrong.json()["fault"]
    base = caller.trained(other)
    body = {"action": "create-cod-task", "name": "x", "dataset_id": plates_dataset, "pretrained_model": base}
    assert caller.call("POST", "/dltasks", json=body).status_code == 400
    for one in (more, base):
        caller.call("DELETE", f"/trained-models/{one}")


def test_a_bad_strategy_fails_the_task_with_a_sentence(caller, plates_dataset):
    """What only the learner can judge ends the task as failed; infinity is refused at once."""
    task = detect(caller, plates_dataset, strategy={"ratio": 7})
    assert caller.ended(task)["status"] == "failed"
    assert "ratio" in caller.status(task)["fault"]
    raw = json.dumps({"action": "create-cod-task", "name": "x", "dataset_id": plates_dataset})[:-1]
    assert caller.call("POST", "/dltasks", data=raw + ', "strategy": {"x": 1e999}}').status_code == 400
    assert caller.get("/dltasks")[0]["_id"] == task


# Models


def test_a_deployed_detection_finds_boxes(caller, model):
    """Inference answers MVI's list of labels with whole pixels, best first, and confthre cuts it."""
    deployed(caller, model)
    assert caller.get(f"/webapis/{model}")["usage"] == "cod"
    hits = marks = 0
    for seed in range(100, 110):
        raw, labels = plate(seed)
        answer = caller.call(
            "POST", f"/dlapis/{model}", files={"files": ("q.jpg", raw)}, data={"confthre": "0.3"}
        ).json()
        assert answer["result"] == "success"
        finds = answer["classified"]
        assert [one["confidence"] for one in finds] == sorted((one["confidence"] for one in finds), reverse=True)
        for find in finds:
            assert set(find) == {"label", "confidence", "xmin", "ymin", "xmax", "ymax"}
            assert all(isinstance(find[corner], int) for corner in BOX)
            assert 0.3 <= find["confidence"] <= 1
            assert 0 <= find["xmin"] < find["xmax"] <= 200
            assert 0 <= find["ymin"] < find["ymax"] <= 150
        for label in labels:
            box = label["bndbox"]
            marks += 1
            hits += any(
                find["label"] == label["name"] and all(abs(find[corner] - box[corner]) <= 12 for corner in box)
                for find in finds
            )
    assert hits > 0.6 * marks
    ask = {"files": ("q.jpg", raw)}
    everything = caller.call("POST", f"/dlapis/{model}", files=ask).json()["classified"]
    few = caller.call("POST", f"/dlapis/{model}?confthre=0.3", files=ask).json()["classified"]
    assert few == [one for one in everything if one["confidence"] >= 0.3]
    blank = io.BytesIO()
    Image.new("RGB", (200, 150), (128, 128, 128)).save(blank, "JPEG")
    nothing = {"files": ("q.jpg", blank.getvalue())}
    answer = caller.call("POST", f"/dlapis/{model}", files=nothing, data={"confthre": "0.9"}).json()
    assert (answer["result"], answer["classified"]) == ("success", [])
    caller.call("DELETE", f"/webapis/{model}")
    assert caller.call("POST", f"/dlapis/{model}", files=ask).status_code == 404


def test_an_exported_detection_is_imported_and_finds_the_same(caller, model):
    """Export and import give a new model of the same usage, network and figure, with the same finds."""
    exported = caller.call("GET", f"/trained-models/{model}/export").content
    new = caller.call("POST", "/trained-models/import", files={"files": ("m.zip", exported)}).json()["trained_model_id"]
    old, copy = caller.get(f"/trained-models/{model}"), caller.get(f"/trained-models/{new}")
    for key in ("name", "usage", "nn_arch", "accuracy", "strategy", "eval_data"):
        assert copy[key] == old[key]
    answers = []
    for one in (model, new):
        deployed(caller, one)
        answers.append(caller.call("POST", f"/dlapis/{one}", files={"files": ("q.jpg", plate(200)[0])}).json())
        caller.call("DELETE", f"/webapis/{one}")
    assert answers[0]["classified"] == answers[1]["classified"] != []
    assert caller.call("DELETE", f"/trained-models/{new}").status_code == 200


def test_a_folder_of_the_version_before_detection_goes_on(tmp_path):
    """Tasks and models of the older tables are shown as classification, and a detection can be added."""
    with serving(tmp_path) as server:
        caller = Caller(server.url)
        model = caller.trained(caller.trainable(each=5))
        before = caller.get(f"/trained-models/{model}")
    connection = sqlite3.connect(tmp_path / "server.sqlite3")
    for table, column in (("tasks", "usage"), ("models", "usage"), ("models", "evaluation")):
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    for _ in range(2):
        with serving(tmp_path) as server:
            caller = Caller(server.url)
            assert caller.get(f"/trained-models/{model}") == before
            assert caller.get(f"/dltasks/{model}")["usage"] == "cic"
    with serving(tmp_path) as server:
        caller = Caller(server.url)
        new = detected(caller, detectable(caller, 12), strategy={"max_iter": 5})
        assert [one["usage"] for one in caller.get("/trained-models")] == ["cod", "cic"]
        deployed(caller, new)
    with serving(tmp_path) as server:
        caller = Caller(server.url)
        until(lambda: caller.get(f"/webapis/{new}")["status"] == "ready")
        answer = caller.call("POST", f"/dlapis/{new}", files={"files": ("q.jpg", plate(1)[0])})
        assert answer.json()["result"] == "success"
