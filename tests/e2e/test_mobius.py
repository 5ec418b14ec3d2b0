"""The whole program as a process, retargeted to a Mobius SDK: the emulator, over HTTP, on real files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from image_sync.domain import ModelOutcome, TrainingState
from image_sync_server.mobius.server import MobiusServer
from support.commands import forked, one_by_one
from support.daemon import PROGRAM, Plant, put_plates
from support.mobius import assigned, calls, in_folders, mobius_plant, serving_mobius, tasks
from support.mvi_server import picture

IMAGES = Path(__file__).parents[2] / "images"
DEMO = ("good", "scratch", "spot")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MobiusServer]:
    with serving_mobius(tmp_path / "server") as running:
        yield running


@pytest.fixture
def plant(tmp_path: Path, server: MobiusServer) -> Plant:
    return mobius_plant(tmp_path / "plant", server)


def test_the_demo_pictures_end_with_a_prediction_over_all_tags(plant: Plant, server: MobiusServer) -> None:
    """The folders of the demo, retargeted: assigned once, a task for each tag, and the tags judge unseen pictures."""
    kept = {}
    for category in DEMO:
        shutil.copytree(IMAGES / category, plant.root / category)
        kept[category] = max((plant.root / category).glob("*.jpg")).replace(plant.folder / f"{category}.jpg")
    plant.configure(threshold={"upload": 12, "training": 24})
    with plant.running() as daemon:
        plant.wait(lambda p: [run.fate for run in p.runs()] == [ModelOutcome.DEPLOYED])
        assert daemon.stop() == 0

    assert assigned(server) == in_folders(plant.root)
    assert tasks(server) == dict.fromkeys(DEMO, 1)
    check, status, models, predicted, single, base = one_by_one(
        plant,
        ["check"],
        ["status"],
        ["models", "--json"],
        ["predict", "--json", *map(str, kept.values())],
        ["mobius", "predict", "--json", "-t", "spot", str(kept["spot"])],
        ["mobius", "predict", "--base", str(kept["good"])],
    )
    assert (check.returncode, status.returncode) == (0, 0), check.stdout
    assert "'plates' is there" in check.stdout
    assert "good: 19 positives, 38 negatives assigned" in status.stdout
    assert "tag 3 of 3, deployed: it answers as soon as it is trained" in status.stdout
    (model,) = json.loads(models.stdout)
    assert model["categories"] == list(DEMO)
    for category, row in zip(kept, json.loads(predicted.stdout), strict=True):
        assert {one["category"] for one in row["predictions"]} == set(DEMO)
        assert row["predictions"][0]["category"] == category
    assert json.loads(single.stdout)[0]["scores"]["spot"] > 0.5
    assert "light" in base.stdout


def test_one_training_after_another_touches_the_changed_tags_only(plant: Plant, server: MobiusServer) -> None:
    """New pictures of one category: its tag is trained again, on top of its model with `retrain`, the other is not."""
    plant.configure(threshold={"training": 12}, model={"action": "retrain"})
    put_plates(plant)
    assert plant.call("run", "--once").returncode == 0
    assert tasks(server) == {"dark": 1, "light": 1}
    plant.configure(threshold={"training": 3})
    for number in range(50, 53):
        plant.put(f"dark/{number}.jpg", picture("dark", number))
    assert plant.call("run", "--once").returncode == 0

    assert tasks(server) == {"dark": 2, "light": 1}
    assert len(calls(server, "/custom/delete/")) == 2
    gone = plant.call("models", "delete", "--yes", "latest")
    assert gone.returncode == 0, gone.stderr
    assert server.store.trained() == []
    second, first = plant.runs()
    assert (second.base, second.state, second.iterations) == (first.task_id, TrainingState.TRAINED, 1)


def test_a_move_resets_the_old_tag_at_its_next_training(plant: Plant, server: MobiusServer) -> None:
    """Nothing takes an assignment back: `status` says that the tag will be reset, and the next training does it."""
    plant.configure(threshold={"training": 12}, model={"action": "retrain"}, watch={"rescan": 1})
    put_plates(plant)
    assert plant.call("run", "--once").returncode == 0
    moved = plant.root / "dark" / "005.jpg"
    moved.rename(plant.root / "light" / "moved.jpg")
    assert plant.call("run", "--once").returncode == 0
    shown = plant.call("status").stdout
    assert "dark: 5 positives, 6 negatives assigned; to be trained, since it has other pictures" in shown
    assert "to be reset before, since pictures were moved away from it" in shown
    assert len(assigned(server)["dark"]) == 6
    plant.configure(threshold={"training": 1})
    plant.put("light/new.jpg", picture("light", 99))
    assert plant.call("run", "--once").returncode == 0

    assert assigned(server) == in_folders(plant.root)
    assert tasks(server) == {"dark": 2, "light": 2}
    assert "to be" not in plant.call("status").stdout


def test_folders_of_negatives_become_no_tags(plant: Plant, server: MobiusServer) -> None:
    """`_negative_` serves all tags, `<category>/negative` one; with "folders" nothing else does."""
    plant.configure(threshold={"training": 10}, mobius={"negatives": "folders"})
    put_plates(plant, each=3)
    for number in range(3):
        plant.put(f"_negative_/{number}.png", picture("light", 100 + number, suffix="png"))
        plant.put(f"dark/negative/{number}.png", picture("light", 200 + number, suffix="png"))
    assert plant.call("run", "--once").returncode == 0

    folders = in_folders(plant.root)
    general = folders.pop("_negative_")
    assert assigned(server) == folders
    own = {one for one in assigned(server, "negative")["dark"] if one not in general}
    assert len(own) == 3
    assert assigned(server, "negative") == {"dark": general | own, "light": general}
    assert tasks(server) == {"dark": 1, "light": 1}


def test_added_pictures_are_asked_about_and_a_state_is_loaded(
    plant: Plant, server: MobiusServer, tmp_path: Path
) -> None:
    """By their content, one or several, on all tags or some, and nothing is sent for it. `set-state` does nothing
    unasked; afterwards every tag is trained anew."""
    plant.configure(threshold={"training": 12})
    put_plates(plant)
    assert plant.call("run", "--once").returncode == 0
    one, two = str(plant.root / "dark/000.jpg"), str(plant.root / "light/001.jpg")
    (tmp_path / "no.tar").write_text("no")
    tar = tmp_path / "state.tar"
    tar.write_bytes(requests.get(f"{server.url}/get_state", timeout=10).content)

    alone, tagged, both, every, unasked, wrong, done, status = one_by_one(
        plant,
        ["mobius", "predict", "--added", "--json", one],
        ["mobius", "predict", "--added", "--json", "-t", "dark", one],
        ["mobius", "predict", "--added", "--json", "-t", "dark", "-t", "light", one, two],
        ["mobius", "predict", "--added", "--json", one, two],
        ["mobius", "set-state", str(tar)],
        ["mobius", "set-state", str(tmp_path / "no.tar"), "--yes"],
        ["mobius", "set-state", str(tar), "--yes"],
        ["status", "--json"],
    )

    assert set(json.loads(alone.stdout)[0]["scores"]) == {"dark", "light"}
    assert set(json.loads(tagged.stdout)[0]["scores"]) == {"dark"}
    scores = [row["scores"] for row in json.loads(both.stdout)]
    assert scores[0]["dark"] > scores[1]["dark"]
    assert scores[0]["light"] < scores[1]["light"]
    assert calls(server, "POST /predict") == []
    assert [row["scores"] for row in json.loads(every.stdout)] == scores
    assert [done.returncode for done in (unasked, wrong, done)] == [2, 2, 0], done.stderr
    assert "EVERYTHING" in unasked.stderr
    assert len(calls(server, "/set_state")) == 1
    assert server.store.trained() == ["dark", "light"]
    assert [row["changed"] for row in json.loads(status.stdout)["tags"]] == ["it has not been trained yet"] * 2


def test_check_tells_which_categories_can_have_no_tag(plant: Plant, server: MobiusServer) -> None:
    """A comma in a folder's name: a person must rename it, or map it; a server that is none is told as well."""
    plant.put("a,b/1.jpg", picture("dark", 1))
    plant.put("light/1.jpg", picture("light", 1))
    wrong, mapped, elsewhere = (plant.config.with_name(f"{name}.json") for name in ("wrong", "mapped", "elsewhere"))
    shutil.copy(plant.config, wrong)
    plant.configure(categories={"a,b": "a and b"})
    shutil.copy(plant.config, mapped)
    plant.configure(credentials={"endpoint": f"{server.url}/elsewhere"})
    shutil.copy(plant.config, elsewhere)

    first, second, third = forked([["check", "-c", str(path)] for path in (wrong, mapped, elsewhere)], plant.environ)

    assert (first.returncode, second.returncode) == (78, 0), first.stdout
    assert "'a,b' cannot be a tag" in first.stdout
    assert "then start" not in second.stdout
    assert third.returncode not in {0, 78}
    assert "credentials.endpoint" in third.stdout


def test_serve_runs_the_emulator(tmp_path: Path) -> None:
    """`image-sync serve --api mobius` prints its address, answers, keeps its state, and ends on SIGTERM."""
    command = [*PROGRAM, "serve", "--api", "mobius", "--port", "0", "--data", str(tmp_path / "data")]
    content = picture("dark", 1)
    for number in range(2):
        with subprocess.Popen(
            [*command, "--fault", "slow=100%:0.01"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("listening on ").strip()
            answer = requests.post(
                f"{url}/system/database/image/add", params={"image_id": "a1"}, files={"data": content}, timeout=10
            ).json()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert answer["status"] == ("error" if number else "success")
    assert answer["message"] == "duplicate_image_id"
    for words, told in (
        (["--fault", "nonsense"], "KIND=RATE"),
        (["--host", "0.0.0.0"], "other machines"),
        (["--user", "ann"], "--user has no meaning"),
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2
        assert told in done.stderr
    assert os.path.exists(tmp_path / "data")
