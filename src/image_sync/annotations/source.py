"""Where the annotation of one picture stands."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

from image_sync.annotations.fault import AnnotationError, Fault
from image_sync.annotations.format import Format
from image_sync.domain import Annotation, Stamp
from image_sync.log import show_path

Reader = Callable[[int, int], Annotation]


@dataclass(frozen=True, slots=True)
class Source:
    """The annotation of one picture, found but not read.

    Attributes:
        paths: the annotation file; more than one when it is not known which of them counts.
        stamps: of all files that have a part in it.
    """

    format: Format
    paths: tuple[bytes, ...]
    stamps: tuple[Stamp, ...]
    reader: Reader = field(repr=False, compare=False)

    @property
    def path(self) -> bytes:
        """The annotation file; the first when there are several."""
        return self.paths[0]

    @property
    def stamp(self) -> str:
        """24 hex digits that change with size, times or inode of any file that has a part in it."""
        return hashlib.blake2b(f"{self.format}{[*map(tuple, self.stamps)]}".encode(), digest_size=12).hexdigest()

    @property
    def newest(self) -> float:
        """When the youngest of the files was changed, Unix time."""
        return max(time for stamp in self.stamps for time in (stamp.mtime_ns, stamp.ctime_ns)) / 1e9

    def read(self, width: int, height: int) -> Annotation:
        """What is marked in the picture, which has this size in pixels.

        Raises:
            AnnotationError: it cannot be used; each mistake is named. Changed: it is not the file that was found.
            Unreadable: the system does not let it be read.
        """
        return self.reader(width, height)


def unusable(form: Format, path: bytes, stamp: Stamp, fault: Fault) -> Source:
    """A source that can only say why it cannot be used."""
    return refused(form, AnnotationError(path, [fault]), stamp)


def refused(form: Format, error: AnnotationError, stamp: Stamp) -> Source:
    """A source that can only repeat an error."""
    return Source(form, (error.path,), (stamp,), partial(_refuse, error))


def several(sources: Sequence[Source]) -> Source:
    """What stands for two sources or more of one picture: it says so, since nobody knows which one counts."""
    rank = list(Format).index
    sources = sorted(sources, key=lambda one: (rank(one.format), one.paths))
    named = " and ".join(f"{one.format.words} in {show_path(one.path)}" for one in sources)
    hint = "Keep the one that counts, or say which format counts."
    error = AnnotationError(sources[0].path, [Fault(f"the picture has several annotations: {named}", hint)])
    paths = tuple(path for one in sources for path in one.paths)
    stamps = tuple(stamp for one in sources for stamp in one.stamps)
    return Source(sources[0].format, paths, stamps, partial(_refuse, error))


def _refuse(error: AnnotationError, _width: int, _height: int) -> NoReturn:
    raise AnnotationError(error.path, error.faults)
