"""``image-sync annotations``: check the boxes drawn in pictures, and convert them from one file format to another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from image_sync.annotations import Finder, Format, chosen
from image_sync.annotations.checks import label_of
from image_sync.annotations.convert import Folder, LabelRules, Report, losses, read_all, writable, write
from image_sync.cli import options
from image_sync.cli.present import wide_console
from image_sync.errors import EXIT_DONE, EXIT_SOME_FAILED, PictureError, Unreadable, UsageError
from image_sync.log import show_path, show_text
from image_sync.watcher.folders import open_folder
from image_sync.watcher.image_check import looks_like, structure
from image_sync.watcher.rules import Filter, Rules

app = typer.Typer(
    help="Check the boxes drawn in pictures, or convert them to another format.",
    no_args_is_help=True,
    add_completion=False,
)

_SUFFIXES = (b".xml", b".json", b".txt")
_LISTS = (b"classes.txt",)
_PIECE = 1 << 16
_SHOWN = 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Words = Literal["voc", "coco", "yolo", "sagemaker"]
From = Annotated[
    Literal["auto", "voc", "coco", "yolo", "sagemaker"],
    typer.Option("--from", help="The format to read; auto reads all of them, and reports a picture that has two."),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label-map",
        metavar="OLD=NEW",
        help="Rename a label, or leave its objects out (OLD=); may be repeated.",
    ),
]
SkipDifficult = Annotated[bool, typer.Option("--skip-difficult", help="Leave out objects marked as difficult.")]
OneBased = Annotated[
    bool,
    typer.Option(
        "--voc-one-based",
        help="Pascal VOC files count pixels from 1 and include the last one, as the original data do.",
    ),
]


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, with folders in it.", metavar="FOLDER")],
    read: From = "auto",
    label_map: Labels = None,
    skip_difficult: SkipDifficult = False,
    voc_one_based: OneBased = False,
    as_json: options.Json = False,
) -> None:
    """Read all annotations of a folder and tell what is in them and what is wrong. Changes nothing."""
    root = _folder(folder)
    found = _read(root, read, _rules(label_map, skip_difficult=skip_difficult), voc_one_based=voc_one_based)
    if as_json:
        typer.echo(json.dumps(_data(found), indent=2))
    else:
        _tell(found)
    raise typer.Exit(EXIT_SOME_FAILED if found.faults else EXIT_DONE)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Folder of pictures, with folders in it.", metavar="SOURCE")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TARGET", help="Folder to write into.")],
    to: Annotated[Words, typer.Option("--to", help="The format to write.")],
    read: From = "auto",
    label_map: Labels = None,
    skip_difficult: SkipDifficult = False,
    voc_one_based: OneBased = False,
    validation: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Set this share of the pictures aside, such as 0.3; always the same ones.",
        ),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the pictures as well.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write the annotations of a folder's pictures in another format. What is wrong is told and left out."""
    root, target = _folder(source), os.path.abspath(os.fsencode(output))
    if _inside(os.path.realpath(target), os.path.realpath(root)):
        raise UsageError(
            f"{show_path(target)} lies in {show_path(root)}",
            hint="Choose a folder outside it: otherwise every picture's annotation would be found twice.",
        )
    found = _read(root, read, _rules(label_map, skip_difficult=skip_difficult), voc_one_based=voc_one_based)
    form = Format(to)
    pictures = writable(found, form)
    written = write(
        pictures,
        target,
        form,
        voc_one_based=voc_one_based,
        validation=validation,
        copy_from=root if copy else b"",
        force=force,
    )
    lost = losses(pictures, form)
    if as_json:
        typer.echo(json.dumps(_data(found) | {"written": written, "lost": lost}, indent=2))
    else:
        text = f"written to {show_path(target)}: {written} files, {len(pictures)} pictures in {form.words}"
        _tell(found, *lost, text)
    raise typer.Exit(EXIT_SOME_FAILED if found.faults else EXIT_DONE)


def _folder(path: Path) -> bytes:
    root = os.path.abspath(os.fsencode(path))
    if not os.path.isdir(root):
        raise UsageError(f"there is no folder {show_path(root)}", hint="Is the path right?")
    return root


def _inside(path: bytes, folder: bytes) -> bool:
    return (path + b"/").startswith(folder.rstrip(b"/") + b"/")


def _rules(label_map: list[str] | None, *, skip_difficult: bool) -> LabelRules:
    labels: dict[str, str] = {}
    for text in label_map or ():
        old, equals, new = text.partition("=")
        try:
            fault = "" if equals else "has no ="
            name, wanted = label_of(old), label_of(new) if new.strip() else ""
            if labels.setdefault(name, wanted) != wanted:
                fault = "gives a label two new names"
        except ValueError as error:
            fault = str(error)
        if fault:
            raise UsageError(
                f"--label-map {show_text(text)} is not understood: it {fault}",
                hint="Write for example: --label-map scrach=scratch --label-map unsure=",
            )
    return LabelRules(labels, skip_difficult)


def _read(root: bytes, read: str, rules: LabelRules, *, voc_one_based: bool) -> Report:
    filters = Filter(Rules())
    finder = Finder(
        root,
        partial(open_folder, root),
        filters.file,
        formats=chosen(read),
        voc_one_based=voc_one_based,
    )
    found = read_all(root, _walk(root, filters), finder, _measure, rules)
    shown = show_path(root)
    if not found.pictures and not found.faults:
        raise UsageError(f"there is no picture in {shown}", hint="JPEG and PNG files count; is the path right?")
    if not found.annotated and not found.faults:
        raise UsageError(
            f"none of the {found.pictures} pictures in {shown} has an annotation",
            hint="They lie beside the pictures or in folders 'annotations' or 'labels'; if such a folder is beside "
            "this one, give the folder that holds both.",
        )
    return found


def _walk(root: bytes, filters: Filter) -> Iterator[Folder]:
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        inner, pictures, others = [], [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        path = folder.rstrip(b"/") + b"/" + entry.name
                        if filters.admits(root, path):
                            inner.append(path)
                    elif not entry.is_file(follow_symlinks=False):
                        continue
                    elif filters.file(entry.name):
                        pictures.append(entry.name)
                    elif entry.name.lower().endswith(_SUFFIXES) and entry.name.lower() not in _LISTS:
                        others.append(entry.name)
        except OSError as error:
            raise UsageError(
                f"{show_path(folder)} cannot be listed: {error.strerror}", hint="Check the right to read it."
            ) from error
        waiting += sorted(inner, reverse=True)
        yield Folder(folder, sorted(pictures), sorted(others))


def _measure(path: bytes) -> tuple[int, int]:
    """The size of a picture in pixels, as its header gives it."""
    shown = show_path(path)
    try:
        fd = os.open(path, _OPEN)
        try:
            first = os.read(fd, _PIECE)
            found = structure(fd, first, through=False)
        finally:
            os.close(fd)
    except OSError as error:
        raise Unreadable(f"{shown} cannot be read: {error.strerror}", hint="Check the right to read it.") from error
    if not found.kind:
        raise PictureError(f"{shown} is not a JPEG or PNG but {looks_like(first)}", hint="Save it as JPEG or PNG.")
    if found.damage or not found.width or not found.height:
        reason = found.damage or "it ends before its size is given"
        raise PictureError(f"{shown} is damaged ({reason})", hint="Copy it again.")
    return found.width, found.height


def _tell(found: Report, *more: str) -> None:
    """Print labels, counts and faults, and more lines below."""
    console = wide_console()
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("label", overflow="fold")
    table.add_column("boxes", justify="right")
    table.add_column("pictures", justify="right")
    boxes, labelled = found.boxes, found.labelled
    for label, number in boxes.items():
        table.add_row(Text(show_text(label)), str(number), str(labelled[label]))
    table.add_row("all", str(boxes.total()), str(len(found.annotated)), style="bold")
    console.print(table)
    for line in _lines(found):
        console.print(Text(line), soft_wrap=True)
    _tell_faults(console, found)
    for line in more:
        console.print(Text(line), soft_wrap=True)


def _lines(found: Report) -> Iterator[str]:
    formats = ", ".join(f"{number} in {form.words}" for form, number in found.formats.items())
    negative = sum(not one.annotation.boxes for one in found.annotated)
    without = f" ({_some(found.without)})" if found.without else ""
    yield (
        f"pictures: {found.pictures}, of which annotated {len(found.annotated)} ({formats or 'none'}), "
        f"faulty {found.faulty}, without annotation {len(found.without)}{without}"
    )
    if negative:
        yield f"annotated pictures that show no object: {negative}"
    if found.left_out:
        yield f"objects left out, as asked: {found.left_out}"
    if found.leftover:
        yield f"annotation files that belong to no picture: {len(found.leftover)} ({_some(found.leftover)})"
    for group in found.lookalikes:
        first, second, *_ = shown = [show_text(label) for label in group]
        yield f"these labels look alike: {', '.join(shown)}; if they mean the same: --label-map '{first}={second}'"


def _some(paths: list[bytes]) -> str:
    shown = ", ".join(map(show_path, paths[:3]))
    return shown + (", ..." if len(paths) > 3 else "")  # noqa: PLR2004 - as above


def _tell_faults(console: Console, found: Report) -> None:
    """Each file, and below it what is wrong and what to do: sentences are too long for a table."""
    shown = 0
    for path, faults in found.faults.items():
        if shown >= _SHOWN:
            break
        console.print(Text(show_path(path), style="bold"), soft_wrap=True)
        for fault in faults[: _SHOWN - shown]:
            console.print(Text(f"  {show_text(fault.text)}"), soft_wrap=True)
            console.print(Text(f"    {show_text(fault.hint)}", style="dim"), soft_wrap=True)
            shown += 1
    if (left := sum(map(len, found.faults.values())) - shown) > 0:
        console.print(f"... and {left} more; --json lists them all", soft_wrap=True)


def _data(found: Report) -> dict[str, Any]:
    labelled = found.labelled
    return {
        "pictures": found.pictures,
        "annotated": len(found.annotated),
        "faulty": found.faulty,
        "without": [show_path(path) for path in found.without],
        "labels": {label: {"boxes": number, "pictures": labelled[label]} for label, number in found.boxes.items()},
        "formats": dict(found.formats),
        "left_out": found.left_out,
        "leftover": [show_path(path) for path in found.leftover],
        "faults": [
            {"file": show_path(path), "fault": fault.text, "hint": fault.hint}
            for path, faults in found.faults.items()
            for fault in faults
        ],
    }
