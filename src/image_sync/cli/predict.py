"""``image-sync predict IMAGE...``: what a deployed model says of pictures."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from image_sync.cli import options
from image_sync.cli.models import chosen
from image_sync.cli.present import wide_console
from image_sync.cli.session import dataset_of, ledger_of, platform_of, settings_of
from image_sync.errors import EXIT_SOME_FAILED, ImageSyncError, Refused, UsageError
from image_sync.log import show_path, show_text
from image_sync.platforms.base import Model, Platform, Prediction

_SHOWN = 3
_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(slots=True)
class _Answer:
    """What the model says of one picture, best first."""

    image: Path
    content: bytes
    predictions: list[Prediction]
    best: float
    """How sure it is of the first."""
    drawn: Path | None = None


def predict(
    images: Annotated[list[Path], typer.Argument(help="JPEG or PNG files, or folders of them.", metavar="IMAGE...")],
    config: options.Config = options.CONFIG,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Name or id of the model, or latest; default: the newest deployed one.",
        ),
    ] = None,
    deploy: Annotated[bool, typer.Option("--deploy", help="Deploy the model first, if it is not.")] = False,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence", min=0.0, max=1.0, metavar="0..1",
            help="Exit with 1 if the model is less sure than this of a picture; objects below it are left out.",
        ),
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option("--annotate", metavar="DIR", help="Write each picture with the objects found drawn in."),
    ] = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Classify pictures with a trained model. A detection model tells which objects it finds, and where."""
    settings = settings_of(config)
    files = _files(images)
    with platform_of(settings) as platform:
        with ledger_of(settings) as ledger:
            dataset = dataset_of(ledger, platform)
        used = _model(platform, platform.models.of_dataset(dataset), model, settings.model.name, deploy=deploy)
        if deploy:
            platform.models.deploy(used)
        answers, bad = _ask(platform, used, files)
    if not answers:
        raise next(iter(bad.values()))
    least = min_confidence or 0.0
    unsure = [one for one in answers if one.best < least]
    for one in answers:  # classifications stay, as second opinions
        one.predictions = [found for found in one.predictions if found.box is None or found.confidence >= least]
    if annotate is not None:
        _draw(answers, annotate)
    if as_json:
        rows = [_data(one, used, min_confidence) for one in answers]
        rows += [{"image": show_path(str(file)), "model": used.name, "error": why.what} for file, why in bad.items()]
        typer.echo(json.dumps(rows, indent=2))
    else:
        wide_console().print(_table(answers, used))
        for drawn in filter(None, (one.drawn for one in answers)):
            typer.echo(f"Drawn: {show_path(str(drawn))}")
    for error in bad.values():
        typer.echo(show_text(str(error)), err=True)
    if unsure:
        typer.echo(f"{len(unsure)} of {len(answers)} pictures are below confidence {min_confidence:g}.", err=True)
    if unsure or bad:
        raise typer.Exit(EXIT_SOME_FAILED)


def _files(images: list[Path]) -> list[Path]:
    """The files, and the pictures in the folders and their folders."""
    files: list[Path] = []
    for image in images:
        found = [image]
        if image.is_dir():
            found = sorted(path for path in image.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
        if not found:
            raise UsageError(f"there is no picture in {show_path(str(image))}", hint="JPEG and PNG files count.")
        files += found
    if not any(os.access(file, os.R_OK) for file in files):
        read(files[0])  # says so before anybody is called
    return files


def _ask(platform: Platform, model: Model, files: list[Path]) -> tuple[list[_Answer], dict[Path, ImageSyncError]]:
    """What the model says of each file; those that cannot be read, or that the platform refuses, do not end it."""
    answers: list[_Answer] = []
    bad: dict[Path, ImageSyncError] = {}
    for file in files:
        try:
            content = read(file)
            found = platform.models.predict(model, content)
            answers.append(_Answer(file, content, found, found[0].confidence if found else 0.0))
        except UsageError as error:
            bad[file] = error
        except Refused as error:
            bad[file] = Refused(f"{show_path(str(file))}: {error.what}", hint=error.hint)
    return answers, bad


def _draw(answers: list[_Answer], folder: Path) -> None:
    """Write the pictures with the objects found; none where the model finds no objects at all."""
    if not any(one.box for answer in answers for one in answer.predictions):
        typer.echo("Nothing is drawn: the model gave no positions of objects.", err=True)
        return
    from image_sync.cli.draw_boxes import draw, save  # late: few need it, and Pillow takes its time

    taken: set[Path] = set()
    for one in answers:
        one.drawn = save(draw(one.content, one.predictions), one.image, folder, taken)


def _data(answer: _Answer, model: Model, least: float | None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "image": show_path(str(answer.image)),
        "model": model.name,
        "predictions": [_prediction(one) for one in answer.predictions],
    }
    if least is not None:
        data["sure"] = answer.best >= least
    if answer.drawn is not None:
        data["annotated"] = show_path(str(answer.drawn))
    return data


def _prediction(one: Prediction) -> dict[str, Any]:
    data: dict[str, Any] = {"category": one.category, "confidence": one.confidence}
    if one.box is not None:
        data["box"] = {side: getattr(one.box, side) for side in ("left", "top", "right", "bottom")}
        if one.box.polygon:
            data["polygon"] = one.box.polygon
    return data


def _table(answers: list[_Answer], model: Model) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, title=Text(show_text(f"model {model.name}")), title_justify="left")
    detects = any(one.box for answer in answers for one in answer.predictions)
    table.add_column("picture", overflow="fold", min_width=20)
    table.add_column("object" if detects else "category", overflow="fold")
    table.add_column("confidence", justify="right")
    table.add_column("left, top - right, bottom" if detects else "others", overflow="fold")
    for answer in answers:
        name = Text(show_path(str(answer.image)))
        best = answer.predictions[0] if answer.predictions else None
        if best is None:
            table.add_row(name, "none", "", "")
        elif detects:
            for one in answer.predictions:
                table.add_row(name, Text(show_text(one.category)), f"{one.confidence:.3f}", _place(one))
                name = Text("")
        else:
            others = ", ".join(f"{one.category} {one.confidence:.3f}" for one in answer.predictions[1:_SHOWN])
            table.add_row(name, Text(show_text(best.category)), f"{best.confidence:.3f}", Text(show_text(others)))
    return table


def _place(one: Prediction) -> str:
    if one.box is None:
        return ""
    return f"{one.box.left:.0f}, {one.box.top:.0f} - {one.box.right:.0f}, {one.box.bottom:.0f}"


def read(image: Path) -> bytes:
    """The picture. Raises UsageError: it cannot be read."""
    try:
        return image.read_bytes()
    except OSError as error:
        shown = show_path(str(image))
        raise UsageError(f"{shown} cannot be read: {error.strerror}", hint="Is the path right?") from error


def _model(platform: Platform, found: list[Model], wanted: str | None, name: str, *, deploy: bool) -> Model:
    if wanted is not None:
        return chosen(platform, found, wanted, name)
    if deploy:
        return chosen(platform, found, "latest", name)
    deployed = [model for model in found if model.deployed]
    if not deployed:
        hint = "Add --deploy to deploy the newest one." if found else "None is trained yet: see `image-sync status`."
        raise UsageError("no model of this dataset is deployed", hint=hint)
    return deployed[0]
