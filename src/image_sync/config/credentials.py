"""The section ``credentials``: the server, and who we are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from image_sync.config import endpoint as endpoints
from image_sync.config import locations, secret
from image_sync.config.problems import Mistake, password_in
from image_sync.config.section import REFERENCE, Secret, Section, context_of, text_of


class Credentials(Section):
    """The server, and who we are there.

    ``endpoint`` is ready for use: without a trailing slash or ``/api``, with the port; empty only where the platform
    needs none. Either ``api_key`` is set, or ``username`` and ``password`` are, or none of them.
    """

    endpoint: str = Field(
        default="",
        validate_default=True,
        description=(
            "Address of the server, such as `https://mvi.example.com` or `https://host/visual-inspection`. "
            "Required, unless the environment variable `VAPI_BASE_URI` holds it."
        ),
        examples=["https://mvi.example.com"],
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of the server, when the address does not hold it.",
        examples=[8000],
        json_schema_extra={
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": "^[0-9]+$"},
                {"type": "null"},
            ]
        },
    )
    api_key: Secret = Field(
        default=None,
        description=(
            'API key (MVI 8 and later): the text itself, or where it is kept: `{"file": "path"}`, `{"env": "NAME"}` or '
            '`{"credential": "name"}` (systemd hands it over; elsewhere the file of that name beside this one). '
            "`VAPI_TOKEN` is used when no credentials are given."
        ),
        examples=[{"file": "api-key.txt"}],
    )
    username: str | None = Field(
        default=None,
        description="User name, for servers without API keys (up to MVI 1.3).",
        json_schema_extra={"anyOf": [{"type": "string"}, REFERENCE, {"type": "null"}]},
    )
    password: Secret = Field(
        default=None,
        validate_default=True,
        description="Password of that user: the text itself, or where it is kept, as with `api_key`.",
        examples=[{"env": "MVI_PASSWORD"}],
    )
    ca_bundle: Path | None = Field(
        default=None,
        description="File with the certificate of the authority that signed the server's, when it is a private one.",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "null"}]},
    )
    verify_tls: bool = Field(
        default=True, description="`false` accepts any certificate: only for trying things out on a closed network."
    )
    proxy: str | None = Field(
        default=None,
        description="Proxy for all requests, such as `http://proxy:3128`; the usual environment variables are ignored.",
        json_schema_extra={"anyOf": [{"type": "string"}, REFERENCE, {"type": "null"}]},
    )

    @model_validator(mode="before")
    @classmethod
    def _take_from_environment(cls, data: Any, info: ValidationInfo) -> Any:
        context = context_of(info)
        if not isinstance(data, dict):
            return data
        data = {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}
        # IBM's own names: they must not send pictures for somebody else to an MVI server, or its key to somebody else.
        environ = {} if context.platform == "mobius" else context.environ
        if "endpoint" not in data and environ.get("VAPI_BASE_URI"):
            data["endpoint"] = environ["VAPI_BASE_URI"]
        context.has_login = bool({"username", "password"} & set(data))
        if "api_key" not in data and not context.has_login and environ.get("VAPI_TOKEN"):
            data["api_key"] = {"env": "VAPI_TOKEN"}
        return data

    @field_validator("endpoint", mode="before")
    @classmethod
    def _normalise(cls, value: object, info: ValidationInfo) -> str:
        context = context_of(info)
        if value == "" and context.platform == "sagemaker":
            return ""
        if value == "" and ("credentials", "endpoint") not in context.places:
            if context.platform == "memory":
                return ""
            example = "http://mobius.example.com:5000" if context.platform == "mobius" else "https://mvi.example.com"
            raise Mistake(f'is missing; write the server\'s address, such as "{example}"', bare=True)
        try:
            server = endpoints.parse(text_of(value))
        except Mistake as mistake:
            if ("credentials", "endpoint") in context.places:
                raise
            raise Mistake(f"in the environment variable VAPI_BASE_URI {mistake.text}") from None
        if not server.encrypted and not server.loopback:
            seen = "pictures" if context.platform == "mobius" else "keys, passwords and pictures"
            context.warn(
                ("credentials", "endpoint"),
                f"the connection is not encrypted: {seen} can be read on the way; use https://",
            )
        return server.url

    @field_validator("port", mode="before")
    @classmethod
    def _number_or_digits(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            if not (value.isascii() and value.isdigit() and len(value) <= 5):  # noqa: PLR2004 - 65535
                raise Mistake("is not a port; write a whole number from 1 to 65535")
            value = int(value)
        if isinstance(value, bool) or (value is not None and not isinstance(value, int)):
            raise Mistake("is not a port; write a whole number from 1 to 65535")
        written = endpoints.parse(info.data["endpoint"]).port if info.data.get("endpoint") else None
        if value is not None and written is not None and value != written:
            raise Mistake(f"contradicts the port {written} in endpoint; keep one of the two")
        return value

    @field_validator("username", mode="before")
    @classmethod
    def _resolve_username(cls, value: object, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        context = context_of(info)
        literal = context.literal_secret
        name = secret.resolve(value, context, ("credentials", "username"))
        context.literal_secret = literal  # a user name is none
        return None if info.data.get("api_key") else name

    @field_validator("password", mode="after")
    @classmethod
    def _complete(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        context = context_of(info)
        if not {"api_key", "username"} <= set(info.data):  # wrong in themselves: told already
            return value
        if info.data["api_key"]:
            if context.has_login:
                context.warn(("credentials", "api_key"), "is used; username and password beside it are ignored")
            return None
        if value and not info.data["username"]:
            raise Mistake("stands without a username; add the username, or use api_key alone", bare=True)
        if info.data["username"] and not value:
            raise Mistake("is missing beside username; add it, or use api_key alone", bare=True)
        return value

    @field_validator("ca_bundle", mode="before")
    @classmethod
    def _certificates(cls, value: object, info: ValidationInfo) -> Path | None:
        return None if value is None else locations.certificates(text_of(value), context_of(info))

    @field_validator("verify_tls", mode="after")
    @classmethod
    def _loud(cls, value: bool, info: ValidationInfo) -> bool:
        if not value:
            context_of(info).warn(
                ("credentials", "verify_tls"),
                "the server's certificate is not checked: anyone on the way can read and change everything; "
                "name its authority's certificate in ca_bundle instead",
            )
        return value

    @field_validator("proxy", mode="before")
    @classmethod
    def _proxy(cls, value: object, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        context = context_of(info)
        literal = context.literal_secret
        found = secret.resolve(value, context, ("credentials", "proxy"))
        if found == secret.UNREAD:
            return None
        proxy = endpoints.proxy(found)
        context.literal_secret = literal or (isinstance(value, str) and bool(password_in(proxy)))
        return proxy

    @model_validator(mode="after")
    def _join_port(self) -> Self:
        if self.endpoint and self.port and endpoints.parse(self.endpoint).port is None:
            self.__dict__["endpoint"] = endpoints.with_port(self.endpoint, self.port)  # frozen from here on
        return self
