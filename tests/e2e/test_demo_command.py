"""``image-sync demo`` as a person calls it: a real process that starts a server and a daemon of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "image_sync", "demo")
ROW = re.compile(r"^ *(dent|hole|screw|all) +(\d+ +\d+ +\d+) *$", re.MULTILINE)


class Demo:
    """A demo that runs in this folder, and tidies up what it makes for itself."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.work, self._spare = folder / "work", folder / "spare"
        self.work.mkdir(parents=True)
        self._spare.mkdir()
        self._process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.work,
            env={**os.environ, "TMPDIR": str(self._spare)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> None:
        """End it if it is still there. Not killed: it takes its server and daemon with it."""
        self._process.terminate()
        self._process.wait(30)

    def said(self, code: int = 0) -> str:
        """What it says until it ends."""
        try:
            text = self._process.communicate(timeout=150)[0]
        except subprocess.TimeoutExpired:
            self._process.terminate()
            pytest.fail(f"not in time\n{self._process.communicate(timeout=30)[0]}")
        assert "Traceback" not in text, text
        assert self._process.returncode == code, text
        assert list(self._spare.iterdir()) == []
        return text


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Demo, Demo]]:
    """Both demos, side by side: they mostly wait."""
    folder = tmp_path_factory.mktemp("demos")
    both = Demo(folder / "sorting", "--images", str(ROOT / "images")), Demo(folder / "detection", "--detection")
    yield both
    for demo in both:
        demo.end()


def is_drawn(path: Path, width: int) -> bool:
    """Whether it is a picture of at least this width with something in it."""
    with Image.open(path) as image:
        return image.width >= width and len(image.convert("RGB").getcolors(1 << 24) or ()) > 50


@pytest.mark.timeout(180)
def test_the_demo_does_the_whole_job(demos: tuple[Demo, Demo]) -> None:
    """It ends by itself: everything uploaded once, unseen pictures judged, and the plot of the training is left."""
    demo, _ = demos
    said = demo.said()

    assert "upload 9 / 12, short by 3" in said
    assert re.search(r"iteration \d+ of \d+  loss \d", said)
    assert re.search(r"deployed +demo-\S+: no other model of this name was deployed", said)
    assert "57 pictures confirmed, 57 at the server" in said
    assert "3 of 3 unseen pictures right" in said
    assert re.search(r"plot +demo-training\.png", said)
    assert [path.name for path in demo.work.iterdir()] == ["demo-training.png"]
    assert is_drawn(demo.work / "demo-training.png", 800)


@pytest.mark.timeout(180)
def test_the_detection_demo_does_the_whole_job(demos: tuple[Demo, Demo]) -> None:
    """Plates wait for their boxes, are uploaded with them and trained on; objects on unseen plates are found."""
    _, demo = demos
    said = demo.said()

    assert "found             12 pictures: upload 8 / 12, short by 4" in said
    assert "4 of them wait for their annotations" in said
    assert "found             12 pictures: upload 12 / 12" in said
    assert re.search(r"labels +dent in \d+, hole in \d+, screw in \d+ pictures", said)
    assert re.search(r"iteration \d+ of \d+  loss \d", said)
    assert "40 pictures confirmed, 40 at the server" in said
    rows = {label: [int(figure) for figure in figures.split()] for label, figures in ROW.findall(said)}
    assert set(rows) == {"dent", "hole", "screw", "all"}
    marked, found, right = rows.pop("all")
    assert [marked, found, right] == [sum(figures) for figures in zip(*rows.values(), strict=True)]
    assert marked > 20
    assert right > 0.8 * marked
    assert right > 0.7 * found
    left = {path.name for path in demo.work.iterdir()}
    assert left == {"demo-detection-1.png", "demo-detection-2.png", "demo-detection-training.png"}
    assert all(name in said and is_drawn(demo.work / name, 800) for name in left)


def test_the_demo_without_pictures_says_where_they_are(tmp_path: Path) -> None:
    """In a folder without images: exit 2 and the way on."""
    assert "--images DIR" in Demo(tmp_path / "bare").said(code=2)


def test_a_demo_that_is_ended_takes_everything_with_it(tmp_path: Path) -> None:
    """SIGTERM in the midst of it: the server, the daemon and the folder go as well."""
    process = subprocess.Popen(
        [*COMMAND, "--images", str(ROOT / "images")],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        line = next(line for line in lines if line.startswith("daemon "))
        found = re.search(r"process (\d+)", line)
        assert found is not None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()

    pause, until = threading.Event(), time.monotonic() + 5
    while Path(f"/proc/{found.group(1)}").exists():
        assert time.monotonic() < until
        pause.wait(0.05)
    assert list(tmp_path.iterdir()) == []
