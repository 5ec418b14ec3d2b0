"""The server as a thing: start it, ask for its address, stop it; and which handler answers which call."""

from __future__ import annotations

import ipaddress
import os
import platform
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import metadata as packages
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from image_sync_server.fault_middleware import FaultMiddleware
from image_sync_server.faults import Fault, Faults
from image_sync_server.mvi import (
    archive,
    auth,
    categories,
    datasets,
    fault_presets,
    files,
    labels,
    metadata,
    models,
    tasks,
)
from image_sync_server.mvi.auth import DAY, TOKEN, Credentials, Guard
from image_sync_server.mvi.jobs import Jobs
from image_sync_server.mvi.models import ModelCache
from image_sync_server.mvi.pictures import Limits
from image_sync_server.mvi.request import Failure, Request, failed, parsed_json, rendered, success
from image_sync_server.mvi.store import Store
from image_sync_server.web import AccessLog, AccessLogMiddleware, Form, FormLimits, HttpServer, read_form, refusal

_log = structlog.stdlib.get_logger(__name__)
_SPOKEN = "8.7.0"
"""The version of MVI whose words this server uses."""
Handler = Callable[[Request], Any]


def _version() -> str:
    """Three numbers as clients expect, and a suffix that says what this really is."""
    return f"{_SPOKEN}-image-sync-{packages.version('image-sync')}"


def _version_info(_request: Request) -> dict[str, Any]:
    return success(version=_version(), product="image-sync embedded server")


def _system(request: Request) -> dict[str, Any]:
    return success(
        product="image-sync embedded server", version=_version(), python=platform.python_version(),
        cpus=os.cpu_count() or 1, gpus=[], usages=["cic", "cod"], max_request_bytes=request.server.limits.body,
    )  # fmt: skip


def _projects(_request: Request) -> list[Any]:
    """This server has no project groups, and the list says so."""
    return []


def _only_here(request: Request) -> None:
    if not ipaddress.ip_address(request.client.partition("%")[0] or "0.0.0.0").is_loopback:  # noqa: S104 - no address is no loopback
        raise Failure(403, "Faults can only be switched from the machine that the server runs on.")


def _show_faults(request: Request) -> dict[str, Any]:
    """``GET /_faults``: what is on, and how often each kind has struck."""
    _only_here(request)
    return success(faults=request.server.faults.as_json(), struck=dict(request.server.faults.counts))


def _add_faults(request: Request) -> dict[str, Any]:
    """``POST /_faults``: one fault or a list of them; ``fault_presets.from_json`` says in which form."""
    _only_here(request)
    raw = request.body if isinstance(request.body, list) else [request.body]
    try:
        request.server.faults.add(*(fault for one in raw for fault in fault_presets.from_json(one)))
    except ValueError as error:
        raise Failure(400, f"The fault is not understood: {error}.") from error
    return _show_faults(request)


def _clear_faults(request: Request) -> dict[str, Any]:
    """``DELETE /_faults``: all off and counted anew; the answer has the counts until now."""
    _only_here(request)
    request.server.faults.clear()
    answer = _show_faults(request)
    request.server.faults.forget()
    return answer


_LABEL: dict[str, Handler] = {"GET": labels.show, "PUT": labels.change, "DELETE": labels.delete}
CALLS: dict[str, dict[str, Handler]] = {
    "/version-info": {"GET": _version_info},
    "/system": {"GET": _system},
    "/profiles": {"GET": auth.profiles},
    "/projects": {"GET": _projects},
    "/tokens": {"POST": auth.sign_in},
    "/api-keys": {"GET": auth.show_key, "POST": auth.make_key, "DELETE": auth.revoke_key},
    "/users/{token}": {"GET": auth.user},
    "/_faults": {"GET": _show_faults, "POST": _add_faults, "DELETE": _clear_faults},
    "/datasets": {"POST": datasets.create, "GET": datasets.listing},
    "/datasets/action": {"POST": datasets.act_on_many},
    "/datasets/import": {"POST": archive.import_},
    "/datasets/{ds}": {"GET": datasets.show, "PUT": datasets.change, "DELETE": datasets.delete},
    "/datasets/{ds}/action": {"POST": datasets.act},
    "/datasets/{ds}/export": {"GET": archive.export},
    "/datasets/{ds}/categories": {"GET": categories.listing, "POST": categories.create},
    "/datasets/{ds}/categories/{cat}": {"GET": categories.show, "DELETE": categories.delete},
    "/datasets/{ds}/categories/{cat}/action": {"POST": categories.act},
    "/datasets/{ds}/files": {"GET": files.listing, "POST": files.upload},
    "/datasets/{ds}/files/action": {"POST": files.act_on_many},
    "/datasets/{ds}/files/copy": {"POST": files.copy},
    "/datasets/{ds}/files/move": {"POST": files.move},
    "/datasets/{ds}/files/user-metadata": {"GET": metadata.export},
    "/datasets/{ds}/files/user-keys": {"GET": metadata.list_keys, "POST": metadata.create_key},
    "/datasets/{ds}/files/user-keys/{key}": {
        "GET": metadata.show_key,
        "PUT": metadata.change_key,
        "DELETE": metadata.delete_key,
    },
    "/datasets/{ds}/files/{file}": {"GET": files.show, "DELETE": files.delete},
    "/datasets/{ds}/files/{file}/action": {"POST": files.act, "GET": files.act},
    "/datasets/{ds}/files/{file}/labels": {"GET": labels.show_all, "POST": labels.replace_all},
    "/datasets/{ds}/files/{file}/user-metadata": {
        "GET": metadata.show,
        "POST": metadata.add,
        "DELETE": metadata.remove,
    },
    "/datasets/{ds}/files/{file}/user-metadata/{key}": {"GET": metadata.show_one, "DELETE": metadata.remove},
    "/datasets/{ds}/files/{file}/object-labels": {
        "POST": labels.create,
        "GET": labels.listing,
        "DELETE": labels.delete_many,
    },
    "/datasets/{ds}/files/{file}/object-labels/{label}": _LABEL,
    "/datasets/{ds}/object-labels": {"GET": labels.listing, "DELETE": labels.delete_many},
    "/datasets/{ds}/object-labels/{label}": _LABEL,
    "/datasets/{ds}/tags": {"GET": labels.list_tags, "POST": labels.create_tag},
    "/datasets/{ds}/tags/{tag}": {"GET": labels.show_tag, "DELETE": labels.delete_tag},
    "/datasets/{ds}/tags/{tag}/action": {"POST": labels.act_on_tag},
    "/bgtasks": {"GET": tasks.list_background, "DELETE": tasks.delete_background},
    "/dltasks": {"POST": tasks.create, "GET": tasks.listing},
    "/dltasks/{task}": {"GET": tasks.show, "DELETE": tasks.delete},
    "/dltasks/{task}/status": {"GET": tasks.status},
    "/dltasks/{task}/action": {"POST": tasks.act, "GET": tasks.act},
    "/trained-models": {"GET": models.listing},
    "/trained-models/action": {"POST": models.act_on_many},
    "/trained-models/import": {"POST": models.import_},
    "/trained-models/{model}": {"GET": models.show, "PUT": models.change, "DELETE": models.delete},
    "/trained-models/{model}/export": {"GET": models.export},
    "/trained-models/{model}/assets/{kind}/download": {"GET": models.asset},
    "/webapis": {"POST": models.deploy, "GET": models.list_deployments},
    "/webapis/action": {"POST": models.undeploy_many},
    "/webapis/{model}": {"GET": models.show_deployment, "DELETE": models.undeploy},
    "/dlapis/{model}": {"POST": models.infer, "GET": models.by_url},
    "/uploads/temp/{model}/{name}": {"GET": files.inferred},
    "/uploads/{owner}/datasets/{ds}/files/{name}": {"GET": files.picture},
    "/uploads/{owner}/datasets/{ds}/thumbnails/{name}": {"GET": files.thumbnail},
}
"""Path, method and handler; of paths that overlap the first one counts."""
_FORMS = frozenset({archive.import_, files.upload, models.infer, models.import_})
"""These take a multipart form, the others JSON."""
_PUBLIC = re.compile(r"(GET|HEAD) /version-info|POST /tokens|POST /dlapis/[^/]+")
"""These need no token."""


def build(server: MviServer) -> ASGIApp:

    def fault(scope: Scope) -> Fault | None:
        if scope["path"] == "/_faults":
            return None
        session = server.guard.has_session(Headers(scope=scope).get(TOKEN, ""))
        return server.faults.pick(scope["method"], scope["path"], session=session)

    faults = Middleware(
        FaultMiddleware,
        faults=server.faults,
        pick=fault,
        failure=failed,
        soft_failure=lambda text: rendered({"result": "fail", "fault": text}),
        expire=server.guard.expire_tokens,
    )
    log, gate = Middleware(AccessLogMiddleware, log=server.requests), Middleware(_Gate, server=server)
    app = Starlette(
        # One route for each path, so that a wrong method is told which ones are right.
        routes=[Route(path, _endpoint(server, handlers), methods=[*handlers]) for path, handlers in CALLS.items()],
        middleware=[Middleware(_Entrance), log, faults, gate],
        exception_handlers={HTTPException: _told},
    )
    app.router.redirect_slashes = False
    return app


def inside(path: str) -> str:
    """A path without its context root and without a slash at its end; empty when it leads nowhere.

    MVI has many roots, and clients write a slash or not.

    >>> inside("/visual-inspection/api/datasets/")
    '/datasets'
    >>> inside("/powerai-vision/uploads/ann/x.jpg")
    '/uploads/ann/x.jpg'
    """
    words = [word for word in path.split("/") if word]
    for at, word in enumerate(words):
        if word == "api":
            return "/" + "/".join(words[at + 1 :])
        if word in {"uploads", "_faults"}:
            return "/" + "/".join(words[at:])
    return ""


class _Entrance:
    """Takes HTTP only, and strips the context root."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = inside(scope["path"])
            await self._app(scope, receive, send)


class _Gate:
    """Lets those in who may. A stranger learns nothing, not even which addresses exist.

    A server without credentials relies on being reachable from this machine only; then requests that a web page in
    this machine's browser makes across sites are refused.
    """

    def __init__(self, app: ASGIApp, server: MviServer) -> None:
        self._app = app
        self._guard = server.guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        user = self._guard.who(headers.get(TOKEN, ""))
        if self._guard.open and (reason := refusal(headers.get)):
            await failed(403, reason)(scope, receive, send)
        elif user is None and not _PUBLIC.fullmatch(f"{scope['method']} {scope['path']}"):
            await failed(401, "Failed to parse token.")(scope, receive, send)
        else:
            scope["user"] = user or ""
            await self._app(scope, receive, send)


class _Silence(Response):
    """What is said to a client that hung up in the middle of its request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say nothing."""


def _endpoint(server: MviServer, handlers: dict[str, Handler]) -> Callable[[HttpRequest], Awaitable[Response]]:

    async def endpoint(http: HttpRequest) -> Response:
        handler = handlers["GET" if http.method == "HEAD" else http.method]
        try:
            return await _answer(server, handler, http)
        except HTTPException:
            raise
        except ClientDisconnect:
            return _Silence()
        except Exception as error:
            _log.exception("request.broke", method=http.method, path=http.scope["path"])
            raise Failure(500, "The server failed at this. Its log says more.") from error

    return endpoint


async def _answer(server: MviServer, handler: Handler, http: HttpRequest) -> Response:
    limits, scope = server.limits, http.scope
    length = http.headers.get("content-length", "")
    too_large = Failure(413, f"The request is too large; at most {limits.body} bytes are taken.")
    if length.isdigit() and int(length) > limits.body:
        raise too_large
    stream = _bounded(http.stream(), too_large, limits.body)
    body, form = None, Form()
    try:
        if handler in _FORMS:
            bounds = FormLimits("files", limits.parts, limits.json, limits.memory, server.store.scratch)
            form = await read_form(http.headers.get("content-type", ""), stream, bounds)
        else:
            body = await _json(stream, limits.json)
        client = scope["client"][0] if scope.get("client") else ""
        root = f"{scope['scheme']}://{http.headers.get('host', '')}"
        request = Request(server, scope["user"], http.path_params, http.query_params, body, form, client, root)
        return await run_in_threadpool(lambda: _response(handler(request)))
    finally:
        form.discard()


def _response(answer: Any) -> Response:
    return answer if isinstance(answer, Response) else rendered(answer)


# Starlette's own bound answers in plain text, where clients of MVI read a fault.
async def _bounded(stream: AsyncIterator[bytes], failure: Failure, most: int) -> AsyncIterator[bytes]:
    seen = 0
    async for chunk in stream:
        seen += len(chunk)
        if seen > most:
            raise failure
        yield chunk


async def _json(stream: AsyncIterator[bytes], most: int) -> Any:
    failure = Failure(413, f"The body is too large; at most {most} bytes are taken here.")
    raw = b"".join([chunk async for chunk in _bounded(stream, failure, most)])
    try:
        return parsed_json(raw) if raw.strip() else None
    except ValueError as error:
        raise Failure(400, "The body is not JSON.") from error


async def _told(http: HttpRequest, error: Exception) -> Response:
    """A failure in MVI's form, also for what Starlette refuses by itself."""
    if not isinstance(error, HTTPException):
        raise error
    status, fault, headers, path = error.status_code, error.detail, error.headers, http.scope["path"]
    if not isinstance(error, Failure) and status == 404:  # noqa: PLR2004 - Starlette's own
        fault = f"There is no {path or 'such address'} here. The API lies below /api."
    elif not isinstance(error, Failure) and status == 405:  # noqa: PLR2004 - as above
        allowed = ", ".join(sorted(set((headers or {})["Allow"].split(", ")) - {"HEAD"}))
        fault, headers = f"{path} takes {allowed}, not {http.method}.", {"Allow": allowed}
    return failed(status, fault, headers)


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
        self.limits = limits or Limits()
        self.store = Store(data)
        self.faults = Faults(fault_seed)
        self.requests = AccessLog(self.limits.requests)
        self.guard = Guard(self.store, credentials or Credentials(), token_life)
        self.cache = ModelCache(self.store)
        self.jobs = Jobs(self.store, self.cache, self.limits.points)
        self._http = HttpServer(
            build(self),
            "mvi-server",
            self.faults.stopping,
            connections=self.limits.connections,
            silence=self.limits.silence,
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
        self.jobs.start()
        self._http.start()
        _log.info("mvi_server.started", url=self.url, data=str(self.store.folder))
        return self.url

    def stop(self) -> None:
        """End: no new requests, those under way get a few seconds, trainings stop; may be called twice."""
        self.jobs.stop()
        self._http.stop()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
