"""HTTP towards a platform: one request, never repeated here, and what its outcome proves. The only home of requests."""

from __future__ import annotations

from image_sync.platforms.http.client import Client, Spool, Timeouts, header_value
from image_sync.platforms.http.form import Part, picture_parts
from image_sync.platforms.http.outcomes import Answer, Denied, in_doubt
from image_sync.platforms.words import sanitize

__all__ = [
    "Answer",
    "Client",
    "Denied",
    "Part",
    "Spool",
    "Timeouts",
    "header_value",
    "in_doubt",
    "picture_parts",
    "sanitize",
]
