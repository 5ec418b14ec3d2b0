"""What the machine gives a program, and what it takes: small disks, limits, memory, and pictures that are large."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from support.pictures import encoded

LONG = os.environ.get("IMAGE_SYNC_SOAK", "") == "1"
"""Whether to try every case, as ``make soak`` does, and not a spread of them."""
SEGMENT = 65_533  # most bytes in a JPEG comment


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system in memory with so many bytes on it, mounted at ``folder``, which is made."""
    assert os.geteuid() == 0, "mark this test with pytest.mark.root: mounting is a privilege"
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"a small disk needs the right to mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left on this disk, with one file: delete it to give the room back."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for piece in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(_Full):
                while True:
                    _write(file.fileno(), bytes(piece))
    return ballast


class _Full(Exception):  # noqa: N818 - it is what the disk is
    """No room is left."""


def _write(handle: int, piece: bytes) -> None:
    try:
        os.write(handle, piece)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise _Full from error


def peak_memory(process: int) -> int:
    """Most bytes that a running process ever had in memory, by the kernel's account."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel gives no figure")


def open_files(process: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{process}/fd"))


def processor_seconds(process: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def large_jpeg(path: Path, size: int, seed: int = 0) -> None:
    """A picture of about this many bytes, sound in every way: a small JPEG with many comments."""
    start = encoded(Image.new("RGB", (320, 240), (seed % 256, 90, 120)), "JPEG")
    comment = b"\xff\xfe" + (SEGMENT + 2).to_bytes(2, "big") + seed.to_bytes(4, "big") + bytes(SEGMENT - 4)
    with path.open("wb") as file:
        file.write(start[:2])
        for _ in range((size - len(start)) // len(comment)):
            file.write(comment)
        file.write(start[2:])
