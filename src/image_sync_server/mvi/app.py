"""The application: which handler answers which call, who is let in, and how what goes wrong is told."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

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
from image_sync_server.faults import Fault
from image_sync_server.mvi.answers import Failure, parsed_json, rendered
from image_sync_server.mvi.auth import TOKEN
from image_sync_server.mvi.handlers import datasets, files, labels, metadata, models, system, tasks
from image_sync_server.mvi.request import Request, Server
from image_sync_server.web import AccessLog, AccessLogMiddleware, Form, FormLimits, read_form, refusal

_log = structlog.stdlib.get_logger(__name__)
_SWITCHES = "/_faults"
Handler = Callable[[Request], Any]

_DS = "/datasets/{ds}"
_FILE = "/datasets/{ds}/files/{file}"
CALLS: list[tuple[str, str, Handler]] = [
    ("GET", "/version-info", system.version_info),
    ("GET", "/system", system.system),
    ("GET", "/profiles", system.profiles),
    ("GET", "/projects", system.projects),
    ("POST", "/tokens", system.sign_in),
    ("GET", "/api-keys", system.show_key),
    ("POST", "/api-keys", system.make_key),
    ("DELETE", "/api-keys", system.revoke_key),
    ("GET", "/users/{token}", system.user),
    ("GET", "/_faults", system.show_faults),
    ("POST", "/_faults", system.add_faults),
    ("DELETE", "/_faults", system.clear_faults),
    ("POST", "/datasets", datasets.create),
    ("GET", "/datasets", datasets.listing),
    ("POST", "/datasets/action", datasets.act_on_many),
    ("POST", "/datasets/import", datasets.import_),
    ("GET", _DS, datasets.show),
    ("PUT", _DS, datasets.change),
    ("DELETE", _DS, datasets.delete),
    ("POST", _DS + "/action", datasets.act),
    ("GET", _DS + "/export", datasets.export),
    ("GET", _DS + "/categories", datasets.list_categories),
    ("POST", _DS + "/categories", datasets.create_category),
    ("GET", _DS + "/categories/{cat}", datasets.show_category),
    ("DELETE", _DS + "/categories/{cat}", datasets.delete_category),
    ("POST", _DS + "/categories/{cat}/action", datasets.act_on_category),
    ("GET", _DS + "/files", files.listing),
    ("POST", _DS + "/files", files.upload),
    ("POST", _DS + "/files/action", files.act_on_many),
    ("POST", _DS + "/files/copy", files.copy),
    ("POST", _DS + "/files/move", files.move),
    ("GET", _DS + "/files/user-metadata", metadata.export),
    ("GET", _DS + "/files/user-keys", metadata.list_keys),
    ("POST", _DS + "/files/user-keys", metadata.create_key),
    ("GET", _DS + "/files/user-keys/{key}", metadata.show_key),
    ("PUT", _DS + "/files/user-keys/{key}", metadata.change_key),
    ("DELETE", _DS + "/files/user-keys/{key}", metadata.delete_key),
    ("GET", _FILE, files.show),
    ("DELETE", _FILE, files.delete),
    ("POST", _FILE + "/action", files.act),
    ("GET", _FILE + "/action", files.act),
    ("GET", _FILE + "/labels", labels.show_all),
    ("POST", _FILE + "/labels", labels.replace_all),
    ("GET", _FILE + "/user-metadata", metadata.show),
    ("POST", _FILE + "/user-metadata", metadata.add),
    ("DELETE", _FILE + "/user-metadata", metadata.remove),
    ("GET", _FILE + "/user-metadata/{key}", metadata.show_one),
    ("DELETE", _FILE + "/user-metadata/{key}", metadata.remove),
    ("POST", _FILE + "/object-labels", labels.create),
    *(
        (method, base + path, handler)
        for base in (_DS, _FILE)
        for method, path, handler in (
            ("GET", "/object-labels", labels.listing),
            ("DELETE", "/object-labels", labels.delete_many),
            ("GET", "/object-labels/{label}", labels.show),
            ("PUT", "/object-labels/{label}", labels.change),
            ("DELETE", "/object-labels/{label}", labels.delete),
        )
    ),
    ("GET", _DS + "/tags", labels.list_tags),
    ("POST", _DS + "/tags", labels.create_tag),
    ("GET", _DS + "/tags/{tag}", labels.show_tag),
    ("DELETE", _DS + "/tags/{tag}", labels.delete_tag),
    ("POST", _DS + "/tags/{tag}/action", labels.act_on_tag),
    ("GET", "/bgtasks", tasks.list_background),
    ("DELETE", "/bgtasks", tasks.delete_background),
    ("POST", "/dltasks", tasks.create),
    ("GET", "/dltasks", tasks.listing),
    ("GET", "/dltasks/{task}", tasks.show),
    ("DELETE", "/dltasks/{task}", tasks.delete),
    ("GET", "/dltasks/{task}/status", tasks.status),
    ("POST", "/dltasks/{task}/action", tasks.act),
    ("GET", "/dltasks/{task}/action", tasks.act),
    ("GET", "/trained-models", models.listing),
    ("POST", "/trained-models/action", models.act_on_many),
    ("POST", "/trained-models/import", models.import_),
    ("GET", "/trained-models/{model}", models.show),
    ("PUT", "/trained-models/{model}", models.change),
    ("DELETE", "/trained-models/{model}", models.delete),
    ("GET", "/trained-models/{model}/export", models.export),
    ("GET", "/trained-models/{model}/assets/{kind}/download", models.asset),
    ("POST", "/webapis", models.deploy),
    ("GET", "/webapis", models.list_deployments),
    ("POST", "/webapis/action", models.undeploy_many),
    ("GET", "/webapis/{model}", models.show_deployment),
    ("DELETE", "/webapis/{model}", models.undeploy),
    ("POST", "/dlapis/{model}", models.infer),
    ("GET", "/dlapis/{model}", models.by_url),
    ("GET", "/uploads/temp/{model}/{name}", files.inferred),
    ("GET", "/uploads/{owner}/datasets/{ds}/files/{name}", files.picture),
    ("GET", "/uploads/{owner}/datasets/{ds}/thumbnails/{name}", files.thumbnail),
]
"""Method, path and handler; of paths that overlap the first one counts."""
_FORMS = frozenset({datasets.import_, files.upload, models.infer, models.import_})
"""These take a multipart form, the others JSON."""
_PUBLIC = re.compile(r"(GET|HEAD) /version-info|POST /tokens|POST /dlapis/[^/]+")
"""These need no token."""


def build(server: Server, log: AccessLog, *, guarded_by_address: bool) -> ASGIApp:
    """The ASGI application of one server.

    Args:
        guarded_by_address: it has no credentials and relies on being reachable from this machine only; then requests
            that a web page in this machine's browser makes across sites are refused.
    """

    def fault(scope: Scope) -> Fault | None:
        if scope["path"] == _SWITCHES:
            return None
        session = server.guard.has_session(Headers(scope=scope).get(TOKEN, ""))
        return server.faults.pick(scope["method"], scope["path"], session=session)

    faults = Middleware(
        FaultMiddleware,
        pick=fault,
        pauses=server.faults,
        failure=lambda status, text, headers: Failure(status, text, headers=headers).response(),
        soft_failure=lambda text: rendered({"result": "fail", "fault": text}),
        expire=server.guard.expire_tokens,
    )
    gate = Middleware(_Gate, server=server, guarded_by_address=guarded_by_address)
    app = Starlette(
        routes=routes(server),
        middleware=[Middleware(_Entrance), Middleware(AccessLogMiddleware, log=log), faults, gate],
        exception_handlers={HTTPException: _told},
    )
    app.router.redirect_slashes = False
    return app


def routes(server: Server) -> list[Route]:
    """One route for each path, so that a wrong method is told which ones are right."""
    paths: dict[str, dict[str, Handler]] = {}
    for method, path, handler in CALLS:
        paths.setdefault(path, {})[method] = handler
    return [Route(path, _endpoint(server, handlers), methods=[*handlers]) for path, handlers in paths.items()]


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
    """Lets those in who may. A stranger learns nothing, not even which addresses exist."""

    def __init__(self, app: ASGIApp, server: Server, *, guarded_by_address: bool) -> None:
        self._app = app
        self._server = server
        self._guarded_by_address = guarded_by_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        user = self._server.guard.who(headers.get(TOKEN, ""))
        if self._guarded_by_address and (reason := refusal(headers.get)):
            await Failure(403, reason).response()(scope, receive, send)
        elif user is None and not _PUBLIC.fullmatch(f"{scope['method']} {scope['path']}"):
            await Failure(401, "Failed to parse token.").response()(scope, receive, send)
        else:
            scope["user"] = user or ""
            await self._app(scope, receive, send)


class _Silence(Response):
    """What is said to a client that hung up in the middle of its request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say nothing."""


def _endpoint(server: Server, handlers: dict[str, Handler]) -> Callable[[HttpRequest], Awaitable[Response]]:
    """What Starlette calls for a path."""

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


async def _answer(server: Server, handler: Handler, http: HttpRequest) -> Response:
    limits = server.limits
    length = http.headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.body:
        raise _too_large(limits.body)
    stream = _bounded(http.stream(), _too_large(limits.body), limits.body)
    body, form = None, Form()
    try:
        if handler in _FORMS:
            bounds = FormLimits("files", limits.parts, limits.json, limits.memory, server.store.scratch)
            form = await read_form(http.headers.get("content-type", ""), stream, bounds)
        else:
            body = await _json(stream, limits.json)
        client = http.scope["client"][0] if http.scope.get("client") else ""
        root = f"{http.scope['scheme']}://{http.headers.get('host', '')}"
        request = Request(server, http.scope["user"], http.path_params, http.query_params, body, form, client, root)
        return await run_in_threadpool(_run, handler, request)
    finally:
        form.discard()


def _run(handler: Handler, request: Request) -> Response:
    found = handler(request)
    return found if isinstance(found, Response) else rendered(found)


def _too_large(most: int) -> Failure:
    return Failure(413, f"The request is too large; at most {most} bytes are taken.")


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
    if not raw.strip():
        return None
    try:
        return parsed_json(raw)
    except ValueError as error:
        raise Failure(400, "The body is not JSON.") from error


async def _told(http: HttpRequest, error: Exception) -> Response:
    """A failure in MVI's form, also for what Starlette refuses by itself."""
    if isinstance(error, Failure):
        return error.response()
    if not isinstance(error, HTTPException):
        raise error
    path = http.scope["path"]
    match error.status_code:
        case 404:
            text = f"There is no {path or 'such address'} here. The API lies below /api."
            return Failure(404, text).response()
        case 405:
            allowed = ", ".join(sorted(set((error.headers or {})["Allow"].split(", ")) - {"HEAD"}))
            return Failure(405, f"{path} takes {allowed}, not {http.method}.", headers={"Allow": allowed}).response()
        case status:
            return Failure(status, error.detail, headers=error.headers).response()
