"""Few descriptors, few watches, little memory: the program makes do, says so, and goes on when there is more."""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from image_sync_server.mvi.server import MviServer
from support import diary
from support.daemon import PROGRAM, Plant, put_some, stored
from support.mvi_server import picture
from support.resources import LONG, large_jpeg, open_files, peak_memory

MIB = 1 << 20
MOST_MEMORY = 250 * MIB


@pytest.fixture
def plant(tmp_path: Path, server: MviServer) -> Plant:
    return Plant(tmp_path / "plant", server.url, fresh=True, upload={"grace": 0.5})


def each_once(plant: Plant, server: MviServer, number: int) -> None:
    files = stored(server)
    assert len(files) == len(set(files)) == number
    diary.found(plant.folder / "state")


def test_without_a_free_descriptor_it_waits(plant: Plant, server: MviServer) -> None:
    """The process may open nothing more for some seconds: it stays, sends nothing by halves, and goes on afterwards."""
    plant.configure(watch={"rescan": 1})
    with plant.running() as daemon:
        put_some(plant, range(4))
        plant.wait(lambda p: p.tally().confirmed == 4)
        pid = daemon.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        # the lowest number that is free decides: nothing above the third descriptor can be opened
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        put_some(plant, range(4, 12))
        time.sleep(1)
        assert daemon.process.poll() is None, plant.log()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        plant.wait(lambda p: p.tally().confirmed == 12)
        assert daemon.stop() == 0

    assert "Traceback" not in plant.log()
    each_once(plant, server, 12)


@pytest.mark.parametrize("number", [8, 10, 20, 24, 28, 32] if LONG else [10, 32])
def test_with_few_descriptors_it_works_or_says_why(plant: Plant, server: MviServer, number: int) -> None:
    """`ulimit -n 32` is enough; below that it gets through or ends in words. With more it goes on."""
    put_some(plant, range(6))
    plant.configure(upload={"batch_files": 1})
    command = ["prlimit", f"--nofile={number}", *PROGRAM, "run", "--once", "-c", str(plant.config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=plant.environ, timeout=60)

    assert done.returncode == 0 or number < 32, done.stderr
    assert done.returncode != 0 or len(stored(server)) == 6
    assert "Traceback" not in done.stderr, done.stderr
    assert plant.call("run", "--once").returncode == 0
    each_once(plant, server, 6)


def test_more_folders_than_watches_are_polled(plant: Plant, server: MviServer) -> None:
    """The system grants five watches for a dozen folders: `status` says so, and everything is found all the same."""
    limited = ["unshare", "-Ur", "sh", "-c", 'echo 5 > /proc/sys/user/max_inotify_watches && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*limited, "true"], check=False).returncode:
        pytest.skip("a limit of watches needs unshare and the right to make a user namespace")
    plant.configure(watch={"poll": 0.3, "rescan": 3600})
    for number in range(12):
        plant.put(f"kind{number}/first.jpg", picture("dark", number))
    command = [*limited, *PROGRAM, "run", "-c", str(plant.config)]
    with (plant.folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=plant.environ)
    try:
        plant.wait(lambda p: p.tally().confirmed == 12)
        for number in range(12):
            plant.put(f"kind{number}/second.jpg", picture("light", number))
        plant.wait(lambda p: p.tally().confirmed == 24)
        (folder,) = plant.status()["folders"]
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()

    assert folder["mode"] == "polling"
    assert "watch" in folder["reason"]
    each_once(plant, server, 24)


def after_all(plant: Plant, number: int) -> dict[str, Any]:
    """What the daemon took to upload so many pictures."""
    began = time.monotonic()
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().confirmed == number, 100)
        figures = {
            "seconds": round(time.monotonic() - began, 1),
            "memory": peak_memory(daemon.process.pid),
            "descriptors": open_files(daemon.process.pid),
        }
        assert daemon.stop() == 0
    print(figures)
    return figures


def test_memory_does_not_grow_with_the_number_of_pictures(plant: Plant, server: MviServer) -> None:
    """Thousands of pictures: at most 250 MB in memory, at any moment."""
    content, count = picture("dark", 1, size=16), 3000 if LONG else 1000
    for number in range(count):
        plant.put(f"c{number % 5}/{number}.jpg", content + b"%06d" % number)
    figures = after_all(plant, count)

    assert figures["memory"] < MOST_MEMORY
    assert figures["descriptors"] < 64
    each_once(plant, server, count)


def test_memory_does_not_grow_with_the_size_of_pictures(plant: Plant, server: MviServer) -> None:
    """Two pictures of nearly 200 MB: they are read, hashed and sent, and never held in memory."""
    for number in range(2):
        path = plant.root / f"c{number}/large.jpg"
        path.parent.mkdir()
        large_jpeg(path, 199 * MIB, number)
    figures = after_all(plant, 2)

    assert figures["memory"] < MOST_MEMORY
    assert len(stored(server)) == 2


def test_out_of_memory_it_ends_and_the_next_start_goes_on(plant: Plant, server: MviServer) -> None:
    """Too little address space for the work: whatever fails, the process ends or gets through; afterwards each once."""
    put_some(plant, range(10))
    plant.configure(upload={"batch_files": 2})
    codes = []
    for megabytes in range(60, 400, 20) if LONG else (90, 200):
        command = ["prlimit", f"--as={megabytes * MIB}", *PROGRAM, "run", "--once", "-c", str(plant.config)]
        codes.append(
            subprocess.run(command, check=False, capture_output=True, env=plant.environ, timeout=60).returncode
        )
    assert codes[0] != 0
    assert plant.call("run", "--once").returncode == 0
    each_once(plant, server, 10)
