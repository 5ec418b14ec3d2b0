"""What both servers need of the web: who may call them, uvicorn in a thread with bounds, forms, a log of requests.

Ours, as Starlette and uvicorn have no such thing: forms whose plain fields are bounded together, whose large files need
no copy, and that may not be cut short (its parser, python-multipart, is theirs); and an end for clients that go silent.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import resource
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import h11
import structlog
import uvicorn
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_log = structlog.stdlib.get_logger(__name__)
FAULT = "image_sync_server.fault"
TRANSPORT = "image_sync_server.transport"
"""Keys of the scope: the fault that hit the request, the connection that it came by."""
_KEEP_ALIVE = 75
_GRACE = 5
_BACKLOG = 256
_ACCEPTED = 16
"""Connections that are accepted in one go, before those that are too many can be closed."""
_OWN = frozenset({"none", "same-origin"})


class Unprotected(ValueError):  # noqa: N818 - it is a state of affairs, named as such
    """Other machines could reach the server, and it would let them all in."""


def is_local(host: str) -> bool:
    """Whether this name or address can only mean this machine.

    >>> is_local("localhost"), is_local("127.0.0.9"), is_local("::1"), is_local("127.0.0.1.evil.example")
    (True, True, True, False)
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refusal(header: Callable[[str], str | None]) -> str:
    """Why a server that asks for no password refuses a request with these headers; empty when it carries it out.

    Programs on this machine may call it, never a web page in its browser. ``Host`` must name this machine: a page whose
    own name was made to lead here (DNS rebinding) sends its name. ``Origin`` must be the server's own, which browsers
    send with what could change something. ``Sec-Fetch-Site`` must not tell of another page, which also covers plain
    pictures and links; another port of this machine is another page.

    Args:
        header: the value of a header, whose name is given in lower case; None when there is none.
    """
    host, origin = header("host") or "", header("origin")
    try:
        name = urlsplit(f"//{host}").hostname or ""
        page = host if origin is None else urlsplit(origin).netloc
    except ValueError:
        name = page = ""
    if not is_local(name):
        return f"This server answers to localhost only, not to {host[:80]!r}, as it asks for no password."
    if page != host or (header("sec-fetch-site") or "none") not in _OWN:
        return "This server asks for no password, so it takes no requests from other web pages."
    return ""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One request, written down when it is over."""

    method: str
    path: str
    """Without the context root and ``/api``."""
    at: float
    """Unix time when it came."""
    content_length: int | None
    status: int | None
    """None when the connection ended without an answer."""
    seconds: float
    fault: str = ""
    """The kind, or else the action, of the fault that hit it when it came in."""


class AccessLog:
    """The last requests, newest last; safe to look at while the server works, as copying a deque is one step."""

    def __init__(self, keep: int) -> None:
        self._entries: deque[LogEntry] = deque(maxlen=keep)
        self.write, self.clear = self._entries.append, self._entries.clear

    def __iter__(self) -> Iterator[LogEntry]:
        return iter(self._entries.copy())

    def __len__(self) -> int:
        return len(self._entries)

    def matching(self, method: str, ending: str) -> list[LogEntry]:
        """Entries of this method whose path ends so."""
        return [entry for entry in self if entry.method == method and entry.path.endswith(ending)]


class AccessLogMiddleware:
    """Writes the access log: how each request ended, before the client can know that it did."""

    def __init__(self, app: ASGIApp, log: AccessLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        at, begun, status, written = time.time(), time.perf_counter(), None, False
        length = Headers(scope=scope).get("content-length", "")
        scope[FAULT] = ""

        def write() -> None:
            nonlocal written
            if not written:
                written = True
                seconds, known = time.perf_counter() - begun, int(length) if length.isdigit() else None
                self._log.write(LogEntry(scope["method"], scope["path"], at, known, status, seconds, scope[FAULT]))

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False):
                write()
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            write()


_IN_MEMORY = 256 * 1024
_CHUNK = 512 * 1024


@dataclass(slots=True)
class Part:
    """A file of a form: small ones in memory, large ones on disk at ``path``."""

    name: str
    filename: str | None
    data: bytearray = field(default_factory=bytearray)
    path: Path | None = None
    size: int = 0

    def open(self) -> BinaryIO:
        """The content as a file; close it."""
        return io.BytesIO(self.data) if self.path is None else self.path.open("rb")

    def read(self, most: int = -1) -> bytes:
        """The first bytes, or all."""
        if self.path is None:
            return bytes(self.data if most < 0 else self.data[:most])
        with self.path.open("rb") as file:
            return file.read(most)

    def move(self, target: Path) -> None:
        """Put the content there; one that lies on disk must be on the same file system."""
        if self.path is None:
            target.write_bytes(self.data)
        else:
            self.path.replace(target)
            self.path = None


@dataclass(slots=True)
class Form:
    """A form: its files in order, and the first value of each plain field.

    IBM's tools send plain fields with a file name too, so only the part's name tells what is a file.
    """

    files: list[Part] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    def discard(self) -> None:
        for part in self.files:
            if part.path is not None:
                with suppress(OSError):
                    part.path.unlink()


@dataclass(frozen=True, slots=True)
class FormLimits:
    """What a form may hold.

    Attributes:
        file: the name of the parts that are files.
        parts: parts of one form.
        fields: bytes of all plain fields together.
        memory: bytes of files that are kept in memory.
        scratch: gives a fresh path for a part that is too large for memory.
    """

    file: str
    parts: int
    fields: int
    memory: int
    scratch: Callable[[], Path]


class _FormReader:
    """Reads one form as its bytes come in; never more than one file is open."""

    def __init__(self, boundary: bytes, limits: FormLimits) -> None:
        self.form = Form()
        self.ended = False
        self._limits = limits
        self._part = Part("", None)
        self._sink: BinaryIO | None = None
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._parts = self._held = self._told = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._finish,
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise HTTPException(400, "The multipart body is damaged.") from error

    def abandon(self) -> None:
        """Throw away what was read."""
        if self._sink is not None:
            self._sink.close()
        Form([self._part, *self.form.files]).discard()

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._limits.parts:
            raise HTTPException(413, f"The form has more than {self._limits.parts} parts. Send fewer files at once.")
        self._disposition = b""

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise HTTPException(400, "A part of the form has no name.")
        filename = options.get(b"filename")
        self._part = Part(_decoded(options[b"name"]), None if filename is None else _decoded(filename))

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        part.size += end - start
        if part.name != self._limits.file:
            self._told += end - start
            if self._told > self._limits.fields:
                fault = f"The form's plain fields have more than {self._limits.fields} bytes, up to {part.name[:40]!r}."
                raise HTTPException(413, fault)
        elif part.path is None and (part.size > _IN_MEMORY or self._held + part.size > self._limits.memory):
            part.path = self._limits.scratch()
            self._sink = part.path.open("xb")
            self._sink.write(part.data)
            part.data.clear()
        if self._sink is not None:
            self._sink.write(memoryview(data)[start:end])
        else:
            part.data += data[start:end]

    def _finish(self) -> None:
        part = self._part
        if self._sink is not None:
            self._sink.close()
            self._sink = None
        if part.name == self._limits.file:
            self._held += len(part.data)
            self.form.files.append(part)
        else:
            self.form.fields.setdefault(part.name, _decoded(bytes(part.data)))

    def _end(self) -> None:
        self.ended = True


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


async def read_form(content_type: str, body: AsyncIterator[bytes], limits: FormLimits) -> Form:
    """The form in a request's body; call ``discard`` when done with it.

    Raises:
        HTTPException: 400 when it is no multipart form or damaged, 413 when it is too large.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise HTTPException(400, f"This call takes multipart/form-data with parts named {limits.file}.")
    reader = _FormReader(options[b"boundary"], limits)
    pending: list[bytes] = []
    size = 0
    try:
        async for chunk in body:
            pending.append(chunk)
            size += len(chunk)
            if size >= _CHUNK:
                await run_in_threadpool(reader.write, b"".join(pending))
                pending, size = [], 0
        await run_in_threadpool(reader.write, b"".join(pending))
        if not reader.ended:
            raise HTTPException(400, "The multipart body is cut short.")  # noqa: TRY301 - as what the parser says
    except BaseException:
        reader.abandon()
        raise
    return reader.form


_CLAIMS = {h11.IDLE: 0, h11.SEND_BODY: 1}


class _Protocol(H11Protocol):
    """HTTP of a client that may be slow, silent or one of many.

    A connection that keeps the server waiting, for headers or for more of a body, is closed after a while; when there
    are too many, the one that has been silent for the longest time makes room. The application can cut the connection,
    which only faults do.
    """

    connections_kept: int
    silence: float  # both of this server: set in a class of its own

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.app
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope[TRANSPORT] = self.transport
            await app(scope, receive, send)

        self.app = with_transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._heard = self.loop.time()
        self._timer = self.loop.call_later(self.silence, self._look)
        others = [one for one in self.connections if isinstance(one, _Protocol) and not one.transport.is_closing()]
        if len(others) > _room(self.connections_kept):
            min(others, key=lambda one: one.claim).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # What comes while headers are awaited does not count: they must be whole in time.
        if not self.idle or self.timeout_keep_alive_task is not None:
            self._heard = self.loop.time()
        super().data_received(data)

    @property
    def claim(self) -> tuple[int, float]:
        """How much it may stay when there are too many: what is answered before what arrives before what waits."""
        return _CLAIMS.get(self.conn.their_state, 2), self._heard

    @property
    def idle(self) -> bool:
        """Whether no request is being read or answered."""
        return self.conn.their_state is h11.IDLE

    def _look(self) -> None:
        now = self.loop.time()
        kept_alive = self.timeout_keep_alive_task is not None  # uvicorn has a time limit for that
        waits = (self.idle and not kept_alive) or (self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused)
        if not waits:
            self._heard = max(self._heard, now - self.silence / 2)
        left = self._heard + self.silence - now
        if left <= 0:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(left, self._look)


def _room(connections: int) -> int:
    """How many connections this process can have, beside the files that it opens."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if files == resource.RLIM_INFINITY else min(connections, max(8, files // 2))


class HttpServer(uvicorn.Server):
    """An application on an address, served by a thread of this process; it ends as soon as all is answered.

    uvicorn itself looks ten times a second whether it shall end and whether all have gone: 0.2 seconds for every test.

    Args:
        name: of the thread, and of the server in the log.
        stopping: is set in the server's loop when it ends: whoever is slow on purpose gives up then.
        connections: open connections; beyond that the one that has been silent for the longest time is closed.
        silence: seconds until a connection is closed whose headers are not whole, or whose body does not go on.
    """

    def __init__(
        self, app: ASGIApp, name: str, stopping: asyncio.Event, *, connections: int = 500, silence: float = 20.0
    ) -> None:
        protocol = type("_LimitedProtocol", (_Protocol,), {"connections_kept": connections, "silence": silence})
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_ACCEPTED,
            timeout_keep_alive=_KEEP_ALIVE,
        )
        super().__init__(config)
        self._name = name
        self._stopping = stopping
        self._ready = threading.Event()
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def bind(self, host: str, port: int, *, lets_in: str = "") -> str:
        """Take an address; it, as a URL. Port 0 takes a free one. Clients that call now wait until it serves.

        Args:
            lets_in: why it lets everybody in, so that only this machine may reach it; empty when it does not.

        Raises:
            Unprotected: other machines could reach it, and it lets everybody in.
            OSError: the address cannot be had.
            RuntimeError: it was started before.
        """
        if self._listener is not None:
            raise RuntimeError("a server can be started once")
        listener = _listener(host, port)
        address, port = listener.getsockname()[:2]
        if lets_in and not is_local(address):
            listener.close()
            raise Unprotected(f"{host} can be reached from other machines, and {lets_in}")
        self._listener = listener
        return f"http://{f'[{address}]' if ':' in address else address}:{port}"

    def start(self) -> None:
        """Answer requests, in a thread. Raises RuntimeError when it ended before it listened."""
        self._thread = threading.Thread(
            target=self.run, kwargs={"sockets": [self._listener]}, name=self._name, daemon=True
        )
        self._thread.start()
        while not self._ready.wait(0.1):
            if not self._thread.is_alive():
                raise RuntimeError("the server's thread ended before it listened; the log says why")

    def stop(self) -> None:
        """End: no new requests, those under way get a few seconds; may be called twice."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._told.set)
        if self._thread is not None:
            self._thread.join(_GRACE + 10)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._tell)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # more may wait than are accepted in one go
        self._ready.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # which writes the date of the answers
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        open_now, tasks = self.server_state.connections, self.server_state.tasks
        for connection in list(open_now):
            connection.shutdown()
        clock = asyncio.get_running_loop().time
        deadline = clock() + _GRACE
        while (open_now or tasks) and clock() < deadline:
            if clock() > deadline - _GRACE / 5:  # for those that are in the middle of a request and do not go on
                for connection in list(open_now):
                    connection.transport.abort()
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()

    def _tell(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """One line for what asyncio would tell with a traceback, such as a process that is out of descriptors."""
        error = context.get("exception")
        _log.warning(
            f"{self._name.replace('-', '_')}.trouble", reason=str(context.get("message", "")), error=str(error or "")
        )


def _listener(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # A server that was just stopped must be able to have its port again.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
