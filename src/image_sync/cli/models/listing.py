"""The list of models: what the platform has, and what the ledger knows of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from image_sync.cli.fates import fate_of
from image_sync.cli.measure import Measure
from image_sync.cli.models.choice import chosen
from image_sync.cli.progress import figures, local, remaining
from image_sync.cli.session import dataset_of, ledger_of, platform_of, settings_of
from image_sync.domain import ModelOutcome, Training, TrainingContent
from image_sync.logs import show_text
from image_sync.platforms.base import Model

_KNOWN = 1000


def listing(config: Path, *, as_json: bool, deploy: str | None) -> None:
    """List the models, newest first; ``deploy`` names one that is deployed before."""
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        dataset = dataset_of(ledger, platform)
        runs = {run.task_id: run for run in reversed(ledger.trainings.history(_KNOWN)) if run.task_id}
        found = platform.models(dataset)
        if deploy is not None:
            platform.deploy(chosen(platform, found, deploy, settings.model.name))
            found = platform.models(dataset)
        active, keeps = ledger.trainings.active(), platform.describe().keeps_models
        contents = {model.id: ledger.trainings.contained(runs[model.id].id) for model in found if model.id in runs}
    measure = Measure.of(settings)
    if as_json:
        rows = [_data(model, runs.get(model.id), contents.get(model.id, []), measure) for model in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    if active is not None:
        typer.echo(_running(active, measure, by_tag=settings.platform == "mobius"))
    if not found:
        typer.echo(f"Dataset {dataset.name} has no trained model yet; `image-sync status` tells what it waits for.")
        return
    for model in found:
        for line in _lines(model, runs.get(model.id), measure, keeps=keeps):
            typer.echo(show_text(line))


def _running(run: Training, measure: Measure, *, by_tag: bool) -> str:
    step = f"{'tag' if by_tag else 'iteration'} {run.iteration} of {run.iterations}" if run.iterations else ""
    parts = (
        f"Training {show_text(run.name)}: {run.state}, {run.pictures} pictures",
        step,
        figures(run, measure),
        remaining(run),
    )
    return ", ".join(filter(None, parts))


def _lines(model: Model, run: Training | None, measure: Measure, *, keeps: bool) -> Iterator[str]:
    """A model: its name, then what is known of it, each in a line of its own, ids whole."""
    pictures = None if run is None else run.pictures
    yield model.name
    yield f"  id        {model.id}"
    if model.accuracy is not None:
        yield f"  {measure.name:9} {model.accuracy:.3f} on {measure.on(pictures)}"
    contained = [] if pictures is None else [f"{pictures}"]
    if model.categories:
        contained.append(f"in {', '.join(model.categories)}")
    if contained:
        yield f"  pictures  {' '.join(contained)}"
    if model.created_at is not None:
        yield f"  trained   {local(model.created_at)}"
    if standing := _standing(model, run, keeps=keeps):
        yield f"  standing  {'; '.join(standing)}"


def _standing(model: Model, run: Training | None, *, keeps: bool) -> list[str]:
    """Whether it is deployed, as the platform says; why, as the ledger does; and where it began.

    Args:
        keeps: whether models are deployed at all; else the one there is always answers.
    """
    if run is None:
        return [*(["deployed"] if model.deployed else []), "not trained by this ledger"]
    ours = run.fate is ModelOutcome.DEPLOYED
    fate = fate_of(run)
    if model.deployed is not ours:
        by_hand = "deployed by hand" if keeps else "deployed"
        fate = by_hand if model.deployed else "undeployed by hand" if ours else fate
    began = [f"continues from {run.base_name or run.base}"] if run.base else []
    billed = [f"{model.billed_seconds:,.0f} s billed"] if model.billed_seconds else []
    return [*([fate] if fate else []), *began, *billed]


def _data(model: Model, run: Training | None, contents: list[TrainingContent], measure: Measure) -> dict[str, Any]:
    """Everything known of one model; None where it was not trained by this ledger."""
    base = None if run is None or not run.base else {"id": run.base, "name": run.base_name or None}
    return asdict(model) | {
        "pictures": None if run is None else run.pictures,
        "measure": measure.name,
        "held_out": measure.held_out(None if run is None else run.pictures),
        "base": base,
        "fate": None if run is None else str(run.fate) or None,
        "fate_reason": None if run is None else run.fate_reason or None,
        "contents": [asdict(content) for content in contents],
    }
