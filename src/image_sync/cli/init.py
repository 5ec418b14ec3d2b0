"""``image-sync init``: write a configuration by asking, or from options where nobody can be asked."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from image_sync import config
from image_sync.config import paths, sagemaker, url
from image_sync.config.credentials import resolve
from image_sync.config.paths import Root, Source
from image_sync.config.values import InvalidValue, name_of, printable, show_value
from image_sync.errors import ConfigError, ImageSyncError, UsageError

PLATFORMS = ("mvi", "sagemaker", "mobius")
_LOGIN = ("--api-key-file", "--username", "--password-file")
_AWS = ("--region", "--role", "--bucket", "--profile")
_FOREIGN = {"mvi": _AWS, "sagemaker": ("--endpoint", *_LOGIN), "mobius": (*_LOGIN, *_AWS)}
"""Options that say nothing at a platform."""
_CREDENTIALS = {"api_key": "mvi-api-key", "password": "mvi-password"}
"""As the service files call them: so one configuration serves by hand and as a service."""


@dataclass(slots=True)
class Answers:
    """What is known so far; ``apart`` names the credentials that go into files of their own."""

    platform: str = "mvi"
    endpoint: str | None = None
    credentials: dict[str, Any] = field(default_factory=dict)
    apart: dict[str, Path] = field(default_factory=dict)
    sagemaker: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    dataset: str | None = None
    threshold: dict[str, int] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)

    def data(self) -> bytes:
        """The configuration file."""
        if self.platform == "sagemaker":
            where: dict[str, Any] = {"sagemaker": self.sagemaker}
        else:
            where = {"credentials": {"endpoint": self.endpoint, **self.credentials}}
        document = {
            "_comment": "Written by image-sync init; every further key is described by: image-sync schema",
            **({} if self.platform == "mvi" else {"platform": self.platform}),
            **where,
            "threshold": self.threshold,
            "dataset": {"name": self.dataset},
            "model": self.model,
            "folders": self.folders,
        }
        return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass")

    def write(self, output: Path, *, force: bool) -> config.Settings:
        """Write the file, unless it could not be used. Raises ConfigError, UsageError."""
        try:
            config.parse(self.data(), output)
        except ConfigError as error:
            raise ConfigError(error.what, hint="Nothing was written") from None
        with contextlib.ExitStack() as undo:
            for name, file in self.apart.items():
                fresh, content = not file.exists(), f"{self.credentials[name]}\n".encode()
                if fresh or file.read_bytes() != content:
                    _put(file, content, force=force)
                self.credentials[name] = {"credential": file.name}
                if fresh:
                    undo.callback(file.unlink, missing_ok=True)
            _put(output, self.data(), force=force)
            undo.pop_all()
        return config.load(output)


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
    if platform is None and any(aws.values()):
        platform = "sagemaker"
    elif platform is None and asking and not any((endpoint, *login.values())):
        platform = _prompt("Train at mvi, sagemaker or mobius", _one_of(PLATFORMS), default=PLATFORMS[0])  # type: ignore[assignment]
    where = platform or PLATFORMS[0]
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
        answers.credentials = {"api_key": {"file": os.path.abspath(api_key_file.expanduser())}}
    elif username and password_file:
        answers.credentials = {"username": username, "password": {"file": os.path.abspath(password_file.expanduser())}}
    if asking:
        former = None
        with contextlib.suppress(ConfigError):
            former = config.load(output) if output.exists() else None
        _ask(answers, username, output, former)
    else:
        if where == "sagemaker" and not region and (here := _region_here()):
            answers.sagemaker = {"region": here, **answers.sagemaker}
        _refuse_gaps(answers, username, password_file)
    answers.threshold = {**config.Threshold().model_dump(), **answers.threshold}
    settings = answers.write(output, force=force)
    for warning in settings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if asking:
        _try(settings)
    _say_what_next(where, printable(str(output)))


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


def _ask(answers: Answers, username: str | None, output: Path, former: config.Settings | None) -> None:
    """Ask for everything that the answers do not hold yet; what the configuration before said is offered again."""
    if former is not None and former.platform != answers.platform:
        former = None
    if answers.platform == "sagemaker":
        _ask_aws(answers)
    else:
        was = None if former is None else former.credentials.endpoint or None
        answers.endpoint = answers.endpoint or _prompt(
            "Address of the server", lambda text: url.parse(text).url, default=was
        )
    if answers.platform == "mvi" and not answers.credentials:
        _ask_credentials(answers, username, output)
    if not answers.folders:
        answers.folders = _ask_folders([] if former is None else [str(folder) for folder in former.folders])
    was = None if former is None else former.dataset.name
    answers.dataset = answers.dataset or _prompt("Name of the dataset", name_of, default=was)
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
        "region": ("AWS region", _region_here() or None),
        "role": ("Role that SageMaker works under (its ARN)", None),
        "bucket": ("S3 bucket, in the same region", None),
    }
    for key, (question, default) in questions.items():
        if key not in answers.sagemaker:
            answers.sagemaker[key] = _prompt(
                question, partial(lambda name, text: sagemaker.place(name, text.strip()), key), default=default
            )


def _region_here() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""


def _prompt(question: str, check: Callable[[str], str], *, default: str | None = None, hidden: bool = False) -> str:
    """Ask until the check takes the answer; hidden answers are never repeated in a message."""

    def checked(text: str) -> str:
        try:
            return check(text)
        except InvalidValue as wrong:
            subject = "it " if hidden else f"{show_value((), text)} "
            raise typer.BadParameter(wrong.text if wrong.bare else subject + wrong.text) from None

    return str(
        typer.prompt(question, default=default, value_proc=checked, hide_input=hidden, show_default=bool(default))
    )


def _count(text: str) -> str:
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9 and int(text) > 0):  # noqa: PLR2004 - below 10**9
        raise InvalidValue("is not a whole number of 1 or more")
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
        answers.credentials["username"] = username or _prompt("User name", name_of)

    def check(text: str) -> str:
        return resolve(text, Source(), header=way == "key").text

    answers.credentials[name] = _prompt("API key" if way == "key" else "Password", check, hidden=True)
    file = output.with_name(_CREDENTIALS[name])
    if typer.confirm(f"Keep it in a file of its own ({printable(file.name)}), readable only by you?", default=True):
        answers.apart[name] = file


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text.strip().lower() not in words:
            raise InvalidValue(f"is not one of the choices; write {', '.join(words)}")
        return text.strip().lower()

    return check


def _ask_folders(former: list[str]) -> list[str]:
    source, roots = Source(environ=os.environ), list[Root]()
    found: list[str] = []

    def check(text: str) -> str:
        if not text.strip():
            return ""
        root, _ = paths.folder(text, source, f"folders[{len(found)}]", roots)
        roots.append(root)
        return str(root.path)

    first = former[0] if former else None
    found.append(_prompt("Folder to watch, with one folder per category in it", check, default=first))
    found += [path for path in former[1:] if typer.confirm(f"Watch {printable(path)}, as before?", default=True)]
    while more := _prompt("Another folder (Enter: no more)", check, default=""):
        found.append(more)
    for path in map(Path, found):
        if not path.exists() and typer.confirm(f"{printable(str(path))} does not exist. Make it?", default=True):
            path.mkdir(parents=True)
    return found


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
