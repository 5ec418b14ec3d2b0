"""The questions that a person is asked, one after the other, until each answer can be used."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import typer

from image_sync import config
from image_sync.cli.init.answers import Answers
from image_sync.config import endpoint as endpoints
from image_sync.config import locations, sagemaker, secret, texts
from image_sync.config.context import Context
from image_sync.config.problems import Mistake, printable, show_value

PLATFORMS = ("mvi", "sagemaker", "mobius")
_CREDENTIALS = {"api_key": "mvi-api-key", "password": "mvi-password"}
"""As the service files call them: so one configuration serves by hand and as a service."""


def ask_platform() -> str:
    """Where the pictures go."""
    return _prompt("Train at mvi, sagemaker or mobius", _one_of(PLATFORMS), default=PLATFORMS[0])


def region_here() -> str:
    """The AWS region that the environment names, or an empty text."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""


def ask(answers: Answers, username: str | None, output: Path, former: config.Settings | None = None) -> None:
    """Ask for everything that the answers do not hold yet; what a former configuration says is offered."""
    if former is not None and former.platform != answers.platform:
        former = None
    if answers.platform == "sagemaker":
        _ask_aws(answers)
    else:
        was = None if former is None else former.credentials.endpoint or None
        answers.endpoint = answers.endpoint or _prompt(
            "Address of the server", lambda text: endpoints.parse(text).url, default=was
        )
    if answers.platform == "mvi" and not answers.credentials:
        _ask_credentials(answers, username, output)
    if not answers.folders:
        answers.folders = _ask_folders([] if former is None else [str(folder) for folder in former.folders])
    was = None if former is None else former.dataset.name
    answers.dataset = answers.dataset or _prompt("Name of the dataset", texts.name, default=was)
    questions = {
        "upload": "Upload when this many pictures are waiting",
        "training": "Train when this many were uploaded",
    }
    for key, question in questions.items():
        if key not in answers.threshold:
            default = str(getattr(config.Threshold() if former is None else former.threshold, key))
            answers.threshold[key] = int(_prompt(question, _count, default=default))


def _ask_aws(answers: Answers) -> None:
    questions = {
        "region": ("AWS region", region_here() or None),
        "role": ("Role that SageMaker works under (its ARN)", None),
        "bucket": ("S3 bucket, in the same region", None),
    }
    for key, (question, default) in questions.items():
        if key not in answers.sagemaker:
            answers.sagemaker[key] = _prompt(question, partial(_place, key), default=default)


def _place(name: str, text: str) -> str:
    return sagemaker.place(name, text.strip())


def _prompt(question: str, check: Callable[[str], str], *, default: str | None = None, hidden: bool = False) -> str:
    """Ask until the check takes the answer; hidden answers are never repeated in a message."""

    def checked(text: str) -> str:
        try:
            return check(text)
        except Mistake as mistake:
            subject = "it " if hidden else f"{show_value((), text)} "
            raise typer.BadParameter(mistake.text if mistake.bare else subject + mistake.text) from None

    return str(
        typer.prompt(question, default=default, value_proc=checked, hide_input=hidden, show_default=bool(default))
    )


def _count(text: str) -> str:
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9 and int(text) > 0):  # noqa: PLR2004 - below 10**9
        raise Mistake("is not a whole number of 1 or more")
    return text


def _ask_credentials(answers: Answers, username: str | None, output: Path) -> None:
    ways = ("key", "password", "none")
    way = (
        "password"
        if username
        else _prompt("Sign in with an API key, a password, or none", _one_of(ways), default="key")
    )
    if way == "none":
        return
    name = "api_key" if way == "key" else "password"
    if way == "password":
        answers.credentials["username"] = username or _prompt("User name", texts.name)

    def check(text: str) -> str:
        return secret.resolve(text, Context(), ("credentials", name), header=way == "key")

    answers.credentials[name] = _prompt("API key" if way == "key" else "Password", check, hidden=True)
    file = output.with_name(_CREDENTIALS[name])
    if typer.confirm(f"Keep it in a file of its own ({printable(file.name)}), readable only by you?", default=True):
        answers.apart[name] = file


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text.strip().lower() not in words:
            raise Mistake(f"is not one of the choices; write {', '.join(words)}")
        return text.strip().lower()

    return check


def _ask_folders(former: list[str]) -> list[str]:
    context = Context(file=Path.cwd() / "configuration.json", environ=os.environ)
    found: list[str] = []

    def check(text: str) -> str:
        return str(locations.folder(text, context, len(found))) if text.strip() else ""

    first = former[0] if former else None
    found.append(_prompt("Folder to watch, with one folder per category in it", check, default=first))
    found += [path for path in former[1:] if typer.confirm(f"Watch {printable(path)}, as before?", default=True)]
    while more := _prompt("Another folder (Enter: no more)", check, default=""):
        found.append(more)
    for path in map(Path, found):
        if not path.exists() and typer.confirm(f"{printable(str(path))} does not exist. Make it?", default=True):
            path.mkdir(parents=True)
    return found
