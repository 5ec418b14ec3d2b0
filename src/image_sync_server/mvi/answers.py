"""What the server says, in JSON: ``result`` and ``fault`` for every failure; and which texts it takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

SUCCESS = {"result": "success"}


class Failure(HTTPException):
    """A request that is answered with a failure.

    Args:
        status: HTTP status, never 2xx.
        fault: what is wrong, one sentence; MVI clients print it.
        fields: more keys of the answer.
        headers: more headers of the answer.
    """

    def __init__(self, status: int, fault: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> None:
        super().__init__(status, fault, dict(headers or {}))
        self.fields = fields

    def __str__(self) -> str:
        return self.detail

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.status_code

    @property
    def fault(self) -> str:
        """What is wrong."""
        return self.detail

    def response(self) -> Response:
        """The answer: ``result``, ``fault``, and the ``status`` and ``type`` that MVI 8 adds."""
        phrase = HTTPStatus(self.status).phrase
        kind = phrase.title().replace(" ", "").replace("-", "") + "Exception"
        body = {"result": "fail", "fault": self.fault, "status": phrase, "type": kind, **self.fields}
        return rendered(body, self.status, self.headers)


def success(**fields: Any) -> dict[str, Any]:
    """An answer that says ``result: success`` first."""
    return {**SUCCESS, **fields}


def rendered(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response; ASCII only, so that no name however odd can break the encoding."""
    raw = json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
    return Response(raw, status, dict(headers or {}), media_type="application/json")


def download(archive: Path, name: str) -> Response:
    """An archive, deleted once it is sent. The name comes last and without quotes, as IBM's tool cuts it out."""
    return FileResponse(
        archive,
        media_type="application/zip",
        headers={"Content-Disposition": f"attachment; filename={name}"},
        background=BackgroundTask(archive.unlink, missing_ok=True),
    )


def counted(entries: list[dict[str, Any]]) -> Response:
    """The answer to a call on many things: 200 if all worked, 422 if at least one did not."""
    failed = sum(entry["result"] != "success" for entry in entries)
    body = {
        "result": "fail" if failed else "success",
        "success_count": len(entries) - failed,
        "fail_count": failed,
        "result_list": entries,
    }
    if failed:
        body["fault"] = f"{failed} of {len(entries)} could not be done; result_list says which and why."
    return rendered(body, 422 if failed else 200)


def parsed_json(text: str | bytes) -> Any:
    """What a text says in JSON. Raises ValueError when it is not JSON, or holds a number that JSON cannot show."""
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # 1e999
        raise ValueError(text)
    return number


def checked_text(name: str, value: str, most: int, *, may_be_empty: bool = False) -> str:
    """The text, if it may be stored and shown.

    Args:
        name: what it is called in a fault.
        value: the text.
        most: characters that are taken.
        may_be_empty: whether it may be blank.

    Raises:
        Failure: 400 when it is blank, too long, or holds control characters or half characters.
    """
    if not value.strip() and not may_be_empty:
        raise Failure(400, f"{name} must not be empty.")
    if len(value) > most:
        raise Failure(400, f"{name} has {len(value)} characters; at most {most} are taken.")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in value):  # noqa: PLR2004 - Unicode's own numbers
        raise Failure(400, f"{name} must not hold control characters.")
    return value
