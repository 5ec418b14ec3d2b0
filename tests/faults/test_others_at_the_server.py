"""What others do at the server, and what became of the ledger meanwhile: with real daemons and the embedded server."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping

import pytest

from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.server import MviServer
from support.daemon import Plant, stored
from support.mvi_server import Caller, picture


@pytest.fixture
def plant(tmp_path, server: MviServer) -> Plant:
    """A daemon that has sent 20 pictures, and was stopped."""
    made = Plant(tmp_path / "plant", server.url)
    put(made, range(10))
    assert made.call("run", "--once").returncode == 0
    return made


def put(plant: Plant, numbers: range) -> None:
    """Dark and light pictures; no two files have one name."""
    for kind, number in itertools.product(("dark", "light"), numbers):
        plant.put(f"{kind}/{kind}{number:03}.jpg", picture(kind, number))


def dataset(server: MviServer) -> str:
    """The id of the only dataset."""
    (found,) = Caller(server.url).get("/datasets")
    return str(found["_id"])


def files(server: MviServer) -> dict[str, dict[str, str]]:
    """What lies there, by the name that its file had here: id and category."""
    rows = Caller(server.url).get(f"/datasets/{dataset(server)}/files")
    return {
        f"{row['original_file_name'].partition('.')[0]}": {"id": row["_id"], "category": row.get("category_name", "")}
        for row in rows
    }


def give(server: MviServer, category: str, *names: str) -> None:
    """A person gives these pictures another category at the server."""
    caller, there = Caller(server.url), files(server)
    category_id = caller.category(dataset(server), category)
    for name in names:
        body = {"action": "change_category", "target_category_id": category_id}
        caller.post(f"/datasets/{dataset(server)}/files/{there[name]['id']}/action", **body)


def categories(server: MviServer) -> dict[str, str]:
    """The category of each picture, by its file's name."""
    return {name: row["category"] for name, row in files(server).items()}


def troubles(plant: Plant) -> Mapping[str, str]:
    """What ``status`` says, by stage."""
    return {one["stage"]: f"{one['what']}. {one['hint']}" for one in plant.status()["troubles"]}


def test_pictures_deleted_at_the_server_are_told_and_sent_again_by_repair(plant: Plant, server: MviServer) -> None:
    """`status` and `list` name them, `image-sync repair` sends them again, and then nothing is wrong any more."""
    before = stored(server)
    for row in list(files(server).values())[:3]:
        assert Caller(server.url).call("DELETE", f"/datasets/{dataset(server)}/files/{row['id']}").status_code == 200
    with plant.running() as daemon:
        plant.wait(lambda plant: "missing" in troubles(plant))
        assert "3 uploaded pictures are no longer at the server" in troubles(plant)["missing"]
        assert len(json.loads(plant.call("list", "--state", "refused", "--json").stdout)) == 3
        assert "image-sync repair" in plant.call("status").stdout
        done = plant.call("repair")
        assert "Pictures that are sent again: 3." in done.stdout
        plant.wait(lambda plant: plant.tally().confirmed == 20)
        plant.wait(lambda plant: troubles(plant) == {})
        assert daemon.stop() == 0

    assert stored(server) == before
    assert "Nothing is known to be missing" in plant.call("repair").stdout


def test_a_dataset_deleted_at_the_server_is_made_again_by_repair(plant: Plant, server: MviServer) -> None:
    """Until then nothing is sent, also what is new; `status` names the dataset and the way on."""
    before, gone = stored(server), dataset(server)
    assert Caller(server.url).call("DELETE", f"/datasets/{gone}").status_code == 200
    with plant.running() as daemon:
        plant.wait(lambda plant: "dataset" in troubles(plant))
        assert "the dataset 'plates'" in troubles(plant)["dataset"]
        assert "20 pictures were uploaded to it" in troubles(plant)["dataset"]
        assert stored(server) == []
        assert "The dataset is made anew." in plant.call("repair").stdout
        plant.wait(lambda plant: plant.tally().confirmed == 20)
        plant.wait(lambda plant: troubles(plant) == {})
        assert daemon.stop() == 0

    assert stored(server) == before
    assert dataset(server) != gone


def test_a_dataset_that_somebody_made_again_is_filled_by_repair(plant: Plant, server: MviServer) -> None:
    """An empty one of the same name: its id is taken up, what is missing in it is told and sent again."""
    before = stored(server)
    assert Caller(server.url).call("DELETE", f"/datasets/{dataset(server)}").status_code == 200
    made = Caller(server.url).dataset("plates")
    with plant.running() as daemon:
        plant.wait(lambda plant: "missing" in troubles(plant))
        assert plant.status()["dataset"]["id"] == made
        assert plant.call("repair").returncode == 0
        plant.wait(lambda plant: plant.tally().confirmed == 20)
        assert daemon.stop() == 0

    assert stored(server) == before


def kept(plant: Plant) -> int:
    """How many pictures ``status`` says that a person gave another category."""
    return int(plant.status()["dataset"]["categories_changed"])


def test_a_category_that_a_person_changed_is_shown_and_survives_a_rebuild(plant: Plant, server: MviServer) -> None:
    """`status` counts such pictures, `list` names them; `ledger rebuild` knows what it had told and changes nothing."""
    names = list(categories(server))[:2]
    give(server, "odd", *names)
    theirs = categories(server)
    for rebuilt in (False, True):
        if rebuilt:
            assert plant.call("ledger", "rebuild").returncode == 0
        with plant.running() as daemon:
            plant.wait(lambda plant: kept(plant) == 2)
            assert "2 pictures were given another category at the server" in plant.call("status").stdout
            rows = json.loads(plant.call("list", "--state", "category-changed", "--json").stdout)
            assert [row["reason"] for row in rows] == ["'odd' at the server"] * 2
            assert daemon.stop() == 0
        assert categories(server) == theirs
    assert len(plant.events("picture.category_changed")) == 2  # once for each ledger


def test_a_rebuilt_ledger_relabels_files_that_were_moved_meanwhile(plant: Plant, server: MviServer) -> None:
    """What was told is known, so the folder's change is not taken for a person's at the server."""
    assert plant.call("ledger", "rebuild").returncode == 0
    name = next(name for name, category in categories(server).items() if category == "dark")
    shutil.move(plant.root / f"dark/{name}.jpg", plant.root / f"light/moved-{name}.jpg")
    assert plant.call("run", "--once").returncode == 0

    assert sorted(categories(server).values()) == ["dark"] * 9 + ["light"] * 11
    assert kept(plant) == 0


@pytest.mark.parametrize("how", ["the ledger alone", "the whole folder"])
@pytest.mark.parametrize("back", [True, False])
def test_a_ledger_from_a_backup_tells_anew_what_was_told_since(
    plant: Plant, server: MviServer, back: bool, how: str
) -> None:
    """Folders and server agree again, wherever the files are; what a person changed before the backup stays."""
    state, backup = plant.folder / "state", plant.folder / "backup"
    person, *mine = [name for name, category in categories(server).items() if category == "dark"]
    give(server, "odd", person)
    with plant.running() as daemon:
        plant.wait(lambda plant: kept(plant) == 1)
        assert daemon.stop() == 0
    shutil.copytree(state, backup)
    for name in mine[:5]:
        shutil.move(plant.root / f"dark/{name}.jpg", plant.root / f"light/x{name}.jpg")
    assert plant.call("run", "--once").returncode == 0
    assert sum(category == "light" for category in categories(server).values()) == 15
    for name in mine[:5] if back else ():
        shutil.move(plant.root / f"light/x{name}.jpg", plant.root / f"dark/{name}.jpg")
    for file in backup.iterdir():
        if how == "the whole folder" or file.name == "ledger.sqlite":
            shutil.copy2(file, state / file.name)
    assert plant.call("run", "--once").returncode == 0

    found = categories(server)
    assert found.pop(person) == "odd"
    assert sum(category == "light" for category in found.values()) == (10 if back else 15)
    assert sum(category == "dark" for category in found.values()) == (9 if back else 4)
    assert kept(plant) == 1


def test_a_training_waits_for_changes_of_category_that_the_server_refuses(plant: Plant, server: MviServer) -> None:
    """`status` says for how many; when they are told, the training starts with the categories of the folders."""
    server.faults.add(Fault(Action.STATUS, method="POST", path="/action$", count=None, status=400))
    plant.configure(threshold={"training": 22})
    with plant.running() as daemon:
        shutil.move(plant.root / "dark/dark000.jpg", plant.root / "light/moved.jpg")
        plant.wait(lambda plant: plant.tally().moving == 1)
        put(plant, range(10, 11))
        plant.wait(lambda plant: "category" in plant.status()["training"]["reason"])
        assert plant.runs() == []
        server.faults.clear()
        plant.wait(lambda plant: plant.tally().moving == 0)
        plant.wait(lambda plant: bool(plant.runs()))
        assert daemon.stop() == 0

    assert sorted(categories(server).values()) == ["dark"] * 10 + ["light"] * 12


def test_what_was_moved_while_nothing_ran_is_found_before_a_training_starts(plant: Plant, server: MviServer) -> None:
    """Five pictures of ten moved, and the threshold is reached at once: the training has them where they are now."""
    plant.configure(threshold={"training": 20})
    for number in range(5):
        shutil.move(plant.root / f"dark/dark{number:03}.jpg", plant.root / f"light/moved{number}.jpg")
    with plant.running() as daemon:
        plant.wait(lambda plant: bool(plant.runs()))
        assert daemon.stop() == 0

    assert sorted(categories(server).values()) == ["dark"] * 5 + ["light"] * 15
    assert plant.events("picture.relabelled")[-1]["timestamp"] < plant.events("training.starting")[0]["timestamp"]


def test_two_daemons_on_one_dataset_leave_one_copy_of_each_picture(tmp_path, server: MviServer) -> None:
    """Both send the same pictures at once; `status` of both says so, and what comes later is sent once."""
    plants = [Plant(tmp_path / name, server.url) for name in ("one", "two")]
    Caller(server.url).dataset("plates")
    with plants[0].running() as first, plants[1].running() as second:
        for plant in plants:  # both have seen an empty dataset before there is anything to send
            plant.wait(lambda plant: bool(plant.status()["dataset"]["id"]))
        for plant in plants:
            put(plant, range(10))
        for plant in plants:
            plant.wait(lambda plant: plant.status()["dataset"]["shared"])
            assert "another image-sync sends the same pictures" in plant.call("status").stdout
        plants[0].wait(lambda _: len(stored(server)) == 20)
        for plant in plants:
            put(plant, range(10, 12))
        for plant in plants:
            plant.wait(lambda plant: plant.tally().confirmed == 24)
        plants[0].wait(lambda _: len(stored(server)) == 24)
        assert (first.stop(), second.stop()) == (0, 0)

    assert len(stored(server)) == len(set(stored(server))) == 24
