"""``image-sync init``: write a configuration by asking, or from options where nobody can be asked."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from image_sync import config
from image_sync.config import endpoint as endpoints
from image_sync.config import locations, secret, texts
from image_sync.config.context import Context
from image_sync.config.problems import Mistake, printable, show_value
from image_sync.errors import ConfigError, UsageError

_DEFAULTS = config.Threshold()


@dataclass(slots=True)
class _Answers:
    """What a configuration needs to know; ``apart`` names the credentials that go into files of their own."""

    endpoint: str | None = None
    credentials: dict[str, Any] = field(default_factory=dict)
    apart: dict[str, Path] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    dataset: str | None = None
    threshold: dict[str, int] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)

    def data(self) -> bytes:
        """The configuration file."""
        document = {
            "_comment": "Written by image-sync init; every further key is described by: image-sync schema",
            "credentials": {"endpoint": self.endpoint, **self.credentials},
            "threshold": self.threshold,
            "dataset": {"name": self.dataset},
            "model": self.model,
            "folders": self.folders,
        }
        return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass")


def init(
    *,
    endpoint: Annotated[str | None, typer.Option(help="Address of the server.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File that holds the API key (MVI 8 and later).")] = None,
    username: Annotated[str | None, typer.Option(help="User name, for servers without API keys.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File that holds that user's password.")] = None,
    folder: Annotated[
        list[Path] | None, typer.Option(help="Folder to watch, with one folder per category in it; may be repeated.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the dataset at the server.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the models; the dataset's if left out.")] = None,
    upload: Annotated[int | None, typer.Option(help="Upload once this many pictures are waiting.")] = None,
    training: Annotated[int | None, typer.Option(help="Train once this many pictures were uploaded.")] = None,
    action: Annotated[str | None, typer.Option(help="train, retrain or none.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("configuration.json"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take defaults for what is left out.")] = False,
) -> None:
    """Write a configuration.json: by asking, or from options where nobody can be asked."""
    _refuse_contradictions(output, api_key_file, username, password_file, force=force)
    answers = _Answers(
        endpoint=endpoint,
        folders=[os.path.abspath(path.expanduser()) for path in folder or ()],
        dataset=dataset,
        threshold={key: value for key, value in (("upload", upload), ("training", training)) if value is not None},
        model={key: value for key, value in (("name", model), ("action", action)) if value is not None},
    )
    if api_key_file:
        answers.credentials = {"api_key": _reference(api_key_file)}
    elif username and password_file:
        answers.credentials = {"username": username, "password": _reference(password_file)}
    if sys.stdin.isatty() and not yes:
        _ask(answers, username, output)
    else:
        _refuse_gaps(answers, username, password_file)
    answers.threshold = {**_DEFAULTS.model_dump(), **answers.threshold}
    settings = _write(answers, output, force=force)
    for warning in settings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    shown = printable(str(output))
    print(f"{shown} is written. Next: image-sync check -c {shown}")


def _reference(path: Path) -> dict[str, str]:
    return {"file": os.path.abspath(path.expanduser())}


def _refuse_contradictions(
    output: Path, api_key_file: Path | None, username: str | None, password_file: Path | None, *, force: bool
) -> None:
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
    if api_key_file and (username or password_file):
        raise UsageError("--api-key-file stands beside --username or --password-file", hint="Give one of the two ways")
    if password_file and not username:
        raise UsageError("--password-file stands without --username", hint="Add --username")


def _refuse_gaps(answers: _Answers, username: str | None, password_file: Path | None) -> None:
    given = {
        "--endpoint": answers.endpoint,
        "--folder": answers.folders,
        "--dataset": answers.dataset,
        "--password-file": password_file or not username,
    }
    if missing := [flag for flag, value in given.items() if not value]:
        raise UsageError(f"Nobody can be asked here; missing: {', '.join(missing)}", hint="Add it and run this again")


def _ask(answers: _Answers, username: str | None, output: Path) -> None:
    answers.endpoint = answers.endpoint or _prompt("Address of the server", lambda text: endpoints.parse(text).url)
    if not answers.credentials:
        _ask_credentials(answers, username, output)
    if not answers.folders:
        answers.folders = _ask_folders()
    answers.dataset = answers.dataset or _prompt("Name of the dataset", texts.name)
    questions = {"upload": "Upload once so many pictures are waiting", "training": "Train once so many were uploaded"}
    for key, question in questions.items():
        if key not in answers.threshold:
            answers.threshold[key] = int(_prompt(question, _count, default=str(getattr(_DEFAULTS, key))))


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
        raise Mistake("is no whole number of 1 or more")
    return text


def _ask_credentials(answers: _Answers, username: str | None, output: Path) -> None:
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
    file = output.with_name(f"{output.stem}.{name.replace('_', '-')}")
    if typer.confirm(f"Keep it in a file of its own ({printable(file.name)}), readable only by you?", default=True):
        answers.apart[name] = file


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text.strip().lower() not in words:
            raise Mistake(f"is not possible here; write {', '.join(words)}")
        return text.strip().lower()

    return check


def _ask_folders() -> list[str]:
    context = Context(file=Path.cwd() / "configuration.json", environ=os.environ)
    found: list[str] = []

    def check(text: str) -> str:
        return str(locations.folder(text, context, len(found))) if text.strip() else ""

    found.append(_prompt("Folder to watch, with one folder per category in it", check))
    while more := _prompt("Another folder (Enter: no more)", check, default=""):
        found.append(more)
    for path in map(Path, found):
        if not path.exists() and typer.confirm(f"{printable(str(path))} does not exist. Make it?", default=True):
            path.mkdir(parents=True)
    return found


def _write(answers: _Answers, output: Path, *, force: bool) -> config.Settings:
    """Write what was answered, unless it cannot be used."""
    try:
        config.parse(answers.data(), output)
    except ConfigError as error:
        raise ConfigError(error.what, hint="Nothing was written") from None
    with contextlib.ExitStack() as undo:
        for name, file in answers.apart.items():
            fresh = not file.exists()
            _put(file, f"{answers.credentials[name]}\n".encode(), force=force)
            answers.credentials[name] = {"file": file.name}
            if fresh:
                undo.callback(file.unlink, missing_ok=True)
        _put(output, answers.data(), force=force)
        undo.pop_all()
    return config.load(output)


def _put(path: Path, data: bytes, *, force: bool) -> None:
    """Make the file appear whole, readable only by its owner; never over another one unless forced."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UsageError(f"{printable(str(path.parent))} cannot be written to: {error.strerror}") from None
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if not force:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))  # a rename alone would overwrite
        temporary.replace(path)
    except FileExistsError:
        raise UsageError(f"{printable(str(path))} exists already", hint="Use --force to overwrite it") from None
    except OSError as error:
        raise UsageError(f"{printable(str(path))} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
