"""The server as a thing: start it, ask for its address, stop it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from image_sync_server.faults import Faults
from image_sync_server.mvi.app import build
from image_sync_server.mvi.auth import DAY, Credentials, Guard
from image_sync_server.mvi.jobs import Jobs
from image_sync_server.mvi.pictures import Limits
from image_sync_server.mvi.request import Server
from image_sync_server.mvi.store import Store
from image_sync_server.mvi.training_job import ModelCache
from image_sync_server.web import AccessLog, HttpServer

_log = structlog.stdlib.get_logger(__name__)


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
        self.requests = AccessLog(limits.journal)
        self.guard = Guard(self._store, credentials or Credentials(), token_life)
        cache = ModelCache(self._store)
        self._jobs = Jobs(self._store, cache, limits.points)
        self._server = Server(self._store, self.guard, self._jobs, cache, limits, self.faults)
        app = build(self._server, self.requests, guarded_by_address=self.guard.open)
        self._http = HttpServer(
            app, "mvi-server", self.faults.stopping, connections=limits.connections, silence=limits.silence
        )
        self.url = ""
        """``http://host:port``, without ``/api``; empty until it is started."""

    def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; the address. Port 0 takes a free one.

        Raises:
            Unprotected: other machines could reach it and it has no credentials.
            OSError: the address cannot be had.
            RuntimeError: it was started before.
        """
        self.url = self._http.bind(host, port, lets_in="no user or API key is set" if self.guard.open else "")
        self._jobs.start()
        self._http.serve()
        _log.info("mvi_server.started", url=self.url, data=str(self._store.folder))
        return self.url

    def stop(self) -> None:
        """End: no new requests, those under way get a few seconds, trainings stop; may be called twice."""
        self._jobs.stop()
        self._http.stop()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
