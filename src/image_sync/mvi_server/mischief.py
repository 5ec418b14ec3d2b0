"""Carries the faults out, on real connections."""

from __future__ import annotations

import asyncio
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, cast

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from image_sync.mvi_server.answers import Failure, rendered
from image_sync.mvi_server.faults import Action, Fault, Faults

TRANSPORT = "image_sync.transport"
CONTROL = "/_faults"
_PAGE = "<html><head><title>{0} {1}</title></head><body><h1>{0} {1}</h1><hr>gateway</body></html>"
_ON_DISK_FROM = 1024 * 1024


class Mischief:
    """ASGI middleware between the network and the application."""

    def __init__(self, app: ASGIApp, faults: Faults, expire_tokens: Callable[[], None]) -> None:
        self._app = app
        self._faults = faults
        self._expire_tokens = expire_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless a fault hits it."""
        fault = None if scope["path"] == CONTROL else self._faults.draw(scope["method"], scope["path"])
        if fault is None:
            await self._app(scope, receive, send)
            return
        scope["image_sync.fault"] = fault.action.value
        if fault.action in {Action.STATUS, Action.HTML, Action.SOFT_FAILURE}:
            await _spoken(fault)(scope, receive, send)
        elif fault.action in {Action.SLOW, Action.EXPIRE_TOKENS}:
            await self._delayed(fault, scope, receive, send)
        else:
            await self._broken(fault, scope, receive, send)

    async def _delayed(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.action is Action.EXPIRE_TOKENS:
            await run_in_threadpool(self._expire_tokens)
        elif not await self._wait(fault.seconds):
            await _abort(scope, receive)
            return
        await self._app(scope, receive, send)

    async def _broken(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        match fault.action:
            case Action.CUT_ANSWER:
                await self._cut(scope, receive, send)
            case Action.LATE:
                await self._late(fault, scope, receive)
            case Action.EMPTY:
                await self._app(scope, receive, _nowhere)
                await Response(b"", media_type="application/json")(scope, receive, send)
            case Action.LOSE_ANSWER:
                await self._app(scope, receive, _nowhere)
                await _abort(scope, receive)
            case _:
                await _abort(scope, receive)

    async def _wait(self, seconds: float) -> bool:
        """Wait; False when the server ends meanwhile."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._faults.stopping.wait(), seconds)
        return not self._faults.stopping.is_set()

    async def _cut(self, scope: Scope, receive: Receive, send: Send) -> None:
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

    async def _late(self, fault: Fault, scope: Scope, receive: Receive) -> None:
        with tempfile.SpooledTemporaryFile(max_size=_ON_DISK_FROM) as body:
            while (message := await receive())["type"] == "http.request":
                body.write(message.get("body", b""))
                if not message.get("more_body", False):
                    break
            else:
                return
            await _abort(scope, receive)
            if await self._wait(fault.seconds):
                body.seek(0)
                await self._app(scope, _replayed(cast("BinaryIO", body)), _nowhere)


def _replayed(body: BinaryIO) -> Receive:
    async def receive() -> Message:
        chunk = body.read(_ON_DISK_FROM)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    return receive


async def _nowhere(_message: Message) -> None:
    return


def _spoken(fault: Fault) -> Response:
    if fault.action is Action.SOFT_FAILURE:
        return rendered({"result": "fail", "fault": "This failure was asked for."})
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    if fault.action is Action.HTML:
        return HTMLResponse(_PAGE.format(fault.status, "Bad Gateway"), fault.status, headers)
    return Failure(fault.status, "This failure was asked for.", headers=headers).response()


async def _abort(scope: Scope, receive: Receive, *, hard: bool = True) -> None:
    """End the connection: with a reset, or, if not ``hard``, quietly in the middle of what was said."""
    transport = scope[TRANSPORT]
    if hard:
        # With no time to linger the kernel sends RST, as a crashed server or a firewall would.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    else:
        transport.close()
    # Until the protocol knows that it is cut off it would take silence for a mistake of the application.
    while (await receive())["type"] != "http.disconnect":
        pass
