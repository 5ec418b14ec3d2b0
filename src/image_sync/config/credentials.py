"""The section ``credentials``: the server, and who we are there; and where passwords and keys are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, SecretStr, ValidationInfo, WithJsonSchema, field_validator, model_validator

from image_sync.config import url
from image_sync.config.paths import Source, decode, expand, read_bytes
from image_sync.config.values import (
    REFERENCE,
    InvalidValue,
    Section,
    is_placeholder,
    nearest,
    printable,
    refuse_unprintable,
    setting,
)

_LARGEST = 64 * 1024
_KEYS = ("env", "file", "credential")
_WAYS = '"text", {"file": "path"}, {"env": "NAME"} or {"credential": "NAME"}'
_PORT = "is not a port; write a whole number from 1 to 65535"

Secret = Annotated[
    SecretStr | None,
    Field(strict=False),
    WithJsonSchema({"anyOf": [{"type": "string"}, REFERENCE, {"type": "null"}]}),
]


class Credentials(Section):
    """The server, and who we are there.

    ``endpoint`` is ready for use: without a trailing slash or ``/api``, with the port; empty only where the platform
    needs none. Either ``api_key`` is set, or ``username`` and ``password`` are, or none of them.
    """

    endpoint: str = setting(
        "",
        "Address of the server, such as `https://mvi.example.com` or `https://host/visual-inspection`. "
        "Required, unless the environment variable `VAPI_BASE_URI` holds it.",
        examples=["https://mvi.example.com"],
    )
    port: int | None = setting(
        None,
        "Port of the server, when the address does not hold it.",
        ge=1,
        le=65535,
        examples=[8000],
        json_schema_extra={
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": "^[0-9]+$"},
                {"type": "null"},
            ]
        },
    )
    api_key: Secret = setting(
        None,
        'API key (MVI 8 and later): the text itself, or where it is kept: `{"file": "path"}`, `{"env": "NAME"}` or '
        '`{"credential": "name"}` (systemd hands it over; elsewhere the file of that name beside this one). '
        "`VAPI_TOKEN` is used when no credentials are given.",
        examples=[{"file": "api-key.txt"}],
    )
    username: str | None = setting(
        None,
        "User name, for servers without API keys (up to MVI 1.3).",
        json_schema_extra={"anyOf": [{"type": "string"}, REFERENCE, {"type": "null"}]},
    )
    password: Secret = setting(
        None,
        "Password of that user: the text itself, or where it is kept, as with `api_key`.",
        validate_default=True,
        examples=[{"env": "MVI_PASSWORD"}],
    )
    ca_bundle: Path | None = setting(
        None,
        "File with the certificate of the authority that signed the server's, when it is a private one.",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "null"}]},
    )
    verify_tls: bool = setting(True, "`false` accepts any certificate: only for trying things out on a closed network.")
    proxy: str | None = setting(
        None,
        "Proxy for all requests, such as `http://proxy:3128`; the usual environment variables are ignored.",
        json_schema_extra={"anyOf": [{"type": "string"}, REFERENCE, {"type": "null"}]},
    )

    @property
    def trust(self) -> bool | str:
        """Whether a server's certificate is checked, or the file with those to trust."""
        return str(self.ca_bundle) if self.ca_bundle and self.verify_tls else self.verify_tls

    @field_validator("endpoint")
    @classmethod
    def _normalised(cls, value: str) -> str:
        return url.parse(value).url

    @field_validator("port", mode="before")
    @classmethod
    def _number_or_digits(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            if not (value.isascii() and value.isdigit() and len(value) <= 5):  # noqa: PLR2004 - 65535
                raise InvalidValue(_PORT)
            value = int(value)
        if isinstance(value, bool) or (value is not None and not isinstance(value, int)):
            raise InvalidValue(_PORT)
        written = url.parse(info.data["endpoint"]).port if info.data.get("endpoint") else None
        if value is not None and written is not None and value != written:
            raise InvalidValue(f"contradicts the port {written} in endpoint; keep one of the two")
        return value

    @field_validator("password")
    @classmethod
    def _complete(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if not {"api_key", "username"} <= set(info.data) or info.data["api_key"]:  # wrong in themselves: told already
            return value
        if value and not info.data["username"]:
            raise InvalidValue("stands without a username; add the username, or use api_key alone", bare=True)
        if info.data["username"] and not value:
            raise InvalidValue("is missing beside username; add it, or use api_key alone", bare=True)
        return value

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, value: str | None) -> str | None:
        return None if value is None else url.proxy(value)

    @model_validator(mode="after")
    def _as_it_is_used(self) -> Self:
        changes: dict[str, Any] = {"username": None, "password": None} if self.api_key else {}
        if self.endpoint and self.port and url.parse(self.endpoint).port is None:
            changes["endpoint"] = url.with_port(self.endpoint, self.port)
        self.__dict__.update(changes)  # frozen from here on
        return self


class Found(NamedTuple):
    """A secret, the file that it was read from, and what a person should know of that file."""

    text: str
    file: Path | None = None
    note: str = ""


def refers(value: object) -> bool:
    """Whether it names one place, as it should: then only what is there can be wrong."""
    return (
        isinstance(value, Mapping)
        and len(value) == 1
        and set(value) <= set(_KEYS)
        and all(isinstance(target, str) and target.strip() for target in value.values())
    )


def resolve(value: object, source: Source, *, header: bool = False) -> Found:
    """The secret that the value holds or names, without white space around it. Raises :class:`InvalidValue`.

    Args:
        value: from the file: a text, or an object with one of ``env``, ``file`` and ``credential``.
        header: it will be sent in an HTTP header, which carries Latin-1 only.
    """
    if isinstance(value, str):
        found, where = Found(value), ""
    elif isinstance(value, Mapping):
        found, where = _referred(value, source)
    else:
        raise InvalidValue(f"is not text; write {_WAYS}", bare=True)
    text = found.text.strip()
    if not text:
        raise InvalidValue(f"is empty{where}; write {_WAYS}, or leave the key out", bare=True)
    if is_placeholder(text):
        raise InvalidValue(
            f"is still the template's placeholder{where}; write the real one, or leave the key out", bare=True
        )
    refuse_unprintable(text)
    if header and any(ord(char) > 0xFF for char in text):  # noqa: PLR2004 - Latin-1
        raise InvalidValue(f"holds a character that no HTTP header can carry{where}; copy it again", bare=True)
    return found._replace(text=text)


def _referred(value: Mapping[object, object], source: Source) -> tuple[Found, str]:
    for unknown in set(value) - set(_KEYS):
        meant = nearest(str(unknown), _KEYS)
        remedy = f'did you mean "{meant}"?' if meant else f"write {_WAYS}"
        raise InvalidValue(f'has the unknown key "{printable(str(unknown))}"; {remedy}', bare=True)
    if len(value) != 1:
        raise InvalidValue(f"names {len(value)} places; write one of {_WAYS}", bare=True)
    way, target = next(iter(value.items()))
    if not isinstance(target, str) or not target.strip():
        raise InvalidValue(f'has no text for "{way}"; write {_WAYS}', bare=True)
    if way == "env":
        if target not in source.environ:
            raise InvalidValue(
                f"names the environment variable {printable(target)}, which is not set; set it", bare=True
            )
        return Found(source.environ[target]), f" in the environment variable {printable(target)}"
    path = _credential(target, source) if way == "credential" else expand(target, source)
    shown = printable(str(path))
    try:
        data, status = read_bytes(path, at_most=_LARGEST)
        text = decode(data)
    except InvalidValue as wrong:
        raise InvalidValue(f"names the file {shown}, which {wrong.text}", bare=True) from None
    # Container platforms mount secrets below /run or a volume of their own, readable by all inside the container.
    handed_over = way == "credential" and source.environ.get("CREDENTIALS_DIRECTORY")
    open_to_all = os.name != "nt" and status.st_mode & 0o004 and not handed_over and not shown.startswith("/run/")
    note = f"the file {shown} can be read by every user; run: chmod 600 {shown}" if open_to_all else ""
    return Found(text, path, note), f" in the file {shown}"


def _credential(name: str, source: Source) -> Path:
    """The file that systemd hands over; outside of a service, the file of that name beside the configuration."""
    if name in {".", ".."} or "/" in name or "\0" in name:
        raise InvalidValue(
            "names a credential with a path; write only the name that LoadCredential= gives it", bare=True
        )
    if folder := source.environ.get("CREDENTIALS_DIRECTORY"):
        return Path(folder) / name
    path = source.file.parent / name
    if not os.path.lexists(path):
        raise InvalidValue(
            f"names a systemd credential, but $CREDENTIALS_DIRECTORY is not set, and there is no file "
            f"{printable(str(path))}; put it there, or start image-sync by a unit with "
            f"LoadCredential={printable(name)}:/path",
            bare=True,
        )
    return path
