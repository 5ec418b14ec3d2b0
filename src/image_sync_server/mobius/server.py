"""The emulator as a thing: start it, ask for its address, stop it."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog

from image_sync_server.mobius.calls import Call, Calls, Failure
from image_sync_server.mobius.faults import Fault, Faults
from image_sync_server.mobius.form import data_of
from image_sync_server.mobius.store import Store
from image_sync_server.mobius.tasks import Tasks
from image_sync_server.web import is_local, refusal

_log = structlog.stdlib.get_logger(__name__)

_LARGEST = 256 * 2**20
_CONNECTIONS = 100
_KEPT = 10_000
"""Requests that are remembered at least."""
_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_UNDONE: dict[str, tuple[int, Any]] = {
    "500-before": (500, b"Internal Server Error"),
    "429": (429, b"Too Many Requests"),
    "html": (502, _PAGE),
    "unknown-error": (200, Failure("unknown_error").body),
}


class Unprotected(ValueError):  # noqa: N818 - it is a state of affairs, named as such
    """Other machines could reach the emulator, which lets everybody in."""


class MobiusServer:
    """An emulator in threads of this process.

    Args:
        data: its folder; made if need be.
        fault_seed: makes the luck of the fault switches repeatable.
    """

    def __init__(self, data: Path, *, fault_seed: int | None = None) -> None:
        self.store = Store(data)
        self.tasks = Tasks(self.store)
        self.faults = Faults(fault_seed)
        self.requests: list[str] = []
        """``METHOD /path?query`` of those that came in whole, as they stood on the wire; the oldest go in time."""
        self.calls = Calls(self.store, self.tasks)
        self.stopping = threading.Event()
        self._http: _Http | None = None
        self._thread: threading.Thread | None = None
        self.url = ""

    def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; the address. Port 0 takes a free one.

        Raises:
            Unprotected: other machines could reach it. OSError: the address cannot be had.
        """
        if not is_local(host):
            raise Unprotected(f"{host} can be reached from other machines, and the emulator lets anybody in")
        self._http = (_Http6 if ":" in host else _Http)((host, port), _Handler)
        self._http.emulator = self
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self._http.server_address[1]}"
        self.tasks.start()
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="mobius-server", daemon=True
        )
        self._thread.start()
        _log.info("mobius_server.started", url=self.url)
        return self.url

    def note(self, request: str) -> None:
        """Remember a request."""
        self.requests.append(request)
        if len(self.requests) > 2 * _KEPT:
            del self.requests[:_KEPT]

    def stop(self) -> None:
        """End."""
        self.stopping.set()
        if self._http is not None and self._thread is not None:
            self._http.shutdown()
            self._thread.join()
            self._http.server_close()
        self.tasks.stop()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    emulator: MobiusServer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.Lock()
        self._idle: dict[socket.socket, float] = {}
        self._open = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread for a connection; when there are too many, the oldest whose request is not whole is closed."""
        self.busy(request, busy=False)
        with self._lock:
            self._open += 1
            oldest = min(self._idle, key=self._idle.__getitem__) if self._open > _CONNECTIONS else None
        if oldest is not None:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)  # its thread wakes, and ends it
        super().process_request(request, client_address)

    def busy(self, connection: socket.socket, *, busy: bool) -> None:
        """Note whether a connection is in a request."""
        with self._lock:
            self._idle.pop(connection, None)
            if not busy:
                self._idle[connection] = time.monotonic()

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._idle.pop(request, None)
            self._open -= 1
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went is no news."""


class _Http6(_Http):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 75
    server: _Http
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Any GET."""
        self._serve("GET")

    def do_POST(self) -> None:
        """Any POST."""
        self._serve("POST")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's signature
        """Requests are kept in ``requests`` instead."""

    def _serve(self, method: str) -> None:
        body = self._body()
        if body is None:
            return
        self.server.busy(self.connection, busy=True)
        try:
            self._answer(method, body)
        finally:
            self.server.busy(self.connection, busy=False)

    def _answer(self, method: str, body: bytes) -> None:
        emulator = self.server.emulator
        if refusal(self.headers.get):
            self._say(403, Failure("wrong_arguments_format").body)
            return
        emulator.note(f"{method} {self.path}")
        fault = emulator.faults.draw(f"{method} {self.path}")
        if fault is None:
            self._say(*self._carried_out(method, body))
        else:
            self._go_wrong(fault, method, body)

    def _go_wrong(self, fault: Fault, method: str, body: bytes) -> None:
        if fault.kind in _UNDONE:
            self._say(*_UNDONE[fault.kind], retry_after=fault.seconds)
            return
        if fault.kind in {"reset", "late"}:
            self._reset()
        if fault.kind == "reset" or (
            fault.kind in {"late", "slow"} and self.server.emulator.stopping.wait(fault.seconds)
        ):
            return
        if fault.kind == "twice":
            self._carried_out(method, body)
        status, answer = self._carried_out(method, body)
        match fault.kind:
            case "500-after":
                self._say(500, b"Internal Server Error")
            case "lost-answer":
                self._reset()
            case "truncated-json":
                raw = json.dumps(answer).encode() if isinstance(answer, dict) else bytes(answer)
                self._say(status, raw[: len(raw) // 2])
            case "slow" | "twice":
                self._say(status, answer)

    def _carried_out(self, method: str, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(self.path)
        try:
            handler, found = self.server.emulator.calls.find(method, parts.path)
            data = data_of(self.headers.get("Content-Type", ""), body) if body else None
            call = Call(tuple(unquote(one) for one in found), dict(parse_qsl(parts.query)), data)
            return 200, handler(call)
        except Failure as failure:
            return failure.http_status, failure.body
        except Exception as error:  # noqa: BLE001 - a mistake of ours is an answer too, never a hung client
            _log.exception("mobius_server.broke", path=self.path)
            return 500, {**Failure("unknown_error").body, "exception": type(error).__name__}

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _LARGEST:
            self.close_connection = True
            self._say(413, Failure("wrong_arguments_format").body)
            return None
        body = self.rfile.read(int(length))
        return body if len(body) == int(length) else None

    def _say(self, status: int, answer: Any, *, retry_after: float = 0.0) -> None:
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-tar" if raw[257:262] == b"ustar" else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self.send_header("Retry-After", f"{retry_after:g}")
        self.end_headers()
        self.wfile.write(raw)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it keeps the connection open, too
        self.connection.close()
