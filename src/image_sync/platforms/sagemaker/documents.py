"""Small JSON documents in the bucket, changed so that two machines never undo each other's work."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from image_sync.errors import NotFound, Refused, Transient
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.outcomes import Taken

_FORMAT = 1
_TRIES = 20
_PAUSE = 0.2
_JSON = "application/json"


class Documents:
    """Reads and writes them.

    Args:
        stop: ends the wait between two tries.
    """

    def __init__(self, api: Api, stop: threading.Event) -> None:
        self._api = api
        self._stop = stop

    def read(self, key: str) -> dict[str, Any]:
        """The document. Raises NotFound without one, Refused when it is none of ours."""
        return self._versioned(key)[0]

    def make(self, key: str, content: dict[str, Any]) -> dict[str, Any]:
        """The document that lies there: this one, unless somebody was quicker."""
        try:
            self._api.put(key, encoded(content), unless_there=True, ContentType=_JSON)
        except Taken:
            return self.read(key)
        return content

    def change(self, key: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> dict[str, Any]:
        """The document after the change, which starts from what is there now ({} without a document).

        Args:
            change: gives the new content, or None when nothing has to be changed; may be called several times.
        """
        for _ in range(_TRIES):
            try:
                content, etag = self._versioned(key)
            except NotFound:
                content, etag = {}, ""
            changed = change(content)
            if changed is None:
                return content
            try:
                self._api.put(key, encoded(changed), unless_there=not etag, match=etag, ContentType=_JSON)
            except (Taken, NotFound):  # somebody else changed or made it, or took it away
                self._stop.wait(_PAUSE)
                continue
            return changed
        raise Transient(f"{key} is changed by somebody else again and again")

    def _versioned(self, key: str) -> tuple[dict[str, Any], str]:
        raw, etag = self._api.get(key)
        try:
            content = json.loads(raw)
        except ValueError:
            content = None
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise Refused(f"{key} in the bucket {self._api.bucket} is not what image-sync wrote there")
        if content["format"] > _FORMAT:
            raise Refused(f"{key} was written by a newer image-sync", hint="Upgrade this one")
        return content, etag


def encoded(content: dict[str, Any]) -> bytes:
    """The document as it is stored."""
    return json.dumps({"format": _FORMAT, **content}, ensure_ascii=False, indent=1).encode()
