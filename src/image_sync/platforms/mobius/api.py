"""The Mobius SDK's REST interface in its own words: one method for each call of "Customized Training" (SDK 1.5).

Several of its calls change something by ``GET``. Such a call is sent once, and what became of it is told by the error
(see ``http/outcomes.py``); whoever repeats it knows why that does no harm.

Answers are read with tolerance, since no public page shows their bodies. Documented are the fields ``status``
(``success``, in older pages ``ok``; ``ongoing``; ``error``; clients also wait for ``in_queue``) and ``message``, and
the list of messages. HTTP statuses are documented nowhere: a body with a known ``status`` decides, whatever the HTTP
status; without one the HTTP status does.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import quote

from image_sync.errors import NotFound, Permanent, PlatformError, Refused, Transient, Unauthorised
from image_sync.log import get_logger
from image_sync.platforms.http import Answer, Client, Part, Timeouts, in_doubt, sanitize

_log = get_logger(__name__)

Kind = Literal["positive", "negative"]

DONE = frozenset({"success", "ok"})
WAITING = frozenset({"in_queue"})
_RUNNING = frozenset({"ongoing"})
_FAILED = frozenset({"error"})

BAD_PICTURE = frozenset({"image_reading_error", "data_payload_required"})
NO_MODEL = "unknown_custom_model"
NO_TASK = "unknown_task_id"
_THERE_ALREADY = frozenset({"duplicate_image_id", "image_id_exists"})
"""The second is what version 3 says."""
_NOT_FOUND = frozenset({NO_MODEL, NO_TASK, "image_id_not_found"})
_LATER = frozenset({"token_server_connection_error", "features_loading_error", "file_saving_error", "unknown_error"})
_LICENCE = frozenset({"invalid_signature", "token_verification_error", "expired_token", "unknown_token"})
_LIMIT = "exceeds_test_limit"
_HINTS = {
    "image_reading_error": "It reads whole JPEG and PNG files only",
    NO_MODEL: "Is the tag spelt right, and was it trained? See: image-sync status",
    "image_id_not_found": "Was it uploaded, and not changed since? If the server lost it: image-sync ledger rebuild",
}
_KNOWN = _THERE_ALREADY | BAD_PICTURE | _NOT_FOUND | _LATER | _LICENCE | {_LIMIT, "positive_samples_required"}
_NOT_ABOUT_A_TASK = frozenset({404, 405, 429})
"""HTTP statuses with which nothing is said of a training, if the message is unknown, too."""

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_IMAGE = ("image_id", "id")
_SLOWEST_LINE = 10_000.0
"""Bytes a second that an upload is given time for."""
_STATE_TIMEOUTS = Timeouts(read=600.0, total=4 * 3600.0)
_LONGEST_BODY = 4000
"""Characters of a body that the debug log keeps."""
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """A body with a known ``status``; or, with an empty one, any other JSON of a successful call."""

    status: str
    message: str
    body: Any

    @property
    def failed(self) -> bool:
        """Whether it reports a failure."""
        return self.status in _FAILED

    def id_of(self, *names: str) -> str:
        """The first of these fields that holds an id which may stand in a URL, or empty."""
        fields = self.body if isinstance(self.body, Mapping) else {}
        values = (str(fields[name]) for name in names if isinstance(fields.get(name), str | int))
        return next((value for value in values if _ID.fullmatch(value) and value.strip(".")), "")


class Api:
    """The calls.

    Args:
        slots: how many calls may add or assign at the same time, over all threads.
    """

    def __init__(self, client: Client, timeouts: Timeouts, slots: int) -> None:
        self._client = client
        self._timeouts = timeouts
        self._slots = threading.BoundedSemaphore(slots)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # pictures

    def add(self, image: str, picture: Part) -> Reply:
        """``POST /system/database/image/add?image_id=``, the picture as part ``data``. Adding an id twice changes
        nothing: the second answer says so, and is returned, as is what the server says of a picture it cannot read."""
        fine = _THERE_ALREADY | BAD_PICTURE
        timeouts = self._timeouts._replace(total=self._timeouts.total + picture.size / _SLOWEST_LINE)
        path, what = f"/system/database/image/add?image_id={image}", f"Adding the picture {picture.filename}"
        with self._slots:
            return self._call("POST", path, what, fine=fine, proof=_IMAGE, form=[picture], timeouts=timeouts)

    def assign(self, image: str, kind: Kind, tag: str) -> None:
        """``GET /custom/assign/<image_id>/<type>/<tag>``. Assigning twice is taken for assigning once."""
        path = f"/custom/assign/{image}/{kind}/{_quoted(tag)}"
        with self._slots:
            self._call("GET", path, f"Assigning a picture to the tag {tag}", proof=_IMAGE)

    # training

    def train(self, tag: str) -> str:
        """``GET /custom/train/<tag>``: the task's id. Not repeatable: each call starts a task."""
        what = f"Training the tag {tag}"
        reply = self._call("GET", f"/custom/train/{_quoted(tag)}", what, repeatable=False, proof=("task_id",))
        task = reply.id_of("task_id")
        if not task:
            raise in_doubt(what, "the answer names no task", repeatable=False)
        return task

    def status(self, task: str, what: str = "Asking how far a training is") -> Reply:
        """``GET /status/<task_id>``: the task's state, also when that is an error."""
        return self._call("GET", f"/status/{_quoted(task)}", what, judged=False)

    def delete(self, tag: str) -> bool:
        """``GET /custom/delete/<tag>``: whether there was something to reset. Not repeatable: one that is carried out
        late would undo what was assigned since."""
        what = f"Resetting the tag {tag}"
        return not self._call("GET", f"/custom/delete/{_quoted(tag)}", what, repeatable=False, fine={NO_MODEL}).failed

    # predictions

    def predict(self, picture: bytes, *, tag: str = "", base: bool = False) -> Any:
        """``POST /predict/custom``: all custom models; ``.../<tag>``: one; ``/predict``: base models, too."""
        path, what = "/predict/custom", "Asking the custom models"
        if tag:
            path, what = f"/predict/custom/{_quoted(tag)}", f"Asking the tag {tag}"
        elif base:
            path, what = "/predict", "Asking all models"
        return self._predict("POST", path, what, picture)

    def predict_added(self, image: str, tag: str = "") -> Any:
        """``GET /custom/predict/<image_id>``, or ``/custom/predict/<tag>/<image_id>`` for one tag."""
        path = f"/custom/predict/{_quoted(tag)}/{image}" if tag else f"/custom/predict/{image}"
        return self._predict("GET", path, "Asking about an added picture")

    def predict_batch(self, images: Sequence[str], tags: Sequence[str]) -> Any:
        """``GET /custom/predict_batch?image_id=<list>&tags=<list>``, both lists with commas between."""
        query = f"image_id={','.join(images)}&tags={','.join(map(_quoted, tags))}"
        return self._predict("GET", f"/custom/predict_batch?{query}", "Asking about added pictures")

    # everything

    def set_state(self, file: BinaryIO, name: str, size: int) -> None:
        """``POST /set_state``, a tar as part ``data``: replaces everything that the server knows. Not repeatable."""
        pieces = iter(lambda: file.read(_PIECE), b"")
        part = Part("data", lambda: pieces, filename=name, content_type="application/x-tar", size=size)
        what = f"Loading the state {Path(name).name}"
        self._call("POST", "/set_state", what, repeatable=False, form=[part], timeouts=_STATE_TIMEOUTS)

    # how every call is made

    def _predict(self, method: str, path: str, what: str, picture: bytes = b"") -> Any:
        kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
        part = Part("data", picture, filename=f"picture.{kind}", content_type=f"image/{kind}")
        return self._call(method, path, what, form=[part] if picture else (), bare=True).body

    def _call(
        self,
        method: str,
        path: str,
        what: str,
        *,
        repeatable: bool = True,
        fine: Collection[str] = (),
        judged: bool = True,
        bare: bool = False,
        proof: Sequence[str] = (),
        **request: Any,
    ) -> Reply:
        """One call.

        Args:
            fine: messages of failures that are returned like successes; all of them unless ``judged``.
            bare: a success need not say that it is one.
            proof: fields of which one, with an id, says as much as a ``status`` would: the only answer that the
                vendor's page tells of is such a one. For a picture, an empty object does so too.
        """
        answer = self._client.send(method, path, what=what, repeatable=repeatable, **request)
        body = sanitize(answer.body[: 4 * _LONGEST_BODY].decode("utf-8", "replace"), _LONGEST_BODY)
        _log.debug("mobius.answer", call=f"{method} {path}", status=answer.status, body=body)
        reply = _reply_in(answer)
        if reply is None or (
            reply.failed
            and reply.message not in _KNOWN
            and not 200 <= answer.status <= 299  # noqa: PLR2004 - else the HTTP status says more than the body
            and (judged or answer.status in _NOT_ABOUT_A_TASK)
        ):
            found = self._client.check(answer, what=what, repeatable=repeatable)
            if reply is None and isinstance(found, dict) and "status" not in found:
                silent = Reply("", "", found)
                if silent.id_of(*proof) or (proof == _IMAGE and not found):
                    return silent
            if not bare or found is None:
                raise in_doubt(what, "the answer does not say whether it worked", repeatable=repeatable)
            return Reply("", "", found)
        if reply.failed and judged and reply.message not in fine:
            raise _failure(reply.message, what, repeatable=repeatable)
        return reply


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _reply_in(answer: Answer) -> Reply | None:
    """The answer's body, if it is one with a known ``status``."""
    try:
        body = answer.json()
    except ValueError:
        return None
    status = body.get("status") if isinstance(body, dict) else None
    if not isinstance(status, str) or status.lower() not in DONE | WAITING | _RUNNING | _FAILED:
        return None
    message = body.get("message")
    return Reply(status.lower(), message if isinstance(message, str) else "", body)


def _failure(message: str, what: str, *, repeatable: bool) -> PlatformError:
    said = f"{what}: the Mobius SDK says {sanitize(message) or 'error, and no more'}"
    if message in _LATER:
        return in_doubt(what, f"the Mobius SDK says {message}", repeatable=repeatable, kind=Transient)
    if message in _NOT_FOUND:
        return NotFound(said, hint=_HINTS.get(message, ""))
    if message in _LICENCE:
        return Unauthorised(said, hint="Check the licence (MOBIUS_TOKEN) of the server's container")
    if message == _LIMIT:
        return Permanent(said, hint="The server's licence allows no more; ask Mobius Labs")
    return Refused(said, hint=_HINTS.get(message, ""))
