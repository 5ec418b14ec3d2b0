"""A FUSE file system that keeps only what was synced: ``powercut_disk.py BACK DURABLE MOUNT [SEED]``.

Requests go to the folder BACK. When it is unmounted, DURABLE gets what a disk would hold after a power cut: the content
that files had when they were last synced, under the names that folders had when those were last synced. With a seed,
every sector and every folder's names that were not synced are kept or lost by chance, as by a disk that writes in the
order it likes.
"""

from __future__ import annotations

import os
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mfusepy

SECTOR = 512


@dataclass(slots=True)
class Platter:
    """One file: what is surely on the disk, and what was done to it since."""

    synced: bytes = b""
    since: list[tuple[int, bytes] | int] = field(default_factory=list)
    """Pieces written, with their offset; or lengths that it was cut to."""

    def remains(self, chance: random.Random | None) -> bytes:
        """Its content after the cut."""
        content = bytearray(self.synced)
        for change in self.since if chance else ():
            if isinstance(change, int):
                if _lucky(chance):
                    del content[change:]
                continue
            offset, piece = change
            for at in range(0, len(piece), SECTOR):
                if _lucky(chance):
                    end = offset + min(at + SECTOR, len(piece))
                    content.extend(bytes(max(0, end - len(content))))
                    content[offset + at : end] = piece[at : at + SECTOR]
        return bytes(content)


class PowerCut(mfusepy.Operations):  # type: ignore[misc]  # the package has no types
    """Passes every request on, and remembers what was synced."""

    use_ns = True

    def __init__(self, back: str, durable: str, chance: random.Random | None) -> None:
        self.back, self.durable, self.chance = back, durable, chance
        self.files: dict[str, Platter] = {}
        self.names: dict[str, dict[str, Platter | None]] = {"/": {}}
        """Folder -> the names that are surely in it; None stands for a folder."""

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self.back + path)
        plain = ("st_gid", "st_mode", "st_nlink", "st_size", "st_uid", "st_ino")
        times = {f"st_{key}": getattr(found, f"st_{key}_ns") for key in ("atime", "mtime", "ctime")}
        return {**{key: getattr(found, key) for key in plain}, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self.back + path)]

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self.back)
        return {key: getattr(found, key) for key in ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_frsize")}

    def open(self, path: str, flags: int) -> int:
        return os.open(self.back + path, flags & ~os.O_APPEND)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self.files[path] = Platter()
        return os.open(self.back + path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.files[path].since.append((offset, bytes(data)))
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self.files[path].since.append(length)
        os.truncate(self.back + path, length)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        file = self.files[path]
        file.synced = Path(self.back + path).read_bytes()
        file.since.clear()
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self.names[path] = self.listing(path)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self.back + path, mode)
        self.names[path] = {}
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self.back + path)
        del self.files[path]
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self.back + old, self.back + new)
        self.files[new] = self.files.pop(old)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def chmod(self, path: str, mode: int) -> int:
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def destroy(self, path: str) -> None:
        self.cut("/")

    def listing(self, path: str) -> dict[str, Platter | None]:
        """The names that are in a folder now."""
        inside = path.rstrip("/")
        return {name: self.files.get(f"{inside}/{name}") for name in os.listdir(self.back + path)}

    def cut(self, path: str) -> None:
        """Write what remains of a folder."""
        names = self.listing(path) if self.chance and _lucky(self.chance) else self.names[path]
        for name, file in names.items():
            inside = f"{path.rstrip('/')}/{name}"
            if file is None:
                os.mkdir(self.durable + inside)
                self.cut(inside)
            else:
                Path(self.durable + inside).write_bytes(file.remains(self.chance))


def _lucky(chance: random.Random | None) -> bool:
    return chance is not None and chance.random() < 0.5


if __name__ == "__main__":
    _, _back, _durable, _mount, _seed = sys.argv
    _chance = random.Random(int(_seed)) if _seed else None
    mfusepy.FUSE(PowerCut(_back, _durable, _chance), _mount, foreground=True, nothreads=True, fsname="powercut")
