"""``image-sync show PATH``: what happened to this picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from image_sync.cli import options
from image_sync.cli.present import Measure, local
from image_sync.cli.session import ledger_of, settings_of
from image_sync.config import Settings
from image_sync.domain import ModelOutcome, TrainingState
from image_sync.errors import UsageError
from image_sync.ledger import Membership, PictureHistory
from image_sync.log import show_path, show_text

if TYPE_CHECKING:
    from image_sync.watcher.rules import Filter

_MODELS = 10
_ANNOTATED = {
    "sent": ", as the platform does",
    "due": ", which the platform does not yet",
    "refused": ", which the platform refuses",
}
_TOLD = {ModelOutcome.DEPLOYED, ModelOutcome.DELETED, ModelOutcome.GONE}


def show(
    path: Annotated[
        Path,
        typer.Argument(help="A picture's path, or its name or id at the platform, or its SHA-256.", metavar="PICTURE"),
    ],
    config: options.Config = options.CONFIG,
    as_json: options.Json = False,
) -> None:
    """Show everything known of one picture: its state and why, when it was sent, its id at the platform."""
    settings = settings_of(config)
    raw = os.fsencode(path)
    with ledger_of(settings) as ledger:
        at = next((seen for one in _paths(raw, settings.folders) if (seen := ledger.history.of(one)) is not None), None)
        found = [at] if at is not None else ledger.history.matching(os.fsdecode(raw))
    if not found:
        raise UsageError(f"nothing is known of {show_path(raw)}", hint=_why_unknown(raw, settings))
    if as_json:
        rows = [_data(seen) for seen in found]
        typer.echo(json.dumps(rows[0] if len(rows) == 1 else rows, indent=2, ensure_ascii=True))
        return
    console = Console(highlight=False)
    for number, seen in enumerate(found):
        if number:
            console.print()
        for name, value in _lines(seen, Measure.of(settings)):
            console.print(Text(f"{name:12} {show_text(value)}"), soft_wrap=True)


def _paths(raw: bytes, folders: tuple[Path, ...]) -> Iterator[bytes]:
    """The path as given, and as the ledger may know it where symbolic links lead there, or a folder is one itself."""
    yield os.path.abspath(raw)
    real = os.path.realpath(raw)
    yield real
    for folder in map(os.fsencode, folders):
        inside = os.path.realpath(folder).rstrip(b"/") + b"/"
        if real.startswith(inside):
            yield folder.rstrip(b"/") + b"/" + real.removeprefix(inside)


def _why_unknown(path: bytes, settings: Settings) -> str:
    if not os.path.lexists(path):
        return "There is no such file; is the path right?"
    folder, name = os.path.split(os.path.abspath(path))
    roots = (os.fsencode(one) for one in settings.folders)
    root = next((one for one in roots if (folder + b"/").startswith(one.rstrip(b"/") + b"/")), None)
    if root is None:
        return "It lies in none of the watched folders: " + ", ".join(map(str, settings.folders)) + "."
    from image_sync.cli.removals import filters_of  # late: seldom needed, and all of the watcher comes with it

    return _passed_over(root, folder, name, filters_of(settings)) or (
        "It has not been looked at yet: the daemon is not running, or the file is unfinished or not a picture."
    )


def _passed_over(root: bytes, folder: bytes, name: bytes, filters: Filter) -> str:
    """Why the watcher does not take this file, and what to do; empty if it does."""
    above, link = folder, b""
    while len(above) > len(root):
        link = above if os.path.islink(above) else link
        above = os.path.dirname(above)
    if link:
        return (
            f"{show_path(link)} is a symbolic link to a folder, and such links are not followed: "
            "move the folder there, or add it to `folders`."
        )
    if os.path.islink(folder + b"/" + name):
        return "It is a symbolic link, and such links are not followed: put the file itself there."
    from image_sync.watcher.rules import foreign_format

    if kind := foreign_format(name):
        return f"{kind} files are not taken: convert it to JPEG or PNG, for example with `magick mogrify -format jpg`."
    if not filters.file(name):
        return "Only JPEG and PNG files are taken, told by their names, and none that are hidden or temporary."
    if filters.excluded(root, folder, name):
        return "A pattern of `exclude` matches it: change the pattern if it should be taken."
    if not filters.admits(root, folder):
        return (
            "Its folder is left alone, by a pattern of `exclude`, by `null` in `categories`, by a name that begins "
            "with _ or . or because it lies too deep: move the file, or change the setting."
        )
    if filters.category(root, folder).name is None:
        return "It has no category: move it into a folder of the watched folder that is named after its category."
    return ""


def _data(seen: PictureHistory) -> dict[str, Any]:
    data = asdict(seen)
    for name in ("path", "sent_as"):
        data[name] = show_path(data[name]) if data[name] else None
    return {name: None if value == "" else value for name, value in data.items()}


def _lines(seen: PictureHistory, measure: Measure) -> list[tuple[str, str]]:
    lines = [
        ("picture", show_path(seen.path) or "gone"),
        ("state", f"{seen.state}{f': {seen.reason}' if seen.reason else ''}"),
    ]
    lines.append(("category", seen.category or "none: it lies directly in a watched folder"))
    if seen.labels is not None:
        drawn = f"marks {', '.join(seen.labels)}" if seen.labels else "marks nothing"
        lines.append(("annotation", f"{drawn}{_ANNOTATED.get(seen.annotated, '')}"))
    digest = f", SHA-256 {seen.sha256}" if seen.sha256 else ""
    lines.append(("found", f"{local(seen.seen_at)}, {seen.size} bytes{digest}"))
    if seen.sent_as:
        lines.append(("same as", f"{show_path(seen.sent_as)} in category {seen.sent_category}"))
        if seen.state == "conflict":
            lines.append(("what to do", "keep the picture in one of the two categories and delete the other copy"))
    lines += _sent(seen)
    if seen.training:
        lines.append(("counted in", seen.training))
    models = [_model(one, measure) for one in seen.models[:_MODELS]]
    lines += [("contained in" if number == 0 else "", text) for number, text in enumerate(models)]
    if len(seen.models) > _MODELS:
        lines.append(("", f"and {len(seen.models) - _MODELS} older models; --json names all"))
    return lines


def _sent(seen: PictureHistory) -> list[tuple[str, str]]:
    lines = []
    if seen.ready_at is not None:
        lines.append(("ready", local(seen.ready_at)))
    if seen.batch:
        sent = "" if seen.claimed_at is None else f"{local(seen.claimed_at)}, "
        lines.append(("sent", f"{sent}batch {seen.batch} ({seen.batch_state}), attempt {seen.attempts}"))
    if seen.confirmed_at is not None:
        lines.append(("uploaded", f"{local(seen.confirmed_at)} as {seen.key}, id {seen.remote_id or 'unknown'}"))
        if seen.remote_category != seen.category:
            lines.append(("moving", f"from category {seen.remote_category} at the platform"))
    if seen.retry_at is not None:
        lines.append(("tried again", f"at {local(seen.retry_at)}"))
    return lines


def _model(one: Membership, measure: Measure) -> str:
    words = [f"in category {one.category}"] if one.category else []
    if one.state is TrainingState.RUNNING:
        words.append("being trained")
    if one.accuracy is not None:
        words.append(measure.text(one.accuracy, one.pictures))
    if one.fate in _TOLD:
        words.append(str(one.fate))
    return f"{one.model} ({', '.join(words)})"
