"""The emulator as a thing: start it, ask for its address, stop it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from image_sync_server.fault_middleware import FaultMiddleware
from image_sync_server.faults import Fault
from image_sync_server.mobius.api import Api, Call, Failure
from image_sync_server.mobius.fault_presets import Faults
from image_sync_server.mobius.store import Store
from image_sync_server.mobius.tasks import Tasks
from image_sync_server.web import FormLimits, HttpServer, read_form, refusal

_log = structlog.stdlib.get_logger(__name__)
_LARGEST = 256 * 2**20
_CONNECTIONS = 100
_KEPT = 10_000
"""Requests that are remembered at least."""
_FORM = FormLimits("data", parts=1000, fields=16 * 2**20)
_ANYBODY = "the emulator lets anybody in"


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
        self.routes = [
            Route(path, _endpoint(handler), methods=[method])
            for method, path, handler in Api(self.store, self.tasks).calls
        ]
        faults = Middleware(
            FaultMiddleware,
            pick=self._fault,
            pauses=self.faults,
            failure=lambda status, _text, headers: PlainTextResponse("Internal Server Error", status, headers),
            soft_failure=lambda _text: _rendered(Failure("unknown_error").body),
        )
        app = Starlette(
            routes=self.routes,
            exception_handlers={HTTPException: _told},
            middleware=[Middleware(_Entrance, note=self._note), faults],
        )
        app.router.redirect_slashes = False
        self._http = HttpServer(app, "mobius-server", self.faults.stopping, connections=_CONNECTIONS)
        self.url = ""

    def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; the address. Port 0 takes a free one.

        Raises:
            Unprotected: other machines could reach it. OSError: the address cannot be had.
        """
        self.url = self._http.bind(host, port, lets_in=_ANYBODY)
        self.tasks.start()
        self._http.serve()
        _log.info("mobius_server.started", url=self.url)
        return self.url

    def stop(self) -> None:
        """End."""
        self._http.stop()
        self.tasks.stop()
        self.store.close()

    def _note(self, request: str) -> None:
        self.requests.append(request)
        if len(self.requests) > 2 * _KEPT:
            del self.requests[:_KEPT]

    def _fault(self, scope: Scope) -> Fault | None:
        fault = self.faults.pick(_line(scope))
        return None if fault is None else fault.wire

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _line(scope: Scope) -> str:
    """``METHOD /path?query`` as it stood on the wire."""
    query = scope["query_string"].decode("latin-1")
    return f"{scope['method']} {scope['path']}{'?' * bool(query)}{query}"


class _Entrance:
    """Turns web pages away and reads bodies whole; paths stay as they stood on the wire, as a tag may hold a slash."""

    def __init__(self, app: ASGIApp, note: Callable[[str], None]) -> None:
        self._app = app
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"] = scope["raw_path"].decode("latin-1")
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > _LARGEST:
                await _rendered(Failure("wrong_arguments_format").body, 413)(scope, receive, send)
                return
        if refusal(Headers(scope=scope).get):
            await _rendered(Failure("wrong_arguments_format").body, 403)(scope, receive, send)
            return
        self._note(_line(scope))
        given = False

        async def whole() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, whole, send)


def _endpoint(handler: Callable[[Call], Any]) -> Callable[[Request], Any]:
    """What Starlette calls for a handler: failures of ours are answers too, never a hung client."""

    async def endpoint(request: Request) -> Response:
        try:
            parts = tuple(unquote(part) for part in request.path_params.values())
            call = Call(parts, request.query_params, await _data(request))
            return _rendered(await run_in_threadpool(handler, call))
        except Failure:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            _log.exception("mobius_server.broke", path=request.scope["path"])
            return _rendered({**Failure("unknown_error").body, "exception": type(error).__name__}, 500)

    return endpoint


async def _data(request: Request) -> bytes | None:
    """The form's part ``data``, if there is one."""
    try:
        form = await read_form(request.headers.get("content-type", ""), request.stream(), _FORM)
    except HTTPException:
        return None
    return form.files[0].read() if form.files else None


async def _told(_request: Request, error: Exception) -> Response:
    """A failure in the vendor's words; Starlette's own say that there is no such address or method."""
    failure = error if isinstance(error, Failure) else Failure("wrong_arguments_format")
    return _rendered(failure.body, getattr(error, "status_code", 500))


def _rendered(answer: Any, status: int = 200) -> Response:
    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return Response(raw, status, media_type="application/x-tar" if raw[257:262] == b"ustar" else "application/json")
