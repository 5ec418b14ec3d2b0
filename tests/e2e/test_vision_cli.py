"""IBM's own ``vision`` command (PyPI Vision-Tools 0.2.0), unmodified, against the embedded server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_sync_server.mvi.auth import Credentials
from image_sync_server.mvi.server import MviServer
from support import plates
from support.mvi_server import Caller, archive, picture, serving, until

VISION = Path(sys.executable).with_name("vision")
UUID = re.compile(r"[0-9a-f]+(?:-[0-9a-f]+){4}")
Vision = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MviServer]:
    with serving(tmp_path_factory.mktemp("mvi")) as server:
        yield server


def runner(server: MviServer, folder: Path, token: str = "any") -> Vision:
    """Runs the command in a folder; it finds the server and the token in IBM's own variables."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VAPI_")}
    environment |= {"VAPI_BASE_URI": server.url, "VAPI_TOKEN": token, "no_proxy": "*"}

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [VISION, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(name="vision")
def _vision(server: MviServer, tmp_path: Path) -> Vision:
    return runner(server, tmp_path)


def the_id(text: str) -> str:
    found = UUID.findall(text)
    assert found, text
    return str(found[-1])


def test_datasets(server, vision, tmp_path):
    """create, list, show, change, clone, export, import and delete say what they say to IBM's server."""
    assert vision("datasets", "list", "--summary").stdout == "0 items\n"
    assert vision("datasets", "list").stdout == "[]\n"
    made = vision("datasets", "create", "--name=parts").stdout
    assert made.startswith("Successfully created dataset with id ")
    dataset = the_id(made)
    assert vision("datasets", "list", "--summary").stdout == f"{dataset}\tparts\t0\n1 items\n"
    shown = vision("datasets", "show", f"--dsid={dataset}").stdout
    assert json.loads(shown)["_id"] == dataset
    assert re.search(r'^ +"name": "parts",$', shown, re.MULTILINE)
    assert "Changed dataset" in vision("datasets", "change", f"--dsid={dataset}", "--pgid=group").stdout
    category = Caller(server.url).category(dataset, "dark")
    Caller(server.url).upload(dataset, [("a.jpg", picture("dark", 1))], {"category_id": category})
    clone = the_id(vision("datasets", "clone", f"--dsid={dataset}", "--name=copy").stdout)
    exported = vision("datasets", "export", f"--dsid={clone}").stdout.strip()
    assert Path(exported).name == "copy.zip"
    with zipfile.ZipFile(tmp_path / "copy.zip") as file:
        assert {name.split("/")[0] for name in file.namelist()} == {"copy"}
    vision("datasets", "export", f"--dsid={clone}", "--raw", "--filename=raw.zip")
    with zipfile.ZipFile(tmp_path / "raw.zip") as file:
        assert any("__DEBUG/" in name for name in file.namelist())
    imported = the_id(vision("datasets", "import", "copy.zip").stdout)
    until(lambda: Caller(server.url).get("/bgtasks", status="completed")["task_list"])
    listed = vision("datasets", "list", "--sort=name,created_at DESC", "--summary").stdout.splitlines()
    assert [line.split("\t")[1] for line in listed[:-1]] == ["copy", "copy", "parts"]
    assert listed[0] == f"{imported}\tcopy\t1"
    for one in (dataset, clone, imported):
        assert f"Deleted dataset id '{one}'" in vision("datasets", "delete", f"--dsid={one}").stdout


def test_failures_are_told(vision):
    """Unknown ids make the command exit 2 with the words that IBM's tests look for."""
    bad = "00000000-aaaa-bbbb-cccc-000000000000"
    assert "Could not find dataset" in vision("datasets", "show", f"--dsid={bad}", code=2).stdout
    assert "Could not find dataset" in vision("datasets", "delete", f"--dsid={bad}", code=2).stdout
    assert "Could not find dataset" in vision("files", "list", f"--dsid={bad}", code=2).stdout
    assert "Unknown dataset" in vision("files", "delete", f"--dsid={bad}", f"--fileid={bad}", code=2).stdout
    assert "Could not find trainedModel" in vision("trained-models", "delete", f"--modelid={bad}", code=2).stdout
    vision("datasets", "export", f"--dsid={bad}", code=2)
    vision("dltasks", "show", f"--taskid={bad}", code=2)
    vision("datasets", "train", f"--dsid={bad}", "--type=cic", "--name=x", code=2)


def test_categories(vision):
    """create, list, show, count and delete; change is broken in the command itself and refused."""
    dataset = the_id(vision("datasets", "create", "--name=x").stdout)
    made = vision("categories", "create", f"--dsid={dataset}", "--name=cat").stdout
    category = the_id(made.partition(dataset)[0] or made)
    listed = vision("categories", "list", f"--dsid={dataset}", "--summary").stdout
    assert listed == f"{category}\tcat\n1 items\n"
    ids = [f"--dsid={dataset}", f"--catid={category}"]
    assert json.loads(vision("categories", "show", *ids).stdout)["name"] == "cat"
    assert "0" in vision("categories", "count", *ids).stdout
    assert "must be given" in vision("categories", "change", *ids, "--name", "dog", code=2).stdout
    vision("categories", "delete", *ids)
    assert vision("categories", "list", f"--dsid={dataset}", "--summary").stdout == "0 items\n"
    vision("datasets", "delete", f"--dsid={dataset}")


def test_videos_and_projects(vision, tmp_path):
    """A video is uploaded, listed and shown; the list of project groups is empty."""
    dataset = the_id(vision("datasets", "create", "--name=x").stdout)
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x14ftypisom\0\0\2\0mp41" + b"\0\0\0\x08moov")
    done = vision("files", "upload", f"--dsid={dataset}", "clip.mp4")
    assert done.stdout == f"Successfully uploaded 1 files to dataset {dataset}\n"
    listed = vision("files", "list", f"--dsid={dataset}", "--summary").stdout.splitlines()[0]
    file, *rest = listed.split("\t")
    assert rest == ["clip.mp4", "video"]
    shown = json.loads(vision("files", "show", f"--dsid={dataset}", f"--fileid={file}").stdout)
    assert (shown["file_type"], shown["content_type"]) == ("video", "video/mp4")
    assert vision("projects", "list").stdout == "[]\n"
    vision("datasets", "delete", f"--dsid={dataset}")


def test_files(vision, tmp_path):
    """Upload with metadata and labels, list, show, change, copy, move, getlabels and delete."""
    dataset = the_id(vision("datasets", "create", "--name=x").stdout)
    other = the_id(vision("datasets", "create", "--name=y").stdout)
    vision("categories", "create", f"--dsid={dataset}", "--name=cat")
    (category,) = UUID.findall(vision("categories", "list", f"--dsid={dataset}", "--summary").stdout)
    (tmp_path / "a.jpg").write_bytes(picture("dark", 1))
    (tmp_path / "b.png").write_bytes(picture("dark", 2, suffix="png"))
    (tmp_path / "c.zip").write_bytes(archive({"Aircraft/c.jpg": picture("dark", 3)}))
    (tmp_path / "bad.jpg").write_bytes(b"junk")
    done = vision("files", "upload", f"--dsid={dataset}", '--metadata={"wid": "7"}', "a.jpg", "b.png", "c.zip")
    assert done.stdout == f"Successfully uploaded 3 files to dataset {dataset}\n"
    done = vision("files", "upload", f"--dsid={dataset}", "a.jpg", "bad.jpg", code=2)
    assert "total=2, successes=1, fails=1" in done.stderr
    box = '[{"name": "dent", "bndbox": {"xmin": 1, "ymin": 1, "xmax": 5, "ymax": 5}}]'
    vision("files", "upload", f"--dsid={dataset}", f"--labels={box}", "b.png")
    lines = vision("files", "list", f"--dsid={dataset}", "--summary", "--sort=name").stdout.splitlines()
    assert [line.split("\t")[1:] for line in lines[:-1]] == [
        [name, "image"] for name in ("a.jpg", "a.jpg", "b.png", "b.png", "c.jpg")
    ]
    assert lines[-1] == "5 items"
    query = ['--query=user_metadata.wid == "7", original_file_name == "c.jpg"', "--limit=1", "--skip=0"]
    (file,) = json.loads(vision("files", "list", f"--dsid={dataset}", *query).stdout)
    ids = [f"--dsid={dataset}", f"--fileid={file['_id']}"]
    vision("files", "change", *ids, f"--catid={category}")
    assert json.loads(vision("files", "show", *ids).stdout)["category_name"] == "cat"
    assert len(json.loads(vision("files", "list", f"--dsid={dataset}", f"--catid={category}").stdout)) == 1
    vision("files", "change", *ids, "--catid=")
    assert json.loads(vision("files", "show", *ids).stdout)["category_name"] == ""
    labelled = json.loads(vision("files", "list", f"--dsid={dataset}", "--limit=1").stdout)[0]["_id"]
    labels = json.loads(vision("files", "getlabels", f"--dsid={dataset}", f"--fileid={labelled}").stdout)
    assert labels["labels"][0]["name"] == "dent"
    ways = [f"--from={dataset}", f"--to={other}"]
    assert "copied 1 files" in vision("files", "copy", *ways, file["_id"]).stdout
    assert "moved 1 files" in vision("files", "move", *ways, file["_id"]).stdout
    assert vision("files", "list", f"--dsid={other}", "--summary").stdout.endswith("2 items\n")
    assert "Could not find file" in vision("files", "show", *ids, code=2).stdout
    vision("files", "delete", f"--dsid={dataset}", f"--fileid={labelled}")
    for one in (dataset, other):
        vision("datasets", "delete", f"--dsid={one}")


def test_metadata_tags_and_labels(server, vision):
    """fkeys, fmetadata, object-tags and object-labels as far as the command itself works."""
    caller = Caller(server.url)
    dataset = caller.dataset()
    file = caller.upload(dataset, [("a.jpg", picture("dark", 1))]).json()["id"]
    ids = [f"--dsid={dataset}", f"--fileid={file}"]
    vision("fkeys", "create", f"--dsid={dataset}", "--name=colour", "--description=of it")
    vision("fmetadata", "add", *ids, '{"colour": "red"}')
    vision("fmetadata", "change", *ids, "--key=colour", "blue")
    assert json.loads(vision("fmetadata", "list", *ids).stdout) == {"colour": "blue"}
    assert vision("fmetadata", "export", f"--dsid={dataset}").stdout == f"#file_id,colour\n{file},blue\n"
    assert "['colour']" in vision("fmetadata", "delete", *ids, "colour").stdout
    assert json.loads(vision("fkeys", "show", f"--dsid={dataset}", "--name=colour").stdout)["use_count"] == 0
    vision("fkeys", "delete", f"--dsid={dataset}", "--name=colour")
    made = vision("object-tags", "create", f"--dsid={dataset}", "--name=dent").stdout
    assert f"{dataset}-dent" in made
    box = '{"bndbox": {"xmin": 1, "ymin": 1, "xmax": 5, "ymax": 5}}'
    label = vision("object-labels", "create", *ids, f"--tagid={dataset}-dent", box).stdout
    listed = vision("object-labels", "list", f"--dsid={dataset}", "--summary").stdout
    assert listed == f"{UUID.findall(label)[0]}\tdent\t{file}\n1 items\n"
    vision("object-tags", "delete", f"--dsid={dataset}", f"--tagid={dataset}-dent")
    assert vision("object-labels", "list", f"--dsid={dataset}", "--summary").stdout == "0 items\n"
    caller.call("DELETE", f"/datasets/{dataset}")


def test_training_to_a_deployed_model(server, vision, tmp_path):
    """train, follow, list, show, deploy, change, export, import and delete, all by the command."""
    dataset = Caller(server.url).trainable()
    cod = vision("datasets", "train", f"--dsid={dataset}", "--type=cod", "--name=boxes", code=2)
    assert "no object labels" in cod.stdout
    hyper = '--hyper={"max_iter": 60, "learning_rate": 0.01}'
    started = vision("datasets", "train", f"--dsid={dataset}", "--type=cic", "--name=first", hyper).stdout
    assert started.startswith("Started training task with id ")
    task = the_id(started)
    until(lambda: json.loads(vision("dltasks", "show", f"--taskid={task}").stdout)["status"] == "trained")
    status = json.loads(vision("dltasks", "status", f"--taskid={task}", f"--id={task}").stdout)
    assert status["data"][-1]["iter"] == "60"
    words = [f"--dsid={dataset}", "--type=cic", "--name=second", hyper, f"--modelid={task}"]
    second = the_id(vision("datasets", "train", *words).stdout)
    listed = vision("dltasks", "list", "--summary").stdout.splitlines()
    assert [line.split("\t")[-1] for line in listed[:-1]] == ["second", "first"]
    until(lambda: vision("dltasks", "list", "--status=trained", "--summary").stdout.endswith("2 items\n"))
    assert second in vision("trained-models", "list", "--summary", "--usage=cic").stdout
    vision("trained-models", "change", f"--modelid={task}", "--prodstatus=production")
    shown = json.loads(vision("trained-models", "show", f"--modelid={task}").stdout)
    assert (shown["_id"], shown["production_status"]) == (task, "production")
    deployed = json.loads(vision("trained-models", "deploy", f"--modelid={task}", "--accel=CPU").stdout)
    assert deployed["webapi_id"] == task
    assert "ndeploy" in vision("trained-models", "delete", f"--modelid={task}", code=2).stdout
    until(lambda: json.loads(vision("deployed-models", "show", f"--modelid={task}").stdout)["status"] == "ready")
    assert vision("deployed-models", "list", "--summary").stdout.endswith("1 items\n")
    (tmp_path / "dark.jpg").write_bytes(picture("dark", 999))
    answer = json.loads(vision("deployed-models", "infer", f"--modelid={task}", "dark.jpg").stdout)
    assert answer["classified"][0]["name"] == "dark"
    assert task in vision("deployed-models", "delete", f"--modelid={task}").stdout
    exported = vision("trained-models", "export", f"--modelid={task}").stdout
    assert "first.zip" in exported
    imported = the_id(vision("trained-models", "import", "first.zip").stdout)
    for one in (imported, second, task):
        assert one in vision("trained-models", "delete", f"--modelid={one}").stdout
    assert vision("dltasks", "list", "--summary").stdout == "0 items\n"


@pytest.fixture(name="boxes")
def _boxes(server, vision, tmp_path) -> Iterator[str]:
    """The id of a dataset of twenty plates with labels, the first two sent by the command; 3.jpg lies at hand."""
    caller = Caller(server.url)
    dataset = the_id(vision("datasets", "create", "--name=plates").stdout)
    for number in range(20):
        raw, marks = plates.draw(np.random.default_rng([7, number]))
        corners = ("xmin", "ymin", "xmax", "ymax")
        labels = json.dumps(
            [{"name": mark.kind, "bndbox": dict(zip(corners, mark[1:], strict=True))} for mark in marks]
        )
        (tmp_path / f"{number}.jpg").write_bytes(raw)
        if number < 2:  # the command takes half a second each time
            vision("files", "upload", f"--dsid={dataset}", f"--labels={labels}", f"{number}.jpg")
        else:
            caller.upload(dataset, [(f"{number}.jpg", raw)], {"labels": labels})
    yield dataset
    vision("datasets", "delete", f"--dsid={dataset}")


def test_boxes_are_seen(server, vision, boxes):
    """Tags, labels and their counts are listed; a box outside its picture is told, and a rare label is left out."""
    listed = vision("object-tags", "list", f"--dsid={boxes}", "--summary").stdout.splitlines()
    counts = {line.split("\t")[1]: int(line.split("\t")[2]) for line in listed[:-1]}
    assert set(counts) == set(plates.KINDS)
    everything = vision("object-labels", "list", f"--dsid={boxes}", "--summary").stdout
    assert everything.endswith(f"{sum(counts.values())} items\n")
    (file,) = json.loads(vision("files", "list", f"--dsid={boxes}", '--query=original_file_name == "0.jpg"').stdout)
    labels = json.loads(vision("files", "getlabels", f"--dsid={boxes}", f"--fileid={file['_id']}").stdout)["labels"]
    _, marks = plates.draw(np.random.default_rng([7, 0]))
    assert [(one["name"], *one["bndbox"].values()) for one in labels] == marks
    outside = '[{"name": "rare", "bndbox": {"xmin": 1, "ymin": 1, "xmax": 500, "ymax": 5}}]'
    refused = vision("files", "upload", f"--dsid={boxes}", f"--labels={outside}", "1.jpg", code=2)
    assert "200 x 150" in refused.stdout + refused.stderr
    vision("files", "upload", f"--dsid={boxes}", f"--labels={outside.replace('500', '50')}", "1.jpg")
    task = the_id(vision("datasets", "train", f"--dsid={boxes}", "--type=cod", "--name=x").stdout)
    caller = Caller(server.url)
    assert caller.get(f"/dltasks/{task}")["dataset_summary"]["rare_labels"] == {"rare": 1}
    assert caller.call("DELETE", f"/dltasks/{task}").status_code == 200


def test_boxes_to_a_deployed_model(server, vision, boxes, tmp_path):
    """A detection is trained, listed, deployed, asked, exported, imported and deleted, all by the command."""
    caller = Caller(server.url)
    words = [f"--dsid={boxes}", "--type=cod", "--name=finder", "--subtype=tiny_yolo_v2", '--hyper={"max_iter": 400}']
    task = the_id(vision("datasets", "train", *words).stdout)
    assert caller.ended(task)["status"] == "trained"
    assert f"{task}\tcod\ttrained\ttiny_yolo_v2\tfinder" in vision("dltasks", "list", "--summary").stdout
    assert task in vision("trained-models", "list", "--summary", "--usage=cod").stdout
    model = json.loads(vision("trained-models", "show", f"--modelid={task}").stdout)
    assert (model["usage"], model["eval_data"]["metric"]) == ("cod", "mAP@0.5")
    assert {one["category_name"] for one in model["categories"]} == set(plates.KINDS)
    vision("trained-models", "deploy", f"--modelid={task}")
    until(lambda: caller.get(f"/webapis/{task}")["status"] == "ready")
    assert f"{task}\tcod\tready\ttiny_yolo_v2\tfinder" in vision("deployed-models", "list", "--summary").stdout
    # Without a colour the command fails on its own default.
    ask = [f"--modelid={task}", "--minconfidence=0.5", "--annotatefile=seen.jpg", "--color=red", "3.jpg"]
    said = vision("deployed-models", "infer", *ask).stdout
    answer = json.loads(said[said.index("{") :])  # after a line for each box that it drew
    assert {one["label"] for one in answer["classified"]} <= set(plates.KINDS)
    assert all(one["confidence"] >= 0.5 for one in answer["classified"])
    assert answer["classified"]
    with Image.open(tmp_path / "3.jpg") as plain, Image.open(tmp_path / "seen.jpg") as drawn:
        assert plain.size == drawn.size
        assert np.abs(np.asarray(plain, dtype=float) - np.asarray(drawn, dtype=float)).max() > 60
    vision("deployed-models", "delete", f"--modelid={task}")
    vision("trained-models", "export", f"--modelid={task}")
    imported = the_id(vision("trained-models", "import", "finder.zip").stdout)
    assert json.loads(vision("trained-models", "show", f"--modelid={imported}").stdout)["usage"] == "cod"
    for one in (imported, task):
        vision("trained-models", "delete", f"--modelid={one}")


def test_users_token(tmp_path):
    """Users token prints a token that the command then works with; a wrong password is told."""
    with serving(tmp_path / "data", credentials=Credentials("ann", "correct horse")) as server:
        vision = runner(server, tmp_path, "wrong")
        assert "Failed to parse token" in vision("datasets", "list", code=2).stdout
        vision("users", "token", "--user=ann", "--password=wrong", code=2)
        token = vision("users", "token", "--user=ann", "--password=correct horse").stdout.strip()
        assert runner(server, tmp_path, token)("datasets", "list").stdout == "[]\n"


def test_several_commands_at_once(server, vision):
    """Four commands in parallel do not disturb each other."""
    begun = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda n: vision("datasets", "create", f"--name=p{n}").stdout, range(4))
        ids = [the_id(text) for text in made]
    assert len(set(ids)) == 4
    assert time.monotonic() - begun < 30
    for one in ids:
        Caller(server.url).call("DELETE", f"/datasets/{one}")
