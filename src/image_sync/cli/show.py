"""``image-sync show PATH``: what happened to this picture."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from image_sync.cli import options
from image_sync.cli.bars import local
from image_sync.cli.session import ledger_of, settings_of
from image_sync.domain import Fate, RunState
from image_sync.errors import UsageError
from image_sync.ledger import Membership, PictureHistory
from image_sync.logs import show_path, show_text

_MODELS = 10
_ANNOTATED = {
    "sent": ", as the platform does",
    "due": ", which the platform does not yet",
    "refused": ", which the platform refuses",
}
_TOLD = {Fate.DEPLOYED, Fate.DELETED, Fate.GONE}


def show(
    path: Annotated[Path, typer.Argument(help="A picture in a watched folder.", metavar="PATH")],
    config: options.Config = options.CONFIG,
    as_json: options.Json = False,
) -> None:
    """Show everything known of one picture: its state and why, when it was sent, its id at the platform."""
    settings = settings_of(config)
    raw = os.fsencode(path)
    with ledger_of(settings) as ledger:
        candidates = (os.path.abspath(raw), os.path.realpath(raw))
        found = next((seen for one in candidates if (seen := ledger.history.of(one)) is not None), None)
    if found is None:
        raise UsageError(f"nothing is known of {show_path(raw)}", hint=_why_unknown(raw, settings.folders))
    if as_json:
        typer.echo(json.dumps(_data(found), indent=2, ensure_ascii=True))
        return
    console = Console(highlight=False)
    for name, value in _lines(found):
        console.print(Text(f"{name:12} {show_text(value)}"), soft_wrap=True)


def _why_unknown(path: bytes, folders: tuple[Path, ...]) -> str:
    inside = any(os.path.abspath(path).startswith(os.fsencode(folder) + b"/") for folder in folders)
    if not os.path.lexists(path):
        return "There is no such file; is the path right?"
    if not inside:
        return "It lies in none of the watched folders: " + ", ".join(str(folder) for folder in folders) + "."
    return "It was not looked at yet: the daemon is not running, the file is still being written, or it is no picture."


def _data(seen: PictureHistory) -> dict[str, Any]:
    data = asdict(seen)
    for name in ("path", "sent_as"):
        data[name] = show_path(data[name]) if data[name] else None
    return {name: None if value == "" else value for name, value in data.items()}


def _lines(seen: PictureHistory) -> list[tuple[str, str]]:
    lines = [("picture", show_path(seen.path)), ("state", f"{seen.state}{f': {seen.reason}' if seen.reason else ''}")]
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
    if seen.ready_at is not None:
        lines.append(("ready", local(seen.ready_at)))
    if seen.batch:
        sent = "" if seen.claimed_at is None else f"{local(seen.claimed_at)}, "
        lines.append(("sent", f"{sent}batch {seen.batch} ({seen.batch_state}), attempt {seen.attempts}"))
    if seen.confirmed_at is not None:
        lines.append(("uploaded", f"{local(seen.confirmed_at)} as {seen.key}, id {seen.remote_id or 'unknown'}"))
        if seen.remote_category != seen.category:
            lines.append(("moving", f"from category {seen.remote_category} at the platform"))
    if seen.training:
        lines.append(("counted in", seen.training))
    lines += [("contained in" if number == 0 else "", _model(one)) for number, one in enumerate(seen.models[:_MODELS])]
    if len(seen.models) > _MODELS:
        lines.append(("", f"and {len(seen.models) - _MODELS} older models; --json names all"))
    return lines


def _model(one: Membership) -> str:
    words = [f"in category {one.category}"] if one.category else []
    if one.state is RunState.RUNNING:
        words.append("being trained")
    if one.accuracy is not None:
        words.append(f"accuracy {one.accuracy:.3f}")
    if one.fate in _TOLD:
        words.append(str(one.fate))
    return f"{one.model} ({', '.join(words)})"
