"""The life of models as a person sees it: real processes against the embedded server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from image_sync.domain import NextStep
from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.server import MviServer
from support.commands import forked, one_by_one
from support.daemon import Plant, put_plates
from support.fake_http import FakeHttp, Reply, Request, answer, ok
from support.mvi_server import Caller, picture, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MviServer]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def plant(tmp_path: Path, server: MviServer, request: pytest.FixtureRequest) -> Iterator[Plant]:
    name = request.node.name
    yield Plant(tmp_path / "plant", server.url, dataset={"name": name}, model={"name": "plates", "poll": 0.1})
    server.faults.clear()


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> str:
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text
    assert done.returncode == code, text
    return text


def models(plant: Plant) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(plant.call("models", "--json").stdout)
    return found


def test_a_daemon_that_deploys_replaces_and_tidies(plant: Plant) -> None:
    """`run --once` trains, deploys the new model before the old one is taken down, and keeps as many as it is told."""
    plant.configure(threshold={"training": 8}, model={"deploy": "always", "keep": 1, "action": "retrain"})
    put_plates(plant)
    said(plant.call("run", "--once"))
    put_plates(plant, start=10)
    once, listing, status, early, late = one_by_one(
        plant,
        ["run", "--once"],
        ["models", "--json"],
        ["status"],
        ["show", str(plant.root / "dark/000.jpg")],
        ["show", str(plant.root / "dark/010.jpg")],
    )
    said(once)
    (model,) = json.loads(listing.stdout)

    new, old = plant.runs()
    assert model["name"] == new.name
    assert model["deployed"] is True
    assert (new.fate, old.fate) == ("deployed", "deleted")
    assert new.base == old.task_id
    assert [content["pictures"] for content in model["contents"]] == [12, 12]
    assert f"continues from {old.name}" in status.stdout
    assert 'deployed: model.deploy is "always"' in status.stdout
    assert f"{new.name} (in category dark" in early.stdout
    assert f"{old.name} (in category dark" in early.stdout
    assert f"{new.name} (in category dark" in late.stdout
    assert f"{old.name} (" not in late.stdout


def test_a_new_setting_works_on_reload(plant: Plant) -> None:
    """A running daemon that is told to deploy deploys what it trains next."""
    put_plates(plant)
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().confirmed == 12)
        plant.configure(model={"deploy": "always"}, threshold={"per_category": 8})
        plant.wait(lambda p: bool(p.events("configuration.changed")))
        refused = said(plant.call("train"), 1)
        assert "waits for category 'dark': 6 of 8" in refused
        plant.configure(threshold={"per_category": None})
        plant.wait(lambda p: len(p.events("configuration.changed")) == 2)
        followed = said(plant.call("train", "--follow"))
        assert 'Its model: deployed: model.deploy is "always"' in followed
        assert daemon.stop() == 0

    assert models(plant)[0]["deployed"] is True


def test_a_daemon_that_is_killed_while_deploying_deploys_once(plant: Plant, server: MviServer) -> None:
    """SIGKILL before the answer to a deployment: after the restart it is found, not asked for again."""
    plant.configure(threshold={"training": 8}, model={"deploy": "always"})
    server.faults.add(Fault(Action.TRICKLE, "POST", "/webapis$", seconds=20))
    seen = len(server.requests.matching("POST", "/webapis"))
    put_plates(plant)
    with plant.running() as daemon:
        plant.wait(lambda p: any(run.fate for run in p.runs()))
        task = plant.runs()[0].task_id
        plant.wait(lambda _: bool(Caller(server.url).call("GET", f"/webapis/{task}").ok))
        daemon.kill()
    assert [run.fate for run in plant.runs()] == ["chosen"]
    with plant.running() as daemon:
        plant.wait(lambda p: [run.fate for run in p.runs()] == ["deployed"])
        assert daemon.stop() == 0

    assert len(server.requests.matching("POST", "/webapis")) <= seen + 1
    assert models(plant)[0]["deployed"] is True


def trained(plant: Plant, *words: Sequence[str]) -> list[str]:
    """A model of a few plates; then these commands, and what they said."""
    put_plates(plant)
    done = one_by_one(plant, ["run", "--once"], ["train", "--follow"], *words)
    return [f"{one.returncode} {one.stdout}{one.stderr}" for one in done][2:]


def test_models_by_hand(plant: Plant, tmp_path: Path) -> None:
    """Deployed, exported, imported, asked, undeployed, deleted: each by its own command, wrong calls refused."""
    archive, plate = str(tmp_path / "model.zip"), str(plant.root / "light/000.jpg")
    deploy, listing, delete, export, again, force, imported = trained(
        plant,
        ["models", "deploy", "latest"],
        ["models"],
        ["models", "delete", "latest", "--yes"],
        ["models", "export", "latest", "-o", archive],
        ["models", "export", "latest", "-o", archive],
        ["models", "export", "latest", "-o", archive, "--force"],
        ["models", "import", archive, "--deploy"],
    )
    assert deploy.startswith("0 Model plates-")
    assert "deployed by hand" in listing
    assert delete.startswith("1 ")
    assert "image-sync models undeploy plates-" in delete
    assert archive in export
    assert again.startswith("2 ")
    assert "--force" in again
    assert force.startswith("0 ")
    new_id = imported.partition("its id is ")[2].partition(".")[0]
    (name,) = [run.name for run in plant.runs()]
    done = one_by_one(
        plant,
        ["predict", "--model", new_id, plate, "--json"],
        ["models", "undeploy", new_id],
        ["models", "delete", new_id, "--yes"],
        ["models", "undeploy", name],
        ["models", "delete", name],
        ["models", "delete", name, "--yes"],
        ["models", "--json"],
        ["status"],
        ["models", "deploy", name],
        ["models", "import", str(plant.config)],
        ["models", "import", str(tmp_path / "none.zip")],
    )

    assert [one.returncode for one in done] == [0, 0, 0, 0, 2, 0, 0, 0, 2, 1, 1]
    assert json.loads(done[0].stdout)[0]["predictions"][0]["category"] == "light"
    assert "--yes" in done[4].stderr
    assert json.loads(done[6].stdout) == []
    assert "deleted: by hand" in done[7].stdout
    assert "there is no model" in done[8].stderr
    assert "not an exported model" in done[9].stderr
    assert "cannot be read" in done[10].stderr


def test_status_and_models_agree_on_what_is_deployed(plant: Plant) -> None:
    """After each deployment and undeployment by hand both say the same."""
    told = trained(
        plant,
        *(
            words
            for verb in ("deploy", "undeploy", "deploy")
            for words in (["models", verb, "latest"], ["models"], ["status"])
        ),
    )
    for number, standing in ((0, "deployed by hand"), (3, "undeployed by hand"), (6, "deployed by hand")):
        assert told[number].startswith("0 ")
        for said_of in told[number + 1 : number + 3]:
            assert standing in said_of
            assert ("undeployed" in said_of) == standing.startswith("un")


def test_plots(plant: Plant, tmp_path: Path) -> None:
    """A training and all models become pictures; what cannot be drawn is told."""
    none, *done = trained(
        plant,
        ["models", "plot", "x"],
        ["models", "plot", "latest", "-o", str(tmp_path / "one.png")],
        ["models", "plot", "-o", str(tmp_path / "all.svg")],
        ["models", "plot", "-o", "x.doc"],
    )
    with Image.open(tmp_path / "one.png") as drawn:
        assert drawn.size == (1080, 600)
        assert len(drawn.convert("RGB").getcolors(1 << 20) or []) > 20
    assert (tmp_path / "all.svg").read_text().startswith("<?xml")
    assert none.startswith("2 ")
    assert "no training 'x'" in none
    assert [one[0] for one in done] == ["0", "0", "2"]
    early = forked([["models", "-c", str(plant.config), "plot"]], plant.environ)[0]
    assert early.returncode == 2
    assert "options must come after" in early.stderr


def test_predictions_of_several_pictures_with_a_limit(plant: Plant) -> None:
    """One row for each picture; exit 1 as soon as one of them is below the confidence that was asked for."""
    plates = [str(plant.root / "dark/000.jpg"), str(plant.root / "light/000.jpg")]
    grey = plant.folder / "grey.png"
    Image.new("RGB", (64, 64), (120, 120, 120)).save(grey)
    plant.configure(model={"strategy": {"max_iter": 100, "learning_rate": 0.00001}})
    table, unsure, drawn, wrong = trained(
        plant,
        ["predict", "--deploy", *plates, "--min-confidence", "0.5"],
        ["predict", *plates, str(grey), "--min-confidence", "1"],
        ["predict", *plates, "--annotate", str(plant.folder / "drawn")],
        ["predict", *plates, "--min-confidence", "2"],
    )

    assert table.startswith("0 ")
    assert table.count(".jpg") == 2
    assert unsure.startswith("1 ")
    assert "of 3 pictures are below confidence 1" in unsure
    assert drawn.startswith("0 ")
    assert "Nothing is drawn" in drawn
    assert not (plant.folder / "drawn").exists()
    assert wrong.startswith("2 ")


def test_a_folder_is_asked_about_and_a_bad_file_is_named(plant: Plant) -> None:
    """Every picture of the folder has its row; what cannot be read is named, in JSON too, and the exit code is 1."""
    bad = str(plant.folder / "none.jpg")
    table, rows, nothing = trained(
        plant,
        ["predict", "--deploy", str(plant.root / "dark"), bad],
        ["predict", str(plant.root), bad, "--json"],
        ["predict", bad],
    )

    assert table.startswith("1 ")
    assert table.count(".jpg") == 7
    assert "none.jpg cannot be read" in table
    found = json.loads(rows.partition(" ")[2].rpartition("]")[0] + "]")
    assert len(found) == 13
    assert [row["image"] for row in found if "error" in row] == [bad]
    assert nothing.startswith("2 ")


def test_objects_that_a_detector_finds_are_listed_and_drawn(tmp_path: Path) -> None:
    """Each object has a row with its box; unsure ones are left out; the pictures are written beside each other."""
    found = [
        {"label": "hole", "confidence": 0.9, "xmin": 8, "ymin": 8, "xmax": 30, "ymax": 40},
        {"label": "dent", "confidence": 0.4, "xmin": 40, "ymin": 40, "xmax": 60, "ymax": 60},
    ]
    model = {"_id": "m-1", "name": "plates-1", "dataset_id": "d-1", "usage": "cod", "deployed": 1}
    table = {
        "GET /api/datasets": ok([{"_id": "d-1", "name": "plates"}]),
        "GET /api/trained-models/": ok([model]),
        "POST /api/dlapis/m-1": ok({"classified": found}),
    }

    def script(request: Request) -> Reply:
        return table.get(f"{request.method} {request.path}", answer(404, {"result": "fail"}))

    with FakeHttp(script=script) as server:
        plant = Plant(tmp_path / "plant", server.url)
        plates = [plant.put(place, picture("light", 1)) for place in ("a/x.jpg", "b/x.jpg")]
        words = ["predict", *map(str, plates), "--annotate", str(tmp_path / "drawn")]
        first, second, unsure = one_by_one(
            plant, words, [*words, "--min-confidence", "0.5", "--json"], [*words, "--min-confidence", "0.95"]
        )
    told, surer = said(first), json.loads(second.stdout)

    assert "8, 8 - 30, 40" in told
    assert told.count("hole") == told.count("dent") == 2
    assert [one["category"] for one in surer[0]["predictions"]] == ["hole"]
    assert surer[0]["predictions"][0]["box"] == {"left": 8, "top": 8, "right": 30, "bottom": 40}
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["x-boxes-2.png", "x-boxes.png"]
    assert unsure.returncode == 1
    with Image.open(surer[0]["annotated"]) as drawn:
        assert drawn.size == (64, 64)


def test_a_deployment_that_is_refused_is_told(plant: Plant, server: MviServer) -> None:
    """The training is done all the same; `status` and `models` tell the server's words and the way on."""
    plant.configure(model={"deploy": "always"})
    put_plates(plant)
    server.faults.add(Fault(Action.STATUS, "POST", "/webapis$", status=400))
    once, followed, listing, status = map(
        said, one_by_one(plant, ["run", "--once"], ["train", "--follow"], ["models"], ["status"])
    )

    assert "batch.uploaded" in once
    assert "Its model: could not be deployed" in followed
    assert "could not be deployed" in listing
    assert "could not be deployed" in status


def test_a_training_is_stopped_by_hand(plant: Plant) -> None:
    """`models stop` ends the one that runs; it has failed with a reason, and is not started once more by itself."""
    plant.configure(threshold={"training": 8}, model={"strategy": {"max_iter": 100_000}})
    put_plates(plant)
    with plant.running():
        plant.wait(lambda one: any(run.task_id for run in one.runs()))
        said(plant.call("models", "stop"))
        plant.wait(lambda one: [str(run.state) for run in one.runs()] == ["failed"])

    idle, unknown, log = one_by_one(
        plant, ["models", "stop"], ["models", "stop", "no-such-training"], ["models", "log"]
    )
    (run,) = plant.runs()
    assert run.owed is NextStep.NOTHING
    assert "no training is running" in said(idle, 2)
    assert "no-such-training" in said(unknown, 1)
    assert "no log" in said(log, log.returncode)
