"""The commands as a person calls them: real processes, what they print, how they exit."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from image_sync import __version__
from image_sync.errors import EXIT_LEDGER
from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.auth import Credentials
from image_sync_server.mvi.server import MviServer
from support.commands import one_by_one
from support.daemon import PROGRAM, Plant, put_plates, stored
from support.mvi_server import Caller, picture, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plant(tmp_path: Path, server: MviServer) -> Plant:
    return Plant(tmp_path / "plant", server.url)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Everything it printed; never a traceback."""
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text
    return text


def test_version_and_help_need_no_configuration(tmp_path: Path) -> None:
    """`--version` and `--help` work in any folder."""
    version = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    help_text = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert version.stdout == f"image-sync {__version__}\n"
    assert "status" in help_text.stdout


def test_an_unknown_command_is_a_usage_error(tmp_path: Path) -> None:
    """Exit code 2."""
    done = subprocess.run([*PROGRAM, "trane"], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.returncode == 2
    assert "trane" in said(done)


def test_without_a_configuration_it_says_what_to_do(tmp_path: Path) -> None:
    """Bare `python -m image_sync` in an empty folder: exit 78, and a way on."""
    done = subprocess.run(PROGRAM, capture_output=True, text=True, check=False, cwd=tmp_path, stdin=subprocess.DEVNULL)

    assert done.returncode == 78
    assert "configuration.json" in said(done)
    assert "image-sync init" in said(done)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["--version", "status", "run --once"])
def test_closed_standard_streams_end_nothing(plant: Plant, closed: str, words: str) -> None:
    """A caller that closed them has no interest in what is said; the work is done, and nothing else is written to."""
    put_plates(plant, each=1)
    command = f"{shlex.join(PROGRAM)} {words} {'' if words == '--version' else shlex.join(['-c', str(plant.config)])}"
    done = subprocess.run(
        ["sh", "-c", f"{command} {closed}"], capture_output=True, text=True, check=False, env=plant.environ, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert ("Traceback" in done.stderr, "sys." in done.stderr) == (False, False)
    if words == "run --once":
        assert plant.tally().confirmed == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("words", ["status", "status --json", "show x.jpg", "check", "models", "retry", "train", "run"])
def test_a_state_folder_that_may_not_be_read_is_told(plant: Plant, words: str) -> None:
    """Every command that needs the ledger says what cannot be used and what to do, with exit code 74."""
    state = plant.folder / "state"
    state.mkdir(exist_ok=True)
    state.chmod(0)
    done = plant.call(*words.split())
    state.chmod(0o700)

    assert done.returncode == EXIT_LEDGER, done.stderr
    told = " ".join(said(done).split())
    assert "the state folder" in told
    assert "cannot be used: Permission denied" in told
    assert "for the user that runs image-sync" in told


def test_a_lock_that_cannot_be_written_is_told(plant: Plant) -> None:
    """Whatever the system says when the daemon writes down who it is, it is told in words."""
    command = shlex.join([*PROGRAM, "run", "--once", "-c", str(plant.config)])
    done = subprocess.run(
        ["sh", "-c", f"ulimit -f 0; {command}"],
        capture_output=True,
        text=True,
        check=False,
        env=plant.environ,
        timeout=60,
    )

    assert done.returncode == EXIT_LEDGER
    assert "the state folder" in said(done)
    assert "File too large" in said(done)


def test_five_mistakes_are_told_at_once(plant: Plant) -> None:
    """Each with its line, its key, its value and the remedy; exit 78; the daemon and `check` alike."""
    plant.configure(
        treshold={"upload": 3},
        threshold={"upload": "3"},
        time=-1,
        recursive="yes",
        watch={"mode": "evnts"},
    )
    for command in ("run", "check", "status"):
        done = plant.call(command)
        text = said(done)

        assert done.returncode == 78
        for key in ("treshold", "threshold.upload", "time", "recursive", "watch.mode"):
            assert re.search(rf"configuration\.json:\d+: {re.escape(key)}\b", text), key
        assert "threshold" in text


def test_a_finished_run_once_exits_with_0(plant: Plant, server: MviServer) -> None:
    """Everything that is there is uploaded and trained on; thresholds count, quiet time does not."""
    plant.configure(threshold={"upload": 10, "training": 12}, time=3600)
    put_plates(plant)
    done = plant.call("run", "--once")

    assert done.returncode == 0, said(done)
    assert len(stored(server)) == 12
    assert [run.state for run in plant.runs()] == ["trained"]


def test_run_once_below_the_threshold_sends_nothing(plant: Plant, server: MviServer) -> None:
    """`--once` does not override the thresholds."""
    plant.configure(threshold={"upload": 13, "training": 13})
    put_plates(plant)

    assert plant.call("run", "--once").returncode == 0
    assert stored(server) == []
    assert plant.status()["upload"] == {
        "retry_at": None,
        "due": False,
        "have": 12,
        "need": 13,
        "short_by": 1,
        "wait": None,
        "reason": "waits for 1 more picture",
    }


def test_an_unreachable_server_is_told(plant: Plant) -> None:
    """`run --once` and `check` exit with 69 and say what to look at; the pictures stay in line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        plant.configure(credentials={"endpoint": f"http://127.0.0.1:{free.getsockname()[1]}"})
    put_plates(plant)
    once, check = plant.call("run", "--once"), plant.call("check")

    assert (once.returncode, check.returncode) == (69, 69)
    assert "credentials.endpoint" in said(check)
    assert plant.tally().ready + plant.tally().cleared == 12
    assert plant.status()["troubles"][0]["stage"] == "reconcile"


@pytest.mark.parametrize("who", ["password", "key"])
def test_wrong_credentials_are_told_without_showing_them(tmp_path: Path, who: str) -> None:
    """Exit 77 from each command that asks the server; the secret appears nowhere."""
    wrong = {"username": "ann", "password": "wr0ng-secret"} if who == "password" else {"api_key": "wr0ng-secret"}
    with serving(tmp_path / "server", credentials=Credentials("ann", "right", "the-right-key")) as server:
        plant = Plant(tmp_path / "plant", server.url, credentials=wrong)
        put_plates(plant)
        for command in (["check"], ["models"]):
            done = plant.call(*command)

            assert done.returncode == 77, command
            assert "wr0ng-secret" not in said(done)
            assert "credentials" in said(done)


def test_an_expired_token_is_renewed(tmp_path: Path) -> None:
    """With user and password a token that stopped working is fetched anew, once, and the work goes on."""
    with serving(tmp_path / "server", credentials=Credentials("ann", "right")) as server:
        plant = Plant(tmp_path / "plant", server.url, credentials={"username": "ann", "password": "right"})
        server.faults.add(Fault(Action.EXPIRE_TOKENS, "POST", "/files$"))
        put_plates(plant)

        assert plant.call("run", "--once").returncode == 0
        assert len(server.requests.matching("POST", "/tokens")) == 2
        assert plant.tally().confirmed == 12


def test_check_says_what_the_daemon_would_do(plant: Plant) -> None:
    """File, state, folder, server and dataset are proved, and one sentence says what would happen now."""
    plant.configure(threshold={"upload": 5, "training": 10})
    put_plates(plant)
    done = plant.call("check")

    assert done.returncode == 0
    assert f"{plant.root}: 12 pictures in 2 folders, " in done.stdout
    assert "accepts us" in done.stdout
    assert "Now it would upload 12 picture(s) (12 / 5) and then start a training (12 / 10" in done.stdout
    assert not (plant.folder / "state").exists()
    found = json.loads(plant.call("check", "--json").stdout)
    assert found["ok"] is True
    assert {finding["subject"] for finding in found["findings"]} >= {"configuration", "folder", "server", "dataset"}


def test_check_counts_as_the_run_does(plant: Plant, server: MviServer) -> None:
    """Broken pictures, copies, conflicts, another dataset, a lost ledger, a failure: what is told comes true."""
    put_plates(plant)
    plant.put("dark/broken.jpg", b"no picture")
    plant.put("dark/copy.jpg", picture("dark", 0))
    plant.put("light/dark.jpg", picture("dark", 1))
    told = plant.call("check").stdout
    assert "Now it would upload 11 picture(s)" in told
    assert "1 new files cannot be used, such as" in told
    assert "1 new pictures lie in several categories" in told
    (plant.root / "light/dark.jpg").unlink()
    plant.call("run", "--once")
    assert "upload nothing" in plant.call("check").stdout

    plant.configure(dataset={"name": "others"})
    assert "Now it would upload 12 picture(s)" in plant.call("check").stdout
    plant.call("run", "--once")
    assert len(stored(server)) == 24

    plant.configure(state=str(plant.folder / "lost"))
    lost = plant.call("check").stdout
    assert "12 pictures are in the dataset already" in lost
    assert "Now it would upload at most 12 picture(s)" in lost

    plant.configure(folders=[str(plant.folder / "none")])
    failed = plant.call("check").stdout
    assert "Nothing would be done until what failed above is fixed." in failed
    assert "Now it would" not in failed


def test_check_counts_what_the_ledger_already_holds_ready(plant: Plant) -> None:
    """Pictures found by a run below its threshold are uploaded and trained on next time, and check says so."""
    plant.configure(threshold={"upload": 13, "training": 13})
    put_plates(plant)
    assert plant.call("run", "--once").returncode == 0
    plant.configure(threshold={"upload": 5, "training": 10})

    told = plant.call("check").stdout
    assert "Now it would upload 12 picture(s) (12 / 5) and then start a training (12 / 10" in told


def test_a_single_run_says_why_it_is_not_content(plant: Plant) -> None:
    """With a file that needs a person, the exit code is 1 each time, and the log says why each time."""
    put_plates(plant)
    plant.put("dark/broken.jpg", b"no picture")

    for _ in range(2):
        done = plant.call("run", "--once")
        assert done.returncode == 1
        assert "once.incomplete" in done.stderr
        assert "needs a person" in done.stderr


def test_check_names_a_folder_that_is_not_there(plant: Plant) -> None:
    """Exit 78, the folder, and what to do."""
    plant.configure(folders=[str(plant.root), str(plant.folder / "not-mounted")])
    done = plant.call("check")

    assert done.returncode == 78
    assert "not-mounted does not exist" in said(done)


def test_status_has_every_documented_key(plant: Plant) -> None:
    """Before the first run, while it runs and afterwards: the same shape, true figures."""
    keys = {"platform", "dataset", "pictures", "categories", "upload", "training", "folders", "daemon"}
    counts = {"found", "ready", "sending", "confirmed", "quarantined", "refused", "conflicts"}
    before = plant.status()
    assert not (plant.folder / "state").exists()
    put_plates(plant, each=3)
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().confirmed == 6)
        plant.put("light/copy-of-dark.jpg", (plant.root / "dark/000.jpg").read_bytes())
        plant.wait(lambda p: p.status()["pictures"]["conflicts"] == 1)
        during = plant.status()
        assert daemon.stop() == 0
    after = plant.status()

    for seen in (before, during, after):
        assert keys <= set(seen)
        assert counts <= set(seen["pictures"])
        assert set(seen["training"]) >= {"due", "have", "need", "reason", "running", "last"}
        assert set(seen["upload"]) >= {"due", "have", "need", "reason"}
    assert before["folders"] == [{"path": str(plant.root), "mode": None, "state": "not watched yet", "reason": None}]
    assert (during["folders"][0]["mode"], during["folders"][0]["state"]) in {
        ("events", "watched"),
        ("polling", "watched"),
    }
    assert (before["daemon"]["running"], after["daemon"]["running"]) == (False, False)
    assert during["daemon"] == {"running": True, "pid": daemon.process.pid, "host": None}
    assert after["pictures"]["confirmed"] == 6
    assert after["pictures"]["conflicts"] == 1
    assert after["categories"]["light"]["conflicts"] == 1
    assert after["dataset"]["id"]


def test_status_for_people_names_what_needs_a_person(plant: Plant) -> None:
    """Counts, thresholds and the pictures with a fault, in plain words; no colours where there is no terminal."""
    put_plates(plant, each=3)
    plant.put("dark/cut.jpg", picture("dark", 9)[:300])
    plant.call("run", "--once")
    done = plant.call("status")

    assert "upload    0 / 1" in done.stdout
    assert "cut.jpg: quarantined" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_dead_server_is_told_from_the_first_repeat_on(plant: Plant) -> None:
    """Within its first seconds `status` says that sending is retried; later what was wrong when the daemon stopped."""
    plant.configure(credentials={"endpoint": "http://127.0.0.1:9"})
    put_plates(plant)
    with plant.running() as daemon:
        plant.wait(lambda p: bool((seen := p.status())["troubles"]) and seen["upload"]["due"])
        during = plant.status()
        told, running = one_by_one(plant, ["status"], ["status", "--exit-code"])
        daemon.kill()
    after = plant.call("status").stdout

    assert during["troubles"][0]["stage"] in {"platform", "reconcile"}
    assert during["upload"]["reason"] == "threshold reached; retrying"
    assert re.search(
        r"trouble +(calling|comparing with) the platform, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d",
        told.stdout,
    )
    assert running.returncode == 1
    assert ", when the daemon stopped:" in after
    assert "the daemon is not running" in after


def test_status_has_an_exit_code_for_monitoring(plant: Plant) -> None:
    """With `--exit-code` 0 means that the daemon runs and nobody has to look; without it nothing changes."""
    put_plates(plant, each=3)
    with plant.running():
        plant.wait(lambda p: p.tally().confirmed == 6)
        well = plant.call("status", "--exit-code")
        broken = plant.put("dark/broken.jpg", b"no picture")
        plant.wait(lambda p: p.census().total.quarantined == 1)
        needs_person = plant.call("status", "--exit-code", "--json")
        broken.unlink()
        plant.wait(lambda p: p.census().total.quarantined == 0)
    stopped, plain = one_by_one(plant, ["status", "--exit-code"], ["status"])

    assert well.returncode == 0, said(well)
    assert needs_person.returncode == 1
    assert json.loads(needs_person.stdout)["pictures"]["quarantined"] == 1
    assert (stopped.returncode, plain.returncode) == (1, 0)
    (line,) = plant.events("watch.quarantined")
    assert line["level"] == "warning"


def test_list_names_every_file_in_a_state(plant: Plant) -> None:
    """More than the ten of `status`, for people and as JSON; without a state: what needs a person."""
    put_plates(plant, each=2)
    for number in range(12):
        plant.put(f"dark/broken{number:02}.jpg", b"no picture")
    plant.put("light/twin.jpg", picture("dark", 0))
    plant.call("run", "--once")
    words = (["list"], *(["list", "--state", state, "--json"] for state in ("quarantined", "conflict", "confirmed")))
    people, *rest = one_by_one(plant, *words)
    quarantined, conflicts, confirmed = (json.loads(one.stdout) for one in rest)

    assert len(people.stdout.splitlines()) == 14
    assert [Path(row["path"]).name for row in quarantined] == [f"broken{number:02}.jpg" for number in range(12)]
    assert all(row["reason"] for row in quarantined)
    assert [Path(row["path"]).name for row in conflicts] == ["000.jpg", "twin.jpg"]
    assert len(confirmed) == 3


def test_run_once_fails_when_a_due_training_was_refused(plant: Plant, server: MviServer) -> None:
    """Exit 1, and the log says that it was the training."""
    plant.configure(threshold={"training": 12})
    server.faults.add(Fault(Action.STATUS, "POST", "/dltasks$", status=400))
    put_plates(plant)
    done = plant.call("run", "--once")

    assert done.returncode == 1, said(done)
    assert '"training_failed": true' in done.stderr


def test_run_once_fails_while_removals_are_owed(plant: Plant) -> None:
    """A deleted file whose picture is still at the server: exit 1, and the log counts it."""
    plant.configure(deletions="remove")
    put_plates(plant)
    assert plant.call("run", "--once").returncode == 0
    (plant.root / "dark/000.jpg").unlink()
    done = plant.call("run", "--once")

    assert done.returncode == 1, said(done)
    assert '"removals_owed": 1' in done.stderr


def test_show_tells_the_story_of_a_picture(plant: Plant, server: MviServer) -> None:
    """State, batch, key and the server's id; JSON with `--json`; unknown files are a clear error."""
    put_plates(plant, each=3)
    plant.call("run", "--once")
    path = str(plant.root / "dark/000.jpg")
    text = plant.call("show", path).stdout
    data = json.loads(plant.call("show", path, "--json").stdout)
    ids = {file["_id"] for file in Caller(server.url).get(f"/datasets/{plant.status()['dataset']['id']}/files")}

    assert "confirmed" in text
    assert data["remote_id"] in ids
    assert data["remote_id"] in text
    assert data["batch"] in text
    unknown = plant.call("show", str(plant.folder / "elsewhere.jpg"))
    assert unknown.returncode == 2
    assert "no such file" in said(unknown)


def test_show_finds_a_picture_by_whatever_is_known_of_it(plant: Plant) -> None:
    """Through a link, by its name and id at the server, by its hash, and by its path when the file is gone."""
    put_plates(plant, each=2)
    path = plant.root / "dark/000.jpg"
    link = plant.folder / "link"
    link.symlink_to(plant.root)
    plant.configure(folders=[str(link)])
    plant.call("run", "--once")
    first = json.loads(plant.call("show", str(path), "--json").stdout)
    known = one_by_one(plant, *(["show", first[name], "--json"] for name in ("key", "remote_id", "sha256")))
    path.unlink()
    plant.call("run", "--once")
    gone, unknown, wrong = one_by_one(
        plant, ["show", str(link / "dark/000.jpg")], ["show", "nothing", "--json"], ["show", "--jsn", "--json"]
    )

    assert first["path"] == str(link / "dark/000.jpg")
    assert [json.loads(one.stdout) for one in known] == [first] * 3
    assert "its file was deleted" in gone.stdout
    assert first["remote_id"] in gone.stdout
    error = json.loads(unknown.stdout)["error"]
    assert (unknown.returncode, error["exit_code"]) == (2, 2)
    assert "nothing is known of nothing" in error["what"]
    assert error["hint"]
    assert (wrong.returncode, json.loads(wrong.stdout)["error"]["exit_code"]) == (2, 2)


def test_show_finds_a_name_that_is_no_text(plant: Plant) -> None:
    """A Latin-1 name is found by its bytes and shown escaped."""
    path = os.fsencode(plant.root) + b"/dark/caf\xe9.jpg"
    put_plates(plant, each=1)
    with open(path, "wb") as file:
        file.write(picture("dark", 50))
    plant.call("run", "--once")
    done = subprocess.run(
        [*(os.fsencode(word) for word in PROGRAM), b"show", path, b"-c", os.fsencode(plant.config)],
        capture_output=True,
        check=False,
        env=plant.environ,
    )

    assert done.returncode == 0, done.stderr
    assert rb"caf\xe9.jpg" in done.stdout
    assert b"confirmed" in done.stdout


def test_retry_sends_a_refused_picture_again(plant: Plant, server: MviServer) -> None:
    """The server refuses one; after `retry` it takes it."""
    plant.put("dark/1.jpg", picture("dark", 1))
    server.faults.add(Fault(Action.STATUS, "POST", "/files$", status=415))
    assert plant.call("run", "--once").returncode == 1
    assert plant.census().total.refused == 1
    assert "to be sent again: 1" in plant.call("retry").stdout

    assert plant.call("run", "--once").returncode == 0
    assert len(stored(server)) == 1


def test_when_a_refused_picture_is_tried_again_is_told(plant: Plant, server: MviServer) -> None:
    """`show` and `status` say when, and whoever reads JSON sees the moment."""
    path = plant.put("dark/1.jpg", picture("dark", 1))
    server.faults.add(Fault(Action.STATUS, "POST", "/files$", count=None, status=400))
    with plant.running():
        plant.wait(lambda p: p.census().total.refused == 1)
        shown, status, data = plant.call("show", str(path)), plant.call("status"), plant.status()

    assert "tried again  at 20" in shown.stdout
    assert "refused pictures are tried again from 20" in status.stdout
    assert data["upload"]["retry_at"] > data["pictures"]["refused"] == 1


def test_show_says_why_a_file_is_not_taken_and_what_to_do(plant: Plant) -> None:
    """Another format, no category, a linked folder, a pattern and a folder that is left alone."""
    plant.configure(exclude=["*_thumb.jpg"])
    (plant.folder / "elsewhere").mkdir()
    (plant.root / "linked").symlink_to(plant.folder / "elsewhere")
    expected = {
        "dark/1.tiff": "TIFF files are not taken: convert it to JPEG or PNG",
        "flat.jpg": "move it into a folder of the watched folder that is named after its category",
        "linked/1.jpg": "is a symbolic link to a folder, and such links are not followed",
        "dark/1_thumb.jpg": "A pattern of `exclude` matches it",
        "_aside/1.jpg": "Its folder is left alone",
        "dark/notes.txt": "Only JPEG and PNG files are taken",
        "dark/1.jpg": "It has not been looked at yet",
    }
    paths = [plant.put(name, b"x") for name in expected]
    answers = one_by_one(plant, *(["show", str(path)] for path in paths))

    for done, words in zip(answers, expected.values(), strict=True):
        assert done.returncode == 2
        assert words in " ".join(done.stderr.split())


def test_retry_checks_quarantined_pictures_again(plant: Plant) -> None:
    """The verdict is formed anew at the next look."""
    plant.put("dark/1.jpg", b"")
    assert plant.call("run", "--once").returncode == 1

    assert "checked again: 1" in plant.call("retry").stdout
    assert plant.call("run", "--once").returncode == 1


def test_train_models_and_predict(plant: Plant, server: MviServer) -> None:
    """A training by hand, followed to its end; its model is listed, deployed and asked about a picture."""
    put_plates(plant, each=8)
    unseen = plant.folder / "unseen.jpg"
    unseen.write_bytes(picture("light", 500))
    assert plant.call("run", "--once").returncode == 0
    assert plant.runs() == []
    trained = plant.call("train", "--follow")
    assert trained.returncode == 0, said(trained)
    assert "16 pictures, accuracy" in trained.stdout

    (model,) = json.loads(plant.call("models", "--json").stdout)
    assert model["deployed"] is False
    assert model["name"] in plant.call("models").stdout
    refused = plant.call("predict", str(unseen))
    assert refused.returncode == 2
    assert "--deploy" in said(refused)
    (answer,) = json.loads(plant.call("predict", str(unseen), "--deploy", "--json").stdout)
    assert answer["predictions"][0]["category"] == "light"
    assert "light" in plant.call("predict", str(unseen)).stdout
    assert json.loads(plant.call("models", "--json").stdout)[0]["deployed"] is True


def test_train_asks_a_running_daemon(plant: Plant) -> None:
    """The daemon starts the training that the command asks for."""
    put_plates(plant)
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().confirmed == 12)
        done = plant.call("train", "--follow")
        assert done.returncode == 0, said(done)
        assert daemon.stop() == 0

    assert [run.state for run in plant.runs()] == ["trained"]
    assert "training.trained" in plant.log()


def test_train_with_too_few_pictures_says_what_is_missing(plant: Plant) -> None:
    """The platform's minimum is named; nothing is asked of it."""
    put_plates(plant, each=3)
    plant.call("run", "--once")
    done = plant.call("train")

    assert done.returncode == 1
    assert "waits for category 'dark': 3 of 5" in said(done)


def test_predict_with_a_path_that_is_wrong(plant: Plant) -> None:
    """Exit 2, and the path."""
    done = plant.call("predict", str(plant.folder / "none.jpg"))

    assert done.returncode == 2
    assert "none.jpg cannot be read" in said(done)


def test_models_before_the_first_upload(plant: Plant) -> None:
    """There is no dataset yet: said so, with the way on."""
    done = plant.call("models")

    assert done.returncode == 1
    assert "no dataset" in said(done)


def test_the_template_works_once_it_is_filled_in(tmp_path: Path, server: MviServer) -> None:
    """Copy the template, fill in the server and the folder: the main job runs."""
    text = (ROOT / "configuration.json.template").read_text()
    pictures = tmp_path / "pictures"
    for old, new in (
        ("<https://address-of-the-server>", server.url),
        ("<username>", "ann"),
        ("<password>", "any"),
        ("<path to root image folder>", str(pictures)),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "configuration.json").write_text(text)
    for kind, number in itertools.product(("dark", "light"), range(15)):
        path = pictures / kind / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(kind, number))
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "xdg")}
    done = subprocess.run(
        [*PROGRAM, "--once"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, said(done)
    assert len(stored(server)) == 30
    assert (tmp_path / "xdg").exists()


def test_the_service_command_tells_systemd(plant: Plant, tmp_path: Path) -> None:
    """The unit's own command line: READY only when all is up, watchdog pings while it works, STOPPING, exit 0."""
    unit = (ROOT / "service-files/image-sync.service").read_text()
    found = re.search(r"^ExecStart=(\S+) (.*)$", unit, re.MULTILINE)
    assert found is not None
    arguments = found.group(2).replace("/etc/image-sync/configuration.json", str(plant.config)).split()
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(20)
        environ = {**plant.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
        process = subprocess.Popen(
            [*PROGRAM, *arguments], env=environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        try:
            heard = listener.recv(4096).decode()
            assert heard.startswith("READY=1")
            assert (plant.folder / "state/ledger.sqlite").exists()
            while "WATCHDOG=1" not in heard:
                heard += listener.recv(4096).decode()
            process.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in heard:
                heard += listener.recv(4096).decode()
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.communicate()


def test_a_broken_configuration_never_becomes_ready(plant: Plant, tmp_path: Path) -> None:
    """Systemd is told nothing, and the exit code says that another try is useless."""
    plant.configure(threshold={"upload": 0})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        assert plant.call("run", NOTIFY_SOCKET=str(tmp_path / "notify")).returncode == 78
        with pytest.raises(BlockingIOError):
            listener.recv(4096)


def test_logs_are_json_where_there_is_no_terminal(plant: Plant) -> None:
    """Every line on standard error is one JSON object with an event; standard output stays empty."""
    put_plates(plant, each=1)
    done = plant.call("run", "--once")

    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"daemon.started", "batch.uploaded", "daemon.stopped"} <= {line["event"] for line in lines}
    text = plant.call("run", "--once", "--log-format", "text", "--log-level", "warning")
    assert text.stderr == ""


def test_what_is_left_of_a_category_can_be_forgotten(plant: Plant, server: MviServer) -> None:
    """A typo folder held training back: its pictures go at the server, too, and nothing waits for them any more."""
    plant.configure(threshold={"training": 10})
    put_plates(plant, each=6)
    plant.put("drak/typo.jpg", picture("dark", 77))
    with plant.running():
        plant.wait(lambda p: "image-sync forget --category NAME" in p.status()["training"]["reason"])
        assert "its files lie in a watched folder" in said(plant.call("forget", "--category", "drak", "--yes"))
        plant.configure(categories={"drak": None})
        plant.wait(lambda p: plant.call("forget", "--category", "drak", "--yes").returncode == 0)
        plant.wait(lambda p: bool(p.runs()))
        plant.wait(lambda p: len(stored(server)) == 12)
        assert "nothing is known of" in said(plant.call("forget", "--category", "drak"))
        (plant.root / "dark/000.jpg").unlink()
        plant.wait(lambda p: p.status()["pictures"]["found"] == 11)
        done = plant.call("forget", str(plant.root / "dark/000.jpg"), "--yes")
        assert "Forgotten: 1 picture." in done.stdout
        plant.wait(lambda p: len(stored(server)) == 11)
