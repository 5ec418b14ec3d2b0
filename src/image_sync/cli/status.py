"""``image-sync status``: where everything stands, and why nothing is sent or trained yet."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from image_sync.cli import options
from image_sync.cli.present import Measure, counted, duration, local, outcome_of, wide_console
from image_sync.cli.session import ledger_of, settings_in_force, traits_of
from image_sync.config import Settings
from image_sync.domain import RootState, Tally, Training, TrainingState, Verdict
from image_sync.errors import EXIT_SOME_FAILED
from image_sync.ledger import RETRYING, Ledger
from image_sync.ledger.ledger import Trouble
from image_sync.ledger.lock import holder_of
from image_sync.log import show_path, show_text
from image_sync.tracker import imbalance, rare_labels, rare_labels_told, thresholds_of, training_verdict, upload_verdict

_COLUMNS = ("found", "ready", "sending", "confirmed", "quarantined", "refused", "conflicts", "duplicates", "waiting")
_ALWAYS = _COLUMNS[:4]
_FAULTS = 10  # files that need a person and are named
_FIRST, _NARROW = 8, 5  # columns are at least so wide
_SENDING = {RETRYING, "upload", "reconcile"}
"""Stages without which nothing is sent."""
_STAGES = {
    RETRYING: "calling the platform",
    "upload": "uploading",
    "reconcile": "comparing with the platform",
    "training": "training",
    "models": "deploying and tidying models",
}
"""What each stage does, as a person would say it."""


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
    last = seen["training"]["last"]
    failed = last is not None and last["state"] == TrainingState.FAILED
    away = any(folder["state"] != RootState.WATCHED for folder in seen["folders"])
    if exit_code and (faults or seen["troubles"] or failed or away or not seen["daemon"]["running"]):
        raise typer.Exit(EXIT_SOME_FAILED)


def snapshot(settings: Settings, ledger: Ledger) -> dict[str, Any]:
    """Everything ``status --json`` prints. Times are Unix seconds."""
    tally, census, now = ledger.tally(), ledger.census(), time.time()
    thresholds = thresholds_of(settings, traits_of(settings))
    upload = upload_verdict(tally, thresholds, quiet_for=now - (tally.newest_ready_at or 0.0))
    upload = _with_waiting(upload, census.total.waiting)
    training = training_verdict(tally, thresholds, now=now)
    holder = holder_of(settings.state)
    measure = Measure.of(settings)
    troubles = ledger.troubles()
    reports = {report.path: report for report in ledger.roots()}
    if settings.platform == "mobius":
        from image_sync.cli.mobius import tags_of  # late: the other platforms have none
    return {
        "platform": settings.platform,
        "endpoint": settings.address,
        "dataset": {
            "name": ledger.target.dataset_name,
            "id": ledger.target.dataset_id or None,
            "shared": ledger.remote_index.shared,
            "categories_changed": ledger.remote_index.kept(),
        },
        "pictures": asdict(census.total) | {"uncategorised": census.uncategorised, "settling": census.settling},
        "categories": {name: asdict(counts) for name, counts in census.categories.items()},
        "upload": _verdict(upload, tally, troubles, running=holder is not None)
        | {"retry_at": ledger.batches.next_up()},
        "training": _verdict(training, tally, troubles, running=holder is not None)
        | {
            "running": None if tally.active is None else _run(tally.active, measure),
            "last": None if tally.last is None else _run(tally.last, measure),
            "requested": tally.train_requested,
            "imbalance": imbalance(tally.trainable, thresholds.max_ratio) or None,
        },
        "annotations": {
            "setting": settings.annotations.mode,
            "waiting": census.total.waiting,
            "due": tally.unmarked,
            "refused": ledger.annotations.refusals(),
            "labels": dict(tally.labelled),
            "rare": rare_labels(tally, thresholds),
            "rare_reason": rare_labels_told(tally, thresholds) or None,
        },
        "folders": [
            {
                "path": show_path(path),
                "mode": str(reports[path].mode) if path in reports else None,
                "state": str(reports[path].state) if path in reports else "not watched yet",
                "reason": (path in reports and reports[path].reason) or None,
            }
            for path in map(os.fsencode, settings.folders)
        ],
        "daemon": {
            "running": holder is not None,
            "pid": holder and holder.pid,
            "host": (holder and holder.host) or None,
        },
        "troubles": [asdict(trouble) for trouble in troubles],
        "ledger": ledger.where,
        **({"tags": tags_of(settings, ledger)} if settings.platform == "mobius" else {}),
    }


def _with_waiting(verdict: Verdict, waiting: int) -> Verdict:
    """The verdict where pictures wait for their annotations: then it is not new pictures that are missing."""
    more = verdict.need - verdict.have - waiting
    if verdict.need <= verdict.have or not waiting:
        return verdict
    reason = "waits for the " + ("annotation of 1 picture" if waiting == 1 else f"annotations of {waiting} pictures")
    return replace(verdict, reason=reason + (f", and for {counted(more, 'more picture')}" if more > 0 else ""))


def _verdict(verdict: Verdict, tally: Tally, troubles: Sequence[Trouble], *, running: bool) -> dict[str, Any]:
    reason = verdict.reason
    if verdict.due or tally.cleared or tally.sending:  # it is said to be done: it may not be done just now
        if not running:
            reason += "; but the daemon is not running"
        elif any(trouble.stage in _SENDING for trouble in troubles):
            reason += "; retrying"
    return {
        "due": verdict.due,
        "have": verdict.have,
        "need": verdict.need,
        "short_by": verdict.short_by,
        "wait": None if verdict.wait is None else round(verdict.wait, 1),
        "reason": reason,
    }


def _run(run: Training, measure: Measure) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": str(run.state),
        "task": run.task_id or None,
        "base": run.base or None,
        "base_name": run.base_name or None,
        "pictures": run.pictures,
        "iteration": run.iteration,
        "iterations": run.iterations,
        "loss": run.loss,
        "accuracy": run.accuracy,
        "measure": measure.name,
        "held_out": measure.held_out(run.pictures),
        "remaining": run.remaining,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "reason": run.reason or None,
        "owed": str(run.owed) or None,
        "fate": str(run.fate) or None,
        "fate_reason": run.fate_reason or None,
        "outcome": outcome_of(run) or None,
    }


def _tell(seen: dict[str, Any], faults: Sequence[tuple[bytes, str, str]]) -> None:
    from rich.text import Text  # late: --json does without

    console = wide_console()
    for name, text in _lines(seen):
        console.print(Text(f"{name:9} {show_text(text)}"), soft_wrap=True)
    console.print(_table(seen))
    if faults:
        console.print(Text("Needs a person:"))
        for path, state, reason in faults[:_FAULTS]:
            why = show_text(f": {state}, {reason}" if reason else f": {state}")
            console.print(Text(f"  {show_path(path)}{why}"), soft_wrap=True)
        if len(faults) > _FAULTS:
            console.print(Text("  ... and more; `image-sync list` names all of them"))


def _lines(seen: dict[str, Any]) -> Iterator[tuple[str, str]]:
    daemon, dataset, training = seen["daemon"], seen["dataset"], seen["training"]
    on = f" on {daemon['host']}" if daemon["host"] else ""
    running = f"running (process {daemon['pid']}{on})"
    yield "daemon", running if daemon["running"] else "not running: start it with `image-sync run`"
    yield "platform", f"{seen['platform']} at {seen['endpoint']}"
    yield "dataset", f"{dataset['name']} ({dataset['id'] or 'not looked up yet'})"
    yield from (("", text) for text in _others(dataset))
    yield "upload", _threshold(seen["upload"])
    if (at := seen["upload"]["retry_at"]) is not None:
        yield "", f"refused pictures are tried again from {local(at)} on"
    yield "training", _threshold(training)
    if (run := training["running"] or training["last"]) is not None:
        yield "", _training(run, "tag" if "tags" in seen else "iteration")
    if training["imbalance"]:
        yield "balance", training["imbalance"]
    yield from (("tag", _tag(row)) for row in seen.get("tags", ()))
    yield from (("boxes", text) for text in _boxes(seen["annotations"]))
    for folder in seen["folders"]:
        how = f" by {folder['mode']}" if folder["mode"] and folder["state"] == "watched" else ""
        why = f" ({folder['reason']})" if folder["reason"] else ""
        yield "folder", f"{folder['path']}: {folder['state']}{how}{why}"
    if "mistake" in seen:
        yield from (("mistake", line) for line in seen["mistake"].splitlines())
        yield "", "the daemon goes on with the configuration as it was before; that is what is shown here"
    for trouble in seen["troubles"]:
        if not (trouble["stage"] == "configuration" and "mistake" in seen):
            yield "trouble", _trouble(trouble, running=daemon["running"])


def _others(dataset: dict[str, Any]) -> Iterator[str]:
    """What others did to the dataset."""
    if dataset["shared"]:
        yield "another image-sync sends the same pictures to this dataset: stop one of them, or give it another dataset"
    if changed := dataset["categories_changed"]:
        were = counted(changed, "picture was", "pictures were")
        kept = "which is kept: image-sync list --state category-changed"
        yield f"{were} given another category at the server, {kept}"


def _trouble(trouble: dict[str, Any], *, running: bool) -> str:
    when = f"since {local(trouble['since'])}" + ("" if running else ", when the daemon stopped")
    doing = ", retrying" if trouble["stage"] == RETRYING and running else ""
    stage = _STAGES.get(trouble["stage"], trouble["stage"])
    return f"{stage}, {when}{doing}: {trouble['what']}. {trouble['hint']}".rstrip()


def _tag(row: dict[str, Any]) -> str:
    counts = (counted(row[kind], kind.removesuffix("s")) for kind in ("positives", "negatives"))
    parts = [f"{row['tag']}: {', '.join(counts)} assigned"]
    if row["training"]:
        parts.append("is being trained")
    elif row["changed"]:
        parts.append(f"to be trained, since {row['changed']}")
    if row["reset"] and not row["training"]:
        parts.append(f"to be reset before, since {row['reset']}")
    return "; ".join(parts)


def _boxes(seen: dict[str, Any]) -> Iterator[str]:
    """What there is to say of annotations."""
    if number := seen["waiting"]:
        yield counted(number, "picture waits for its annotation", "pictures wait for their annotations")
    if due := seen["due"]:
        yield f"{due} of the uploaded pictures {'is' if due == 1 else 'are'} still to be marked"
    if refused := seen["refused"]:
        yield f"the platform refuses to mark {refused}; correct the annotation, or: image-sync retry"
    if seen["labels"]:
        yield "pictures with " + ", ".join(f"{label}: {count}" for label, count in seen["labels"].items())
    if seen["rare_reason"]:
        yield seen["rare_reason"]


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


def _table(seen: dict[str, Any]) -> Any:
    from rich import box  # late: --json does without
    from rich.table import Table
    from rich.text import Text

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
