"""``image-sync mobius``: what only a Mobius Vision SDK can do."""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from image_sync.cli import options
from image_sync.cli.predict import read
from image_sync.cli.present import wide_console
from image_sync.cli.session import notes_of, settings_of
from image_sync.config import Settings
from image_sync.domain import DatasetRef
from image_sync.errors import Ambiguous, Refused, UsageError
from image_sync.ledger import Ledger
from image_sync.ledger.lock import Lock
from image_sync.log import show_path, show_text
from image_sync.platforms.base import MemoryState, Site
from image_sync.platforms.mobius.api import Api
from image_sync.platforms.mobius.platform import make
from image_sync.platforms.mobius.records import Records, Tag, image_id, short
from image_sync.platforms.mobius.scores import Score, scores
from image_sync.platforms.mobius.tags import Rule, TagPlan, role_of, tag_of

app = typer.Typer(
    help="What only a Mobius Vision SDK can do: ask single tags, ask about added pictures, load a state.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

_TOGETHER = 50
"""Pictures in one question about added ones: their ids stand in the URL."""
_WARNING = (
    "This replaces EVERYTHING on the Mobius SDK at {server}: all tags, models and pictures, also those of others.\n"
    "What image-sync knows of its tags is forgotten; all of them are trained anew."
)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="JPEG or PNG files.", metavar="IMAGE...")],
    config: options.Config = options.CONFIG,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", metavar="TAG", help="Ask this tag only; may be given again.")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Ask the base models, too.")] = False,
    added: Annotated[bool, typer.Option("--added", help="Ask about pictures that were uploaded; sends none.")] = False,
    as_json: options.Json = False,
) -> None:
    """Ask all custom models, or single tags, or the base models, too; each says how sure it is for itself."""
    if base and (tag or added):
        raise UsageError(
            "--base cannot be combined with --tag or --added",
            hint="The base models only answer about pictures that are sent",
        )
    settings = _settings(config)
    contents = [(image, read(image)) for image in images]
    with _api(settings) as api:
        answers = list(_about_added(api, contents, tag or []) if added else _about(api, contents, tag or [], base=base))
    if as_json:
        rows = [
            {"image": show_path(str(image)), "scores": {score.tag: score.value for score in found}}
            for image, found in answers
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("picture", "tag", "score"):
        table.add_column(name, justify="right" if name == "score" else "left", overflow="fold")
    for image, found in answers:
        for score in sorted(found, key=lambda one: -one.value):
            table.add_row(Text(show_path(str(image))), Text(show_text(score.tag)), f"{score.value:.3f}")
        if not found:
            table.add_row(Text(show_path(str(image))), "none", "")
    wide_console().print(table)


@app.command("set-state")
def set_state(
    state: Annotated[Path, typer.Argument(help="A state of a Mobius SDK, as a tar file.", metavar="TAR")],
    config: options.Config = options.CONFIG,
    yes: Annotated[bool, typer.Option("--yes", help="Replace everything without asking.")] = False,
) -> None:
    """Load a state, which replaces everything that the server knows, for everybody who uses it."""
    settings = _settings(config)
    shown = show_path(str(state))
    try:
        if not tarfile.is_tarfile(state):
            raise UsageError(f"{shown} is not a tar file", hint="Give a state that was taken from a Mobius SDK")
        size = state.stat().st_size
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror}", hint="Is the path right?") from error
    typer.echo(_WARNING.format(server=settings.credentials.endpoint), err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("replacing everything was not confirmed", hint="Add --yes to do it without being asked.")
        typer.confirm("Replace everything?", abort=True)
    with Lock(settings.state), notes_of(settings) as notes, _api(settings) as api, state.open("rb") as file:
        known = Records(notes or MemoryState())
        try:
            api.set_state(file, state.name, size)
        except Ambiguous:
            known.forget_all()
            raise
        known.forget_all()
    typer.echo(
        "The state is loaded, and its tags answer: image-sync mobius predict. To train yours anew: image-sync train\n"
        "If it lacks your pictures, send them again first: image-sync ledger rebuild"
    )


def _about(
    api: Api, contents: list[tuple[Path, bytes]], tags: list[str], *, base: bool
) -> Iterator[tuple[Path, list[Score]]]:
    for image, picture in contents:
        try:
            if tags:
                bodies = [(api.predict(picture, tag=tag), [tag]) for tag in tags]
            else:
                bodies = [(api.predict(picture, base=base), [])]
        except Refused as error:
            raise Refused(f"{show_path(str(image))}: {error.what}", hint=error.hint) from error
        yield image, [score for body, asked in bodies for score in scores(body, tags=asked)]


def _about_added(api: Api, contents: list[tuple[Path, bytes]], tags: list[str]) -> Iterator[tuple[Path, list[Score]]]:
    """Several tags of several pictures are asked about together; there is no such question about all tags."""
    ids = [image_id(hashlib.sha256(picture).hexdigest()) for _, picture in contents]
    if not tags or len(ids) == len(tags) == 1:
        for one, (image, _) in zip(ids, contents, strict=True):
            yield image, scores(api.predict_added(one, *tags), tags=tags, images=[one])
        return
    found: list[Score] = []
    for start in range(0, len(ids), _TOGETHER):
        some = ids[start : start + _TOGETHER]
        found += scores(api.predict_batch(some, tags), tags=tags, images=some)
    for one, (image, _) in zip(ids, contents, strict=True):
        yield image, [score for score in found if score.image == one]


@contextmanager
def _api(settings: Settings) -> Iterator[Api]:
    platform = make(Site(settings, threading.Event(), MemoryState()))
    try:
        yield platform.api
    finally:
        platform.close()


def _settings(config: Path) -> Settings:
    settings = settings_of(config)
    if settings.platform != "mobius":
        raise UsageError(
            f'platform is "{settings.platform}"',
            hint='`image-sync mobius` is for configurations with platform "mobius".',
        )
    return settings


def tags_of(settings: Settings, ledger: Ledger) -> list[dict[str, Any]]:
    """Each tag with its pictures, and whether and why it will be trained or reset."""
    how, dataset, records = settings.mobius, ledger.target.dataset, Records(ledger.notes)
    contents = ((image, category) for image, _, category, _ in ledger.trainings.contents())
    plan = TagPlan(dataset, contents, how.tags, Rule(how.negatives, how.max_negatives))
    known, attempts = {tag.name: tag for tag in records.tags(dataset.id)}, records.attempts()
    rows = []
    for name in sorted({*known, *plan.categories}):
        tag = known.get(name) or Tag(name, dataset.id, plan.categories[name])
        # One that was never trained is reset in any case: that is no news.
        reset = plan.why_reset(tag, attempts.get(short(name), {})) if tag.trained is not None else ""
        rows.append(
            {
                "tag": name,
                "category": tag.category,
                "positives": len(plan.positives(name)),
                "negatives": len(tag.negatives),
                "trained": tag.trained is not None,
                "training": tag.start is not None,
                "changed": plan.why_changed(tag) or None,
                "reset": reset or None,
            }
        )
    return rows


def without_tag(settings: Settings, categories: Iterable[str]) -> Iterator[Refused]:
    """Why these categories, of those given, can have no tag."""
    dataset = DatasetRef("", settings.dataset.name)
    for category in categories:
        try:
            tag_of(dataset, role_of(category).owner or category, settings.mobius.tags)
        except Refused as error:
            yield error
