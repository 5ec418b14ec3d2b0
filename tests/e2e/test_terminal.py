"""The daemon at a terminal and beside it: closing it, stopping and reloading from another one, options up front."""

from __future__ import annotations

import fcntl
import itertools
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from image_sync.errors import EXIT_CONFIG, EXIT_SOME_FAILED, EXIT_USAGE
from image_sync_server.mvi.server import MviServer
from support.daemon import PROGRAM, Plant, put_some
from support.mvi_server import picture

_AT_THE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def plant(tmp_path: Path, server: MviServer) -> Plant:
    return Plant(tmp_path / "plant", server.url)


def test_closing_the_terminal_ends_the_daemon(plant: Plant) -> None:
    """The terminal goes away with everything in it: `run` stops in order, and leaves the ledger to the next one."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _AT_THE_TERMINAL, *PROGRAM, "run", "-c", str(plant.config)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=plant.environ,
        start_new_session=True,
    )
    try:
        os.close(follower)
        seen = b""
        while b"daemon.started" not in seen:
            seen += os.read(leader, 4096)
        os.close(leader)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert not plant.status()["daemon"]["running"]


def test_tables_fit_a_terminal_of_80_columns_and_keep_whole_names(plant: Plant) -> None:
    """Names too long for it are folded: no line of a table is wider, and each name can be put together again."""
    long = "a-category-with-a-remarkably-long-name-as-plants-have-them"
    plant.configure(threshold={"training": 10}, model={"deploy": "always"})
    for number in range(5):
        plant.put(f"{long}/{number}.jpg", picture("dark", number))
        plant.put(f"good/{number}.jpg", picture("light", number))
    plant.put(f"good/{long}.jpg", b"broken")
    assert plant.call("run", "--once").returncode == EXIT_SOME_FAILED
    for command in (["status"], ["predict", str(plant.root / long)]):
        lines = _on_a_terminal(plant, command, columns=80)
        begin = next(number for number, line in enumerate(lines) if "category  " in line)
        table = list(itertools.takewhile(str.strip, lines[begin:]))
        column = table[0].index("category")
        assert max(map(len, table)) <= 80, command
        assert long in "".join(line[column:].split(" ")[0] for line in table), command


def _on_a_terminal(plant: Plant, command: list[str], *, columns: int) -> list[str]:
    """What the command prints on a terminal so wide, without colours."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
    words = [*PROGRAM, *command, "-c", str(plant.config)]
    environ = {name: value for name, value in plant.environ.items() if name != "COLUMNS"} | {"TERM": "dumb"}
    with subprocess.Popen(words, stdin=follower, stdout=follower, stderr=follower, env=environ) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other side was closed
                break
            if not piece:
                break
            seen += piece
        os.close(leader)
    assert process.returncode in {0, EXIT_SOME_FAILED}, seen.decode()
    return re.sub(r"\x1b\[[0-9;]*m", "", seen.decode()).replace("\r", "").split("\n")


def test_a_service_takes_a_hangup_for_a_reload(plant: Plant) -> None:
    """Without a terminal SIGHUP reads the configuration again, as systemd's ExecReload wants it."""
    with plant.running() as daemon:
        plant.wait(lambda p: bool(p.events("daemon.started")))
        plant.configure(threshold={"upload": 7})
        daemon.signal(signal.SIGHUP)
        plant.wait(lambda p: bool(p.events("configuration.changed")))
        assert daemon.stop() == 0


def test_stop_and_reload_from_another_terminal(plant: Plant) -> None:
    """`reload` reaches the daemon, `stop` waits for its end; without a daemon one is an error, the other done."""
    with plant.running() as daemon:
        plant.wait(lambda p: bool(p.events("daemon.started")))
        reloaded = plant.call("reload")
        assert (reloaded.returncode, reloaded.stderr) == (0, "")
        assert f"process {daemon.process.pid}" in reloaded.stdout
        assert daemon.process.poll() is None
        stopped = plant.call("stop")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert "has ended" in stopped.stdout
        assert daemon.wait(5) == 0
    again = plant.call("stop")
    assert (again.returncode, again.stdout) == (0, "No daemon runs with this configuration.\n")
    reloaded = plant.call("reload")
    assert reloaded.returncode == EXIT_SOME_FAILED
    assert "Start it: image-sync run" in reloaded.stderr


@pytest.mark.parametrize("mistake", ['"threshold": {"uplaod": 1}', '"time": ,'])
def test_a_mistake_in_the_file_does_not_blind_status(plant: Plant, mistake: str) -> None:
    """`status` shows what the daemon works by, and the mistake; `stop` finds it; the ledger keeps no secret."""
    plant.configure(credentials={"api_key": "S3CRET-canary"}, threshold={"upload": 50})
    put_some(plant, range(3))
    text = plant.config.read_text()
    with plant.running() as daemon:
        plant.wait(lambda p: p.tally().ready == 3)
        plant.config.write_text(text.replace("{", "{" + mistake + ",", 1))
        plant.wait(lambda p: bool(p.events("configuration.refused")))
        shown = plant.call("status")
        assert shown.returncode == 0, shown.stderr
        assert f"running (process {daemon.process.pid})" in shown.stdout
        assert "3 / 50" in shown.stdout
        assert "configuration.json:1" in shown.stdout
        assert "as it was before" in shown.stdout
        assert "configuration.json:1" in plant.status()["mistake"]
        assert plant.call("stop").returncode == 0
        assert daemon.wait(5) == 0
    assert plant.call("status").returncode == EXIT_CONFIG
    for path in (plant.folder / "state").iterdir():
        assert b"S3CRET-canary" not in path.read_bytes()


def test_options_before_the_command_count(plant: Plant) -> None:
    """`-c FILE` may stand before the command and before a group; one that the command lacks is a mistake."""
    put_some(plant, range(2))
    for words in (("run", "--once"), ("status",), ("models",), ("ledger", "check")):
        done = subprocess.run(
            [*PROGRAM, "-c", str(plant.config), *words],
            cwd="/",
            env=plant.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    wrong = plant.call("--once", "status")
    assert wrong.returncode == EXIT_USAGE
    assert "has no option --once" in wrong.stderr
