"""What an embedded server has, by content."""

from __future__ import annotations

import hashlib
from typing import Any

from support.mvi_server import Caller


def stored_contents(url: str) -> dict[str, list[dict[str, Any]]]:
    """The server's files by the SHA-256 of the bytes that it gives back; more than one for a hash are copies."""
    caller = Caller(url)
    found: dict[str, list[dict[str, Any]]] = {}
    for dataset in caller.get("/datasets"):
        for file in caller.get(f"/datasets/{dataset['_id']}/files"):
            answer = caller.call("GET", f"/uploads/{file['owner']}/datasets/{dataset['_id']}/files/{file['file_name']}")
            assert answer.status_code == 200, answer.text
            found.setdefault(hashlib.sha256(answer.content).hexdigest(), []).append(file)
    return found
