"""The power fails at a random moment: only what was synced is still there, and it is enough."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from image_sync.ledger.database import FILE
from support import diary, powercut
from support.daemon import Plant, stored
from support.mvi_server import picture, serving
from support.resources import LONG

pytestmark = pytest.mark.root
CUTS, NIGHTS = (50, 10) if LONG else (6, 1)
"""How often the power is cut under a writer, and under the daemon."""
WEAK = """
import sys
from image_sync.ledger import database
strong = database._prepare
def weak(connection, record):
    strong(connection, record)
    connection.execute("PRAGMA synchronous=OFF")
database._prepare = weak
from support.diary import main
sys.exit(main())
"""


def cut(folder: Path, seed: int, *program: str) -> tuple[Path, int]:
    """The state folder after the power was cut under a writer, and how many steps it had acknowledged."""
    chance = random.Random(seed)
    with powercut.disk(folder, torn=seed if seed % 2 else None) as (mount, durable):
        (mount / "state").mkdir()
        powercut.sync(mount)
        command = [*(program or ("-m", "support.diary")), str(mount / "state"), "0", "1000000"]
        said = (folder / "said").open("wb")
        with said, subprocess.Popen([sys.executable, *command], stdout=said, cwd=powercut.TESTS) as writer:
            while writer.poll() is None and not (folder / "said").stat().st_size:
                time.sleep(0.01)  # a busy machine takes its time to begin
            time.sleep(chance.uniform(0.1, 0.6))
            writer.kill()
    return durable / "state", diary.said(folder / "said")


def test_the_disk_forgets_what_was_not_synced(tmp_path: Path) -> None:
    """The tool itself: a file that was not synced is empty, a name whose folder was not synced is not there."""
    with powercut.disk(tmp_path / "disk") as (mount, durable):
        for name in ("whole", "unsynced"):
            with (mount / name).open("wb") as file:
                file.write(b"before")
                if name == "whole":
                    file.flush()
                    os.fsync(file.fileno())
                    file.write(b" and after")
        powercut.sync(mount)
        (mount / "nameless").write_bytes(b"x")
        (mount / "whole").rename(mount / "renamed")

    assert {path.name: path.read_bytes() for path in durable.iterdir()} == {"whole": b"before", "unsynced": b""}


def test_a_ledger_that_does_not_sync_is_found_out(tmp_path: Path) -> None:
    """The tests below can fail: the same writer with `synchronous=OFF` loses or ruins what it had acknowledged."""
    state, acknowledged = cut(tmp_path / "disk", 2, "-c", WEAK)

    assert acknowledged > 0
    size = (state / FILE).stat().st_size if (state / FILE).exists() else 0
    assert size == 0 or diary.found(state) != diary.after(acknowledged)


def test_the_first_start_survives_a_power_cut(tmp_path: Path) -> None:
    """Folders that were made for the ledger are on the disk before anything in it is relied on."""
    with powercut.disk(tmp_path / "disk") as (mount, durable):
        diary.Writer(mount / "deep/state")._ledger.close()

    assert (durable / "deep/state" / FILE).exists()
    assert diary.settled(durable / "deep/state", 0) == 0


@pytest.mark.parametrize("seed", range(CUTS))
def test_nothing_acknowledged_is_lost(tmp_path: Path, seed: int) -> None:
    """Every step whose call returned is in the ledger, the one under way is there whole or not at all, and it goes on.

    Odd seeds keep part of what was not synced: single sectors, in any order.
    """
    state, acknowledged = cut(tmp_path / "disk", seed)
    there = diary.settled(state, acknowledged)
    print(f"{acknowledged} acknowledged, {there} there")

    writer = diary.Writer(state)
    for number in range(there, there + len(diary.CYCLE)):
        writer.do(diary.Step(number))
    assert diary.found(state) == diary.after(there + len(diary.CYCLE))


def test_the_daemon_goes_on_after_power_cuts(tmp_path: Path) -> None:
    """The power fails in the middle of uploads: at the end every picture is at the server once."""
    number, state = 20 + 20 * NIGHTS, tmp_path / "plant/state"
    with serving(tmp_path / "server") as server:
        plant = Plant(tmp_path / "plant", server.url, upload={"batch_files": 2, "parallel": 2, "grace": 0.5})
        state.mkdir()
        for seed in range(number):
            plant.put(f"{('dark', 'light')[seed % 2]}/{seed}.jpg", picture("dark", seed))
        for turn in range(NIGHTS):
            with powercut.disk(tmp_path / f"disk-{turn}", torn=turn or None) as (mount, durable):
                for file in state.iterdir():
                    (mount / file.name).write_bytes(file.read_bytes())
                    with (mount / file.name).open("rb+") as copy:
                        os.fsync(copy.fileno())
                powercut.sync(mount)
                plant.configure(state=str(mount))
                before = len(stored(server))
                with plant.running() as daemon:
                    until = time.monotonic() + 20
                    while len(stored(server)) < before + 10:
                        assert time.monotonic() < until, plant.log()
                    daemon.kill()
            state = durable
        plant.configure(state=str(state))
        done = plant.call("run", "--once")

        assert done.returncode == 0, done.stderr
        files = stored(server)
        assert len(files) == len(set(files)) == number
