"""The whole program as a process, against the embedded server over HTTP, on real files."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from image_sync.domain import TrainingState
from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.auth import Credentials
from image_sync_server.mvi.fault_presets import preset
from image_sync_server.mvi.server import MviServer
from support.daemon import PROGRAM, Plant, put_plates, stored
from support.mvi_server import Caller, picture, serving


@pytest.fixture
def plant(tmp_path: Path, server: MviServer) -> Plant:
    return Plant(tmp_path / "plant", server.url)


def trainings(server: MviServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Caller(server.url).get("/dltasks/")
    return found


def stored_by(server: MviServer, key: str) -> list[dict[str, Any]]:
    """All pictures of a server that wants a key."""
    caller = Caller(server.url, key)
    return [file for dataset in caller.get("/datasets") for file in caller.get(f"/datasets/{dataset['_id']}/files")]


def vision(server: MviServer, *words: str) -> str:
    """What IBM's own command prints."""
    command = [str(Path(sys.executable).with_name("vision")), *words]
    environ = {**os.environ, "VAPI_BASE_URI": server.url, "VAPI_TOKEN": "any", "no_proxy": "*"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60).stdout


def test_thirty_pictures_become_one_model(plant: Plant, server: MviServer) -> None:
    """The main job: pictures dropped while it runs arrive under their categories, and are trained on once."""
    plant.configure(threshold={"upload": 3, "training": 20})
    with plant.running() as daemon:
        plant.wait(lambda p: bool(p.events("daemon.started")))
        put_plates(plant, each=15)
        plant.wait(lambda p: [run.state for run in p.runs()] == [TrainingState.TRAINED])
        assert daemon.stop() == 0

    files = stored(server)
    assert len(files) == len(set(files)) == 30
    assert {category for category, _ in files} == {"dark", "light"}
    listed = vision(server, "files", "list", f"--dsid={Caller(server.url).get('/datasets')[0]['_id']}", "--summary")
    assert listed.splitlines()[-1] == "30 items"
    assert vision(server, "dltasks", "list", "--summary").splitlines()[-1] == "1 items"
    (task,) = trainings(server)
    assert task["status"] == "trained"
    (model,) = Caller(server.url).get("/trained-models/")
    assert float(model["accuracy"]) > 0.9
    (run,) = plant.runs()
    assert run.pictures == 30
    assert run.accuracy == pytest.approx(float(model["accuracy"]))


def test_the_second_training_continues_the_first_with_retrain(plant: Plant, server: MviServer) -> None:
    """With `model.action: "retrain"` the server is told which model to continue."""
    plant.configure(threshold={"upload": 1, "training": 20}, model={"action": "retrain"})
    put_plates(plant, each=15)
    assert plant.call("run", "--once").returncode == 0
    put_plates(plant, each=15, start=50)
    assert plant.call("run", "--once").returncode == 0

    second, first = plant.runs()
    assert (first.base, second.base) == ("", first.task_id)
    assert [run.state for run in (first, second)] == [TrainingState.TRAINED, TrainingState.TRAINED]


@pytest.mark.parametrize("delay", [0.6, 0.9, 1.3])
def test_killed_half_way_every_picture_is_there_once_and_one_training(
    plant: Plant, server: MviServer, delay: float
) -> None:
    """SIGKILL at any moment: the next start settles what was in flight; nothing is lost, doubled or trained twice."""
    plant.configure(threshold={"upload": 5, "training": 60}, upload={"batch_files": 5, "parallel": 2})
    put_plates(plant, each=30)
    server.faults.add(Fault(Action.SLOW, "POST", "/files$", count=None, seconds=0.3))
    for number in range(3):
        with plant.running() as daemon:
            started = number + 1
            plant.wait(lambda p: len(p.events("daemon.started")) == started)  # noqa: B023 - called at once
            time.sleep(delay)
            daemon.kill()
    server.faults.clear()
    with plant.running() as daemon:
        plant.wait(lambda p: len(p.events("daemon.started")) == 4)
        plant.wait(lambda p: [run.state for run in p.runs()] == [TrainingState.TRAINED], 60)
        assert daemon.stop() == 0

    files = stored(server)
    assert len(files) == len(set(files)) == 60
    assert len(trainings(server)) == 1


def test_sigterm_during_an_upload_finishes_it(plant: Plant, server: MviServer) -> None:
    """The request in flight is finished and written down, the rest waits for the next start, all within `shutdown`."""
    plant.configure(upload={"batch_files": 5, "parallel": 1}, shutdown=10)
    put_plates(plant, each=15)
    server.faults.add(Fault(Action.SLOW, "POST", "/files$", count=None, seconds=1.0))
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().sending > 0)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 10

    tally = plant.tally()
    assert tally.sending == 0
    assert tally.confirmed == len(stored(server)) > 0
    assert tally.confirmed + tally.cleared == 30


def test_a_second_signal_ends_it_at_once(plant: Plant, server: MviServer) -> None:
    """Whoever presses Ctrl-C twice does not want to wait; the ledger knows what was in flight."""
    put_plates(plant, each=15)
    server.faults.add(Fault(Action.SLOW, "POST", "/files$", count=None, seconds=20.0))
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().sending > 0)
        daemon.signal(signal.SIGINT)
        plant.wait(lambda p: bool(p.events("daemon.stopping")))
        daemon.signal(signal.SIGINT)
        assert daemon.wait(5) == 128 + signal.SIGINT
    assert plant.tally().sending > 0


def test_a_second_daemon_is_turned_away(plant: Plant) -> None:
    """One daemon per state folder: the second exits with 75 and says who is there."""
    with plant.running() as daemon:
        plant.wait(lambda p: bool(p.events("daemon.started")))
        second = plant.call("run")

    assert second.returncode == 75
    assert f"process {daemon.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_moved_picture_changes_its_category_at_the_server(plant: Plant, server: MviServer) -> None:
    """Moving a file to another folder relabels it there; it is not uploaded again."""
    put_plates(plant, each=3)
    with plant.running():
        plant.wait(lambda p: p.tally().confirmed == 6)
        shutil.move(plant.root / "dark/000.jpg", plant.root / "light/moved.jpg")
        plant.wait(lambda p: bool(p.events("picture.relabelled")))

    assert sorted(category for category, _ in stored(server)) == ["dark"] * 2 + ["light"] * 4


def test_bad_pictures_are_told_and_do_not_hold_up_the_others(plant: Plant, server: MviServer) -> None:
    """Cut short, empty, a text file, a name in Latin-1, a folder without permission: the good ones arrive."""
    put_plates(plant, each=3)
    whole = picture("dark", 99)
    plant.put("dark/cut.jpg", whole[: len(whole) // 2])
    plant.put("dark/empty.jpg", b"")
    plant.put("dark/x.jpg", b"this is no picture\n")
    with open(os.fsencode(plant.root) + b"/light/caf\xe9.jpg", "wb") as file:
        file.write(picture("light", 98))
    done = plant.call("run", "--once")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(stored(server)) == 7
    assert plant.census().total.quarantined == 3
    for name, expected in (("cut", "cut short"), ("empty", "empty"), ("x", "text")):
        shown = plant.call("show", str(plant.root / f"dark/{name}.jpg"))
        assert shown.returncode == 0
        assert expected in shown.stdout


def without_override() -> None:
    """Root loses the right to ignore permissions: PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)


def test_a_folder_that_may_not_be_read_does_not_hold_up_the_others(plant: Plant, server: MviServer) -> None:
    """The rest is uploaded, and `status` names the folder and the cause."""
    put_plates(plant, each=3)
    plant.put("secret/1.jpg", picture("dark", 77))
    (plant.root / "secret").chmod(0)
    done = subprocess.run(
        [*PROGRAM, "run", "--once", "-c", str(plant.config)],
        preexec_fn=without_override,
        check=False,
        capture_output=True,
        text=True,
        env=plant.environ,
        timeout=60,
    )
    (plant.root / "secret").chmod(0o700)

    assert "Traceback" not in done.stderr
    assert len(stored(server)) == 6
    reason = plant.status()["folders"][0]["reason"]
    assert "secret" in reason
    assert "Permission denied" in reason


def test_an_unmounted_root_is_an_alarm_and_no_deletion(plant: Plant, server: MviServer) -> None:
    """The share goes and comes back: nothing is removed, nothing sent twice, and new pictures arrive afterwards."""
    plant.configure(deletions="remove", watch={"rescan": 1, "poll": 0.5})
    put_plates(plant, each=3)
    with plant.running():
        plant.wait(lambda p: p.tally().confirmed == 6)
        plant.root.rename(plant.folder / "elsewhere")
        plant.wait(lambda p: p.status()["folders"][0]["state"] == "unavailable")
        (plant.folder / "elsewhere").rename(plant.root)
        plant.put("dark/new.jpg", picture("dark", 55))
        plant.wait(lambda p: p.tally().confirmed == 7)
        assert plant.status()["folders"][0]["state"] == "watched"

    assert len(stored(server)) == 7
    assert len([one for one in server.requests if one.method == "DELETE"]) == 0


def test_many_deletions_wait_for_a_persons_word(plant: Plant, server: MviServer) -> None:
    """`status`, `check`, `run --dry-run` and `removals` say what would go; `removals confirm` lets it go."""
    plant.configure(deletions="remove", max_removals=4, watch={"rescan": 1, "poll": 0.5})
    put_plates(plant, each=6)
    with plant.running():
        plant.wait(lambda p: p.tally().confirmed == 12)
        for n in range(5):
            (plant.root / "dark" / f"{n:03}.jpg").unlink()
        plant.wait(lambda p: bool(p.status()["troubles"]))
        assert "5 of 6 in category 'dark'" in plant.status()["troubles"][0]["what"]
        for command in (("removals",), ("check",), ("run", "--dry-run")):
            assert "category 'dark': 5 of 6 pictures were deleted here; 5 of them" in plant.call(*command).stdout
        (row,) = json.loads(plant.call("removals", "--json").stdout)["categories"]
        assert (row["deleted"], row["stored"], row["allowed"], row["held"]) == (5, 6, 4, True)
        assert len(stored(server)) == 12
        assert "removed at the server, 2 s after" in plant.call("removals", "confirm").stdout
        plant.wait(lambda p: p.tally().confirmed == 7)
        plant.wait(lambda p: not p.status()["troubles"])

    assert len(stored(server)) == 7


def test_a_changed_configuration_is_taken_over_without_a_restart(plant: Plant, server: MviServer) -> None:
    """A valid change counts at once, an invalid one is refused and told, secrets are not logged."""
    plant.configure(threshold={"upload": 100}, credentials={"api_key": "s3cret-k3y-0001"})
    put_plates(plant, each=3)
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().ready == 6)
        plant.configure(threshold={"upload": 0})
        plant.wait(lambda p: bool(p.events("configuration.refused")))
        plant.configure(threshold={"upload": 2}, credentials={"api_key": "s3cret-k3y-0002"})
        plant.wait(lambda p: p.tally().confirmed == 6)
        daemon.signal(signal.SIGHUP)
        assert daemon.stop() == 0

    (change,) = plant.events("configuration.changed")
    assert any("threshold.upload: 100 -> 2" in line for line in change["changes"])
    assert "s3cret" not in plant.log()


def test_a_key_that_is_wrong_ends_nothing_and_a_rotated_key_file_is_noticed(tmp_path: Path) -> None:
    """It starts with a wrong key and waits; the right one in its file is taken over; a wrong configuration is not."""
    with serving(tmp_path / "server", credentials=Credentials("ann", "right", "the-right-key-1")) as server:
        key = tmp_path / "key.txt"
        key.write_text("a-wr0ng-key-0001")
        key.chmod(0o600)
        plant = Plant(tmp_path / "plant", server.url, credentials={"api_key": {"file": str(key)}})
        put_plates(plant, each=2)
        with plant.running() as daemon:
            plant.wait(lambda p: bool(p.events("stage.paused")))
            key.write_text("the-right-key-1")
            plant.wait(lambda p: p.tally().confirmed == 4)
            key.write_text("a-wr0ng-key-0002")
            plant.wait(lambda p: bool(p.events("configuration.refused")))
            plant.configure(credentials={"api_key": {"file": str(key)}, "ca_bundle": str(tmp_path / "none.pem")})
            plant.wait(lambda p: len(p.events("configuration.refused")) == 2)
            put_plates(plant, each=2, start=10)
            plant.wait(lambda p: len(stored_by(server, "the-right-key-1")) == 8)
            assert daemon.stop() == 0
    assert "wr0ng" not in plant.log()
    assert len(plant.events("daemon.started")) == 2


def test_passing_refusals_and_passing_401s_lose_nothing(plant: Plant, server: MviServer) -> None:
    """Calls are turned away, uploads could not be stored: all pictures arrive without anybody's doing."""
    server.faults.add(
        *(replace(fault, count=5) for fault in (*preset("401", 0.5), *preset("not-stored", 0.8))),
    )
    plant.configure(upload={"batch_files": 4})
    put_plates(plant, each=20)
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().confirmed == 40, 100)
        assert daemon.stop() == 0

    assert server.faults.counts["401"]
    assert server.faults.counts["not-stored"]
    files = stored(server)
    assert len(files) == len(set(files)) == 40


def test_a_request_that_outlasts_a_reload_is_waited_for(plant: Plant, server: MviServer) -> None:
    """Its pictures are stored once, and the process goes on with the new configuration."""
    plant.configure(shutdown=0.2, upload={"grace": 0.2})
    put_plates(plant, each=2)
    server.faults.add(Fault(Action.SLOW, "POST", "/files$", count=2, seconds=5))
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().sending > 0)
        plant.configure(threshold={"upload": 2})
        plant.wait(lambda p: len(p.events("daemon.started")) == 2)
        put_plates(plant, each=1, start=10)
        plant.wait(lambda p: p.tally().confirmed == 6)
        assert daemon.stop() == 0

    files = stored(server)
    assert len(files) == len(set(files)) == 6


def test_ten_thousand_pictures_copied_in_all_arrive(plant: Plant, server: MviServer, tmp_path: Path) -> None:
    """`cp -r` of 100 folders while it runs: every picture is stored once, under its category."""
    source = tmp_path / "source"
    tail = picture("dark", 1, size=16)
    for number in range(10_000):
        folder = source / f"c{number % 5}" / f"day{number // 5 % 20}"
        folder.mkdir(parents=True, exist_ok=True)
        # bytes after the end of a JPEG make pictures that differ, cheaply
        (folder / f"{number}.jpg").write_bytes(tail + f"{number:06}".encode())
    with plant.running() as daemon:
        plant.wait(lambda p: bool(p.events("daemon.started")))
        subprocess.run(["cp", "-r", f"{source}/.", str(plant.root)], check=True)
        plant.wait(lambda p: p.tally().confirmed == 10_000, 100)
        assert daemon.stop() == 0

    files = stored(server)
    assert len(files) == len(set(files)) == 10_000
    assert {category for category, _ in files} == {f"c{number}" for number in range(5)}


@pytest.mark.parametrize("repeat", range(3))
def test_lost_answers_lead_to_no_second_copy(plant: Plant, server: MviServer, repeat: int) -> None:
    """Half of the answers are lost after storing, one in five is a 503: still every picture is there once."""
    plant.configure(upload={"batch_files": 3, "parallel": 2, "grace": 1})
    server.faults.add(Fault(Action.LOSE_ANSWER, "POST", "/files$", count=None, probability=0.5))
    server.faults.add(Fault(Action.STATUS, "POST", "/files$", count=None, probability=0.2, status=503))
    put_plates(plant, each=15, start=100 * repeat)
    with plant.running():
        plant.wait(lambda p: p.tally().confirmed == 30, 60)

    files = stored(server)
    assert len(files) == len(set(files)) == 30
