"""How AWS is called: the only home of boto3, which is imported when the first call is made.

boto3's own retries are off: it would repeat a request whose answer was lost, and nobody would know.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from image_sync import __version__
from image_sync.config.sagemaker import SageMaker
from image_sync.errors import ConfigError, Refused, Transient, Unauthorised
from image_sync.platforms.sagemaker.outcomes import Said, error_of, lost, sanitize, seconds_of, unsent

T = TypeVar("T")

MISSING = "AWS SageMaker needs boto3, which is not installed"
INSTALL = "Run: pip install 'image-sync[sagemaker]'"
_CONNECTIONS = 40
_LARGEST_BODY = 64 * 2**20
"""Bytes of what is read at once: documents of ours, answers of models, pictures."""
_RUNTIME_READ = 70.0
"""Seconds: a model must answer within 60."""
_NAMES = {"runtime": "sagemaker-runtime", "servicequotas": "service-quotas"}
_TRANSIENT_STATUS = 500


def installed() -> bool:
    """Whether boto3 can be imported; does not import it."""
    return importlib.util.find_spec("boto3") is not None


class Calls:
    """Makes calls. Nothing is imported, and nobody asked for credentials, before the first of them.

    Args:
        setup: region, profile, bucket, addresses.
        timeout: seconds for a connection and for each answer.
        alive: called for each request.

    Raises:
        ConfigError: boto3 is not installed.
    """

    def __init__(self, setup: SageMaker, *, timeout: float = 60.0, alive: Callable[[], None] = lambda: None) -> None:
        if not installed():
            raise ConfigError(MISSING, hint=INSTALL)
        self._setup = setup
        self._timeout = timeout
        self.alive = alive
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self.bucket = setup.bucket

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def client(self, service: str) -> Any:
        """The boto3 client of a service: ``s3``, ``sagemaker``, ``runtime``, ``sts``, ``iam``,
        ``servicequotas``, ``logs``."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._made(service)
            return self._clients[service]

    def _made(self, service: str) -> Any:
        # boto3 is an extra, and slow to import: only when it is used.
        for name in ("boto3", "botocore"):
            logging.getLogger(name).setLevel(logging.WARNING)  # below that they tell every header, tokens included
        import boto3
        import botocore.exceptions
        from botocore.config import Config

        try:
            if self._session is None:
                self._session = boto3.Session(profile_name=self._setup.profile, region_name=self._setup.region)
            return self._session.client(
                _NAMES.get(service, service),
                endpoint_url=self._setup.endpoint_url.get(service),
                config=Config(
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    connect_timeout=min(10.0, self._timeout),
                    read_timeout=max(self._timeout, _RUNTIME_READ) if service == "runtime" else self._timeout,
                    max_pool_connections=_CONNECTIONS,
                    user_agent_extra=f"image-sync/{__version__}",
                ),
            )
        except botocore.exceptions.BotoCoreError as error:
            hint = "Check sagemaker.profile and sagemaker.region, and AWS's own configuration files"
            raise Unauthorised(f"AWS cannot be used: {sanitize(error)}", hint=hint) from error

    def _pages(self, service: str, operation: str, what: str, arguments: Mapping[str, Any]) -> Iterator[Any]:
        client = self.client(service)
        pages = iter(client.get_paginator(operation).paginate(**arguments))
        while (page := self._guarded(what, lambda: next(pages, None))) is not None:
            self.alive()
            yield page

    def _call(self, service: str, operation: str, what: str, *, repeatable: bool = True, **arguments: Any) -> Any:
        self.alive()
        method = getattr(self.client(service), operation)
        return self._guarded(what, lambda: method(**arguments), repeatable=repeatable)

    def _body(self, what: str, answer: Mapping[str, Any]) -> bytes:
        """The whole of a small body. Raises Transient when it is none."""
        body: bytes = self._guarded(what, lambda: answer["Body"].read(_LARGEST_BODY + 1))
        if len(body) > _LARGEST_BODY:
            answer["Body"].close()
            raise Transient(
                f"{what}: it is longer than {_LARGEST_BODY} bytes",
                hint="image-sync never writes an object that large; another program did",
            )
        return body

    @staticmethod
    def _guarded(what: str, call: Callable[[], T], *, repeatable: bool = True) -> T:
        """The call's result, or the one of our errors that says what is proved."""
        from botocore import exceptions as boto
        from botocore.parsers import ResponseParserError

        try:
            return call()
        except boto.ClientError as error:
            raise error_of(what, _said(error.response), repeatable=repeatable) from error
        except (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.CredentialRetrievalError,
            boto.TokenRetrievalError,
            boto.SSOError,
            boto.InvalidConfigError,
            boto.ProfileNotFound,
        ) as error:
            hint = "Log in (`aws sso login`, `aws configure`), set sagemaker.profile, or give this machine a role"
            raise Unauthorised(f"{what}: {sanitize(error)}", hint=hint) from error
        except boto.SSLError as error:  # mostly a certificate, but it may have been the end of a connection that stood
            raise (unsent(what, error) if repeatable else lost(what, error, repeatable=False)) from error
        except (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError) as error:
            raise unsent(what, error) from error
        except (
            boto.HTTPClientError,
            boto.IncompleteReadError,
            boto.ChecksumError,
            boto.FlexibleChecksumError,
            ResponseParserError,
        ) as error:
            raise lost(what, error, repeatable=repeatable) from error
        except boto.BotoCoreError as error:  # the request could not be made: names, values, regions
            raise Refused(f"{what}: {sanitize(error)}") from error


def _said(response: Mapping[str, Any]) -> Said:
    error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, message, status = (
        str(error.get("Code", "")),
        str(error.get("Message", "")),
        int(meta.get("HTTPStatusCode", 0)),
    )
    if code == "ModelError":
        # The container's own answer counts: a picture that it cannot read is refused, its trouble is passing.
        own = int(response.get("OriginalStatusCode") or _TRANSIENT_STATUS)
        return Said(code, str(response.get("OriginalMessage") or message), own)
    return Said(code, message, status, seconds_of(meta.get("HTTPHeaders", {}).get("retry-after")))
