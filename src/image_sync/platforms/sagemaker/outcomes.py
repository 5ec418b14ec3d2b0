"""What an answer of AWS proves: nothing done, perhaps done, refused, or not ours to do.

============================================== ================ ==================
answer                                         repeatable       not repeatable
============================================== ================ ==================
no connection (refused, DNS, TLS, proxy)       ``Transient``    ``Transient``
timeout, reset, half an answer                 ``Transient``    ``Ambiguous``
5xx                                            ``Transient``    ``Ambiguous``
throttled, "slow down", 429                    ``Transient``
quota used up                                  ``NoRoom``, a ``Transient`` that wants to be left alone for long
the name or key is there already               ``Taken``, a ``Refused``
no such job, endpoint, object, bucket          ``NotFound``
who we are, or what we may, is not accepted    ``Unauthorised``
another region's bucket                        ``Permanent``
any other 4xx                                  ``Refused``
============================================== ================ ==================

Codes are matched wherever there are any; a few cases come as a ``ValidationException`` and differ by their text only.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from image_sync.errors import (
    Ambiguous,
    NotFound,
    Permanent,
    PlatformError,
    Refused,
    Transient,
    Unanswered,
    Unauthorised,
)
from image_sync.platforms import words

DOUBT = "It may have been carried out; SageMaker will be asked for its name before a repeat"
POLICY = "`image-sync check --policy` prints the rights that are needed"
_QUOTA_PAUSE = 900.0
_LONGEST_TEXT = 400
_THROTTLED = re.compile(
    "Throttling|ThrottlingException|ThrottledException|RequestThrottled|RequestThrottledException|"
    "RequestLimitExceeded|TooManyRequestsException|BandwidthLimitExceeded|LimitExceededException|"
    "SlowDown|ModelNotReadyException|RequestTimeout"
)
_STRANGERS = re.compile(
    "UnrecognizedClientException|InvalidClientTokenId|InvalidAccessKeyId|SignatureDoesNotMatch|"
    "ExpiredToken|ExpiredTokenException|InvalidToken|IncompleteSignature|MissingAuthenticationToken|"
    "TokenRefreshRequired|AuthFailure|NotSignedUp|OptInRequired"
)
_ABSENT = re.compile(
    "ResourceNotFoundException|NoSuchKey|NoSuchBucket|NoSuchUpload|NoSuchEntity|ResourceNotFound|404|NotFound"
)
_ELSEWHERE = re.compile(
    "PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraintException|TemporaryRedirect|301|307"
)
_ABSENT_TEXT = re.compile(r"requested resource not found|could not find", re.IGNORECASE)
_TAKEN_TEXT = re.compile(r"already exist", re.IGNORECASE)
_NO_DATA_TEXT = re.compile(r"no s3 objects found", re.IGNORECASE)


class Taken(Refused):
    """A job, model, endpoint or object of that name is there already."""


class NoRoom(Transient):
    """The account's quota for these machines is used up, or is zero."""


class Said(NamedTuple):
    """An answer that is no success."""

    code: str
    message: str
    status: int
    retry_after: float | None = None


def sanitize(text: object) -> str:
    """AWS's words as they may be shown."""
    return words.sanitize(text, _LONGEST_TEXT)


def error_of(what: str, said: Said, *, repeatable: bool) -> PlatformError:  # noqa: C901 - one case after the other
    """The error for such an answer; ``what`` says what was being done."""
    text = f"{what}: {sanitize(said.message or said.code)} ({said.code or said.status})"
    validation = said.code in {"ValidationException", "ValidationError"}
    if _THROTTLED.fullmatch(said.code) or said.status == 429 or (said.code, said.status) == ("ServiceUnavailable", 503):  # noqa: PLR2004
        return Transient(text, retry_after=said.retry_after)
    if said.code == "ResourceLimitExceeded":
        hint = "Ask AWS for a larger quota (Service Quotas, Amazon SageMaker), or name other instance types"
        return NoRoom(text, hint=hint, retry_after=_QUOTA_PAUSE)
    if said.code == "RequestTimeTooSkewed":
        return Unauthorised(text, hint="Set the clock of this machine")
    if _STRANGERS.fullmatch(said.code) or said.status == 401:  # noqa: PLR2004 - unauthorised
        hint = "Check AWS's credentials: the environment, sagemaker.profile, or the role of this machine"
        return Unauthorised(text, hint=hint)
    if _ELSEWHERE.fullmatch(said.code) or said.status in {301, 307}:
        return Permanent(text, hint="The bucket lies in another region: correct sagemaker.region or sagemaker.bucket")
    if said.code.startswith("AccessDenied") or said.status == 403:  # noqa: PLR2004 - forbidden
        return Unauthorised(text, hint=POLICY)
    if _ABSENT.fullmatch(said.code) or (validation and _ABSENT_TEXT.search(said.message)):
        return NotFound(text)
    if said.code in {"ResourceInUse", "PreconditionFailed"} or (validation and _TAKEN_TEXT.search(said.message)):
        return Taken(text)
    if said.code == "ConditionalRequestConflict":
        return Transient(text)
    if validation and _NO_DATA_TEXT.search(said.message):
        return Refused(text, hint="Is the bucket in this region, and may the role list it?")
    if said.status >= 500 or said.code in {"InternalFailure", "InternalError", "InternalServerError"}:  # noqa: PLR2004
        if not repeatable:
            return Ambiguous(text, hint=DOUBT)
        kind = Unanswered if said.status in {502, 503, 504} else Transient
        return kind(text, retry_after=said.retry_after)
    return Refused(text)


def lost(what: str, why: object, *, repeatable: bool) -> PlatformError:
    """The error for a request that went out and got no whole answer."""
    text = f"{what}: {sanitize(why)}"
    return Unanswered(text) if repeatable else Ambiguous(text, hint=DOUBT)


def unsent(what: str, why: object) -> Unanswered:
    """The error for a request that never left."""
    hint = "Check the network, sagemaker.region and sagemaker.endpoint_url"
    return Unanswered(f"{what}: {sanitize(why)}", hint=hint)


def seconds_of(header: str | None) -> float | None:
    """The seconds that a ``Retry-After`` header asks for, or None."""
    text = (header or "").strip()
    return min(float(text[:9]), 3600.0) if text.isascii() and text.isdigit() else None
