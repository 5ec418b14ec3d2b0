"""The command: its options, what they must not say together, and what is missing where nobody can be asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from image_sync import config
from image_sync.cli.init.answers import Answers
from image_sync.cli.init.questions import PLATFORMS, ask, ask_platform, region_here
from image_sync.config.problems import printable
from image_sync.errors import ConfigError, ImageSyncError, UsageError

_LOGIN = ("--api-key-file", "--username", "--password-file")
_AWS = ("--region", "--role", "--bucket", "--profile")
_FOREIGN = {"mvi": _AWS, "sagemaker": ("--endpoint", *_LOGIN), "mobius": (*_LOGIN, *_AWS)}
"""Options that say nothing at a platform."""


def init(
    *,
    platform: Annotated[
        Literal["mvi", "sagemaker", "mobius"] | None, typer.Option(help="Where the pictures go; the default is mvi.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Address of the server (mvi, mobius).")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File that holds the API key (MVI 8 and later).")
    ] = None,
    username: Annotated[
        str | None, typer.Option(metavar="NAME", help="User name, for servers without API keys.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File that holds that user's password.")
    ] = None,
    region: Annotated[str | None, typer.Option(metavar="REGION", help="AWS region (sagemaker).")] = None,
    role: Annotated[str | None, typer.Option(metavar="ARN", help="ARN of the role that SageMaker works under.")] = None,
    bucket: Annotated[str | None, typer.Option(metavar="BUCKET", help="S3 bucket, in that region.")] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Profile of AWS's own configuration files, if any.")
    ] = None,
    folder: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Folder to watch, with one folder per category in it; may be repeated."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the dataset at the server.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the models; the dataset's if left out.")
    ] = None,
    upload: Annotated[int | None, typer.Option(metavar="N", help="Upload once this many pictures are waiting.")] = None,
    training: Annotated[
        int | None, typer.Option(metavar="N", help="Train once this many pictures were uploaded.")
    ] = None,
    action: Annotated[str | None, typer.Option(metavar="ACTION", help="train, retrain or none.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")] = Path(
        "configuration.json"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take defaults for what is left out.")] = False,
) -> None:
    """Write a configuration.json by asking questions, or from options alone."""
    _refuse_places(output, force=force)
    login = dict(zip(_LOGIN, (api_key_file, username, password_file), strict=True))
    aws = dict(zip(_AWS, (region, role, bucket, profile), strict=True))
    asking = sys.stdin.isatty() and not yes
    where = _platform(platform, {"--endpoint": endpoint, **login}, aws, asking=asking)
    _refuse_contradictions(where, {"--endpoint": endpoint, **login, **aws})
    answers = Answers(
        platform=where,
        endpoint=endpoint,
        sagemaker={flag.removeprefix("--"): value for flag, value in aws.items() if value is not None},
        folders=[os.path.abspath(path.expanduser()) for path in folder or ()],
        dataset=dataset,
        threshold={key: value for key, value in (("upload", upload), ("training", training)) if value is not None},
        model={key: value for key, value in (("name", model), ("action", action)) if value is not None},
    )
    if api_key_file:
        answers.credentials = {"api_key": _reference(api_key_file)}
    elif username and password_file:
        answers.credentials = {"username": username, "password": _reference(password_file)}
    if asking:
        ask(answers, username, output, _former(output))
    else:
        if where == "sagemaker" and not region and (here := region_here()):
            answers.sagemaker = {"region": here, **answers.sagemaker}
        _refuse_gaps(answers, username, password_file)
    answers.threshold = {**config.Threshold().model_dump(), **answers.threshold}
    settings = answers.write(output, force=force)
    for warning in settings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if asking:
        _try(settings)
    _say_what_next(where, printable(str(output)))


def _former(output: Path) -> config.Settings | None:
    """The configuration that is about to be overwritten, if it can be read: its answers are offered again."""
    try:
        return config.load(output) if output.exists() else None
    except ConfigError:
        return None


def _try(settings: config.Settings) -> None:
    """Say whether the server answers and lets us in: a wrong address or key is found now, not at the first upload."""
    from image_sync.cli.session import platform_of  # late: `init` with options alone does without it

    try:
        with platform_of(settings) as platform:
            platform.sign_in()
    except ImageSyncError as error:
        print(f"warning: {error}", file=sys.stderr)
        print("Run `image-sync init --force` again to correct it: your other answers are offered.", file=sys.stderr)
    else:
        print(f"{printable(settings.address)} answers and accepts us.")


def _reference(path: Path) -> dict[str, str]:
    return {"file": os.path.abspath(path.expanduser())}


def _platform(given: str | None, mvi: Mapping[str, object], aws: Mapping[str, object], *, asking: bool) -> str:
    """The platform that is named, or that the other options belong to, or that a person names."""
    if given:
        return given
    if any(aws.values()):
        return "sagemaker"
    return ask_platform() if asking and not any(mvi.values()) else PLATFORMS[0]


def _refuse_places(output: Path, *, force: bool) -> None:
    try:
        exists, has_folder = output.exists(), output.parent.is_dir()
    except (OSError, ValueError) as error:
        raise UsageError(f"{printable(str(output))} cannot be looked at: {error}") from None
    if exists and not force:
        raise UsageError(
            f"{printable(str(output))} exists already", hint="Use --force to overwrite it, or --output FILE"
        )
    if not has_folder:
        raise UsageError(f"There is no folder {printable(str(output.parent))}", hint="Make it first")


def _refuse_contradictions(platform: str, given: Mapping[str, Any]) -> None:
    if foreign := [flag for flag in _FOREIGN[platform] if given[flag]]:
        raise UsageError(
            f"{', '.join(foreign)}: cannot be used with the platform {platform}",
            hint="Leave it out, or change --platform",
        )
    if given["--api-key-file"] and (given["--username"] or given["--password-file"]):
        raise UsageError(
            "--api-key-file was given together with --username or --password-file", hint="Give only one of the two"
        )
    if given["--password-file"] and not given["--username"]:
        raise UsageError("--password-file was given without --username", hint="Add --username")


def _refuse_gaps(answers: Answers, username: str | None, password_file: Path | None) -> None:
    needed: dict[str, object] = {"--endpoint": answers.endpoint}
    if answers.platform == "sagemaker":
        needed = {flag: answers.sagemaker.get(flag.removeprefix("--")) for flag in _AWS if flag != "--profile"}
    needed |= {
        "--folder": answers.folders,
        "--dataset": answers.dataset,
        "--password-file": password_file or not username,
    }
    if missing := [flag for flag, value in needed.items() if not value]:
        raise UsageError(
            f"This is not a terminal, so nothing can be asked; missing: {', '.join(missing)}",
            hint="Add it and run this again",
        )


def _say_what_next(platform: str, shown: str) -> None:
    print(f"{shown} is written. Next: image-sync check -c {shown}")
    if platform == "sagemaker":
        from image_sync.platforms.sagemaker import api  # late: the others do without it

        print(f"The rights that AWS has to give are printed by: image-sync check --policy -c {shown}")
        if not api.installed():
            print(f"warning: {api.MISSING}. {api.INSTALL}", file=sys.stderr)
