"""What the server says: JSON for every success, ``result`` and ``fault`` for every failure."""

from __future__ import annotations

import json
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
