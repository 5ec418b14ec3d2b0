"""When a file is taken to be finished."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import pytest

from image_sync.domain import Stamp
from image_sync.watcher.rules import Rules
from image_sync.watcher.settle import Place, SettleQueue, being_written
from support.pictures import jpeg
from support.watching import quick, watching

PLACE = Place(b"/r", b"/r/cat", b"a.jpg")
WALL = 1_000_000.0


def stamp(age: float, *, wall: float = WALL, size: int = 5) -> Stamp:
    """The stamp of a file that was changed so many seconds ago."""
    at = round((wall - age) * 1e9)
    return Stamp(size, at, at, 1)


def test_a_file_that_rests_already_is_believed_at_one_look():
    """On a local file system, times that lie settle back say that nobody changed it since."""
    settling = SettleQueue(Rules(settle=2))
    assert settling.quiet(PLACE, stamp(2.1), now=10, wall=WALL, local=True)
    assert len(settling) == 0


def test_a_young_file_is_due_when_it_will_have_rested():
    """The next look is settle after the last change, not after the first look."""
    settling = SettleQueue(Rules(settle=2))
    assert not settling.quiet(PLACE, stamp(0.5), now=10, wall=WALL, local=True)
    assert settling.next_due() == pytest.approx(11.5, abs=0.01)
    assert settling.take(11, 9) == {}
    assert settling.take(11.6, 9) == {(b"/r", b"/r/cat"): [b"a.jpg"]}
    assert settling.quiet(PLACE, stamp(0.5), now=11.6, wall=WALL + 1.6, local=True)


@pytest.mark.parametrize("local", [True, False])
def test_times_that_cannot_be_trusted_need_two_looks(local):
    """A file from the future, or on a server with its own clock, must be seen unchanged twice, settle apart."""
    settling = SettleQueue(Rules(settle=2))
    seen = stamp(-3600 if local else 50_000)
    assert not settling.quiet(PLACE, seen, now=10, wall=WALL, local=local)
    assert not settling.quiet(PLACE, seen, now=11.9, wall=WALL, local=local)
    assert settling.quiet(PLACE, seen, now=12, wall=WALL, local=local)


def test_a_change_starts_the_wait_anew():
    """Growth between two looks means that two more are needed."""
    settling = SettleQueue(Rules(settle=2))
    assert not settling.quiet(PLACE, stamp(0, size=1), now=10, wall=WALL, local=False)
    assert not settling.quiet(PLACE, stamp(0, size=2), now=12, wall=WALL, local=False)
    assert not settling.quiet(PLACE, stamp(0, size=2), now=13.9, wall=WALL, local=False)
    assert settling.quiet(PLACE, stamp(0, size=2), now=14, wall=WALL, local=False)


def test_the_impatient_believe_old_files_anywhere():
    """A run that ends when it is idle looks twice only at files younger than settle."""
    settling = SettleQueue(replace(Rules(settle=2), once=True))
    assert settling.quiet(PLACE, stamp(3), now=10, wall=WALL, local=False)
    assert not settling.quiet(PLACE, stamp(1), now=10, wall=WALL, local=False)


def test_no_settling_time_means_at_once():
    """With settle 0 one look is enough everywhere."""
    settling = SettleQueue(Rules(settle=0))
    assert settling.quiet(PLACE, stamp(0), now=10, wall=WALL, local=False)


def test_a_busy_file_is_asked_about_less_and_less_often():
    """While somebody writes, the pauses grow from 50 ms to 5 s; a new stamp starts them anew."""
    settling, now, pauses = SettleQueue(Rules(settle=0)), 10.0, []
    for _ in range(12):
        settling.busy(PLACE, stamp(5), now)
        due = settling.next_due()
        pauses.append(due - now)
        now = due
        assert settling.take(now, 1)
    assert pauses[0] == pytest.approx(0.05)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(5)


def test_memory_is_bounded_and_the_rest_is_refused():
    """Beyond the limit nothing is remembered, and it can be seen that it was not."""
    settling = SettleQueue(Rules(), limit=3)
    for number in range(5):
        place = Place(b"/r", b"/r/c", b"%d" % number)
        quiet = settling.quiet(place, stamp(0), now=1, wall=WALL, local=True)
        assert quiet is (False if number < 3 else None)
    assert settling.of(b"/r") == 3
    assert Place(b"/r", b"/r/c", b"4") not in settling
    settling.forget_root(b"/r")
    assert (len(settling), settling.of(b"/r"), settling.next_due()) == (0, 0, math.inf)


def test_a_restless_file_is_reported_once_after_an_hour():
    """A file that keeps changing is worth one line, not one a minute."""
    settling = SettleQueue(Rules(settle=2))
    settling.quiet(PLACE, stamp(0), now=0, wall=WALL, local=True)
    assert not settling.restless_too_long(PLACE, 3599)
    settling.quiet(PLACE, stamp(-1), now=3600, wall=WALL, local=True)
    assert settling.restless_too_long(PLACE, 3600)
    assert not settling.restless_too_long(PLACE, 9999)


@pytest.mark.skipif(sys.platform != "linux", reason="read leases are Linux's")
def test_a_lease_tells_whether_anybody_writes(tmp_path):
    """A file that is open for writing in any process is being written; readers do not matter."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    fd = os.open(path, os.O_RDONLY)
    try:
        with path.open("rb"):
            assert not being_written(fd)
        command = [sys.executable, "-c", f"f = open({str(path)!r}, 'ab'); print('open', flush=True); input()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            assert being_written(fd)
            writer.communicate(b"\n")
        assert not being_written(fd)
    finally:
        os.close(fd)


@pytest.mark.skipif(sys.platform != "linux", reason="read leases are Linux's")
def test_a_writer_that_comes_during_the_lease_test_harms_nobody(tmp_path):
    """The signal that the kernel sends for a broken lease does not end the process, and the writer gets through."""
    code = """
import os, sys, threading, time
from image_sync.watcher.settle import being_written
path = sys.argv[1]
open(path, "w").close()
stop = threading.Event()
opened = 0
def writer():
    global opened
    while not stop.is_set():
        os.close(os.open(path, os.O_WRONLY))
        opened += 1
        if opened % 8 == 0:
            stop.wait(0.0002)  # else some machine finds one of the three writing every time
threads = [threading.Thread(target=writer) for _ in range(3)]
for t in threads: t.start()
fd = os.open(path, os.O_RDONLY)
answers, end = set(), time.monotonic() + 30
for number in range(10_000_000):
    answers.add(being_written(fd))
    if (number >= 30000 and len(answers) == 2 and opened > 1000) or time.monotonic() > end:
        break
stop.set()
for t in threads: t.join()
print(sorted(answers), opened > 1000)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done
    assert done.stdout == "[False, True] True\n"


def test_where_no_lease_can_be_had_nobody_is_said_to_write(tmp_path):
    """A descriptor without leases (here: of a folder) means "cannot tell", which is no."""
    fd = os.open(tmp_path, os.O_RDONLY)
    assert not being_written(fd)
    os.close(fd)


@pytest.mark.root
@pytest.mark.skipif(sys.platform != "linux", reason="read leases are Linux's")
@pytest.mark.parametrize("owner", [65534, 65533])
def test_of_another_users_file_the_system_does_not_say_who_writes(owner):
    """A lease is given to the owner only: of another's file it is unknown, also while it is open for writing."""
    file = tempfile.NamedTemporaryFile(dir="/tmp", suffix=".jpg")  # noqa: SIM115 - where anybody may look
    with file:
        os.fchown(file.fileno(), owner, owner)
        os.fchmod(file.fileno(), 0o644)
        if (child := os.fork()) == 0:
            os.setresuid(65534, 65534, 65534)
            answer = being_written(os.open(file.name, os.O_RDONLY))
            os._exit({True: 1, False: 0, None: 2}[answer])
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == (1 if owner == 65534 else 2)


def test_another_users_file_rests_longer(tmp_path, monkeypatch):
    """A writer that pauses for longer than `settle` is not taken for finished."""
    monkeypatch.setattr("image_sync.watcher.image_check.being_written", lambda _: None)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_bytes(jpeg(1))
    began = time.monotonic()
    with watching(tmp_path, rules=quick(settle=0.3, mode="polling")) as watch:
        assert watch.catalogue.paths(tmp_path) == {"cat/a.jpg"}
        assert time.monotonic() - began >= 1.4
