"""Reads all annotations of a folder tree, counts them, and writes them into another folder, each file whole or not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from image_sync.annotations import coco, sagemaker, voc, yolo
from image_sync.annotations.checks import AnnotationError, Fault
from image_sync.annotations.finder import Finder
from image_sync.annotations.folders import Format, stem_of
from image_sync.domain import Annotation
from image_sync.errors import ImageSyncError, PictureError, UsageError
from image_sync.log import show_path

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RENAME = "Give the picture a name of printable UTF-8 characters."


@dataclass(frozen=True, slots=True)
class LabelRules:
    """What is to be changed in what was read.

    Attributes:
        labels: old name to new name; an empty new name leaves the objects out.
        skip_difficult: leave out what is marked as difficult.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    skip_difficult: bool = False

    def applied(self, annotation: Annotation) -> Annotation:
        """The annotation after the changes."""
        kept = (box for box in annotation.boxes if not (self.skip_difficult and box.difficult))
        named = (replace(box, label=self.labels.get(box.label, box.label)) for box in kept)
        return replace(annotation, boxes=tuple(box for box in named if box.label))


@dataclass(frozen=True, slots=True)
class Annotated:
    """A picture and its annotation.

    Attributes:
        folder: relative to the root of the report; empty for the root itself.
    """

    folder: bytes
    name: bytes
    annotation: Annotation

    @property
    def path(self) -> bytes:
        """Relative to the root of the report."""
        return self.folder + b"/" + self.name if self.folder else self.name


@dataclass(slots=True)
class Report:
    """What was found in a folder tree.

    Attributes:
        root: absolute path of the folder where it began.
        without: pictures that have no annotation, relative paths.
        faults: what is wrong, by file (absolute path).
        faulty: pictures whose annotation cannot be used.
        leftover: annotation files that belong to no picture, absolute paths.
        left_out: objects that the rules left out.
    """

    root: bytes
    annotated: list[Annotated] = field(default_factory=list)
    formats: Counter[Format] = field(default_factory=Counter)
    without: list[bytes] = field(default_factory=list)
    faults: dict[bytes, list[Fault]] = field(default_factory=dict)
    faulty: int = 0
    leftover: list[bytes] = field(default_factory=list)
    left_out: int = 0

    @property
    def pictures(self) -> int:
        """How many pictures there are, with and without annotations."""
        return len(self.annotated) + len(self.without) + self.faulty

    @property
    def boxes(self) -> Counter[str]:
        """How many objects have each label, by label."""
        found = Counter(box.label for one in self.annotated for box in one.annotation.boxes)
        return Counter(dict(sorted(found.items())))

    @property
    def labelled(self) -> Counter[str]:
        """In how many pictures each label occurs."""
        return Counter(label for one in self.annotated for label in {box.label for box in one.annotation.boxes})

    @property
    def lookalikes(self) -> list[list[str]]:
        """Labels that a person would take for the same, such as Scratch and scratch."""
        groups: dict[str, list[str]] = {}
        for label in self.boxes:
            groups.setdefault(" ".join(label.casefold().replace("_", " ").replace("-", " ").split()), []).append(label)
        return [group for group in groups.values() if len(group) > 1]

    def refuse(self, path: bytes, *faults: Fault) -> None:
        """Keep what is wrong with a file, once."""
        known = self.faults.setdefault(path, [])
        known += [fault for fault in faults if fault not in known]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the tree: its absolute path, and names of files in it.

    Attributes:
        others: files that look like annotations by their suffix.
    """

    path: bytes
    pictures: list[bytes]
    others: list[bytes]


def read_all(
    root: bytes,
    folders: Iterable[Folder],
    finder: Finder,
    measure: Callable[[bytes], tuple[int, int]],
    rules: LabelRules,
) -> Report:
    """Read the annotations of all pictures in these folders, at or below the root.

    Args:
        measure: gives width and height in pixels of the picture at a path, or raises PictureError.
    """
    report = Report(root)
    others: list[bytes] = []
    used: set[bytes] = set()
    for folder in folders:
        others += [folder.path + b"/" + name for name in folder.others]
        relative = folder.path[len(root) :].strip(b"/")
        try:
            found = finder.beside(folder.path, folder.pictures) if folder.pictures else {}
        except PictureError as error:
            report.faulty += len(folder.pictures)
            report.refuse(folder.path, Fault(error.what, error.hint))
            continue
        for name in folder.pictures:
            path = folder.path + b"/" + name
            source = found.get(name)
            if source is None:
                report.without.append(path[len(root) :].strip(b"/"))
                continue
            used.update(source.paths)
            try:
                read = source.read(*measure(path))
            except AnnotationError as error:
                report.faulty += 1
                report.refuse(error.path, *error.faults)
            except PictureError as error:
                report.faulty += 1
                report.refuse(path, Fault(error.what, error.hint))
            else:
                kept = rules.applied(read)
                report.left_out += len(read.boxes) - len(kept.boxes)
                report.formats[source.format] += 1
                report.annotated.append(Annotated(relative, name, kept))
    suffixes = tuple(form.suffix.encode() for form in {Format.VOC, *report.formats})
    report.leftover = [path for path in others if path.lower().endswith(suffixes) and path not in used]
    return report


def writable(report: Report, form: Format) -> list[Annotated]:
    """The pictures whose annotations the format can hold; what it cannot becomes a fault of the picture."""
    stems: dict[bytes, list[Annotated]] = {}
    for one in report.annotated:
        stems.setdefault(one.folder + b"/" + stem_of(one.name), []).append(one)
    kept: list[Annotated] = []
    refused: set[bytes] = set()
    for one in report.annotated:
        rivals = stems[one.folder + b"/" + stem_of(one.name)]
        if form is not Format.YOLO and not _printable(one.path):
            fault = Fault(f"{form.words} files cannot hold the picture's name", _RENAME)
        elif form is not Format.COCO and len(rivals) > 1:
            other = next(rival for rival in rivals if rival is not one)
            text = f"it and {show_path(other.name)} would have the same annotation file"
            fault = Fault(text, "Rename one of them.")
        elif form is Format.SAGEMAKER and not one.annotation.boxes:
            continue  # a file without objects stops a training
        else:
            kept.append(one)
            continue
        report.refuse(report.root + b"/" + one.path, fault)
        refused.add(one.path)
    report.annotated = [one for one in report.annotated if one.path not in refused]
    report.faulty += len(refused)
    return kept


def losses(pictures: Iterable[Annotated], form: Format) -> tuple[str, ...]:
    """What the format has no place for, a line for each kind of thing."""
    boxes = [box for one in pictures for box in one.annotation.boxes]
    outlines = sum(bool(box.polygon) for box in boxes) if form is Format.SAGEMAKER else 0
    difficult = sum(box.difficult for box in boxes) if form in {Format.YOLO, Format.SAGEMAKER} else 0
    lines = (
        f"outlines that became boxes, since {form.words} has none: {outlines}" if outlines else "",
        f"objects no longer marked as difficult, since {form.words} has no such mark: {difficult}" if difficult else "",
    )
    return tuple(line for line in lines if line)


def write(
    pictures: Sequence[Annotated],
    target: bytes,
    form: Format,
    *,
    voc_one_based: bool = False,
    validation: float | None = None,
    copy_from: bytes = b"",
    force: bool = False,
) -> int:
    """Write the pictures' annotations below the target, each file whole or not at all; returns how many files.

    Args:
        voc_one_based: see :func:`image_sync.annotations.voc.read`.
        validation: share of the pictures (0 to 1) that goes into folders of its own; None: no such folders are made.
            Which pictures these are depends on nothing but their paths, so it is the same in every run.
        copy_from: where the pictures lie if they are to be copied as well.
        force: overwrite what is there.

    Raises:
        UsageError: some exist already, and nothing was written. ImageSyncError: the disk says no.
    """
    parts = {one.path: _part(one, validation) for one in pictures}
    files = list(_files(pictures, parts, form, one_based=voc_one_based))
    copies = [(_joined(parts[one.path], one.path), copy_from + b"/" + one.path) for one in pictures if copy_from]
    there = [path for path, _ in [*copies, *files] if not force and os.path.lexists(target + b"/" + path)]
    if there:
        more = f" and {len(there) - 1} more files" if len(there) > 1 else ""
        what = f"{show_path(target + b'/' + there[0])}{more} would be overwritten"
        raise UsageError(what, hint="Give another folder, or --force to overwrite them.")
    for path, source in copies:
        _put(target + b"/" + path, source, b"")
    for path, content in files:
        _put(target + b"/" + path, b"", content)
    return len(copies) + len(files)


def _files(
    pictures: Sequence[Annotated], parts: Mapping[bytes, bytes], form: Format, *, one_based: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Path and content of each file; numbers of classes are the same in all of them, in order of the names."""
    labels = sorted({box.label for one in pictures for box in one.annotation.boxes})
    classes = {label: number for number, label in enumerate(labels)}
    folders: dict[bytes, list[Annotated]] = {}
    for one in pictures:
        folders.setdefault(_joined(parts[one.path], one.folder), []).append(one)
    if form is Format.COCO:
        for folder, inside in folders.items():
            named = ((one.name.decode(), one.annotation) for one in inside)
            yield _joined(folder, b"annotations.json"), coco.write(named, classes)
        return
    if form is Format.YOLO and classes:
        for folder in folders:
            yield _joined(folder, b"classes.txt"), "".join(f"{name}\n" for name in classes).encode()
        yield b"data.yaml", _data_yaml(set(parts.values()), classes)
    for one in pictures:
        part = parts[one.path]
        # SageMaker has a channel for pictures and another for annotations.
        apart = part + b"_annotation" if part and form is Format.SAGEMAKER else part
        if form is Format.VOC:
            content = voc.write(one.annotation, one.name.decode(), one_based=one_based)
        elif form is Format.YOLO:
            content = yolo.write(one.annotation, classes)
        else:
            content = sagemaker.write(one.annotation, one.path.decode(), classes)
        yield _joined(apart, one.folder, one.name.rpartition(b".")[0] + form.suffix.encode()), content


def _data_yaml(parts: set[bytes], classes: Iterable[str]) -> bytes:
    """What YOLO trainers are given: where the pictures lie, from this file's folder on, and the classes by number."""
    train = min(parts).decode() or "."
    lines = [f"train: {train}", f"val: {'validation' if b'validation' in parts else train}", "names:"]
    # A JSON string is one in YAML too, whatever the name is made of.
    lines += [f"  {number}: {json.dumps(name, ensure_ascii=False)}" for number, name in enumerate(classes)]
    return "".join(f"{line}\n" for line in lines).encode()


def _part(one: Annotated, validation: float | None) -> bytes:
    if validation is None:
        return b""
    share = int.from_bytes(hashlib.sha256(one.path).digest()[:8], "big") / 2**64
    return b"validation" if share < validation else b"train"


def _joined(*steps: bytes) -> bytes:
    return b"/".join(step for step in steps if step)


def _printable(path: bytes) -> bool:
    try:
        return path.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _put(path: bytes, copy_of: bytes, content: bytes) -> None:
    # Hidden, and ending as unfinished files do: the daemon would not take it for a picture.
    temporary = os.path.dirname(path) + f"/.image-sync-{secrets.token_hex(8)}.part".encode()
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(temporary, "xb") as opened:
                if copy_of:
                    with open(os.open(copy_of, _READ), "rb") as original:
                        shutil.copyfileobj(original, opened, 1 << 20)
                else:
                    opened.write(content)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        named = show_path(error.filename) if isinstance(error.filename, bytes | str) else show_path(path)
        raise ImageSyncError(
            f"{show_path(path)} cannot be written: {error.strerror or error} ({named})",
            hint="The files before it are there and whole; make room or give the right to write, and use --force.",
        ) from error
