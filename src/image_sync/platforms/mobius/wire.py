"""What a Mobius SDK answers, read with tolerance: no public page shows the bodies of these calls.

Documented are the fields ``status`` (``success``, in older pages ``ok``; ``ongoing``; ``error``; clients also wait for
``in_queue``) and ``message``, and the list of messages. HTTP statuses are documented nowhere: a body with a known
``status`` decides, whatever the HTTP status; without one the HTTP status does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from image_sync.errors import NotFound, Permanent, PlatformError, Refused, Transient, Unauthorised
from image_sync.platforms.http import Answer, in_doubt, sanitize

DONE = frozenset({"success", "ok"})
WAITING = frozenset({"in_queue"})
RUNNING = frozenset({"ongoing"})
FAILED = frozenset({"error"})

THERE_ALREADY = frozenset({"duplicate_image_id", "image_id_exists"})
"""The second is what version 3 says."""
BAD_PICTURE = frozenset({"image_reading_error", "data_payload_required"})
NO_MODEL = "unknown_custom_model"
NO_TASK = "unknown_task_id"
_NOT_FOUND = frozenset({NO_MODEL, NO_TASK, "image_id_not_found"})
_LATER = frozenset({"token_server_connection_error", "features_loading_error", "file_saving_error", "unknown_error"})
_LICENCE = frozenset({"invalid_signature", "token_verification_error", "expired_token", "unknown_token"})
_LIMIT = "exceeds_test_limit"
_HINTS = {
    "image_reading_error": "It reads whole JPEG and PNG files only",
    NO_MODEL: "Is the tag spelt right, and was it trained? See: image-sync status",
    "image_id_not_found": "Was it uploaded, and not changed since? If the server lost it: image-sync ledger rebuild",
}
_KNOWN = frozenset({*THERE_ALREADY, *BAD_PICTURE, *_NOT_FOUND, *_LATER, *_LICENCE, _LIMIT, "positive_samples_required"})

NOT_ABOUT_A_TASK = frozenset({404, 405, 429})
"""HTTP statuses with which nothing is said of a training, if the message is unknown, too."""

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Reply:
    """A body with a known ``status``; or, with an empty one, any other JSON of a successful call."""

    status: str
    message: str
    body: Any

    @property
    def failed(self) -> bool:
        """Whether it reports a failure."""
        return self.status in FAILED

    def id_of(self, *names: str) -> str:
        """The first of these fields that holds an id which may stand in a URL, or empty."""
        fields = self.body if isinstance(self.body, Mapping) else {}
        values = (str(fields[name]) for name in names if isinstance(fields.get(name), str | int))
        return next((value for value in values if _ID.fullmatch(value) and value.strip(".")), "")


def read(answer: Answer) -> Reply | None:
    """The answer's body, if it is one with a known ``status``."""
    try:
        body = answer.json()
    except ValueError:
        return None
    status = body.get("status") if isinstance(body, dict) else None
    if not isinstance(status, str) or status.lower() not in DONE | WAITING | RUNNING | FAILED:
        return None
    message = body.get("message")
    return Reply(status.lower(), message if isinstance(message, str) else "", body)


def understood(reply: Reply, http_status: int) -> bool:
    """Whether the body says more of a failure than the HTTP status does."""
    return reply.message in _KNOWN or 200 <= http_status <= 299  # noqa: PLR2004 - the 2xx statuses


def failure(reply: Reply, what: str, *, repeatable: bool) -> PlatformError:
    """The error for a body that reports one."""
    said = f"{what}: the Mobius SDK says {sanitize(reply.message) or 'error, and no more'}"
    message = reply.message
    if message in _LATER:
        return in_doubt(what, f"the Mobius SDK says {message}", repeatable=repeatable, kind=Transient)
    if message in _NOT_FOUND:
        return NotFound(said, hint=_HINTS.get(message, ""))
    if message in _LICENCE:
        return Unauthorised(said, hint="Check the licence (MOBIUS_TOKEN) of the server's container")
    if message == _LIMIT:
        return Permanent(said, hint="The server's licence allows no more; ask Mobius Labs")
    return Refused(said, hint=_HINTS.get(message, ""))
