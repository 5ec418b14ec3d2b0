"""How AWS is called: the only home of boto3, which is imported when the first call is made.

boto3's own retries are off: it would repeat a request whose answer was lost, and nobody would know.
Operations that are used once are called by their names where they are used (:meth:`Api.call`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import IO, Any, NamedTuple, TypeVar

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError

from image_sync import __version__
from image_sync.config.sagemaker import SageMaker
from image_sync.errors import ConfigError, NotFound, PlatformError, Refused, Transient, Unauthorised
from image_sync.platforms.sagemaker.outcomes import Said, error_of, lost, sanitize, seconds_of, unsent

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

MISSING = "AWS SageMaker needs boto3, which is not installed"
INSTALL = "Run: pip install 'image-sync[sagemaker]'"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_CONNECTIONS = 40
_LARGEST_BODY = 64 * 2**20
"""Bytes of what is read at once: documents of ours, answers of models, pictures."""
_PIECE = 1 << 20
_RUNTIME_READ = 70.0
"""Seconds: a model must answer within 60."""
_NAMES = {"runtime": "sagemaker-runtime", "servicequotas": "service-quotas"}
_TRANSIENT_STATUS = 500
_CHECKSUM = "CRC32"


class Object(NamedTuple):
    """An object in the bucket; listings know no metadata."""

    key: str
    size: int
    modified: float
    """Unix time, in whole seconds."""
    metadata: Mapping[str, str] = MappingProxyType({})


class _Answer(BaseModel):
    """What AWS answers, as far as we use it. What is missing or new does not matter; what has a wrong shape does."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Metric(_Answer):
    name: str = Field("", alias="MetricName")
    value: float = Field(0.0, alias="Value")


class _Channel(_Answer):
    name: str = Field("", alias="ChannelName")
    uri: str = Field("", validation_alias=AliasPath("DataSource", "S3DataSource", "S3Uri"))


class TrainingJob(_Answer):
    """``DescribeTrainingJob``."""

    name: str = Field(alias="TrainingJobName")
    status: str = Field(alias="TrainingJobStatus")
    secondary: str = Field("", alias="SecondaryStatus")
    failure: str = Field("", alias="FailureReason")
    artifact: str = Field("", validation_alias=AliasPath("ModelArtifacts", "S3ModelArtifacts"))
    machine: str = Field("", validation_alias=AliasPath("ResourceConfig", "InstanceType"))
    hyperparameters: dict[str, str] = Field({}, alias="HyperParameters")
    channels: list[_Channel] = Field([], alias="InputDataConfig")
    metrics: list[_Metric] = Field([], alias="FinalMetricDataList")
    billed: float | None = Field(None, alias="BillableTimeInSeconds")
    created_at: datetime | None = Field(None, alias="CreationTime")
    ended_at: datetime | None = Field(None, alias="TrainingEndTime")
    modified_at: datetime | None = Field(None, alias="LastModifiedTime")

    def channel(self, name: str) -> str:
        """The URI that a channel reads, or an empty text."""
        return next((one.uri for one in self.channels if one.name == name), "")

    def metric(self, *names: str) -> float | None:
        """The last value of the first of these metrics that there is."""
        values = {metric.name: metric.value for metric in self.metrics}
        return next((values[name] for name in names if name in values), None)


class Endpoint(_Answer):
    """``DescribeEndpoint``."""

    status: str = Field(alias="EndpointStatus")
    config: str = Field("", alias="EndpointConfigName")
    failure: str = Field("", alias="FailureReason")


def installed() -> bool:
    """Whether boto3 can be imported; does not import it."""
    return importlib.util.find_spec("boto3") is not None


class Api:
    """AWS's operations as plain values. Nothing is imported, and nobody asked for credentials, before the first call.

    Args:
        setup: region, profile, bucket, addresses.
        timeout: seconds for a connection and for each answer.
        alive: called for each request.

    Raises:
        ConfigError: boto3 is not installed.
    """

    def __init__(self, setup: SageMaker, *, timeout: float = 60.0, alive: Callable[[], None] = lambda: None) -> None:
        if not installed():
            raise ConfigError(MISSING, hint=INSTALL)
        self._setup = setup
        self._timeout = timeout
        self.alive = alive
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self.bucket = setup.bucket

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def client(self, service: str) -> Any:
        """The boto3 client of a service: ``s3``, ``sagemaker``, ``runtime``, ``sts``, ``iam``,
        ``servicequotas``, ``logs``."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._connected(service)
            return self._clients[service]

    def _connected(self, service: str) -> Any:
        # boto3 is an extra, and slow to import: only when it is used.
        for name in ("boto3", "botocore"):
            logging.getLogger(name).setLevel(logging.WARNING)  # below that they tell every header, tokens included
        import boto3
        import botocore.exceptions
        from botocore.config import Config

        try:
            if self._session is None:
                self._session = boto3.Session(profile_name=self._setup.profile, region_name=self._setup.region)
            return self._session.client(
                _NAMES.get(service, service),
                endpoint_url=self._setup.endpoint_url.get(service),
                config=Config(
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    connect_timeout=min(10.0, self._timeout),
                    read_timeout=max(self._timeout, _RUNTIME_READ) if service == "runtime" else self._timeout,
                    max_pool_connections=_CONNECTIONS,
                    user_agent_extra=f"image-sync/{__version__}",
                ),
            )
        except botocore.exceptions.BotoCoreError as error:
            hint = "Check sagemaker.profile and sagemaker.region, and AWS's own configuration files"
            raise Unauthorised(f"AWS cannot be used: {sanitize(error)}", hint=hint) from error

    def call(self, service: str, operation: str, what: str, *, repeatable: bool = True, **arguments: Any) -> Any:
        """Call an operation; ``what`` says in errors what was being done."""
        self.alive()
        method = getattr(self.client(service), operation)
        return self._guarded(what, lambda: method(**arguments), repeatable=repeatable)

    def entries(self, service: str, operation: str, what: str, field: str, **arguments: Any) -> Iterator[Any]:
        """What all pages of an operation have under ``field``, page by page."""
        pages = iter(self.client(service).get_paginator(operation).paginate(**arguments))
        while (page := self._guarded(what, lambda: next(pages, None))) is not None:
            self.alive()
            yield from page.get(field, ())

    def _body(self, what: str, answer: Mapping[str, Any]) -> bytes:
        """The whole of a small body. Raises Transient when it is none."""
        body: bytes = self._guarded(what, lambda: answer["Body"].read(_LARGEST_BODY + 1))
        if len(body) > _LARGEST_BODY:
            answer["Body"].close()
            raise Transient(
                f"{what}: it is longer than {_LARGEST_BODY} bytes",
                hint="image-sync never writes an object that large; another program did",
            )
        return body

    @staticmethod
    def _guarded(what: str, call: Callable[[], T], *, repeatable: bool = True) -> T:
        """The call's result, or the one of our errors that says what is proved."""
        from botocore import exceptions as boto
        from botocore.parsers import ResponseParserError

        try:
            return call()
        except boto.ClientError as error:
            raise error_of(what, _said(error.response), repeatable=repeatable) from error
        except (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.CredentialRetrievalError,
            boto.TokenRetrievalError,
            boto.SSOError,
            boto.InvalidConfigError,
            boto.ProfileNotFound,
        ) as error:
            hint = "Log in (`aws sso login`, `aws configure`), set sagemaker.profile, or give this machine a role"
            raise Unauthorised(f"{what}: {sanitize(error)}", hint=hint) from error
        except boto.SSLError as error:  # mostly a certificate, but it may have been the end of a connection that stood
            raise (unsent(what, error) if repeatable else lost(what, error, repeatable=False)) from error
        except (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError) as error:
            raise unsent(what, error) from error
        except (
            boto.HTTPClientError,
            boto.IncompleteReadError,
            boto.ChecksumError,
            boto.FlexibleChecksumError,
            ResponseParserError,
        ) as error:
            raise lost(what, error, repeatable=repeatable) from error
        except boto.BotoCoreError as error:  # the request could not be made: names, values, regions
            raise Refused(f"{what}: {sanitize(error)}") from error

    # objects: all in the one bucket unless a URI says otherwise

    def bucket_region(self) -> str:
        """``HeadBucket``: the region that the bucket lies in."""
        answer = self.call("s3", "head_bucket", f"Looking at the bucket {self.bucket}", Bucket=self.bucket)
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(answer.get("BucketRegion") or headers.get("x-amz-bucket-region") or "")

    def put(
        self, key: str, body: bytes | IO[bytes], *, unless_there: bool = False, match: str = "", **more: Any
    ) -> str:
        """``PutObject``: its ETag.

        Raises:
            Taken: with ``unless_there``, the key is there already; with ``match``, it no longer has that ETag.
        """
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if unless_there else {"IfMatch": match} if match else {}
        more = {**self._at(key), **condition, **self._sealed(), **more}
        return str(self.call("s3", "put_object", f"Storing {sanitize(key)}", Body=body, **more)["ETag"])

    def put_large(self, key: str, body: IO[bytes], piece: int, **more: Any) -> None:
        """``CreateMultipartUpload`` and what follows; a half one is given up.

        Raises:
            Taken: the key is there already.
        """
        what, at = f"Storing {sanitize(key)}", self._at(key)
        # Without the algorithm's name at the beginning, S3 may refuse parts that come with a checksum at the end.
        sealed: dict[str, Any] = {**self._sealed(), "ChecksumAlgorithm": _CHECKSUM}
        begun = self.call("s3", "create_multipart_upload", what, **at, **sealed, **more)
        upload: dict[str, Any] = {**at, "UploadId": begun["UploadId"]}
        try:
            parts: list[dict[str, Any]] = []
            while chunk := body.read(piece):
                number = len(parts) + 1
                part: dict[str, Any] = {"PartNumber": number, "ChecksumAlgorithm": _CHECKSUM}
                told = self.call("s3", "upload_part", what, **upload, **part, Body=chunk)
                sums = {name: told[name] for name in ("ETag", f"Checksum{_CHECKSUM}") if name in told}
                parts.append({**sums, "PartNumber": number})
            finish: dict[str, Any] = {"MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
            self.call("s3", "complete_multipart_upload", what, **upload, **finish)
        except BaseException:
            with contextlib.suppress(PlatformError):  # the bucket's life cycle rules remove what is left of it
                self.call("s3", "abort_multipart_upload", "Giving up a half upload", **upload)
            raise

    def get(self, key: str) -> tuple[bytes, str]:
        """``GetObject``: the whole of a small object, and its ETag. Raises NotFound."""
        what = f"Reading {sanitize(key)}"
        answer = self.call("s3", "get_object", what, **self._at(key))
        return self._body(what, answer), str(answer["ETag"])

    def fetch(self, uri: str, sink: Callable[[bytes], object]) -> None:
        """``GetObject`` of any size into ``sink``. Raises NotFound."""
        what = f"Reading {sanitize(uri)}"
        body = self.call("s3", "get_object", what, **_parts(uri))["Body"]
        while chunk := self._guarded(what, lambda: body.read(_PIECE)):
            sink(chunk)

    def copy(self, source: str, target: str) -> None:
        """``CopyObject`` from one S3 URI to another; at most 5 GB. Raises NotFound."""
        what = f"Copying {sanitize(source)} to {sanitize(target)}"
        self.call("s3", "copy_object", what, **_parts(target), CopySource=_parts(source))

    def put_at(self, uri: str, body: bytes) -> None:
        """``PutObject`` to any S3 URI."""
        self.call("s3", "put_object", f"Storing {sanitize(uri)}", **_parts(uri), Body=body)

    def head(self, key: str) -> Object:
        """``HeadObject``. Raises NotFound."""
        answer = self.call("s3", "head_object", f"Looking at {sanitize(key)}", **self._at(key))
        modified = answer["LastModified"].timestamp()
        return Object(key, int(answer["ContentLength"]), modified, answer.get("Metadata", {}))

    def objects(self, prefix: str) -> Iterator[Object]:
        """``ListObjectsV2``: every object whose key begins so, page by page, in the order of their keys."""
        what, under = f"Listing {sanitize(prefix)}", self._under(prefix)
        return map(_object, self.entries("s3", "list_objects_v2", what, "Contents", **under))

    def some(self, prefix: str, most: int) -> list[Object]:
        """``ListObjectsV2``: the first few objects whose keys begin so."""
        what, under = f"Looking for {sanitize(prefix)}", self._under(prefix)
        page = self.call("s3", "list_objects_v2", what, **under, MaxKeys=most)
        return [_object(entry) for entry in page.get("Contents", ())]

    def folders(self, prefix: str) -> Iterator[str]:
        """``ListObjectsV2`` with a delimiter: the names of what looks like folders below the prefix."""
        what, under = f"Listing {sanitize(prefix)}", {**self._under(prefix), "Delimiter": "/"}
        for entry in self.entries("s3", "list_objects_v2", what, "CommonPrefixes", **under):
            yield str(entry["Prefix"])[len(prefix) :].rstrip("/")

    def delete(self, *keys: str) -> None:
        """``DeleteObjects``; those that are not there are no error."""
        for start in range(0, len(keys), 1000):
            batch = {"Objects": [{"Key": key} for key in keys[start : start + 1000]], "Quiet": True}
            what = f"Deleting {sanitize(keys[start])}"
            answer = self.call("s3", "delete_objects", what, Bucket=self.bucket, Delete=batch)
            for refusal in answer.get("Errors", ()):
                said = Said(refusal.get("Code", ""), refusal.get("Message", ""), 0)
                raise error_of(f"Deleting {sanitize(refusal.get('Key', ''))}", said, repeatable=True)

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": key}

    def _under(self, prefix: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Prefix": prefix}

    def _sealed(self) -> dict[str, Any]:
        key = self._setup.kms_key
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}

    # trainings and endpoints

    def create_training_job(self, body: Mapping[str, Any]) -> None:
        """``CreateTrainingJob``. Raises Taken, NoRoom, and Ambiguous when the answer is missing."""
        what = f"Starting the training job {body['TrainingJobName']}"
        self.call("sagemaker", "create_training_job", what, repeatable=False, **body)

    def training_job(self, name: str) -> TrainingJob:
        """``DescribeTrainingJob``. Raises NotFound."""
        what = f"Asking for the training job {name}"
        answer = self.call("sagemaker", "describe_training_job", what, TrainingJobName=name)
        return _read(TrainingJob, answer, what)

    def training_jobs(self, contains: str, **only: str) -> Iterator[str]:
        """``ListTrainingJobs``: the names of those whose name holds a text."""
        arguments: dict[str, Any] = {"NameContains": contains, "MaxResults": 100, **only}
        field = "TrainingJobSummaries"
        for entry in self.entries("sagemaker", "list_training_jobs", "Listing the training jobs", field, **arguments):
            yield str(entry["TrainingJobName"])

    def log_lines(self, job: str) -> Iterator[str]:
        """``FilterLogEvents``: what a training job wrote. Raises NotFound before anything was ever trained."""
        streams = {"logGroupName": LOG_GROUP, "logStreamNamePrefix": f"{job}/"}
        for event in self.entries("logs", "filter_log_events", f"Reading the log {job}/", "events", **streams):
            yield str(event.get("message", "")).rstrip()

    def endpoint(self, name: str) -> Endpoint:
        """``DescribeEndpoint``. Raises NotFound."""
        what = f"Asking for the endpoint {name}"
        return _read(Endpoint, self.call("sagemaker", "describe_endpoint", what, EndpointName=name), what)

    def invoke(self, endpoint: str, picture: bytes, content_type: str) -> object:
        """``InvokeEndpoint``: the JSON that the model answers. Raises NotFound without the endpoint."""
        what = f"Asking the endpoint {endpoint}"
        asked: dict[str, Any] = {"EndpointName": endpoint, "ContentType": content_type, "Accept": "application/json"}
        text = self._body(what, self.call("runtime", "invoke_endpoint", what, Body=picture, **asked))
        try:
            return json.loads(text)
        except ValueError as error:
            raise Transient(f"{what}: the answer is not JSON: {sanitize(text[:60])}") from error


def _read(model: type[M], answer: Mapping[str, Any], what: str) -> M:
    try:
        return model.model_validate({key: value for key, value in answer.items() if value is not None})
    except ValidationError as error:
        raise Transient(f"{what}: the answer has another shape than documented") from error


def _object(entry: Mapping[str, Any]) -> Object:
    return Object(entry["Key"], int(entry["Size"]), entry["LastModified"].timestamp())


def _parts(uri: str) -> dict[str, Any]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise NotFound(f"{sanitize(uri)} is not a place in S3")
    return {"Bucket": bucket, "Key": key}


def _said(response: Mapping[str, Any]) -> Said:
    error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    if code == "ModelError":
        # The container's own answer counts: a picture that it cannot read is refused, its trouble is passing.
        own = int(response.get("OriginalStatusCode") or _TRANSIENT_STATUS)
        return Said(code, str(response.get("OriginalMessage") or message), own)
    retry_after = seconds_of(meta.get("HTTPHeaders", {}).get("retry-after"))
    return Said(code, message, int(meta.get("HTTPStatusCode", 0)), retry_after)
