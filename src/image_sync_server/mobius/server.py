"""The emulator as a thing: start it, ask for its address, stop it; and its calls.

HTTP statuses are not documented; failures are 200 here.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import structlog
from PIL import Image, ImageStat
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from image_sync_server.fault_middleware import FaultMiddleware
from image_sync_server.faults import Faults
from image_sync_server.learn.features import extract
from image_sync_server.mobius.store import Store, Tasks, usable_id
from image_sync_server.web import HttpServer, refusal

_log = structlog.stdlib.get_logger(__name__)
_LARGEST = 256 * 2**20
_CONNECTIONS = 100
_KEPT = 10_000
"""Requests that are remembered at least."""
_SUCCESS = {"status": "success"}


class _Failure(HTTPException):
    """A failure in the vendor's words."""

    def __init__(self, message: str) -> None:
        super().__init__(200, message)


def _rendered(answer: Any, status: int = 200) -> Response:
    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return Response(raw, status, media_type="application/x-tar" if raw[257:262] == b"ustar" else "application/json")


def _failed(message: str, status: int = 200, **more: str) -> Response:
    return _rendered({"status": "error", "message": message, **more}, status)


@dataclass(frozen=True, slots=True)
class _Call:
    """One request.

    Attributes:
        path: what stands in the path for ids and tags, decoded.
        data: content of the form's part ``data``; None without one.
    """

    path: Mapping[str, str]
    query: Mapping[str, str]
    data: bytes | None

    @property
    def picture(self) -> bytes:
        if not self.data:
            raise _Failure("data_payload_required")
        return self.data

    def listed(self, name: str) -> list[str]:
        return [one for one in self.query.get(name, "").split(",") if one]


class _Api:
    """All calls, on one state."""

    def __init__(self, store: Store, tasks: Tasks) -> None:
        self._store = store
        self._tasks = tasks
        added, told, trained = self._picture, self._told, store.trained
        self.calls: list[tuple[str, str, Callable[[_Call], Any]]] = [
            ("POST", "/system/database/image/add", self._add),
            ("GET", "/custom/assign/{image}/{kind}/{tag}", self._assign),
            ("GET", "/custom/train/{tag}", self._train),
            ("GET", "/status/{task}", self._status),
            ("GET", "/custom/delete/{tag}", self._delete),
            ("POST", "/predict/custom/{tag}", lambda call: told(call.picture, [call.path["tag"]])),
            ("POST", "/predict/custom", lambda call: told(call.picture, trained())),
            ("POST", "/predict", self._predict_all),
            ("GET", "/custom/predict_batch", self._predict_batch),
            ("GET", "/custom/predict/{tag}/{image}", lambda call: told(added(call.path["image"]), [call.path["tag"]])),
            ("GET", "/custom/predict/{image}", lambda call: told(added(call.path["image"]), trained())),
            ("POST", "/set_state", self._set_state),
            ("GET", "/get_state", lambda _call: store.state()),
        ]
        """Method, path and what carries it out."""

    def _add(self, call: _Call) -> Any:
        image = call.query.get("image_id") or uuid.uuid4().hex
        if not usable_id(image):
            raise _Failure("wrong_arguments_format")
        picture = call.picture
        if self._store.has(image):
            raise _Failure("duplicate_image_id")
        try:
            extract(picture)  # the SDK looks at a picture when it is added, too
        except ValueError:
            raise _Failure("image_reading_error") from None
        if not self._store.add(image, picture):
            raise _Failure("duplicate_image_id")
        return {**_SUCCESS, "image_id": image}

    def _assign(self, call: _Call) -> Any:
        image, kind, tag = call.path["image"], call.path["kind"], call.path["tag"]
        if kind not in {"positive", "negative"}:
            raise _Failure("wrong_arguments_format")
        if not self._store.has(image):
            raise _Failure("image_id_not_found")
        self._store.assign(tag, image, kind)
        return _SUCCESS

    def _train(self, call: _Call) -> Any:
        tag = call.path["tag"]
        if "positive" not in {kind for _, _, kind in self._store.assigned(tag)}:
            raise _Failure("positive_samples_required")
        return {"task_id": self._tasks.train(tag).id, "status": "ongoing", "message": "training"}

    def _status(self, call: _Call) -> Any:
        task = self._tasks.all.get(call.path["task"])
        if task is None:
            raise _Failure("unknown_task_id")
        return task.as_json()

    def _delete(self, call: _Call) -> Any:
        if not self._store.reset(call.path["tag"]):
            raise _Failure("unknown_custom_model")
        return _SUCCESS

    def _predict_all(self, call: _Call) -> Any:
        picture = call.picture
        answer = self._told(picture, self._store.trained())
        with Image.open(io.BytesIO(picture)) as image:  # how light it is stands for the SDK's base models
            light = ImageStat.Stat(image.convert("L")).mean[0] / 255
        return {**answer, "result": answer["result"] | {"light": light, "dark": 1 - light}}

    def _predict_batch(self, call: _Call) -> Any:
        images, tags = call.listed("image_id"), call.listed("tags") or self._store.trained()
        if not images:
            raise _Failure("wrong_arguments_format")
        return {**_SUCCESS, "result": {image: self._told(self._picture(image), tags)["result"] for image in images}}

    def _set_state(self, call: _Call) -> Any:
        try:
            self._store.replace(call.picture)
        except ValueError:
            raise _Failure("wrong_arguments_format") from None
        return _SUCCESS

    def _picture(self, image: str) -> bytes:
        if not self._store.has(image):
            raise _Failure("image_id_not_found")
        return self._store.path(image).read_bytes()

    def _told(self, picture: bytes, tags: list[str]) -> dict[str, Any]:
        """How much a picture is like each of these tags."""
        scores = {}
        for tag in tags:
            model = self._store.model(tag)
            if model is None:
                raise _Failure("unknown_custom_model")
            try:
                scores[tag] = dict(model.predict(picture)).get("positive", 0.0)
            except ValueError:
                raise _Failure("image_reading_error") from None
        return {**_SUCCESS, "result": scores}


class MobiusServer:
    """An emulator in threads of this process.

    Args:
        data: its folder; made if need be.
        fault_seed: makes the luck of the fault switches repeatable.
    """

    def __init__(self, data: Path, *, fault_seed: int | None = None) -> None:
        self.store = Store(data)
        self.tasks = Tasks(self.store)
        self.faults = Faults(fault_seed, several=True)
        self.requests: list[str] = []
        """``METHOD /path?query`` of those that came in whole, as they stood on the wire; the oldest go in time."""
        self.routes = [
            Route(path, _endpoint(handler), methods=[method])
            for method, path, handler in _Api(self.store, self.tasks).calls
        ]
        faults = Middleware(
            FaultMiddleware,
            faults=self.faults,
            pick=lambda scope: self.faults.pick(scope["method"], _target(scope)),
            failure=lambda status, _text, headers: PlainTextResponse("Internal Server Error", status, headers),
            soft_failure=lambda _text: _failed("unknown_error"),
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
        self.url = self._http.bind(host, port, lets_in="the emulator lets anybody in")
        self.tasks.start()
        self._http.start()
        _log.info("mobius_server.started", url=self.url)
        return self.url

    def stop(self) -> None:
        self._http.stop()
        self.tasks.stop()
        self.store.close()

    def _note(self, request: str) -> None:
        self.requests.append(request)
        if len(self.requests) > 2 * _KEPT:
            del self.requests[:_KEPT]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _target(scope: Scope) -> str:
    """``/path?query`` as it stood on the wire."""
    query = scope["query_string"].decode("latin-1")
    return f"{scope['path']}{'?' * bool(query)}{query}"


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
                await _failed("wrong_arguments_format", 413)(scope, receive, send)
                return
        if refusal(Headers(scope=scope).get):
            await _failed("wrong_arguments_format", 403)(scope, receive, send)
            return
        self._note(f"{scope['method']} {_target(scope)}")
        given = False

        async def whole() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, whole, send)


def _endpoint(handler: Callable[[_Call], Any]) -> Callable[[Request], Any]:
    """What Starlette calls for a handler: failures of ours are answers too, never a hung client."""

    async def endpoint(request: Request) -> Response:
        try:
            path = {name: unquote(value) for name, value in request.path_params.items()}
            call = _Call(path, request.query_params, await _data(request))
            return _rendered(await run_in_threadpool(handler, call))
        except _Failure:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            _log.exception("mobius_server.broke", path=request.scope["path"])
            return _failed("unknown_error", 500, exception=type(error).__name__)

    return endpoint


async def _data(request: Request) -> bytes | None:
    """The form's part ``data``, if there is one."""
    try:
        async with request.form() as form:
            part = form.get("data")
            return await part.read() if isinstance(part, UploadFile) else None
    except HTTPException:
        return None


async def _told(_request: Request, error: Exception) -> Response:
    """A failure in the vendor's words; Starlette's own say that there is no such address or method."""
    message = error.detail if isinstance(error, _Failure) else "wrong_arguments_format"
    return _failed(message, getattr(error, "status_code", 500))
