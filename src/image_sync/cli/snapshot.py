"""What ``status`` and ``check`` know of a configuration: read from the ledger, whether or not the daemon runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from image_sync.cli.fates import fate_of
from image_sync.cli.measure import Measure
from image_sync.cli.tags import tags_of
from image_sync.config import Settings
from image_sync.daemon.assemble import thresholds_of
from image_sync.domain import Counts, Tally, Training, Verdict
from image_sync.ledger import RETRYING, Ledger
from image_sync.ledger.ledger import Trouble
from image_sync.ledger.lock import holder_of
from image_sync.logs import show_path
from image_sync.platforms import registry
from image_sync.tracker import imbalance, rare_labels, rare_labels_told, training_verdict, upload_verdict

_SENDING = {RETRYING, "upload", "reconcile"}
"""Stages without which nothing is sent."""


def snapshot(settings: Settings, ledger: Ledger) -> dict[str, Any]:
    """Everything ``status --json`` prints. Times are Unix seconds."""
    tally, census, now = ledger.tally(), ledger.census(), time.time()
    thresholds = thresholds_of(settings, registry.make(settings, threading.Event()).describe())
    quiet_for = now - (tally.newest_ready_at or 0.0)
    upload = _with_waiting(upload_verdict(tally, thresholds, quiet_for=quiet_for), census.total.waiting)
    training = training_verdict(tally, thresholds, now=now)
    holder = holder_of(settings.state)
    measure = Measure.of(settings)
    troubles = ledger.troubles()
    return {
        "platform": settings.platform,
        "endpoint": settings.address,
        "dataset": {
            "name": ledger.target.dataset_name,
            "id": ledger.target.dataset_id or None,
            "shared": ledger.remote_index.shared,
            "categories_changed": ledger.remote_index.kept(),
        },
        "pictures": _counts(census.total) | {"uncategorised": census.uncategorised, "settling": census.settling},
        "categories": {name: _counts(counts) for name, counts in census.categories.items()},
        "upload": _verdict(upload, _hindered(upload, tally, troubles, running=holder is not None))
        | {"retry_at": ledger.batches.next_up()},
        "training": _verdict(training, _hindered(training, tally, troubles, running=holder is not None))
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
        "folders": _folders(settings, ledger),
        "daemon": {
            "running": holder is not None,
            "pid": holder and holder.pid,
            "host": (holder and holder.host) or None,
        },
        "troubles": [asdict(trouble) for trouble in troubles],
        "ledger": ledger.where,
        **({"tags": tags_of(settings, ledger)} if settings.platform == "mobius" else {}),
    }


def _counts(counts: Counts) -> dict[str, int]:
    return asdict(counts)


def _with_waiting(verdict: Verdict, waiting: int) -> Verdict:
    """The verdict where pictures wait for their annotations: then it is not new pictures that are missing."""
    missing = verdict.need - verdict.have
    if missing <= 0 or not waiting:
        return verdict
    reason = "waits for the " + ("annotation of 1 picture" if waiting == 1 else f"annotations of {waiting} pictures")
    if missing > waiting:
        more = missing - waiting
        reason += f", and for {more} more {'picture' if more == 1 else 'pictures'}"
    return replace(verdict, reason=reason)


def _hindered(verdict: Verdict, tally: Tally, troubles: Sequence[Trouble], *, running: bool) -> str:
    """What is to be added where something is said to be done, and is not done just now."""
    if not (verdict.due or tally.cleared or tally.sending):
        return ""
    if not running:
        return "; but the daemon is not running"
    return "; retrying" if any(trouble.stage in _SENDING for trouble in troubles) else ""


def _verdict(verdict: Verdict, how: str = "") -> dict[str, Any]:
    return {
        "due": verdict.due,
        "have": verdict.have,
        "need": verdict.need,
        "short_by": verdict.short_by,
        "wait": None if verdict.wait is None else round(verdict.wait, 1),
        "reason": verdict.reason + how,
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
        "outcome": fate_of(run) or None,
    }


def _folders(settings: Settings, ledger: Ledger) -> list[dict[str, Any]]:
    reports = {report.path: report for report in ledger.roots()}
    rows = []
    for folder in settings.folders:
        report = reports.get(os.fsencode(folder))
        rows.append(
            {
                "path": show_path(os.fsencode(folder)),
                "mode": None if report is None else str(report.mode),
                "state": "not watched yet" if report is None else str(report.state),
                "reason": None if report is None else report.reason or None,
            }
        )
    return rows
