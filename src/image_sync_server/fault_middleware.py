"""Carries faults out that happen on the wire: on real connections, around the application."""

from __future__ import annotations

import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, cast

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from image_sync_server.faults import Action, Fault, Faults
from image_sync_server.web import FAULT, TRANSPORT

_PAGE = "<html><head><title>{0} {1}</title></head><body><h1>{0} {1}</h1><hr>gateway</body></html>"
_ON_DISK_FROM = 1024 * 1024
_SHORTEST_PAUSE = 0.005


class FaultMiddleware:
    """Carries faults out on the wire: between the network and the application.

    Args:
        faults: the switches; those that happen inside an upload or a status call are not for this class.
        pick: the fault that hits a request, if any.
        failure: an answer in the server's own words: status, what is wrong, and headers.
        soft_failure: one with status 200 that says that it failed.
        expire: makes all session tokens invalid.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        faults: Faults,
        pick: Callable[[Scope], Fault | None],
        failure: Callable[[int, str, dict[str, str]], Response],
        soft_failure: Callable[[str], Response],
        expire: Callable[[], None] = lambda: None,
    ) -> None:
        self._app = app
        self._faults = faults
        self._pick = pick
        self._failure = failure
        self._soft_failure = soft_failure
        self._expire = expire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: C901, PLR0912 - a case for each action
        """Pass the request on, unless a fault hits it."""
        fault = self._pick(scope)
        if fault is None:
            await self._app(scope, receive, send)
            return
        scope[FAULT] = fault.name
        match fault.action:
            case Action.STATUS | Action.HTML | Action.SOFT_FAILURE:
                await self._spoken(fault)(scope, receive, send)
            case Action.STATUS_AFTER | Action.SOFT_FAILURE_AFTER | Action.EMPTY:
                await self._app(scope, receive, _nowhere)
                await self._spoken(fault)(scope, receive, send)
            case Action.UNAUTHORISED:
                await run_in_threadpool(self._expire)
                await self._failure(401, "Failed to parse token.", {})(scope, receive, send)
            case Action.EXPIRE_TOKENS:
                await run_in_threadpool(self._expire)
                await self._app(scope, receive, send)
            case Action.RESET:
                await _abort(scope, receive)
            case Action.RESET_BODY:
                await _reset_body(scope, receive)
            case Action.LOSE_ANSWER:
                await self._app(scope, receive, _nowhere)
                await _abort(scope, receive)
            case Action.CUT_ANSWER:
                await self._cut_answer(scope, receive, send)
            case Action.TRUNCATE:
                await self._truncate(scope, receive, send)
            case Action.TRICKLE:
                await self._trickle(fault, scope, receive, send)
            case Action.SLOW if await self._faults.pause(fault.seconds):
                await self._app(scope, receive, send)
            case Action.SLOW:
                await _abort(scope, receive)
            case Action.TWICE | Action.LATE:
                with tempfile.SpooledTemporaryFile(max_size=_ON_DISK_FROM) as spooled:
                    await self._repeated(fault, cast("BinaryIO", spooled), scope, receive, send)

    def _spoken(self, fault: Fault) -> Response:
        text = "This failure was asked for."
        headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
        match fault.action:
            case Action.SOFT_FAILURE | Action.SOFT_FAILURE_AFTER:
                return self._soft_failure(text)
            case Action.EMPTY:
                return Response(b"", media_type="application/json")
            case Action.HTML:
                return HTMLResponse(_PAGE.format(fault.status, "Bad Gateway"), fault.status, headers)
            case _:
                return self._failure(fault.status, text, headers)

    async def _cut_answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        cut = False

        async def half(message: Message) -> None:
            nonlocal cut
            if cut:
                return
            if message["type"] == "http.response.body":
                body = message.get("body", b"")
                await send({**message, "body": body[: len(body) // 2], "more_body": True})
                cut = True
            else:
                await send(message)

        await self._app(scope, receive, half)
        await _abort(scope, receive, hard=False)

    async def _truncate(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Kept()
        await self._app(scope, receive, answer)
        if answer.start is None:
            return
        body = bytes(answer.body[: len(answer.body) // 2])
        MutableHeaders(raw=answer.start["headers"])["content-length"] = str(len(body))
        await send(answer.start)
        await send({"type": "http.response.body", "body": body})

    async def _trickle(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Kept()
        await self._app(scope, receive, answer)
        if answer.start is None:
            return
        await send(answer.start)
        count = max(1, min(len(answer.body), int(fault.seconds / _SHORTEST_PAUSE)))
        size = -(-len(answer.body) // count)
        for at in range(0, len(answer.body), size or 1):
            if not await self._faults.pause(fault.seconds / count) or scope[TRANSPORT].is_closing():
                await _abort(scope, receive)
                return
            await send({"type": "http.response.body", "body": bytes(answer.body[at : at + size]), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _repeated(self, fault: Fault, body: BinaryIO, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry a request out twice, or once but late, from a copy of its body."""
        if not await _taken(receive, body):
            return
        if fault.action is Action.TWICE:
            await self._app(dict(scope), _replayed(body, _gone), _nowhere)
            await self._app(scope, _replayed(body, receive), send)
            return
        await _abort(scope, receive)
        if await self._faults.pause(fault.seconds):
            await self._app(scope, _replayed(body, _gone), _nowhere)


async def _reset_body(scope: Scope, receive: Receive) -> None:
    length = Headers(scope=scope).get("content-length", "")
    half = int(length) // 2 if length.isdigit() else 1
    seen = 0
    while seen < half:
        message = await receive()
        if message["type"] != "http.request":
            return
        seen += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    await _abort(scope, receive)


class _Kept:
    """Takes an answer instead of the network."""

    def __init__(self) -> None:
        self.start: Message | None = None
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self.body += message.get("body", b"")


async def _taken(receive: Receive, body: BinaryIO) -> bool:
    """Read a request's body; False when the client left before its end."""
    while (message := await receive())["type"] == "http.request":
        body.write(message.get("body", b""))
        if not message.get("more_body", False):
            return True
    return False


def _replayed(body: BinaryIO, then: Receive) -> Receive:
    """The body once more, from its beginning, and what comes ``then``."""
    body.seek(0)
    ended = False

    async def receive() -> Message:
        nonlocal ended
        if ended:
            return await then()
        chunk = body.read(_ON_DISK_FROM)
        ended = not chunk
        return {"type": "http.request", "body": chunk, "more_body": not ended}

    return receive


async def _nowhere(_message: Message) -> None:
    return


async def _gone() -> Message:
    return {"type": "http.disconnect"}


async def _abort(scope: Scope, receive: Receive, *, hard: bool = True) -> None:
    """End the connection: with a reset, or, if not ``hard``, quietly in the middle of what was said."""
    transport = scope[TRANSPORT]
    if hard and not transport.is_closing():
        # With no time to linger the kernel sends RST, as a crashed server or a firewall would.
        with suppress(OSError):  # the client was quicker
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    # Until the protocol knows that it is cut off it would take silence for a mistake of the application.
    while (await receive())["type"] != "http.disconnect":
        pass
