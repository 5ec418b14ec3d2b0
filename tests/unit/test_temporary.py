"""What a test session leaves in the temporary folder: nothing, also after it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import temporary

SESSION = """
import os, signal, subprocess, sys, tempfile
from pathlib import Path
from support import temporary
folder = temporary.begin()
print(folder, temporary.FAST, flush=True)
for place in (Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp(dir=temporary.FAST))):
    (place / "shut").mkdir()
    (place / "shut/file").write_text("x")
    (place / "shut").chmod(0)
    assert str(place).startswith((str(folder), str(temporary.FAST)))
subprocess.run([sys.executable, "-c", "import tempfile; tempfile.mkdtemp()"], check=True)
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def session(parent: Path, end: str) -> list[Path]:
    """Begin a session below a folder, and end it; what it used."""
    (parent / "memory").mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "TMPDIR": str(parent), "IMAGE_SYNC_TESTS_MEMORY": str(parent / "memory")}
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", SESSION, end]
    done = subprocess.run(command, cwd=tests, env=environ, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0)
    return [Path(line) for line in done.stdout.split()]


def test_a_session_leaves_nothing(tmp_path: Path) -> None:
    """What it, and programs that it started, made is gone, on the disk and in memory, write-protected or not."""
    session(tmp_path, "end")

    assert [path.name for path in tmp_path.rglob("*")] == ["memory"]


def test_a_session_lies_in_memory_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the caller names another place."""
    monkeypatch.setattr(temporary, "FAST", tmp_path)
    monkeypatch.setattr(temporary, "_ROOM", 0)
    assert temporary._base() == Path(os.environ["TMPDIR"])
    monkeypatch.delenv("TMPDIR")
    assert temporary._base() == tmp_path
    monkeypatch.setattr(temporary, "_ROOM", 1 << 60)
    assert temporary._base() != tmp_path


def test_what_a_killed_session_left_goes_when_the_next_begins(tmp_path: Path) -> None:
    """It is removed when nobody holds it any more, and is not just being made."""
    old = session(tmp_path, "kill")
    young = session(tmp_path, "kill")
    for folder in old:
        os.utime(folder, (0, 0))
    session(tmp_path, "end")

    assert all(not folder.exists() for folder in old)
    assert all(folder.exists() for folder in young)


def test_a_session_that_goes_on_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However old it is, the next one leaves it alone."""
    monkeypatch.setattr("atexit.register", lambda *_: None)
    folder = temporary.claim(tmp_path)
    os.utime(folder, (0, 0))

    temporary.claim(tmp_path)

    assert folder.exists()


def test_nothing_outside_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be removed stays, and what is around it, or linked to, keeps its rights."""
    tmp_path.chmod(0o755)
    folder, other = tmp_path / "session", tmp_path / "other"
    folder.mkdir()
    other.mkdir(mode=0o755)
    (folder / "link").symlink_to(other)

    with monkeypatch.context() as patch:
        patch.setattr("os.rmdir", _busy)
        temporary.remove(folder)

    assert folder.exists()
    assert [path.stat().st_mode & 0o777 for path in (tmp_path, other)] == [0o755, 0o755]


def _busy(*_: object, **__: object) -> None:
    raise OSError("in use")


def test_this_session_has_such_a_folder(tmp_path: Path) -> None:
    """Tests get their folders in it, and so does whatever they start."""
    assert Path(os.environ["TMPDIR"]).name.startswith(temporary.PREFIX)
    assert temporary.FAST.name.startswith(temporary.PREFIX)
