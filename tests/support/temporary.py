"""One folder for everything temporary of a test session: removed when it ends, or by the next one if it was killed.

It lies in memory where there is room, unless TMPDIR says otherwise: each `fdatasync` of a ledger takes a disk some
milliseconds, and the suite makes very many. Tests about disks mount their own.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

PREFIX = "is-tests-"  # short: names of sockets end after 107 bytes
_YOUNG = 60
"""Seconds during which a folder that nobody holds may be one that is just being made."""
_ROOM = 4 << 30
"""Free bytes that the folder in memory must have for all of a session."""
_MEMORY = "IMAGE_SYNC_TESTS_MEMORY"
FAST = Path(os.environ.get(_MEMORY, "/dev/shm"))
"""A folder in memory, where there is one."""
if not os.access(FAST, os.W_OK):
    FAST = Path(tempfile.gettempdir())


def begin() -> Path:
    """Make this session's folder, and one in memory, and tell this process and its children to use them."""
    global FAST  # noqa: PLW0603 - it is this session's from now on
    sessions = claim(_base())
    os.environ["TMPDIR"] = tempfile.tempdir = str(sessions)
    FAST = claim(FAST) if FAST.is_dir() and sessions.parent != FAST else sessions
    os.environ[_MEMORY] = str(FAST)
    return sessions


def _base() -> Path:
    if "TMPDIR" not in os.environ and FAST.is_dir() and shutil.disk_usage(FAST).free >= _ROOM:
        return FAST
    return Path(tempfile.gettempdir())


def claim(parent: Path) -> Path:
    """A new folder that goes when this process ends; those whose owners were killed go at once."""
    for left in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if left.stat().st_uid == os.geteuid() and time.time() - left.stat().st_mtime > _YOUNG and not _held(left):
                remove(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    folder.chmod(0o711)  # what a test starts as another user gets to its own folder in here
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    atexit.register(remove, folder)  # what is registered later, such as the end of a database, comes before
    return folder


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, also what is mounted there or write-protected."""
    for mount in _mounted(folder):
        subprocess.run(["umount", "--lazy", mount], check=False, stderr=subprocess.DEVNULL)
    for top, names, _ in os.walk(folder):
        for path in (Path(top, name) for name in names):  # before they are walked into
            with contextlib.suppress(OSError):
                if not path.is_symlink():
                    path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)  # what stays, as a program still writes there, is for the next session


def _held(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _mounted(folder: Path) -> list[str]:
    """What is mounted below a folder, the deepest first."""
    table = Path("/proc/self/mounts")
    found = [line.split()[1] for line in table.read_text().splitlines()] if table.exists() else []
    return sorted((place for place in found if place.startswith(f"{folder}/")), reverse=True)
