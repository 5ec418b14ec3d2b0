"""The server as a thing: start it, ask for its address, stop it."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h11
import structlog
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from image_sync_server.mvi.app import build
from image_sync_server.mvi.auth import DAY, Credentials, Guard
from image_sync_server.mvi.call import Site
from image_sync_server.mvi.faults import Faults
from image_sync_server.mvi.jobs import Jobs
from image_sync_server.mvi.journal import Journal
from image_sync_server.mvi.limits import Limits
from image_sync_server.mvi.mischief import TRANSPORT
from image_sync_server.mvi.shelf import Shelf
from image_sync_server.mvi.store import Store
from image_sync_server.web import is_local

_log = structlog.stdlib.get_logger(__name__)
_KEEP_ALIVE = 75
_GRACE = 5
_BACKLOG = 256
_ACCEPTED = 16
"""Connections that are accepted in one go, before those that are too many can be closed."""


class Unprotected(ValueError):  # noqa: N818 - it is a state of affairs, named as such
    """Other machines could reach the server, and it would let them all in."""


_CLAIMS = {h11.IDLE: 0, h11.SEND_BODY: 1}


class _Protocol(H11Protocol):
    """HTTP of a client that may be slow, silent or one of many.

    A connection that keeps the server waiting, for headers or for more of a body, is closed after a while; when there
    are too many, the one that has been silent for the longest time makes room. The application can cut the connection,
    which only the fault switches do.
    """

    limits: Limits  # of this server: set in a class of its own

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
        self._timer = self.loop.call_later(self.limits.silence, self._look)
        others = [one for one in self.connections if isinstance(one, _Protocol) and not one.transport.is_closing()]
        if len(others) > _room(self.limits):
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
            self._heard = max(self._heard, now - self.limits.silence / 2)
        left = self._heard + self.limits.silence - now
        if left <= 0:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(left, self._look)


def _room(limits: Limits) -> int:
    """How many connections this process can have, beside the files that it opens."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limits.connections if files == resource.RLIM_INFINITY else min(limits.connections, max(8, files // 2))


class MviServer:
    """An MVI-compatible server in threads of this process.

    Args:
        data: its folder; made if need be. What was stored there before is served again.
        credentials: who is let in; by default everybody on this machine.
        limits: how much it takes.
        token_life: seconds a session token is good for.
        fault_seed: makes the luck of the fault switches repeatable.

    Raises:
        StoreInUse: another server works on the folder.
        OSError, sqlite3.DatabaseError: the folder cannot be used.
    """

    def __init__(
        self,
        data: Path,
        *,
        credentials: Credentials | None = None,
        limits: Limits | None = None,
        token_life: float = DAY,
        fault_seed: int | None = None,
    ) -> None:
        limits = limits or Limits()
        self._store = Store(data)
        self.faults = Faults(fault_seed)
        self.requests = Journal(limits.journal)
        self.guard = Guard(self._store, credentials or Credentials(), token_life)
        shelf = Shelf(self._store)
        self._jobs = Jobs(self._store, shelf, limits)
        self._site = Site(self._store, self.guard, self._jobs, shelf, limits, self.faults)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self.url = ""
        """``http://host:port``, without ``/api``; empty until it is started."""

    def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; the address. Port 0 takes a free one.

        Raises:
            Unprotected: other machines could reach it and it has no credentials.
            OSError: the address cannot be had.
            RuntimeError: it was started before.
        """
        if self._server is not None:
            raise RuntimeError("a server can be started once")
        listener = _listener(host, port)
        address, port = listener.getsockname()[:2]
        if self.guard.open and not is_local(address):
            listener.close()
            raise Unprotected(f"{host} can be reached from other machines, and no user or API key is set")
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        app = build(self._site, self.requests, guarded_by_address=self.guard.open)
        config = uvicorn.Config(
            app,
            http=type("_LimitedProtocol", (_Protocol,), {"limits": self._site.limits}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_ACCEPTED,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
        self._server = _Server(config, self.faults, self._ready)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="mvi-server", daemon=True
        )
        self._jobs.start()
        self._thread.start()
        while not self._ready.wait(0.1):
            if not self._thread.is_alive():
                raise RuntimeError("the server's thread ended before it listened; the log says why")
        _log.info("mvi_server.started", url=self.url, data=str(self._store.folder))
        return self.url

    def stop(self) -> None:
        """End: no new requests, those under way get a few seconds, trainings stop; may be called twice."""
        self._jobs.stop()
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_GRACE + 10)
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Server(uvicorn.Server):
    """Tells when it listens, and wakes whoever is slow on purpose when it ends."""

    def __init__(self, config: uvicorn.Config, faults: Faults, ready: threading.Event) -> None:
        super().__init__(config)
        self._faults = faults
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_tell)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # more may wait than are accepted in one go
        self._ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._faults.stopping.set()
        # Before uvicorn would break the requests off, which it reports with tracebacks.
        last_call = asyncio.get_running_loop().call_later(_GRACE * 0.8, self._hang_up)
        await super().shutdown(sockets)
        last_call.cancel()

    def _hang_up(self) -> None:
        """End the connections of those that are in the middle of a request and do not go on."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _tell(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """One line for what asyncio would tell with a traceback each time, such as a process that is out of descriptors."""
    error = context.get("exception")
    _log.warning("mvi_server.trouble", reason=str(context.get("message", "")), error=str(error or ""))


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
