"""What ``image-sync annotations`` says of a folder of annotated pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from image_sync.annotations import Fault, Format
from image_sync.annotations.convert import Report
from image_sync.cli.present import wide_console
from image_sync.log import show_path, show_text

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Written:
    """What was written into a folder.

    Attributes:
        lost: what the format has no place for, a line for each kind of thing.
    """

    target: bytes
    files: int
    pictures: int
    form: Format
    lost: tuple[str, ...]


def report(found: Report, written: Written | None = None, *, as_json: bool) -> None:
    """Print labels, counts and faults."""
    if as_json:
        more = {} if written is None else {"written": written.files, "lost": written.lost}
        typer.echo(json.dumps(_data(found) | more, indent=2))
        return
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
    if written is not None:
        for line in written.lost:
            console.print(Text(line), soft_wrap=True)
        text = f"written to {show_path(written.target)}: {written.files} files, {written.pictures} pictures"
        console.print(Text(f"{text} in {written.form.words}"), soft_wrap=True)


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
        "faults": [_fault(path, fault) for path, faults in found.faults.items() for fault in faults],
    }


def _fault(path: bytes, fault: Fault) -> dict[str, str]:
    return {"file": show_path(path), "fault": fault.text, "hint": fault.hint}
