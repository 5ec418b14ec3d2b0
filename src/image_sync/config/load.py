"""From a file to settings, or to the list of everything that is wrong with it.

Values go one way: the text is read, each value is put in its place (the environment, short forms, secrets that are kept
elsewhere, paths), the models check what each may be, and what contradicts something else is told at the end.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from image_sync.config import hyperparameters, mobius, paths, url
from image_sync.config.adapters import settings_model
from image_sync.config.credentials import Credentials, refers, resolve
from image_sync.config.json5 import Document, read
from image_sync.config.model import doubts, is_detection, without_effect
from image_sync.config.paths import Root, Source
from image_sync.config.refusals import problem_of
from image_sync.config.sagemaker import SageMaker
from image_sync.config.settings import Settings
from image_sync.config.values import InvalidValue, Key, Problem, password_in, printable, show_key, show_value, text_of
from image_sync.errors import ConfigError

_WORLD_WRITABLE, _READABLE_BY_OTHERS = 0o002, 0o044
_SECRETS = ("api_key", "username", "password", "proxy")
_NOT_KEPT = "IMAGE_SYNC_DOES_NOT_KEEP_SECRETS"
_STATE = re.compile(r'"state"\s*:\s*"([^"\\\n]+)"')
_WRITE_ONE = "`image-sync init` writes a configuration by asking"
_UNREAD = "(a secret that was not read)"
"""Stands for one that is not needed now and cannot be read here: by another user, or outside of the service."""
_REFUSED = object()
"""In place of a value that was refused: the models refuse it too, and are not listened to."""


def load(path: Path, environ: Mapping[str, str] = os.environ, *, secrets: bool = True) -> Settings:
    """The settings that the file holds.

    Args:
        path: of the file.
        environ: the environment.
        secrets: whether all secrets are needed. If not, ``Settings.unread`` names those that cannot be read here.

    Raises:
        ConfigError: they cannot be used; ``what`` has every mistake, one a line: the file and the line, the key, the
            value (secrets masked), what is wrong and what to write instead.
    """
    try:
        data, status = paths.read_bytes(path, at_most=paths.LARGEST_CONFIGURATION)
    except InvalidValue as wrong:
        told = f"{printable(str(path))} {wrong.text}"
        hint = _WRITE_ONE if wrong.text == paths.MISSING else ""
    else:
        hint = ""
        mode = status.st_mode if os.name != "nt" else 0
        if not mode & _WORLD_WRITABLE:
            return parse(data, path, environ, mode=mode, secrets=secrets)
        shown = printable(str(path))
        told = f"{shown} can be changed by every user of this machine; run: chmod 600 {shown}"
    raise ConfigError(told, hint=hint)


def parse(
    data: bytes, path: Path, environ: Mapping[str, str] = os.environ, *, mode: int = 0, secrets: bool = True
) -> Settings:
    """The settings that these bytes would mean as the content of that file, with those permissions; see :func:`load`.

    Raises:
        ConfigError: as :func:`load` does.
    """
    try:
        document = read(paths.decode(data))
    except InvalidValue as wrong:
        told = [f"{printable(str(path))} {wrong.text}"]
    else:
        outcome = _Reading(document, path, environ, mode=mode, secrets=secrets).settings()
        if isinstance(outcome, Settings):
            return outcome
        told = outcome
    # Raised here, outside of any handler: the causes would carry the values, and with them secrets.
    raise ConfigError("\n".join(told))


def state_of(path: Path, environ: Mapping[str, str] = os.environ) -> Path | str | None:
    """Where the ledger is, as far as can be told from a file that may be full of mistakes, or gone; None: nowhere."""
    value: object = None
    try:
        text = paths.decode(paths.read_bytes(path, at_most=paths.LARGEST_CONFIGURATION)[0])
    except InvalidValue:
        pass
    else:
        whole = read(text).value
        written = _STATE.search(text)
        value = whole.get("state") if isinstance(whole, dict) else written and written[1]
    source = Source(Path(os.path.abspath(path)), environ)
    try:
        if isinstance(value, Mapping):
            value = resolve(value, source).text
        return paths.state(value or None, source, ())
    except InvalidValue:
        return None


def restored(
    document: Mapping[str, Any], path: Path, state: Path | str, environ: Mapping[str, str] = os.environ
) -> Settings:
    """The settings of which this is the :attr:`Settings.document`, without secrets. Raises ConfigError."""
    data = json.dumps({**document, "state": str(state)}).encode("utf-8", "surrogatepass")
    return parse(data, path, environ, secrets=False)


class _Reading:
    """One reading of one configuration file, and what is to be told of it."""

    def __init__(
        self, document: Document, shown: Path, environ: Mapping[str, str], *, mode: int, secrets: bool
    ) -> None:
        self._document = document
        self._shown = shown
        self._source = Source(Path(os.path.abspath(shown)), environ)
        self._mode = mode
        self._secrets = secrets
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []
        self._unread: list[Problem] = []
        self._secret_files: list[Path] = []
        self._roots: list[Root] = []
        self._model = Settings

    def settings(self) -> Settings | list[str]:
        """The settings, or every mistake as a line, in the order of the file."""
        file, document = printable(str(self._shown)), self._document
        told = [
            (flaw.position.line, f"{file}:{flaw.position.line}:{flaw.position.column}: {flaw.text}")
            for flaw in document.flaws
        ]
        settings = None
        if isinstance(document.value, dict):
            settings = self._checked(_without_comments(document.value))
        elif not document.broken:
            kind = "null" if document.value is None else show_value((), document.value)
            told.append((0, f"{file} holds only {kind}; write an object: {{ ... }}"))
        told += self._lines(self._problems)
        if settings is None or told or not isinstance(document.value, dict):
            return [text for _, text in sorted(told, key=lambda pair: pair[0])]
        settings._warnings = self._told(self._warnings)  # noqa: SLF001 - it was made here
        settings._unread = self._told(self._unread)  # noqa: SLF001
        settings._secret_files = tuple(self._secret_files)  # noqa: SLF001
        settings._document = _without_secrets(settings, document.value)  # noqa: SLF001
        return settings

    def _checked(self, given: dict[str, Any]) -> Settings | None:
        values = self._placed(given)
        # What was refused already is not told once more, nor what cannot be read as it is written.
        refused = {problem.path for problem in self._problems}
        spoilt = {flaw.path for flaw in self._document.flaws if flaw.spoilt}
        try:
            settings = self._model.model_validate(values)
        except ValidationError as error:
            for each in error.errors():
                path = each["loc"]
                told = path in spoilt or any(path[:length] in refused for length in range(1, len(path) + 1))
                # Items that were refused one by one leave a list that is too short: one mistake, not two.
                if not told and not (each["type"] == "too_short" and each["input"]):
                    self._problems.append(problem_of(each, self._document.positions, self._model))
            return None
        if settings.platform == "mobius":
            for wrong in mobius.impossible(settings):
                self._refuse((), InvalidValue(wrong, bare=True))
            self._warnings += mobius.unused(settings)
            settings = mobius.as_used(settings)
        self._warnings += _surprises(settings)
        if self._mode & _READABLE_BY_OTHERS and _holds_secret(given):
            shown = printable(str(self._shown))
            text = f"it holds a secret and can be read by other users; run: chmod 600 {shown}"
            self._warnings.append(Problem((), text))
        return settings

    def _lines(self, problems: list[Problem]) -> list[tuple[int, str]]:
        """Each problem as its line number in the file (0 without one) and the line that tells it."""
        file, positions, told = printable(str(self._shown)), self._document.positions, []
        for problem in problems:
            # The nearest key around it that is written down may have to do.
            around = (problem.path[:length] for length in range(len(problem.path), 0, -1))
            line = next((positions[path].line for path in around if path in positions), 0)
            where = f"{file}:{line}" if line else file
            key, text = show_key(problem.path), printable(problem.text)
            told.append((line, f"{where}: {key}: {text}" if key else f"{where}: {text}"))
        return told

    def _told(self, problems: list[Problem]) -> tuple[str, ...]:
        return tuple(text for _, text in sorted(self._lines(problems), key=lambda pair: pair[0]))

    def _refuse(self, path: Key, wrong: InvalidValue, value: object = None) -> object:
        self._problems.append(Problem(path, wrong.text if wrong.bare else f"{show_value(path, value)} {wrong.text}"))
        return _REFUSED

    def _take(self, path: Key, value: Any, convert: Callable[[Any], Any]) -> Any:
        try:
            return convert(value)
        except InvalidValue as wrong:
            return self._refuse(path, wrong, value)

    def _warn(self, path: Key, text: str) -> None:
        self._warnings.append(Problem(path, text))

    # each value in its place

    def _placed(self, given: dict[str, Any]) -> dict[str, Any]:
        platform, values = given.get("platform"), dict(given)
        platform = platform if isinstance(platform, str) else "mvi"
        self._take(("platform",), platform, self._use_model)
        for name in ("sagemaker", "mobius"):
            if name in given and name != platform:
                text = f'stands beside another platform; write "platform": "{name}", or remove it'
                self._refuse((name,), InvalidValue(text, bare=True))
        if platform != "sagemaker":
            values["credentials"] = self._credentials(given.get("credentials", {}), platform)
        elif values.pop("credentials", None) is not None:
            text = "is not used: AWS's own chain says who we are (environment, profile or role)"
            self._warn(("credentials",), text)
        model = given["model"] if isinstance(given.get("model"), dict) else {}
        nn_arch = model.get("nn_arch") if isinstance(model.get("nn_arch"), str) else None
        if platform == "sagemaker":
            values["sagemaker"] = self._aws(given.get("sagemaker", {}))
            self._hyperparameters(nn_arch, model.get("strategy"))
        if "folders" in given:
            values["folders"] = self._folders(given["folders"])
        values["annotations"] = _annotations(
            given.get("annotations"), detection=platform != "mobius" and is_detection(nn_arch)
        )
        state = given.get("state")
        if isinstance(state, Mapping):
            state = self._secret(("state",), state)
        if state is not _REFUSED:
            state = self._take(("state",), state, lambda value: paths.state(value, self._source, self._roots))
        return {**values, "state": state}

    def _use_model(self, platform: str) -> None:
        self._model = settings_model(platform)

    def _credentials(self, given: object, platform: str) -> object:
        if not isinstance(given, dict):
            return given
        data = {key: value for key, value in given.items() if value is not None or key not in Credentials.model_fields}
        # IBM's own names: they must not send pictures for somebody else to an MVI server, or its key to somebody else.
        elsewhere = platform == "mobius" or self._model is not Settings
        environ = {} if elsewhere else self._source.environ
        if "endpoint" not in data and self._model is Settings:
            data["endpoint"] = self._endpoint(environ.get("VAPI_BASE_URI"), platform)
        has_login = bool({"username", "password"} & set(data))
        if "api_key" in data and has_login:
            self._warn(("credentials", "api_key"), "is used; username and password beside it are ignored")
        if "api_key" not in data and not has_login and environ.get("VAPI_TOKEN"):
            data["api_key"] = {"env": "VAPI_TOKEN"}
        for name in _SECRETS:
            if name in data:
                data[name] = self._secret(("credentials", name), data[name], header=name == "api_key")
        if data.get("proxy") == _UNREAD:
            del data["proxy"]
        if "ca_bundle" in data:
            file = data["ca_bundle"]
            data["ca_bundle"] = self._take(
                ("credentials", "ca_bundle"), file, lambda text: paths.certificates(text_of(text), self._source)
            )
        return data

    def _endpoint(self, address: str | None, platform: str) -> object:
        """The one of the environment."""
        path = ("credentials", "endpoint")
        if not address:
            example = "http://mobius.example.com:5000" if platform == "mobius" else "https://mvi.example.com"
            text = f'is missing; write the server\'s address, such as "{example}"'
            return self._refuse(path, InvalidValue(text, bare=True))
        try:
            return url.parse(address).url
        except InvalidValue as wrong:
            return self._refuse(path, InvalidValue(f"in the environment variable VAPI_BASE_URI {wrong.text}"), address)

    def _secret(self, path: Key, value: object, *, header: bool = False) -> object:
        try:
            found = resolve(value, self._source, header=header)
        except InvalidValue as wrong:
            if self._secrets or not refers(value):
                return self._refuse(path, wrong, value)
            self._unread.append(Problem(path, wrong.text))
            return _UNREAD
        if found.file is not None:
            self._secret_files.append(found.file)
        if found.note:
            self._warn(path, found.note)
        return found.text

    def _aws(self, given: object) -> object:
        if not isinstance(given, dict):
            return given
        data, environ = dict(given), self._source.environ
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        if "region" not in data and region:
            data["region"] = region
        for name in ("region", "role", "bucket"):
            if name not in data:
                example = (SageMaker.model_fields[name].examples or [""])[0]
                text = f'is missing; write, for example, "{example}"'
                data[name] = self._refuse(("sagemaker", name), InvalidValue(text, bare=True))
        return data

    def _hyperparameters(self, nn_arch: str | None, strategy: object) -> None:
        """At SageMaker a mistake would only show when the machine is paid for."""
        if nn_arch and nn_arch.lower() not in hyperparameters.NETWORKS:
            text = f"is not a network of SageMaker; write one of {', '.join(hyperparameters.NETWORKS)}"
            self._refuse(("model", "nn_arch"), InvalidValue(text), nn_arch)
            nn_arch = None
        given = strategy if isinstance(strategy, dict) else {}
        if not all(isinstance(value, str | int | float | bool) for value in given.values()):
            return  # the model tells it
        reading = hyperparameters.read(given, detection=is_detection(nn_arch), nn_arch=nn_arch)
        for key, text in reading.notes:
            self._warn(("model", "strategy", key), text)
        if reading.mistakes:
            told = "; ".join(f"{show_value((), key)} {text}" for key, text in reading.mistakes)
            self._refuse(("model", "strategy"), InvalidValue(f"cannot be used: {told}", bare=True))

    def _folders(self, given: object) -> object:
        if not isinstance(given, list):
            return given
        found: list[object] = []
        for index, text in enumerate(given):
            path: Key = ("folders", index)
            try:
                root, notes = paths.folder(text_of(text), self._source, show_key(path), self._roots)
            except InvalidValue as wrong:
                found.append(self._refuse(path, wrong, text))
                continue
            self._roots.append(root)
            found.append(root.path)
            for note in notes:
                self._warn(path, note)
        return found


def _surprises(settings: Settings) -> Iterator[Problem]:
    """What works, and is most likely not what a person wants."""
    who, model, threshold = settings.credentials, settings.model, settings.threshold
    if who.endpoint:
        server = url.parse(who.endpoint)
        if not server.encrypted and not server.loopback:
            seen = "pictures" if settings.platform == "mobius" else "keys, passwords and pictures"
            text = f"the connection is not encrypted: {seen} can be read on the way; use https://"
            yield Problem(("credentials", "endpoint"), text)
    if not who.verify_tls:
        text = (
            "the server's certificate is not checked: anyone on the way can read and change everything; "
            "name its authority's certificate in ca_bundle instead"
        )
        yield Problem(("credentials", "verify_tls"), text)
    if threshold.upload > threshold.training:
        text = (
            f"{threshold.upload} is more than the {threshold.training} of threshold.training: "
            "every upload starts a training"
        )
        yield Problem(("threshold", "upload"), text)
    if settings.platform != "sagemaker":
        yield from doubts(model)
    yield from without_effect(model)
    for key in ("status", "notify"):
        if getattr(settings, key) is not None:
            yield Problem((key,), "belongs to a later version; this one ignores it")
    if settings.upload.max_wait < settings.time:
        text = f"{settings.upload.max_wait:g} is less than time, which then never passes"
        yield Problem(("upload", "max_wait"), text)


def _annotations(given: object, *, detection: bool) -> object:
    """The section, from its long form, its short form or nothing; what is trained decides where no mode is given."""
    data: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"mode": given}
    if data.get("mode") is None:
        data["mode"] = "required" if detection else "none"
    return data


def _holds_secret(given: Mapping[str, Any]) -> bool:
    """Whether a secret itself stands in the file."""
    who = given["credentials"] if isinstance(given.get("credentials"), dict) else {}
    urls = (who.get("proxy"), given.get("state"))
    return any(isinstance(who.get(key), str) for key in ("api_key", "password")) or any(
        isinstance(text, str) and password_in(text) for text in urls
    )


def _without_secrets(settings: Settings, value: dict[str, Any]) -> dict[str, Any]:
    document = {key: item for key, item in _without_comments(value).items() if key not in {"state", "notify"}}
    credentials = document.get("credentials")
    if isinstance(credentials, dict):
        kept = {
            key: {"env": _NOT_KEPT} if key in _SECRETS and key != "username" and isinstance(item, str) else item
            for key, item in credentials.items()
        }
        document["credentials"] = kept | {"endpoint": settings.credentials.endpoint}
    return document


def _without_comments(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_comments(item) for key, item in value.items() if not key.startswith("_") and key != "$schema"
        }
    if isinstance(value, list):
        return [_without_comments(item) for item in value]
    return value
