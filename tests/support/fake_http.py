"""A small real HTTP server on loopback that answers by a script, breaks off where told, and notes what it got."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Reply:
    """One answer, and how it goes wrong.

    ``trouble``: "" none; "reset_early" before anything is read; "reset_headers" after the headers; "reset_in_body"
    after these and a part of the body; "reset" after the whole request; "close" the same, but politely; "cut" in the
    middle of the answer's body; "cut_headers" in the middle of its headers; "hang" no answer until the server stops.
    ``drip``: seconds between two bytes. ``pause``: seconds before the answer. ``last``: close the connection
    afterwards, unannounced.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()
    trouble: str = ""
    drip: float = 0.0
    pause: float = 0.0
    last: bool = False
    repeat_body: int = 1


@dataclass(frozen=True)
class Part:
    """One part of a form."""

    name: str
    filename: str | None
    content_type: str | None
    content: bytes


@dataclass(frozen=True)
class Request:
    """What arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    complete: bool
    connection: int

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def json(self) -> Any:
        return json.loads(self.body)

    def parts(self) -> list[Part]:
        """The parts of a form."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + self.body)
        return [
            Part(
                str(part.get_param("name", header="content-disposition")),
                part.get_filename(),
                part.get_content_type() if part["content-type"] else None,
                part.get_payload(decode=True),  # type: ignore[arg-type]
            )
            for part in message.iter_parts()
        ]


def ok(body: Any = None, **more: Any) -> Reply:
    """A JSON answer with status 200."""
    return answer(200, {"result": "success"} if body is None else body, **more)


def answer(status: int, body: Any, **more: Any) -> Reply:
    """A JSON answer."""
    return Reply(status, json.dumps(body).encode(), (("Content-Type", "application/json"),), **more)


Script = Callable[[Request], Reply]
_EARLY = {"reset_headers", "reset_in_body"}


@dataclass
class FakeHttp:
    """The server. Answers come from ``queue``, one a request, then from ``script``.

    Args:
        tls: serve https with it.
        early: for a method and path, the trouble that strikes before the body is read: "reset_headers" or
            "reset_in_body".
        dropping: take new connections and reset them at once.
    """

    script: Script = field(default=lambda _request: ok())
    tls: ssl.SSLContext | None = None
    queue: list[Reply] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    early: Callable[[str, str], str] = field(default=lambda _method, _path: "")
    dropping: bool = False

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._connections = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        with self._lock:
            open_sockets, self._open = self._open, set()
        for connection in open_sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(5)
        self._listener.close()

    def answers(self, *replies: Reply) -> None:
        """Queue answers for the next requests."""
        with self._lock:
            self.queue.extend(replies)

    def paths(self) -> list[str]:
        """``METHOD /path`` of every request."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self._connections += 1
            if self.dropping:
                _reset(connection)
                continue
            self._start(self._serve, connection, self._connections)

    def _serve(self, raw: socket.socket, number: int) -> None:
        raw.settimeout(20)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            if self._stop.is_set():  # too late to be shut down by whoever stops
                raw.close()
                return
            self._open.add(raw)
        try:
            with self.tls.wrap_socket(raw, server_side=True) if self.tls else raw as connection:
                reader = connection.makefile("rb")
                while not self._stop.is_set() and self._one(connection, reader, number):
                    pass
        except OSError:
            raw.close()
        finally:
            with self._lock:
                self._open.discard(raw)

    def _next(self) -> Reply | None:
        with self._lock:
            return self.queue.pop(0) if self.queue else None

    def _one(self, connection: socket.socket, reader: Any, number: int) -> bool:
        planned = self.queue[0].trouble if self.queue else ""
        if planned == "reset_early":
            self._next()
            connection.recv(1)
            _reset(connection)
            return False
        request, early = self._read(reader, number, planned)
        if request is None:
            return False
        with self._lock:
            self.requests.append(request)
        if early:
            if early == planned:
                self._next()
            _reset(connection)
            return False
        return request.complete and self._answer(connection, self._next() or self.script(request))

    def _read(self, reader: Any, number: int, planned: str) -> tuple[Request | None, str]:
        """The request, and the trouble that strikes before its body is read whole."""
        line = reader.readline().decode("latin-1").split()
        if len(line) < 2:
            return None, ""
        headers = {}
        while (raw := reader.readline()).strip():
            name, _, value = raw.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        early = planned if planned in _EARLY else self.early(line[0], urlsplit(line[1]).path)
        wanted = {"reset_headers": 0, "reset_in_body": length // 2}.get(early, length)
        body = b""
        try:
            while len(body) < wanted and (chunk := reader.read1(wanted - len(body))):
                body += chunk
        except OSError:
            pass
        return Request(line[0], line[1], headers, body, len(body) == length, number), early

    def _answer(self, connection: socket.socket, reply: Reply) -> bool:
        if reply.trouble == "reset":
            _reset(connection)
            return False
        if reply.trouble in {"hang", "close"}:
            self._stop.wait(30 if reply.trouble == "hang" else 0)
            return False
        self._stop.wait(reply.pause)
        for piece in _pieces(reply):
            connection.sendall(piece)
            if reply.drip and self._stop.wait(reply.drip):
                return False
        return not (reply.trouble or reply.last)


def _pieces(reply: Reply) -> Iterable[bytes]:
    lines = [f"HTTP/1.1 {reply.status} Whatever", *(f"{name}: {value}" for name, value in reply.headers)]
    if "content-length" not in {name.lower() for name, _ in reply.headers}:
        lines.append(f"Content-Length: {len(reply.body) * reply.repeat_body}")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    pieces = [head, *([reply.body] * reply.repeat_body)]
    if reply.trouble == "cut_headers":
        pieces = [head[: len(head) // 2]]
    elif reply.trouble == "cut":
        pieces = [head, reply.body[: len(reply.body) // 2]]
    return (bytes([byte]) for byte in b"".join(pieces)) if reply.drip else pieces


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def closed_port() -> int:
    """A port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
