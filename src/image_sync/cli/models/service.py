"""``models deploy``, ``undeploy`` and ``delete``: by hand what ``model.deploy`` and ``model.keep`` do by themselves."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from image_sync.cli import options
from image_sync.cli.models.choice import chosen
from image_sync.cli.session import dataset_of, ledger_of, platform_of, settings_of
from image_sync.domain import BY_HAND, ModelOutcome
from image_sync.errors import Refused, UsageError
from image_sync.ledger import Ledger
from image_sync.logs import show_text
from image_sync.platforms.base import Model

Name = Annotated[str, typer.Argument(help="Name or id of the model, or latest.", metavar="MODEL")]


def deploy(model: Name, config: options.Config = options.CONFIG) -> None:
    """Deploy a model and wait until it answers. No other model is taken down."""
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        one = chosen(platform, platform.models(dataset_of(ledger, platform)), model, settings.model.name)
        platform.deploy(one)
        _note(ledger, one, ModelOutcome.DEPLOYED)
    typer.echo(f"Model {show_text(one.name)} is deployed.")


def undeploy(model: Name, config: options.Config = options.CONFIG) -> None:
    """Take a model from service; it can be deployed again."""
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        one = chosen(platform, platform.models(dataset_of(ledger, platform)), model, settings.model.name)
        platform.undeploy(one)
        _note(ledger, one, ModelOutcome.RETIRED, was=ModelOutcome.DEPLOYED)
    typer.echo(f"Model {show_text(one.name)} is no longer deployed.")


def delete(
    models: Annotated[list[str], typer.Argument(help="Names or ids of models.", metavar="MODEL...")],
    config: options.Config = options.CONFIG,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete models at the platform for good. A deployed one is refused."""
    settings = settings_of(config)
    with platform_of(settings) as platform, ledger_of(settings) as ledger:
        found = platform.models(dataset_of(ledger, platform))
        doomed = [chosen(platform, found, model, settings.model.name) for model in dict.fromkeys(models)]
        for model in doomed:
            if model.deployed and platform.describe().keeps_models:
                raise Refused(
                    f"the model {model.name} is deployed, so nothing was deleted",
                    hint=f"Take it from service first: image-sync models undeploy {model.name}",
                )
        _confirm(doomed, yes=yes)
        for model in doomed:
            platform.delete_model(model)
            _note(ledger, model, ModelOutcome.DELETED)
            typer.echo(f"Model {show_text(model.name)} is deleted.")


def _confirm(doomed: list[Model], *, yes: bool) -> None:
    if yes:
        return
    names = ", ".join(show_text(model.name) for model in doomed)
    if not sys.stdin.isatty():
        raise UsageError(f"deleting {names} was not confirmed", hint="Add --yes to do it without being asked.")
    if not typer.confirm(f"Delete {names} at the platform for good?"):
        raise UsageError("nothing was deleted")


def _note(ledger: Ledger, model: Model, fate: ModelOutcome, *, was: ModelOutcome | None = None) -> None:
    """Remember what a person did, if it is a model that this ledger had trained."""
    run = ledger.trainings.named(model.id)
    if run is not None and run.task_id == model.id and (was is None or run.fate is was):
        ledger.lifecycle.fated(run.id, fate, BY_HAND)
