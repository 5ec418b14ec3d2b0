"""A ledger that was deleted, damaged, truncated or restored from yesterday: nothing that is there is sent again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from image_sync_server.mvi.server import MviServer
from support.daemon import Plant, put_plates, stored
from support.mvi_server import Caller, picture


@pytest.fixture
def plant(tmp_path: Path, server: MviServer) -> Plant:
    made = Plant(tmp_path / "plant", server.url, threshold={"upload": 1, "training": 12})
    put_plates(made)
    assert made.call("run", "--once").returncode == 0
    return made


def uploads(server: MviServer) -> int:
    return len(server.requests.matching("POST", "/files"))


def lose(plant: Plant, how: str) -> None:
    ledger = plant.folder / "state/ledger.sqlite"
    if how == "deleted":
        shutil.rmtree(plant.folder / "state")
    elif how == "emptied":
        ledger.write_bytes(b"")
    else:
        raw = bytearray(ledger.read_bytes())
        raw[100:4000] = b"\x5a" * 3900
        ledger.write_bytes(bytes(raw[: len(raw) // 2] if how == "cut in half" else raw))


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_ledger_that_is_gone_is_made_anew_from_what_lies_there(plant: Plant, server: MviServer, how: str) -> None:
    """No picture is sent a second time, no training started again; what is new is sent."""
    before = stored(server)
    lose(plant, how)
    put_plates(plant, each=2, start=6)
    sent = uploads(server)
    assert plant.call("run", "--once").returncode == 0

    assert len(stored(server)) == len(set(stored(server))) == 16
    assert set(before) < set(stored(server))
    assert uploads(server) == sent + 2
    assert plant.tally().confirmed == 16
    assert plant.tally().untrained == 4
    assert len(Caller(server.url).get("/dltasks/")) == 1


@pytest.mark.parametrize("how", ["overwritten", "cut in half"])
def test_a_damaged_ledger_is_named_and_set_aside_on_demand(plant: Plant, server: MviServer, how: str) -> None:
    """Exit 74, the file and the way on; `ledger rebuild` keeps the old one, and nothing is sent twice."""
    lose(plant, how)
    for command in (["run", "--once"], ["status"], ["ledger", "check"]):
        done = plant.call(*command)
        assert done.returncode == 74, done.stderr
        assert "ledger.sqlite" in done.stderr
        assert "image-sync ledger rebuild" in done.stderr
        assert "Traceback" not in done.stderr
    rebuilt = plant.call("ledger", "rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert len(list((plant.folder / "state").glob("ledger.sqlite.set-aside-*"))) >= 1
    sent = uploads(server)
    assert plant.call("run", "--once").returncode == 0

    assert uploads(server) == sent
    assert plant.tally().confirmed == 12
    assert "is sound: 12 files, 12 pictures uploaded" in plant.call("ledger", "check").stdout


def test_a_ledger_restored_from_yesterday_repeats_nothing(plant: Plant, server: MviServer) -> None:
    """What was sent since the backup is found at the platform before anything is sent."""
    backup = (plant.folder / "state/ledger.sqlite").read_bytes()
    put_plates(plant, each=3, start=6)
    assert plant.call("run", "--once").returncode == 0
    (plant.folder / "state/ledger.sqlite").write_bytes(backup)
    sent = uploads(server)
    assert plant.call("run", "--once").returncode == 0

    assert uploads(server) == sent
    assert len(stored(server)) == len(set(stored(server))) == 18
    assert plant.tally().confirmed == 18


def test_a_lost_ledger_with_pictures_moved_meanwhile_relabels_them(plant: Plant, server: MviServer) -> None:
    """The platform's category is compared with the folder's, and changed."""
    shutil.rmtree(plant.folder / "state")
    shutil.move(plant.root / "dark/000.jpg", plant.root / "light/moved.jpg")
    sent = uploads(server)
    assert plant.call("run", "--once").returncode == 0

    assert uploads(server) == sent
    assert sorted(category for category, _ in stored(server)) == ["dark"] * 5 + ["light"] * 7


def test_files_of_others_in_the_dataset_are_left_alone(plant: Plant, server: MviServer) -> None:
    """Pictures that people uploaded by hand are no reason to send, adopt or remove anything."""
    caller = Caller(server.url)
    (dataset,) = caller.get("/datasets")
    caller.upload(dataset["_id"], [("by-hand.jpg", picture("dark", 900)), ("also.jpg", picture("dark", 901))])
    shutil.rmtree(plant.folder / "state")
    assert plant.call("run", "--once").returncode == 0

    assert len(stored(server)) == 14
    assert plant.tally().confirmed == 12


def test_rebuild_without_a_ledger_says_so(tmp_path: Path, server: MviServer) -> None:
    """Exit 2 and the way on."""
    done = Plant(tmp_path / "other", server.url).call("ledger", "rebuild")

    assert done.returncode == 2
    assert "no ledger to rebuild" in done.stderr
