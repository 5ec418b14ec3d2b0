"""AWS on a free port: moto for S3, STS and IAM, a SageMaker of our own because moto's is wrong, switches for faults."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import botocore.session
import pytest
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends

from image_sync.config.sagemaker import SageMaker
from image_sync.platforms.sagemaker.platform import SageMakerPlatform
from support.sagemaker_jobs import ACCOUNT, Control, Fault, Store

BUCKET = "acme-vision"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/image-sync-training"
REGION = "us-east-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"


def as_somebody(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with these credentials, and nothing else of AWS's: no profile, region or address."""
    return {**{name: value for name, value in environ.items() if not name.startswith("AWS_")}, **CREDENTIALS}


_create_loader = functools.cache(botocore.session.create_loader)


@contextlib.contextmanager
def somebody() -> Iterator[None]:
    """The process has these credentials, and reads botocore's descriptions of services once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", _create_loader)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield


@dataclass
class Mishap:
    """What happens to the next request whose label matches: ``PUT /bucket/key?query`` or ``CreateTrainingJob``."""

    label: re.Pattern[str]
    kind: str
    """``lose``: it is carried out, and the connection ends. ``refuse``: try later. ``drop``: not even that.
    ``kill``: the program is killed before it is carried out; ``kill after``: afterwards, before it is answered."""
    times: int = 1


class Aws:
    """The whole of it."""

    def __init__(self) -> None:
        self.faults: list[Mishap] = []
        self.weather: tuple[float, random.Random] | None = None
        """How likely something goes wrong with any request, and the dice."""
        self.quotas: dict[str, float] = {}
        """What Service Quotas tells: name and value."""
        self.kill: Callable[[], object] = lambda: None
        """Kills the program."""
        self.seen: list[str] = []
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.control = Control(Store(self._read, self._write, self._keys))
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.aws = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wsgi("POST", "/moto-api/reset", {}, b"")
        self.backend.create_bucket(BUCKET, REGION)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def backend(self) -> Any:
        """Moto's S3."""
        return s3_backends[ACCOUNT]["aws"]

    def happen(self, kind: str, label: str, times: int = 1) -> None:
        """Something goes wrong with the next requests of this label."""
        with self._lock:
            self.faults.append(Mishap(re.compile(label), kind, times))

    def mishap(self, label: str) -> str:
        """What happens to this request."""
        with self._lock:
            self.seen.append(label)
            for one in self.faults:
                if one.times and one.label.search(label):
                    one.times -= 1
                    return one.kind
            if self.weather is not None and self.weather[1].random() < self.weather[0]:
                return self.weather[1].choice(["lose", "refuse", "drop"])
        return ""

    def listed(self, prefix: str = "") -> list[str]:
        """The keys in the bucket that begin so."""
        return sorted(key for key in self.backend.buckets[BUCKET].keys if key.startswith(prefix))

    def content(self, key: str) -> bytes:
        """What lies under a key."""
        found = self._read(f"s3://{BUCKET}/{key}")
        assert found is not None, key
        return found

    def section(self, **changes: Any) -> dict[str, Any]:
        """The section ``sagemaker`` of a configuration that points here."""
        base = {"region": REGION, "role": ROLE, "bucket": BUCKET, "endpoint_url": self.url}
        return {**base, **changes}

    def platform(self, stop: threading.Event | None = None, **changes: Any) -> SageMakerPlatform:
        """A platform on it, impatient with endpoints."""
        platform = SageMakerPlatform(
            SageMaker.model_validate(self.section(**changes)), stop=stop or threading.Event(), timeout=20
        )
        platform.endpoints.poll = 0.01
        return platform

    def make_role(self) -> None:
        """Make the role, which SageMaker may take."""
        trust = json.dumps({"Statement": [{"Principal": {"Service": "sagemaker.amazonaws.com"}}]})
        iam_backends[ACCOUNT]["aws"].create_role(ROLE.rpartition("/")[2], trust, "/", None, "", [], "3600")

    def wsgi(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[str, list[Any], bytes]:
        """Moto's answer."""
        parts = urlsplit(target)
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(parts.path, "latin-1"),
            "RAW_URI": target,
            "REQUEST_URI": target,
            "QUERY_STRING": parts.query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self._server.server_address[1]),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in headers.items():
            key = name.upper().replace("-", "_")
            environ[key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"] = value
        told: list[Any] = []
        with contextlib.closing(self._moto(environ, lambda status, heads, _=None: told.extend([status, heads]))) as app:
            answer = b"".join(app)
        return told[0], told[1], answer

    def _read(self, uri: str) -> bytes | None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        found = self.backend.buckets[bucket].keys.get(key)
        return None if found is None else bytes(found.value)

    def _write(self, uri: str, content: bytes) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.backend.put_object(bucket, key, content)

    def _keys(self, uri: str) -> list[str]:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        return sorted(
            f"s3://{bucket}/{key}" for key in list(self.backend.buckets[bucket].keys) if key.startswith(prefix)
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    aws: Aws

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, *_: object) -> None:
        """Tests print enough."""

    def handle_expect_100(self) -> bool:
        """Say "go on" at once: the client waits a second for it."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def handle_any(self) -> None:
        """One request."""
        aws = self.server.aws
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        operation = self.headers.get("X-Amz-Target", "").removeprefix("SageMaker.").removeprefix("Logs_20140328.")
        invoked = re.fullmatch(r"/endpoints/([^/]+)/invocations", self.path)
        label = operation or ("InvokeEndpoint" if invoked else f"{self.command} {unquote(self.path)}")
        kind = aws.mishap(label)
        if kind == "kill":
            aws.kill()
        if kind in {"drop", "kill"}:
            self._hang_up()
            return
        if kind == "refuse":
            wait = {"Retry-After": "1"}
            if operation or invoked:
                self._say(400, b'{"__type":"ThrottlingException","message":"Rate exceeded"}', wait)
            else:
                self._say(503, _SLOW_DOWN, wait)
            return
        if operation.startswith("ServiceQuotas"):
            rows = [{"QuotaName": name, "Value": value} for name, value in aws.quotas.items()]
            answer = 200, json.dumps({"Quotas": rows}).encode(), {"Content-Type": "application/x-amz-json-1.1"}
        elif operation:
            answer = self._control(aws.control, operation, body)
        elif invoked:
            answer = self._runtime(aws.control, invoked[1], body)
        else:
            status, headers, content = aws.wsgi(self.command, self.path, dict(self.headers.items()), body)
            answer = int(status.split()[0]), content, {name: value for name, value in headers}  # noqa: C416
        if kind == "kill after":
            aws.kill()
        if kind in {"lose", "kill after"}:
            self._hang_up()
        else:
            self._say(*answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 - the names that the base class calls

    @staticmethod
    def _control(control: Control, operation: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        kind = {"Content-Type": "application/x-amz-json-1.1"}
        try:
            return 200, json.dumps(control.call(operation, json.loads(body or b"{}"))).encode(), kind
        except Fault as fault:
            return fault.status, json.dumps({"__type": fault.code, "Message": fault.message}).encode(), kind

    @staticmethod
    def _runtime(control: Control, name: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        try:
            answer = control.invoke(name, body)
        except Fault as fault:
            if fault.code == "ModelError":
                told = {"OriginalStatusCode": fault.status, "OriginalMessage": fault.message, "Message": "model error"}
                return 424, json.dumps(told).encode(), {"x-amzn-errortype": "ModelError"}
            return 400, json.dumps({"Message": fault.message}).encode(), {"x-amzn-errortype": fault.code}
        return 200, answer, {"Content-Type": "application/json", "x-Amzn-Invoked-Production-Variant": "AllTraffic"}

    def _say(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "connection", "transfer-encoding"}:
                self.send_header(name, value)
        if self.command == "HEAD":
            length = next((value for name, value in headers.items() if name.lower() == "content-length"), "0")
            self.send_header("Content-Length", length)
            self.end_headers()
        else:
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
