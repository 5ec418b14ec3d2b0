"""All annotations of a folder tree, read and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from image_sync.annotations.fault import AnnotationError, Fault
from image_sync.annotations.finder import Finder
from image_sync.annotations.format import Format
from image_sync.domain import Annotation
from image_sync.errors import PictureError

Measure = Callable[[bytes], tuple[int, int]]
"""Gives width and height in pixels of the picture at a path, or raises PictureError."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to be changed in what was read.

    Attributes:
        labels: old name to new name; an empty new name leaves the objects out.
        skip_difficult: leave out what is marked as difficult.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    skip_difficult: bool = False

    def granted(self, annotation: Annotation) -> Annotation:
        """The annotation after the changes."""
        kept = (box for box in annotation.boxes if not (self.skip_difficult and box.difficult))
        named = (replace(box, label=self.labels.get(box.label, box.label)) for box in kept)
        return replace(annotation, boxes=tuple(box for box in named if box.label))


@dataclass(frozen=True, slots=True)
class Marked:
    """A picture and what is marked in it.

    Attributes:
        folder: relative to where the survey began; empty for that folder itself.
    """

    folder: bytes
    name: bytes
    annotation: Annotation

    @property
    def path(self) -> bytes:
        """Relative to where the survey began."""
        return self.folder + b"/" + self.name if self.folder else self.name


@dataclass(slots=True)
class Survey:
    """What was found.

    Attributes:
        root: absolute path of the folder where it began.
        without: pictures that have no annotation, relative paths.
        faults: what is wrong, by file (absolute path).
        faulty: pictures whose annotation cannot be used.
        leftover: annotation files that belong to no picture, absolute paths.
        left_out: objects that the wishes left out.
    """

    root: bytes
    marked: list[Marked] = field(default_factory=list)
    without: list[bytes] = field(default_factory=list)
    faults: dict[bytes, list[Fault]] = field(default_factory=dict)
    faulty: int = 0
    formats: Counter[Format] = field(default_factory=Counter)
    leftover: list[bytes] = field(default_factory=list)
    left_out: int = 0

    @property
    def pictures(self) -> int:
        """How many pictures there are, with and without annotations."""
        return len(self.marked) + len(self.without) + self.faulty

    @property
    def boxes(self) -> Counter[str]:
        """How many objects have each label, by label."""
        found = Counter(box.label for marked in self.marked for box in marked.annotation.boxes)
        return Counter(dict(sorted(found.items())))

    @property
    def labelled(self) -> Counter[str]:
        """In how many pictures each label occurs."""
        return Counter(label for marked in self.marked for label in {box.label for box in marked.annotation.boxes})

    @property
    def lookalikes(self) -> list[list[str]]:
        """Labels that a person would take for the same, such as Scratch and scratch."""
        groups: dict[str, list[str]] = {}
        for label in self.boxes:
            groups.setdefault(" ".join(label.casefold().replace("_", " ").replace("-", " ").split()), []).append(label)
        return [group for group in groups.values() if len(group) > 1]

    def refuse(self, path: bytes, faults: Iterable[Fault]) -> None:
        """Note what is wrong with a file, once."""
        known = self.faults.setdefault(path, [])
        known += [fault for fault in faults if fault not in known]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the tree: its absolute path, and names of files in it."""

    path: bytes
    pictures: list[bytes]
    others: list[bytes]
    """Files that look like annotations by their suffix."""


def survey(root: bytes, folders: Iterable[Folder], finder: Finder, measure: Measure, wishes: Wishes) -> Survey:
    """Read the annotations of all pictures in these folders, at or below the root."""
    result = Survey(root)
    others: list[bytes] = []
    used: set[bytes] = set()
    for folder in folders:
        others += [folder.path + b"/" + name for name in folder.others]
        relative = folder.path[len(root) :].strip(b"/")
        try:
            found = finder.beside(folder.path, folder.pictures) if folder.pictures else {}
        except PictureError as error:
            result.faulty += len(folder.pictures)
            result.refuse(folder.path, [Fault(error.what, error.hint)])
            continue
        for name in folder.pictures:
            path = folder.path + b"/" + name
            source = found.get(name)
            if source is None:
                result.without.append(path[len(root) :].strip(b"/"))
                continue
            used.update(source.paths)
            try:
                read = source.read(*measure(path))
            except PictureError as error:
                result.faulty += 1
                found_faults = error.faults if isinstance(error, AnnotationError) else (Fault(error.what, error.hint),)
                result.refuse(error.path if isinstance(error, AnnotationError) else path, found_faults)
                continue
            wanted = wishes.granted(read)
            result.left_out += len(read.boxes) - len(wanted.boxes)
            result.formats[source.format] += 1
            result.marked.append(Marked(relative, name, wanted))
    suffixes = tuple(form.suffix.encode() for form in {Format.VOC, *result.formats})
    result.leftover = [path for path in others if path.lower().endswith(suffixes) and path not in used]
    return result
