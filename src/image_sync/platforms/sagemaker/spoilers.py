"""Pictures that broke a training: found by what the job says, else by decoding each; left out from then on.

AWS does not say what its containers do with a picture that they cannot read. What is learnt from a job that failed is
kept in the bucket, ``left-out.json``, so that every machine leaves the same pictures out; whoever deletes that file
gives them back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from image_sync.errors import NotFound, PlatformError
from image_sync.log import get_logger
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.datasets import Place
from image_sync.platforms.sagemaker.documents import Documents
from image_sync.platforms.sagemaker.keys import parts_of
from image_sync.platforms.sagemaker.outcomes import sanitize
from image_sync.platforms.sagemaker.pictures import Pictures
from image_sync.platforms.sagemaker.wire import TrainingJob

_log = get_logger(__name__)

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_FILE = re.compile(r"[^\s/'\"<>|(),;:\[\]]+\.(?:jpg|png)", re.IGNORECASE)
_TROUBLE = re.compile(r"error|cannot|can't|could not|corrupt|fail|invalid|truncat|unable|broken", re.IGNORECASE)
_ABOUT_PICTURES = re.compile(
    r"decod|jpe?g|png|corrupt|truncat|imread|opencv|(?:un|not |cannot |can't )read"
    r"|(?:invalid|bad|broken) (?:image|picture)",
    re.IGNORECASE,
)
_MOST_LINES = 20_000


class Spoilers:
    """Finds them, and knows them."""

    def __init__(self, api: Api, documents: Documents, pictures: Pictures) -> None:
        self._api = api
        self._documents = documents
        self._pictures = pictures

    def known(self, place: Place) -> dict[str, str]:
        """Remote id -> why it is left out."""
        try:
            content = self._documents.read(place.layout.left_out)
        except NotFound:
            return {}
        return {str(one["id"]): str(one["reason"]) for one in content.get("pictures", ())}

    def find(self, place: Place, job: TrainingJob) -> dict[str, str]:
        """Key -> reason of the pictures that ended this job and were not known before; from now on they are."""
        said = sanitize(job.FailureReason)
        before = self.known(place)
        there = {one.remote_id: one.key for one in self._pictures.listing(place.ref) if one.remote_id not in before}
        named = {name for line in (job.FailureReason, *self._complaints(job)) for name in _FILE.findall(line)}
        found = {remote_id: said for remote_id in there if parts_of(remote_id)[2] in named}
        if not found and _ABOUT_PICTURES.search(job.FailureReason):
            reasons = self._pictures.at_once(lambda remote_id: self._pictures.decoded(place, remote_id), there)
            found = {remote_id: reason for remote_id, reason in zip(there, reasons, strict=True) if reason}
        if not found:
            return {}
        self._documents.change(place.layout.left_out, lambda content: _added(content, found))
        _log.warning(
            "training.left_out",
            job=job.TrainingJobName,
            pictures=[there[remote_id] for remote_id in found],
            reason=said,
            hint=f"look at them; to have them trained on again, delete s3://{self._api.bucket}/{place.layout.left_out}",
        )
        return {there[remote_id]: reason for remote_id, reason in found.items()}

    def _complaints(self, job: TrainingJob) -> Iterator[str]:
        """The lines of its log that tell of trouble, as far as we may read it."""
        try:
            for number, line in enumerate(self._api.log_lines(LOG_GROUP, f"{job.TrainingJobName}/")):
                if number == _MOST_LINES:
                    return
                if _TROUBLE.search(line):
                    yield line
        except PlatformError as error:
            _log.info("training.log_unread", job=job.TrainingJobName, reason=error.what)


def _added(content: dict[str, Any], found: dict[str, str]) -> dict[str, Any]:
    known = {str(one["id"]): str(one["reason"]) for one in content.get("pictures", ())} | found
    return {"pictures": [{"id": remote_id, "reason": reason} for remote_id, reason in known.items()]}
