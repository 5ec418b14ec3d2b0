"""The application: from the bytes of a request to a handler, and from what it returns to an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from image_sync_server.mvi import routes, texts
from image_sync_server.mvi.answers import Failure, rendered
from image_sync_server.mvi.auth import TOKEN
from image_sync_server.mvi.call import Call, Site
from image_sync_server.mvi.journal import Journal, JournalKeeper
from image_sync_server.mvi.mischief import Mischief
from image_sync_server.mvi.parts import Form, read_form
from image_sync_server.web import refusal

_log = structlog.stdlib.get_logger(__name__)


class _GoneError(Exception):
    """The client hung up in the middle of its request."""


def build(site: Site, journal: Journal, *, guarded_by_address: bool) -> ASGIApp:
    """The ASGI application of one server.

    Args:
        guarded_by_address: it has no credentials and relies on being reachable from this machine only; then requests
            that a web page in this machine's browser makes across sites are refused.
    """
    app: ASGIApp = _App(site, guarded_by_address=guarded_by_address)
    app = Mischief(app, site.faults, site.guard)
    return _Entrance(JournalKeeper(app, journal))


class _Entrance:
    """Takes HTTP only, and strips the context root."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = routes.inside(scope["path"])
            await self._app(scope, receive, send)


class _App:
    def __init__(self, site: Site, *, guarded_by_address: bool) -> None:
        self._site = site
        self._guarded_by_address = guarded_by_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except Failure as failure:
            response = failure.response()
        except _GoneError:
            return
        except Exception:  # noqa: BLE001 - a handler's mistake is an answer too, never a hung client
            _log.exception("request.broke", method=scope["method"], path=scope["path"])
            response = Failure(500, "The server failed at this. Its log says more.").response()
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        headers = Headers(scope=scope)
        if self._guarded_by_address and (reason := refusal(headers.get)):
            raise Failure(403, reason)
        secret = headers.get(TOKEN, "")
        user = self._site.guard.who(secret)
        route: routes.Route | None = None
        path: dict[str, str] = {}
        try:
            route, path = routes.find(scope["method"], scope["path"])
        except Failure:
            if user is not None:
                raise
        # A stranger learns nothing, not even which addresses exist.
        if user is None and (route is None or not route.public):
            raise Failure(401, "Failed to parse token.")
        if route is None:
            raise AssertionError("no route and no failure")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._site.limits.body:
            raise self._too_large()
        client = scope["client"][0] if scope.get("client") else ""
        query = QueryParams(scope["query_string"])
        body, form = None, Form()
        try:
            if route.takes_form:
                content_type = headers.get("content-type", "")
                form = await read_form(content_type, self._body(receive), self._site.store, self._site.limits)
            else:
                body = await self._json(receive)
            call = Call(
                self._site,
                user or "",
                path,
                query,
                body,
                form,
                client,
                f"{scope['scheme']}://{headers.get('host', '')}",
            )
            return await run_in_threadpool(_run, route, call)
        finally:
            form.discard()

    def _too_large(self) -> Failure:
        return Failure(413, f"The request is too large; at most {self._site.limits.body} bytes are taken.")

    async def _body(self, receive: Receive) -> AsyncIterator[bytes]:
        seen = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            chunk = message.get("body", b"")
            seen += len(chunk)
            if seen > self._site.limits.body:
                raise self._too_large()
            yield chunk
            if not message.get("more_body", False):
                return

    async def _json(self, receive: Receive) -> Any:
        raw = bytearray()
        async for chunk in self._body(receive):
            raw += chunk
            if len(raw) > self._site.limits.json:
                raise Failure(413, f"The body is too large; at most {self._site.limits.json} bytes are taken here.")
        if not raw.strip():
            return None
        try:
            return texts.parsed(bytes(raw))
        except ValueError as error:
            raise Failure(400, "The body is not JSON.") from error


def _run(route: routes.Route, call: Call) -> Response:
    found = route.handler(call)
    return found if isinstance(found, Response) else rendered(found)
