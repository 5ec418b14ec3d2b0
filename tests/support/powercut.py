"""Disks whose power can be cut; :mod:`support.powercut_disk` says what they keep."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DEVICE = "/dev/fuse"


def why_not() -> str:
    """Why there can be no such disk here; empty if there can."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"power cuts need {DEVICE} and the right to use it"
    try:
        import mfusepy  # noqa: F401 - fails without the library
    except (ImportError, OSError) as error:
        return f"power cuts need the Debian package fuse3 and the Python package mfusepy: {error}"
    return ""


@contextlib.contextmanager
def disk(folder: Path, *, torn: int | None = None) -> Iterator[tuple[Path, Path]]:
    """A disk on a folder of its own: yields where it is mounted, and what is on it after the block: the power cut.

    End the programs that use it before the block ends: with SIGKILL, for they get no warning.

    Args:
        folder: is made.
        torn: seed of the chance that decides on what was not synced; None: all of it is lost.
    """
    assert os.geteuid() == 0, "mark this test with pytest.mark.root: mounting is a privilege"
    if reason := why_not():
        pytest.skip(reason)
    mount, durable = folder / "mount", folder / "durable"
    for path in (mount, durable, folder / "back"):
        path.mkdir(parents=True)
    program = [sys.executable, "-m", "support.powercut_disk"]
    command = [*program, str(folder / "back"), str(durable), str(mount), "" if torn is None else str(torn)]
    with subprocess.Popen(command, cwd=TESTS) as process:
        try:
            until = time.monotonic() + 10
            while not os.path.ismount(mount):
                assert process.poll() is None, "the file system ended"
                assert time.monotonic() < until, "the file system was not mounted in time"
                time.sleep(0.005)
            yield mount, durable
            while subprocess.run(["umount", str(mount)], check=False, stderr=subprocess.DEVNULL).returncode:
                assert time.monotonic() < until + 60, "the disk is still in use"
                time.sleep(0.01)  # the kernel is not through with a killed program's files yet
            assert process.wait(10) == 0
        finally:
            subprocess.run(["umount", "--lazy", str(mount)], check=False, stderr=subprocess.DEVNULL)
            process.kill()


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
