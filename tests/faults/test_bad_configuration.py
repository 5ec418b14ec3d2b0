"""Configuration files as they should not be, given to the real program: at its start, and while it runs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.commands import forked
from support.daemon import Plant, stored
from support.mvi_server import picture, serving

GOOD = {
    "credentials": {"endpoint": "http://127.0.0.1:1", "api_key": "AbC1-d2E3-fG4h-5IjK"},
    "dataset": {"name": "plates"},
    "folders": ["pictures"],
}
TEXT = json.dumps(GOOD)
BAD: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "two documents": f"{TEXT}\n{TEXT}".encode(),
    "cut in the middle": TEXT[: len(TEXT) // 2].encode(),
    "a key twice": TEXT.replace('"dataset"', '"folders": ["a"], "dataset"').encode(),
    "not a number": TEXT.replace("{", '{"time": NaN, ', 1).encode(),
    "infinite": TEXT.replace("{", '{"time": 1e999, ', 1).encode(),
    "deep": b'{"a":' * 100_000,
    "five thousand digits": TEXT.replace("{", '{"threshold": {"upload": %s}, ' % ("9" * 5000), 1).encode(),
    "true as a number": TEXT.replace("{", '{"threshold": {"upload": true}, ', 1).encode(),
    "half a character": TEXT.replace("plates", r"\ud800").encode(),
    "a million characters": TEXT.replace("plates", "x" * 1_000_000).encode(),
    "two megabytes": TEXT.encode() + b" " * 2_000_000,
    "Latin-1": TEXT.replace("plates", "Bl\xe4tter").encode("latin-1"),
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    "a program": b"\x7fELF" + bytes(range(256)),
    "a line to forge": TEXT.replace("plates", "a\\nimage-sync: forged").encode(),
}


def test_the_program_refuses_what_is_no_configuration(tmp_path):
    """Exit 78 at once, in words that name the file, for each; nothing is made, nothing like a traceback is printed."""
    (tmp_path / "pictures").mkdir()
    paths = []
    for number, content in enumerate(BAD.values()):
        path = tmp_path / f"{number}.json"
        path.write_bytes(content)
        path.chmod(0o600)
        paths.append(path)
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    paths += [tmp_path / name for name in ("fifo.json", "folder.json", "loop.json", "missing.json", "a\nb.json")]
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    began = time.monotonic()
    said = forked([["run", "-c", str(path)] for path in paths], environ)
    assert time.monotonic() - began < len(paths)
    for done, what in zip(said, [*BAD, *paths[len(BAD) :]], strict=True):
        assert done.returncode == 78, (what, done.stderr)
        assert ".json" in done.stderr, what
        assert "Traceback" not in done.stderr, what
        assert len(done.stderr) < 1000, what
        assert "\nimage-sync: forged" not in done.stderr
        assert done.stdout == ""
    assert not (tmp_path / "state").exists()


def len_of_events(name: str, number: int, plant: Plant) -> bool:
    """Whether so many events of this name were logged."""
    return len(plant.events(name)) >= number


def test_a_running_daemon_outlives_every_change_of_its_file(tmp_path):
    """Emptied, half-written, gone, a pipe, open to all: each is refused and told, work goes on, a valid one counts."""
    with serving(tmp_path / "server") as server:
        plant = Plant(tmp_path / "plant", server.url)
        good = plant.config.read_bytes()

        def by(path: Path, content: bytes, mode: int = 0o600) -> None:
            draft = path.with_suffix(".new")
            draft.write_bytes(content)
            draft.chmod(mode)
            draft.replace(path)

        changes: dict[str, Callable[[], object]] = {
            "emptied": lambda: plant.config.write_bytes(b""),
            "half": lambda: plant.config.write_bytes(good[: len(good) // 2]),
            "gone": plant.config.unlink,
            "pipe": lambda: os.mkfifo(plant.config),
            "open to all": lambda: by(plant.config, good, 0o666),
            "other state": lambda: by(plant.config, good.replace(b"/state", b"/elsewhere")),
        }
        with plant.running() as daemon:
            plant.wait(lambda _: bool(plant.events("daemon.started")))
            for number, change in enumerate(changes.values(), 1):
                change()
                daemon.signal(signal.SIGHUP)
                refused = partial(len_of_events, "configuration.refused", number)
                plant.wait(refused)
            plant.put("dark/a.jpg", picture("dark", 1))
            plant.configure(threshold={"training": 7})
            plant.wait(lambda _: bool(plant.events("configuration.changed")) and plant.tally().confirmed == 1)
            assert daemon.stop() == 0
        assert len(stored(server)) == 1
        assert len(plant.events("configuration.refused")) == len(changes)
    assert not (plant.folder / "elsewhere").exists()
