"""``image-sync models``: the trained models of the dataset, listed, drawn, deployed, carried about and deleted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from image_sync.cli import options
from image_sync.cli.present import Measure, local, outcome_of, remaining
from image_sync.cli.session import dataset_of, ledger_of, platform_of, settings_of
from image_sync.domain import BY_HAND, ModelOutcome, Training, TrainingContent, TrainingState
from image_sync.errors import NotFound, Refused, UsageError
from image_sync.ledger import Ledger
from image_sync.log import show_path, show_text
from image_sync.platforms.base import Model, Platform
from image_sync.trainer.lifecycle import of_name

_HISTORY = 1000  # trainings that are looked at
_NAMED = 5  # models or trainings that a hint names
_CHARTS = (".png", ".svg", ".pdf", ".jpg")

app = typer.Typer(
    name="models",
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode=None,
    add_completion=False,
)
ModelName = Annotated[str, typer.Argument(help="Name or id of the model, or latest.", metavar="MODEL")]
TrainingName = Annotated[
    str, typer.Argument(help="Name or id of the training, or latest.", metavar="TRAINING", show_default=True)
]


@app.callback()
def models(
    context: typer.Context,
    config: options.Config = options.CONFIG,
    as_json: options.Json = False,
    deploy_first: Annotated[
        str | None,
        typer.Option("--deploy", metavar="MODEL", help="Deploy this one first: its name, its id or latest."),
    ] = None,
) -> None:
    """List the trained models of the dataset, newest first. Subcommands do more with them."""
    if context.invoked_subcommand is None:
        _list(config, as_json=as_json, deploy_first=deploy_first)
        return
    if any(options.written(context, name) for name in context.params):
        raise UsageError(
            f"options must come after `models {context.invoked_subcommand}`",
            hint=f"Write: image-sync models {context.invoked_subcommand} ... -c FILE",
        )


@app.command()
def plot(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Name or id of a model or training, or latest; left out: all models over time.", metavar="MODEL"
        ),
    ] = None,
    config: options.Config = options.CONFIG,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Picture to write: .png, .svg, .pdf or .jpg."),
    ] = None,
) -> None:
    """Draw how a training went, or how the models got better over time.

    A training: its loss and accuracy over its iterations. All models: their accuracy and number of pictures.
    """
    if output is not None and output.suffix.lower() not in _CHARTS:
        raise UsageError(
            f"{show_path(str(output))} does not end like the name of a picture",
            hint=f"Choose one of {', '.join(_CHARTS)}.",
        )
    settings = settings_of(config)
    from image_sync.cli import charts  # late: the drawing library takes longer than everything else

    measure = Measure.of(settings)
    with ledger_of(settings) as ledger:
        if model is None:
            trained = [run for run in ledger.trainings.history(_HISTORY) if run.state is TrainingState.TRAINED]
            if not trained:
                raise UsageError(
                    "this ledger knows of no trained model yet", hint="`image-sync status` tells what it waits for."
                )
            target = output or Path("models.png")
            charts.models(trained[::-1], settings.model.name, measure, target)
        else:
            run = _to_draw(ledger, model)
            target = output or Path(f"{run.name}.png")
            charts.training(run, ledger.trainings.series(run.id), measure, target)
    typer.echo(f"Drawn: {show_path(str(target))}")


@app.command()
def deploy(model: ModelName, config: options.Config = options.CONFIG) -> None:
    """Deploy a model and wait until it answers. No other model is taken down."""
    with _meant(config, model) as (platform, ledger, one):
        platform.models.deploy(one)
        _note(ledger, one, ModelOutcome.DEPLOYED)
    typer.echo(f"Model {show_text(one.name)} is deployed.")


@app.command()
def undeploy(model: ModelName, config: options.Config = options.CONFIG) -> None:
    """Take a model from service; it can be deployed again."""
    with _meant(config, model) as (platform, ledger, one):
        platform.models.undeploy(one)
        _note(ledger, one, ModelOutcome.RETIRED, was=ModelOutcome.DEPLOYED)
    typer.echo(f"Model {show_text(one.name)} is no longer deployed.")


@app.command()
def delete(
    models: Annotated[list[str], typer.Argument(help="Names or ids of models.", metavar="MODEL...")],
    config: options.Config = options.CONFIG,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete models at the platform for good. A deployed one is refused."""
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        found = platform.models.of_dataset(dataset_of(ledger, platform))
        doomed = [chosen(platform, found, model, settings.model.name) for model in dict.fromkeys(models)]
        for model in doomed:
            if model.deployed and platform.traits.keeps_models:
                raise Refused(
                    f"the model {model.name} is deployed, so nothing was deleted",
                    hint=f"Take it from service first: image-sync models undeploy {model.name}",
                )
        names = ", ".join(show_text(model.name) for model in doomed)
        if not yes and not sys.stdin.isatty():
            raise UsageError(f"deleting {names} was not confirmed", hint="Add --yes to do it without being asked.")
        if not yes and not typer.confirm(f"Delete {names} at the platform for good?"):
            raise UsageError("nothing was deleted")
        for model in doomed:
            platform.models.delete(model)
            _note(ledger, model, ModelOutcome.DELETED)
            typer.echo(f"Model {show_text(model.name)} is deleted.")


@app.command()
def export(
    model: ModelName,
    config: options.Config = options.CONFIG,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File to write, or a folder to put it in.")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a model to a file, to keep it or to bring it to another server."""
    if output.is_file() and not force:
        raise UsageError(f"{show_path(str(output))} exists already", hint="Add --force to replace it.")
    with _meant(config, model) as (platform, _, one):
        written = platform.models.export(one, output)
    # A place in S3 (s3://bucket/key, of which a path keeps one slash) has no size here.
    where, size = str(written), f" ({written.stat().st_size} bytes)" if written.exists() else ""
    typer.echo(f"Model {show_text(one.name)} is written to {show_path(where.replace('s3:/', 's3://', 1))}{size}.")


@app.command()
def stop(training: TrainingName = "latest", config: options.Config = options.CONFIG) -> None:
    """Stop a training at the platform; there will be no model of it. It is not started once more by itself."""
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        name, task = _task_of(ledger, platform, training, running=True)
        platform.trainings.stop(task)
    typer.echo(
        f"Training {show_text(name)} is being stopped; `image-sync status` tells when it has ended.\n"
        "The next training contains its pictures, too; to start one now: image-sync train"
    )


@app.command()
def log(training: TrainingName = "latest", config: options.Config = options.CONFIG) -> None:
    """Print what the platform logged of a training."""
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        name, task = _task_of(ledger, platform, training)
        empty = True
        for line in platform.trainings.log(task):
            typer.echo(show_text(line))
            empty = False
    if empty:
        typer.echo(f"Nothing is logged of the training {show_text(name)} yet.", err=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that `models export`, or MVI, wrote.", metavar="FILE")],
    config: options.Config = options.CONFIG,
    deploy: Annotated[bool, typer.Option("--deploy", help="Deploy it, too.")] = False,
) -> None:
    """Bring an exported model to the server. It gets a new id and belongs to no dataset."""
    settings = settings_of(config)
    with platform_of(settings) as platform:
        model = platform.models.import_model(file)
        typer.echo(f"Model {show_text(model.name)} is imported, its id is {model.id}.")
        if deploy:
            platform.models.deploy(model)
            typer.echo("It is deployed.")
    typer.echo(f"Try it: image-sync predict{'' if deploy else ' --deploy'} --model {model.id} IMAGE")


def chosen(platform: Platform, found: list[Model], wanted: str, name: str) -> Model:
    """The model that is meant by a name, an id or ``latest``.

    Args:
        found: the dataset's models; one that was imported belongs to no dataset, and is asked for by its id.
        name: ``model.name``, whose newest model ``latest`` is.

    Raises:
        UsageError: there is none.
    """
    if wanted == "latest" and (newest := next(iter(of_name(name, found)), None)) is not None:
        return newest
    for model in found:
        if wanted in {model.id, model.name}:
            return model
    imported = None
    if wanted != "latest":
        with suppress(NotFound):
            imported = platform.models.of_task(wanted)
    if imported is not None:
        return imported
    known = ", ".join(model.name for model in found[:_NAMED]) or "none"
    raise UsageError(f"there is no model {wanted!r} in this dataset", hint=f"The newest are: {show_text(known)}.")


@contextmanager
def _meant(config: Path, wanted: str) -> Iterator[tuple[Platform, Ledger, Model]]:
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        found = platform.models.of_dataset(dataset_of(ledger, platform))
        yield platform, ledger, chosen(platform, found, wanted, settings.model.name)


def _note(ledger: Ledger, model: Model, fate: ModelOutcome, *, was: ModelOutcome | None = None) -> None:
    """Remember what a person did, if it is a model that this ledger had trained."""
    run = ledger.trainings.named(model.id)
    if run is not None and run.task_id == model.id and (was is None or run.fate is was):
        ledger.lifecycle.fated(run.id, fate, BY_HAND)


def _newest(ledger: Ledger) -> Training | None:
    return next(iter(ledger.trainings.history(1)), None)


def _task_of(ledger: Ledger, platform: Platform, wanted: str, *, running: bool = False) -> tuple[str, str]:
    """Name and task id of the training that is meant; one that the ledger does not know is asked for by its id."""
    active = ledger.trainings.active()
    run = (active or _newest(ledger)) if wanted == "latest" else ledger.trainings.named(wanted)
    if run is None and wanted != "latest":
        return wanted, wanted
    if run is None or (running and wanted == "latest" and active is None):
        raise UsageError("no training is running", hint="See: image-sync models, image-sync status")
    if run.task_id:
        return run.name, run.task_id
    found = platform.trainings.find(run.dataset, run.name)
    if not found:
        raise UsageError(
            f"the training {run.name} is not at the platform",
            hint="Its start may be in doubt, or was refused: image-sync status",
        )
    return run.name, found[-1]


def _to_draw(ledger: Ledger, wanted: str) -> Training:
    run = _newest(ledger) if wanted == "latest" else ledger.trainings.named(wanted)
    if run is None:
        known = ", ".join(one.name for one in ledger.trainings.history(_NAMED)) or "none"
        raise UsageError(
            f"this ledger knows of no training {wanted!r}",
            hint=f"Only trainings that it followed can be drawn; the newest are: {show_text(known)}.",
        )
    if not ledger.trainings.series(run.id):
        raise UsageError(
            f"there is no curve of {show_text(run.name)}: nothing is known of how it went",
            hint="It has not begun, or it was trained before this version of image-sync.",
        )
    return run


def _list(config: Path, *, as_json: bool, deploy_first: str | None) -> None:
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        dataset = dataset_of(ledger, platform)
        runs = {run.task_id: run for run in reversed(ledger.trainings.history(_HISTORY)) if run.task_id}
        found = platform.models.of_dataset(dataset)
        if deploy_first is not None:
            platform.models.deploy(chosen(platform, found, deploy_first, settings.model.name))
            found = platform.models.of_dataset(dataset)
        active, keeps = ledger.trainings.active(), platform.traits.keeps_models
        contents = {model.id: ledger.trainings.contained(runs[model.id].id) for model in found if model.id in runs}
    measure = Measure.of(settings)
    if as_json:
        rows = [_data(model, runs.get(model.id), contents.get(model.id, []), measure) for model in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    if active is not None:
        unit = "tag" if settings.platform == "mobius" else "iteration"
        parts = (
            f"Training {show_text(active.name)}: {active.state}, {active.pictures} pictures",
            f"{unit} {active.iteration} of {active.iterations}" if active.iterations else "",
            measure.figures(active),
            remaining(active),
        )
        typer.echo(", ".join(filter(None, parts)))
    if not found:
        typer.echo(f"Dataset {dataset.name} has no trained model yet; `image-sync status` tells what it waits for.")
        return
    for model in found:
        for line in _lines(model, runs.get(model.id), measure, keeps=keeps):
            typer.echo(show_text(line))


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
    outcome = outcome_of(run)
    if model.deployed is not ours:
        by_hand = "deployed by hand" if keeps else "deployed"
        outcome = by_hand if model.deployed else "undeployed by hand" if ours else outcome
    began = f"continues from {run.base_name or run.base}" if run.base else ""
    billed = f"{model.billed_seconds:,.0f} s billed" if model.billed_seconds else ""
    return [part for part in (outcome, began, billed) if part]


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
