"""Annotations written into a folder: what the files are called, what is in them, and that none is ever half there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from image_sync.annotations import coco, sagemaker, voc, yolo
from image_sync.annotations.fault import Fault
from image_sync.annotations.format import Format
from image_sync.annotations.listing import stem_of
from image_sync.annotations.survey import Marked, Survey
from image_sync.errors import ImageSyncError, UsageError
from image_sync.log import show_path

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RENAME = "Give the picture a name of printable UTF-8 characters."


@dataclass(frozen=True, slots=True)
class Style:
    """How to write.

    Attributes:
        voc_one_based: see :func:`image_sync.annotations.voc.read`.
        validation: share of the pictures (0 to 1) that goes into folders of its own; None: no such folders are made.
            Which pictures these are depends on nothing but their paths, so it is the same in every run.
        copy_from: where the pictures lie if they are to be copied as well.
    """

    form: Format
    voc_one_based: bool = False
    validation: float | None = None
    copy_from: bytes = b""


@dataclass(frozen=True, slots=True)
class Output:
    """One file to write: its path below the target, and either its content or which file is copied."""

    path: bytes
    content: bytes = b""
    copy_of: bytes = b""


def writable(found: Survey, form: Format) -> list[Marked]:
    """The pictures whose annotations the format can hold; what it cannot is noted as a fault of the picture."""
    stems: dict[bytes, list[Marked]] = {}
    for marked in found.marked:
        stems.setdefault(marked.folder + b"/" + stem_of(marked.name), []).append(marked)
    kept: list[Marked] = []
    refused: set[bytes] = set()
    for marked in found.marked:
        rivals = stems[marked.folder + b"/" + stem_of(marked.name)]
        if form is not Format.YOLO and not _utf8(marked.path):
            fault = Fault(f"{form.words} files cannot hold the picture's name", _RENAME)
        elif form is not Format.COCO and len(rivals) > 1:
            other = next(one for one in rivals if one is not marked)
            text = f"it and {show_path(other.name)} would have the same annotation file"
            fault = Fault(text, "Rename one of them.")
        elif form is Format.SAGEMAKER and not marked.annotation.boxes:
            continue  # a file without objects stops a training
        else:
            kept.append(marked)
            continue
        found.refuse(found.root + b"/" + marked.path, [fault])
        refused.add(marked.path)
    found.marked = [marked for marked in found.marked if marked.path not in refused]
    found.faulty += len(refused)
    return kept


def losses(pictures: Iterable[Marked], form: Format) -> tuple[str, ...]:
    """What the format has no place for, a line for each kind of thing."""
    boxes = [box for marked in pictures for box in marked.annotation.boxes]
    outlines = sum(bool(box.polygon) for box in boxes) if form is Format.SAGEMAKER else 0
    difficult = sum(box.difficult for box in boxes) if form in {Format.YOLO, Format.SAGEMAKER} else 0
    lines = (
        f"outlines that became boxes, since {form.words} has none: {outlines}" if outlines else "",
        f"objects no longer marked as difficult, since {form.words} has no such mark: {difficult}" if difficult else "",
    )
    return tuple(line for line in lines if line)


def outputs(pictures: Iterable[Marked], style: Style) -> Iterator[Output]:
    """The files to write for these pictures; numbers of classes are the same in all of them, in order of the names."""
    pictures = list(pictures)
    labels = sorted({box.label for marked in pictures for box in marked.annotation.boxes})
    classes = {label: number for number, label in enumerate(labels)}
    folders: dict[bytes, list[Marked]] = {}
    for marked in pictures:
        folders.setdefault(_part(marked, style), []).append(marked)
        if style.copy_from:
            path = _joined(_part(marked, style), marked.path)
            yield Output(path, copy_of=style.copy_from + b"/" + marked.path)
    if style.form in {Format.COCO, Format.YOLO}:
        yield from _with_lists(pictures, classes, style)
    if style.form is Format.YOLO and classes:
        yield Output(b"data.yaml", _data_yaml(folders, classes))
    if style.form is not Format.COCO:
        for part, inside in folders.items():
            yield from (Output(_beside(part, marked, style), _text(marked, classes, style)) for marked in inside)


def write(target: bytes, files: Iterable[Output], *, force: bool) -> int:
    """Write the files, each whole or not at all; returns how many.

    Raises:
        UsageError: some exist already, and nothing was written. ImageSyncError: the disk says no.
    """
    files = list(files)
    if not force:
        there = [file.path for file in files if os.path.lexists(target + b"/" + file.path)]
        if there:
            more = f" and {len(there) - 1} more files" if len(there) > 1 else ""
            what = f"{show_path(target + b'/' + there[0])}{more} would be overwritten"
            raise UsageError(what, hint="Give another folder, or --force to overwrite them.")
    for file in files:
        path = target + b"/" + file.path
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _put(path, file)
        except OSError as error:
            named = show_path(error.filename) if isinstance(error.filename, bytes | str) else show_path(path)
            raise ImageSyncError(
                f"{show_path(path)} cannot be written: {error.strerror or error} ({named})",
                hint="The files before it are there and whole; make room or give the right to write, and use --force.",
            ) from error
    return len(files)


def _with_lists(pictures: list[Marked], classes: Mapping[str, int], style: Style) -> Iterator[Output]:
    """The file that each folder has for all its pictures."""
    folders: dict[bytes, list[Marked]] = {}
    for marked in pictures:
        folders.setdefault(_joined(_part(marked, style), marked.folder), []).append(marked)
    for folder, inside in folders.items():
        if style.form is Format.COCO:
            named = ((marked.name.decode(), marked.annotation) for marked in inside)
            yield Output(_joined(folder, b"annotations.json"), coco.write(named, classes))
        elif classes:
            yield Output(_joined(folder, b"classes.txt"), "".join(f"{name}\n" for name in classes).encode())


def _data_yaml(parts: Collection[bytes], classes: Iterable[str]) -> bytes:
    """What YOLO trainers are given: where the pictures lie, from this file's folder on, and the classes by number."""
    train = next(iter(sorted(parts))).decode() or "."
    lines = [f"train: {train}", f"val: {'validation' if b'validation' in parts else train}", "names:"]
    # A JSON string is one in YAML too, whatever the name is made of.
    lines += [f"  {number}: {json.dumps(name, ensure_ascii=False)}" for number, name in enumerate(classes)]
    return "".join(f"{line}\n" for line in lines).encode()


def _text(marked: Marked, classes: Mapping[str, int], style: Style) -> bytes:
    if style.form is Format.VOC:
        return voc.write(marked.annotation, marked.name.decode(), one_based=style.voc_one_based)
    if style.form is Format.YOLO:
        return yolo.write(marked.annotation, classes)
    return sagemaker.write(marked.annotation, marked.path.decode(), classes)


def _part(marked: Marked, style: Style) -> bytes:
    if style.validation is None:
        return b""
    share = int.from_bytes(hashlib.sha256(marked.path).digest()[:8], "big") / 2**64
    return b"validation" if share < style.validation else b"train"


def _beside(part: bytes, marked: Marked, style: Style) -> bytes:
    # SageMaker has a channel for pictures and another for annotations.
    apart = part + b"_annotation" if part and style.form is Format.SAGEMAKER else part
    return _joined(apart, marked.folder, marked.name.rpartition(b".")[0] + style.form.suffix.encode())


def _joined(*steps: bytes) -> bytes:
    return b"/".join(step for step in steps if step)


def _utf8(path: bytes) -> bool:
    try:
        return path.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _put(path: bytes, file: Output) -> None:
    # Hidden, and ending as unfinished files do: the daemon would not take it for a picture.
    temporary = os.path.dirname(path) + f"/.image-sync-{secrets.token_hex(8)}.part".encode()
    try:
        with open(temporary, "xb") as opened:
            if file.copy_of:
                with open(os.open(file.copy_of, _READ), "rb") as original:
                    shutil.copyfileobj(original, opened, 1 << 20)
            else:
                opened.write(file.content)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
