"""From files with boxes beside pictures to a trained detector: the whole program against the embedded server."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from image_sync.domain import TrainingState
from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.server import MviServer
from support import plates
from support.annotations import HEIGHT, PICTURE, WIDTH, voc, voc_object
from support.daemon import Plant
from support.mvi_server import Caller, contents
from support.pictures import jpeg

DETECTION = {"nn_arch": "frcnn", "strategy": {"max_iter": 300}}
Boxes = Mapping[str, list[tuple[object, ...]]]


@pytest.fixture
def plant(tmp_path: Path, server: MviServer) -> Plant:
    return Plant(tmp_path / "plant", server.url, model=DETECTION)


def boxes_in(plant: Plant) -> Boxes:
    """What the Pascal VOC files of the plant say, by the stem of the picture, sorted."""
    found = {}
    for path in plant.root.rglob("*.xml"):
        objects = ET.parse(path).getroot().iter("object")
        found[path.stem] = sorted(
            (str(one.findtext("name")), *(int(one.findtext(f"bndbox/{side}") or 0) for side in SIDES))
            for one in objects
        )
    return found


SIDES = ("xmin", "ymin", "xmax", "ymax")


def boxes_at(server: MviServer, name: str = "plates") -> Boxes:
    """What the server has marked, by the stem of the picture."""
    caller = Caller(server.url)
    found = {}
    for dataset in caller.get("/datasets"):
        for file in caller.get(f"/datasets/{dataset['_id']}/files") if dataset["name"] == name else ():
            labels = caller.get(f"/datasets/{dataset['_id']}/files/{file['_id']}/labels").get("labels", [])
            key = file["original_file_name"].partition(".")[0]
            assert key not in found, f"{key} was stored twice"
            found[key] = sorted((one["name"], *(one["bndbox"][side] for side in SIDES)) for one in labels)
    return found


def label_posts(server: MviServer) -> int:
    """Requests in which labels were set for stored pictures."""
    return len(server.requests.matching("POST", "/labels"))


def test_boxes_arrive_and_a_detector_is_trained(plant: Plant, server: MviServer) -> None:
    """One run: every box is at the server as it was drawn, a detection is trained, and nothing is left to do."""
    plates.make(plant.root / "plates", 16, 7)
    plant.configure(threshold={"training": 16})

    done = plant.call("run", "--once", timeout=120)

    assert done.returncode == 0, done.stderr
    assert boxes_at(server) == boxes_in(plant)
    (run,) = plant.runs()
    assert (run.state, run.pictures) == (TrainingState.TRAINED, 16)
    (task,) = Caller(server.url).get("/dltasks/")
    assert (task["usage"], task["nn_arch"]) == ("cod", "frcnn")
    tally = plant.tally()
    assert (tally.confirmed, tally.unmarked) == (16, 0)
    marks = [{kind for kind, *_ in objects} for objects in boxes_in(plant).values()]
    assert tally.labelled == {kind: sum(kind in one for one in marks) for kind in ("dent", "hole", "screw")}


def test_an_edited_annotation_is_sent_again_and_nothing_else(plant: Plant, server: MviServer) -> None:
    """While the daemon runs: the picture stays, its boxes are replaced; saving a file unchanged sends nothing."""
    paths = plates.make(plant.root / "plates", 3, 1)
    with plant.running():
        plant.wait(lambda p: p.tally().confirmed == 3 and not p.tally().unmarked)
        posts = label_posts(server)
        paths[0].with_suffix(".xml").write_text(voc(voc_object("dent", (1, 2, 30, 40)), size=plates.SIZE))
        untouched = paths[1].with_suffix(".xml")
        untouched.write_bytes(untouched.read_bytes())
        plant.wait(lambda _: boxes_at(server)[paths[0].stem] == [("dent", 1, 2, 30, 40)])
        plant.wait(lambda p: not p.tally().unmarked)
        threading.Event().wait(1.0)

        assert boxes_at(server) == boxes_in(plant)
        assert label_posts(server) == posts + 1
    assert len(contents(server)) == 3


def test_spellings_that_are_one_tag_at_the_server_are_counted_as_one(plant: Plant, server: MviServer) -> None:
    """MVI's tags ignore upper and lower case: three of Dent and two of dent are the five that it demands."""
    plant.configure(threshold={"training": 5})
    for number, label in enumerate(["Dent", "dent", "Dent", "dent", "Dent"]):
        picture = plant.put(f"plates/{number}.jpg", jpeg(number, WIDTH, HEIGHT))
        picture.with_suffix(".xml").write_text(voc(voc_object(label)))

    done = plant.call("run", "--once", timeout=120)

    assert done.returncode == 0, done.stderr
    assert plant.tally().labelled == {"Dent": 3, "dent": 2}
    assert len({label for boxes in boxes_at(server).values() for label, *_ in boxes}) == 1
    assert [(run.state, run.pictures) for run in plant.runs()] == [(TrainingState.TRAINED, 5)]


def test_check_does_not_count_pictures_that_have_to_wait(plant: Plant) -> None:
    """Before the daemon ever ran, it knows which pictures have no annotation; of another format is as good as none."""
    plant.configure(threshold={"upload": 2})
    plates.make(plant.root / "plates", 2, 3)
    plant.put("plates/bare.jpg", PICTURE)
    plant.put("bare.jpg", PICTURE + b"y")

    told = plant.call("check").stdout
    assert "4 pictures in 2 folders" in told
    assert "2 new pictures wait for their annotations" in told
    assert "Now it would upload at most 2 picture(s) (2 / 2)" in told
    plant.configure(annotation_format="yolo")
    assert "upload nothing (0 / 2: waits for 2 more pictures)" in plant.call("check").stdout
    plant.configure(annotations="optional")
    assert "Now it would upload at most 4 picture(s) (4 / 2)" in plant.call("check").stdout


def test_check_tells_who_only_has_category_folders_how_to_learn_categories(tmp_path: Path, server: MviServer) -> None:
    """The old script's own example names a network for detection, which it never sent: the remedy is named."""
    plant = Plant(tmp_path / "plant", server.url, model={"nn_arch": "tiny_yolo_v2", "action": "train"})
    for number in range(6):
        plant.put(f"{('good', 'bad')[number % 2]}/{number}.jpg", jpeg(number))

    told = " ".join(plant.call("check").stdout.split())
    assert "`model.nn_arch` 'tiny_yolo_v2' learns from boxes, and none of the 6 pictures here has any" in told
    assert "to learn categories, take `model.nn_arch` out" in told

    plant.document["model"]["nn_arch"] = None
    plant.configure()
    told = " ".join(plant.call("check").stdout.split())
    assert "boxes" not in told
    assert "would upload 6 picture(s)" in told


def test_pictures_wait_for_their_annotations_and_say_so(plant: Plant, server: MviServer) -> None:
    """`status` and `show` tell what is waited for; an annotation of no object is one, too."""
    plant.configure(threshold={"training": 2})
    bare = plant.put("bare.jpg", PICTURE)
    drawn = plates.make(plant.root / "plates", 2, 3)
    done = plant.call("run", "--once")
    assert done.returncode == 0, done.stderr
    assert len(contents(server)) == 2

    status, shown = plant.call("status").stdout, plant.call("show", str(bare)).stdout
    assert "Needs a person" not in status
    assert "1 picture waits for its annotation" in status
    assert "upload    0 / 1, short by 1: waits for the annotation of 1 picture" in status
    assert "more picture" not in status
    assert "no category" in status
    assert re.search(
        r"training  (\d) / 5, short by \d: waits for a label in 5 pictures; the most frequent, '\w+', is in \1", status
    )
    assert "waits for its annotation" in shown
    assert "annotation" in plant.call("show", str(drawn[0])).stdout
    assert plant.status()["pictures"]["waiting"] == 1

    bare.with_suffix(".xml").write_text("<annotation><filename>bare.jpg</filename></annotation>")
    assert plant.call("run", "--once").returncode == 0
    assert boxes_at(server)["bare"] == []
    assert {one.category for one in contents(server)} == {"", "plates"}


def test_a_kill_between_picture_and_boxes_loses_no_box(plant: Plant, server: MviServer) -> None:
    """Pictures are stored, the process dies while it marks them; the next one marks the rest, each exactly."""
    plates.make(plant.root / "plates", 12, 5)
    server.faults.add(Fault(Action.SLOW, "POST", "/labels$", count=None, seconds=0.3))
    with plant.running() as daemon:
        plant.wait(lambda _: label_posts(server) >= 3)
        daemon.kill()
    server.faults.clear()
    plant.configure(upload={"grace": 1})

    done = plant.call("run", "--once", timeout=90)

    assert done.returncode == 0, done.stderr
    assert boxes_at(server) == boxes_in(plant)
    assert len(contents(server)) == 12


def test_labels_that_the_server_refuses_are_told_and_do_not_stop_the_rest(plant: Plant, server: MviServer) -> None:
    """The picture is stored; `status` names it and the reason, and `retry` sends its boxes again."""
    paths = plates.make(plant.root / "plates", 4, 9)
    server.faults.add(Fault(Action.STATUS, "POST", "/labels$", count=None, status=400))
    done = plant.call("run", "--once", timeout=60)
    assert done.returncode == 1, done.stderr
    server.faults.clear()
    status = plant.call("status").stdout
    assert str(paths[0].parent) in status
    assert "refused" in status
    assert plant.call("retry").returncode == 0

    assert plant.call("run", "--once", timeout=60).returncode == 0
    assert boxes_at(server) == boxes_in(plant)


def test_detection_can_be_switched_on_later(plant: Plant, server: MviServer) -> None:
    """Pictures that were uploaded before get their boxes once annotations are used; none is stored twice."""
    plates.make(plant.root / "plates", 4, 11)
    plant.configure(model={"nn_arch": None})
    with plant.running():
        plant.wait(lambda p: p.tally().confirmed == 4)
        assert not any(boxes_at(server).values())
        plant.configure(model=DETECTION)
        plant.wait(lambda _: boxes_at(server) == boxes_in(plant))

    assert len(contents(server)) == 4


def test_a_lost_ledger_sends_boxes_not_pictures(plant: Plant, server: MviServer) -> None:
    """The folders are what counts: boxes are set anew, pictures are recognised."""
    plates.make(plant.root / "plates", 4, 13)
    assert plant.call("run", "--once").returncode == 0
    plant.configure(state=str(plant.folder / "another state"))
    caller = Caller(server.url)
    (dataset,) = caller.get("/datasets")
    (file, *_) = caller.get(f"/datasets/{dataset['_id']}/files")
    caller.post(f"/datasets/{dataset['_id']}/files/{file['_id']}/labels", labels=[])

    assert plant.call("run", "--once").returncode == 0

    assert boxes_at(server) == boxes_in(plant)
    assert len(contents(server)) == 4
