"""``image-sync status``: where everything stands, and why nothing is sent or trained yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from image_sync.cli import options
from image_sync.cli.progress import duration, local, wide_console
from image_sync.cli.session import ledger_of, settings_in_force
from image_sync.cli.tags import shown
from image_sync.domain import RootState, TrainingState
from image_sync.errors import EXIT_SOME_FAILED
from image_sync.ledger import RETRYING
from image_sync.logs import show_path, show_text

_COLUMNS = ("found", "ready", "sending", "confirmed", "quarantined", "refused", "conflicts", "duplicates", "waiting")
_ALWAYS = _COLUMNS[:4]
_FAULTS = 10
_STAGES = {
    RETRYING: "calling the platform",
    "upload": "uploading",
    "reconcile": "comparing with the platform",
    "training": "training",
    "models": "deploying and tidying models",
}
"""What each stage does, as a person would say it."""
_FIRST, _NARROW = 8, 5


def status(
    config: options.Config = options.CONFIG,
    as_json: options.Json = False,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="Exit with 1 if the daemon is not running, is in trouble, or something needs a person.",
        ),
    ] = False,
) -> None:
    """Show counts, thresholds, the training and the watched folders. Works whether or not the daemon runs."""
    from image_sync.cli.snapshot import snapshot

    settings, mistake = settings_in_force(config)
    with ledger_of(settings) as ledger:
        seen = snapshot(settings, ledger)
        faults = ledger.history.faults(_FAULTS + 1)
    if mistake is not None:
        seen["mistake"] = mistake.what
    if as_json:
        typer.echo(json.dumps(seen, indent=2, ensure_ascii=True))
    else:
        _tell(seen, faults)
    if exit_code and not _well(seen, faults):
        raise typer.Exit(EXIT_SOME_FAILED)


def _well(seen: dict[str, Any], faults: Sequence[object]) -> bool:
    """Whether nobody has to look."""
    training = seen["training"]["last"]
    failed = training is not None and training["state"] == TrainingState.FAILED
    away = any(folder["state"] != RootState.WATCHED for folder in seen["folders"])
    return not (faults or seen["troubles"] or failed or away) and bool(seen["daemon"]["running"])


def _tell(seen: dict[str, Any], faults: Sequence[tuple[bytes, str, str]]) -> None:
    console = wide_console()
    _head(console, seen)
    console.print(_table(seen))
    if faults:
        console.print(Text("Needs a person:"))
        for path, state, reason in faults[:_FAULTS]:
            why = show_text(f": {state}, {reason}" if reason else f": {state}")
            console.print(Text(f"  {show_path(path)}{why}"), soft_wrap=True)
        if len(faults) > _FAULTS:
            console.print(Text("  ... and more; `image-sync list` names all of them"))


def _head(console: Console, seen: dict[str, Any]) -> None:
    daemon = seen["daemon"]
    running = "not running: start it with `image-sync run`"
    if daemon["running"]:
        running = f"running (process {daemon['pid']}{' on ' + daemon['host'] if daemon['host'] else ''})"
    dataset = seen["dataset"]
    lines = [
        ("daemon", running),
        ("platform", f"{seen['platform']} at {seen['endpoint']}"),
        ("dataset", f"{dataset['name']} ({dataset['id'] or 'not looked up yet'})"),
        *(("", text) for text in _others(dataset)),
        ("upload", _threshold(seen["upload"])),
        *_retried(seen["upload"]["retry_at"]),
        ("training", _threshold(seen["training"])),
    ]
    active, last = seen["training"]["running"], seen["training"]["last"]
    step = "tag" if "tags" in seen else "iteration"
    if active is not None:
        lines.append(("", _training(active, step)))
    elif last is not None:
        lines.append(("", _training(last, step)))
    if seen["training"]["imbalance"]:
        lines.append(("balance", seen["training"]["imbalance"]))
    lines += [("tag", shown(row)) for row in seen.get("tags", ())]
    lines += [("boxes", text) for text in _boxes(seen["annotations"])]
    for folder in seen["folders"]:
        how = f" by {folder['mode']}" if folder["mode"] and folder["state"] == "watched" else ""
        why = f" ({folder['reason']})" if folder["reason"] else ""
        lines.append(("folder", f"{folder['path']}: {folder['state']}{how}{why}"))
    if "mistake" in seen:
        lines += [("mistake", line) for line in seen["mistake"].splitlines()]
        lines.append(("", "the daemon goes on with the configuration as it was before; that is what is shown here"))
    for trouble in seen["troubles"]:
        if trouble["stage"] == "configuration" and "mistake" in seen:
            continue
        when = f"since {local(trouble['since'])}" + ("" if daemon["running"] else ", when the daemon stopped")
        doing = ", retrying" if trouble["stage"] == RETRYING and daemon["running"] else ""
        what = f"{_STAGES.get(trouble['stage'], trouble['stage'])}, {when}{doing}: {trouble['what']}. {trouble['hint']}"
        lines.append(("trouble", what.rstrip()))
    for name, text in lines:
        console.print(Text(f"{name:9} {show_text(text)}"), soft_wrap=True)


def _others(dataset: dict[str, Any]) -> list[str]:
    """What others did to the dataset."""
    lines, changed = [], dataset["categories_changed"]
    if dataset["shared"]:
        lines.append(
            "another image-sync sends the same pictures to this dataset: stop one of them, or give it another dataset"
        )
    if changed:
        lines.append(
            f"{changed} {'picture was' if changed == 1 else 'pictures were'} given another category at the server, "
            "which is kept: image-sync list --state category-changed"
        )
    return lines


def _retried(at: float | None) -> list[tuple[str, str]]:
    return [] if at is None else [("", f"refused pictures are tried again from {local(at)} on")]


def _boxes(seen: dict[str, Any]) -> list[str]:
    """What there is to say of annotations."""
    number, due, refused = seen["waiting"], seen["due"], seen["refused"]
    lines = []
    if number:
        lines.append(
            f"{number} {'picture waits for its annotation' if number == 1 else 'pictures wait for their annotations'}"
        )
    if due:
        lines.append(f"{due} of the uploaded pictures {'is' if due == 1 else 'are'} still to be marked")
    if refused:
        lines.append(f"the platform refuses to mark {refused}; correct the annotation, or: image-sync retry")
    if seen["labels"]:
        lines.append("pictures with " + ", ".join(f"{label}: {count}" for label, count in seen["labels"].items()))
    if seen["rare_reason"]:
        lines.append(seen["rare_reason"])
    return lines


def _threshold(verdict: dict[str, Any]) -> str:
    short = f", short by {verdict['short_by']}" if verdict["short_by"] else ""
    return f"{verdict['have']} / {verdict['need']}{short}: {verdict['reason']}"


def _training(run: dict[str, Any], step: str) -> str:
    parts = [f"{run['name']}: {run['state']}, {run['pictures']} pictures"]
    if run["ended_at"] is not None:
        parts.append(f"ended {local(run['ended_at'])}")
    elif run["started_at"] is not None:
        parts.append(f"started {local(run['started_at'])}")
    if run["iterations"]:
        parts.append(f"{step} {run['iteration']} of {run['iterations']}")
    if run["loss"] is not None:
        parts.append(f"loss {run['loss']:.4f}")
    if run["accuracy"] is not None:
        on = "an unknown number of" if run["held_out"] is None else f"about {run['held_out']}"
        parts.append(f"{run['measure']} {run['accuracy']:.3f} on {on} held-out pictures")
    if run["remaining"] is not None:
        parts.append(f"{duration(run['remaining'])} left")
    if run["base"]:
        parts.append(f"continues from {run['base_name'] or run['base']}")
    if run["reason"]:
        parts.append(run["reason"])
    if run["outcome"]:
        parts.append(run["outcome"])
    return ", ".join(parts)


def _table(seen: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE, show_footer=len(seen["categories"]) != 1, pad_edge=False)
    total = seen["pictures"]
    columns = [name for name in _COLUMNS if name in _ALWAYS or total[name]]
    # On a narrow terminal words are folded; no column is dropped, least of all the first.
    table.add_column("category", footer="all", overflow="fold", min_width=_FIRST)
    for name in columns:
        width = max(_NARROW, len(str(total[name])))
        table.add_column(name, justify="right", footer=str(total[name]), overflow="fold", min_width=width)
    for name, counts in seen["categories"].items():
        table.add_row(Text(show_text(name) or "no category"), *(str(counts[column]) for column in columns))
    return table
