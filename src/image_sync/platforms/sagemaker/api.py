"""AWS in its own words: one method for each operation that we use, plain values back. The only home of boto3.

boto3's own retries are off: it would repeat a request whose answer was lost, and nobody would know.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, TypeVar

from image_sync import __version__
from image_sync.config.sagemaker import SageMaker
from image_sync.errors import ConfigError, NotFound, Permanent, PlatformError, Refused, Transient, Unauthorised
from image_sync.platforms.sagemaker import wire
from image_sync.platforms.sagemaker.outcomes import Said, error_of, lost, printable, seconds_of, unsent

T = TypeVar("T")

MISSING = "AWS SageMaker needs boto3, which is not installed"
INSTALL = "Run: pip install 'image-sync[sagemaker]'"
_CONNECTIONS = 40
_RUNTIME_READ = 70.0
"""Seconds: a model must answer within 60."""
_PIECE = 1 << 20
_NAMES = {"runtime": "sagemaker-runtime", "servicequotas": "service-quotas"}
_TRANSIENT_STATUS = 500


def installed() -> bool:
    """Whether boto3 can be imported; does not import it."""
    return importlib.util.find_spec("boto3") is not None


class Api:
    """The operations. Nothing is imported, and nobody asked for credentials, before the first of them.

    Args:
        setup: region, profile, bucket, addresses.
        timeout: seconds for a connection and for each answer.

    Raises:
        ConfigError: boto3 is not installed.
    """

    def __init__(self, setup: SageMaker, *, timeout: float = 60.0) -> None:
        if not installed():
            raise ConfigError(MISSING, hint=INSTALL)
        self._setup = setup
        self._timeout = timeout
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
        """The boto3 client of a service: ``s3``, ``sagemaker``, ``runtime``, ``sts``, ``iam``, ``servicequotas``."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._made(service)
            return self._clients[service]

    def _made(self, service: str) -> Any:
        import boto3  # an extra, and slow to import: only when it is used
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
            raise Unauthorised(f"AWS cannot be used: {printable(error)}", hint=hint) from error

    # objects

    def bucket_region(self) -> str:
        """``HeadBucket``: the region that the bucket lies in."""
        answer = self._call("s3", "head_bucket", f"Looking at the bucket {self.bucket}", Bucket=self.bucket)
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
        what = f"Storing {printable(key)}"
        answer = self._call("s3", "put_object", what, **self._at(key), Body=body, **condition, **self._sealed(), **more)
        return str(answer["ETag"])

    def put_large(self, key: str, body: IO[bytes], piece: int, **more: Any) -> None:
        """``CreateMultipartUpload`` and what follows; a half one is given up.

        Raises:
            Taken: the key is there already.
        """
        what, at = f"Storing {printable(key)}", self._at(key)
        begun = self._call("s3", "create_multipart_upload", what, **at, **self._sealed(), **more)
        upload: dict[str, Any] = {**at, "UploadId": begun["UploadId"]}
        try:
            parts: list[dict[str, Any]] = []
            while chunk := body.read(piece):
                number = len(parts) + 1
                told = self._call("s3", "upload_part", what, **upload, PartNumber=number, Body=chunk)
                parts.append({"ETag": told["ETag"], "PartNumber": number})
            finish: dict[str, Any] = {"MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
            self._call("s3", "complete_multipart_upload", what, **upload, **finish)
        except BaseException:
            self._give_up(upload)
            raise

    def _give_up(self, upload: dict[str, Any]) -> None:
        try:
            self._call("s3", "abort_multipart_upload", "Giving up a half upload", **upload)
        except PlatformError:
            return  # the bucket's life cycle rules remove what is left of it

    def get(self, key: str) -> tuple[bytes, str]:
        """``GetObject``: the whole of a small object, and its ETag. Raises NotFound."""
        what = f"Reading {printable(key)}"
        answer = self._call("s3", "get_object", what, **self._at(key))
        return self._guarded(what, answer["Body"].read), str(answer["ETag"])

    def fetch(self, uri: str, sink: Callable[[bytes], object]) -> None:
        """``GetObject`` of any size into ``sink``. Raises NotFound."""
        what = f"Reading {printable(uri)}"
        body = self._call("s3", "get_object", what, **_parts(uri))["Body"]
        while chunk := self._guarded(what, lambda: body.read(_PIECE)):
            sink(chunk)

    def copy(self, source: str, target: str) -> None:
        """``CopyObject`` from one S3 URI to another; at most 5 GB. Raises NotFound."""
        what = f"Copying {printable(source)} to {printable(target)}"
        self._call("s3", "copy_object", what, **_parts(target), CopySource=_parts(source))

    def put_at(self, uri: str, body: bytes) -> None:
        """``PutObject`` to any S3 URI."""
        self._call("s3", "put_object", f"Storing {printable(uri)}", **_parts(uri), Body=body)

    def head(self, key: str) -> wire.Object:
        """``HeadObject``. Raises NotFound."""
        answer = self._call("s3", "head_object", f"Looking at {printable(key)}", **self._at(key))
        modified = answer["LastModified"].timestamp()
        return wire.Object(key, int(answer["ContentLength"]), modified, answer.get("Metadata", {}))

    def objects(self, prefix: str) -> Iterator[wire.Object]:
        """``ListObjectsV2``: every object whose key begins so, page by page, in the order of their keys."""
        for page in self._pages("s3", "list_objects_v2", f"Listing {printable(prefix)}", self._under(prefix)):
            for entry in page.get("Contents", ()):
                yield wire.Object(entry["Key"], int(entry["Size"]), entry["LastModified"].timestamp(), {})

    def some(self, prefix: str, most: int) -> list[wire.Object]:
        """``ListObjectsV2``: the first few objects whose keys begin so."""
        page = self._call(
            "s3", "list_objects_v2", f"Looking for {printable(prefix)}", **self._under(prefix), MaxKeys=most
        )
        entries = page.get("Contents", ())
        return [wire.Object(one["Key"], int(one["Size"]), one["LastModified"].timestamp(), {}) for one in entries]

    def folders(self, prefix: str) -> Iterator[str]:
        """``ListObjectsV2`` with a delimiter: the names of what looks like folders below the prefix."""
        arguments = {**self._under(prefix), "Delimiter": "/"}
        for page in self._pages("s3", "list_objects_v2", f"Listing {printable(prefix)}", arguments):
            for entry in page.get("CommonPrefixes", ()):
                yield str(entry["Prefix"])[len(prefix) :].rstrip("/")

    def delete(self, *keys: str) -> None:
        """``DeleteObjects``; those that are not there are no error."""
        for start in range(0, len(keys), 1000):
            batch = {"Objects": [{"Key": key} for key in keys[start : start + 1000]], "Quiet": True}
            what = f"Deleting {printable(keys[start])}"
            answer = self._call("s3", "delete_objects", what, Bucket=self.bucket, Delete=batch)
            for fault in answer.get("Errors", ()):
                said = Said(fault.get("Code", ""), fault.get("Message", ""), 0)
                raise error_of(f"Deleting {printable(fault.get('Key', ''))}", said, repeatable=True)

    # trainings

    def create_training_job(self, body: Mapping[str, Any]) -> None:
        """``CreateTrainingJob``. Raises Taken, NoRoom, and Ambiguous when the answer is missing."""
        what = f"Starting the training job {body['TrainingJobName']}"
        self._call("sagemaker", "create_training_job", what, repeatable=False, **body)

    def training_job(self, name: str) -> wire.TrainingJob:
        """``DescribeTrainingJob``. Raises NotFound."""
        what = f"Asking for the training job {name}"
        return wire.read(
            wire.TrainingJob, self._call("sagemaker", "describe_training_job", what, TrainingJobName=name), what
        )

    def training_jobs(self, *, contains: str, status: str = "") -> Iterator[str]:
        """``ListTrainingJobs``: the names of those whose name holds a text."""
        arguments: dict[str, Any] = {"NameContains": contains, "MaxResults": 100}
        if status:
            arguments["StatusEquals"] = status
        for page in self._pages("sagemaker", "list_training_jobs", "Listing the training jobs", arguments):
            for entry in page.get("TrainingJobSummaries", ()):
                yield str(entry["TrainingJobName"])

    def stop_training_job(self, name: str) -> None:
        """``StopTrainingJob``."""
        self._call("sagemaker", "stop_training_job", f"Stopping the training job {name}", TrainingJobName=name)

    def delete_training_job(self, name: str) -> None:
        """``DeleteTrainingJob``, which older releases of boto3 do not have. Raises Permanent then."""
        if not hasattr(self.client("sagemaker"), "delete_training_job"):
            raise Permanent("This boto3 cannot delete training jobs", hint="pip install --upgrade boto3")
        self._call("sagemaker", "delete_training_job", f"Deleting the training job {name}", TrainingJobName=name)

    # models and endpoints

    def create_model(self, body: Mapping[str, Any]) -> None:
        """``CreateModel``. Raises Taken."""
        self._call("sagemaker", "create_model", f"Making the model {body['ModelName']}", **body)

    def create_endpoint_config(self, body: Mapping[str, Any]) -> None:
        """``CreateEndpointConfig``. Raises Taken."""
        what = f"Making the endpoint configuration {body['EndpointConfigName']}"
        self._call("sagemaker", "create_endpoint_config", what, **body)

    def create_endpoint(self, name: str, config: str, tags: list[dict[str, str]]) -> None:
        """``CreateEndpoint``. Raises Taken."""
        self._call(
            "sagemaker",
            "create_endpoint",
            f"Making the endpoint {name}",
            EndpointName=name,
            EndpointConfigName=config,
            Tags=tags,
        )

    def update_endpoint(self, name: str, config: str) -> None:
        """``UpdateEndpoint``: the old model answers until the new one can."""
        what = f"Updating the endpoint {name}"
        self._call("sagemaker", "update_endpoint", what, EndpointName=name, EndpointConfigName=config)

    def endpoint(self, name: str) -> wire.Endpoint:
        """``DescribeEndpoint``. Raises NotFound."""
        what = f"Asking for the endpoint {name}"
        return wire.read(wire.Endpoint, self._call("sagemaker", "describe_endpoint", what, EndpointName=name), what)

    def endpoint_configs(self, contains: str) -> list[str]:
        """``ListEndpointConfigs``: the names of those whose name holds a text."""
        pages = self._pages(
            "sagemaker", "list_endpoint_configs", "Listing the endpoint configurations", {"NameContains": contains}
        )
        return [str(entry["EndpointConfigName"]) for page in pages for entry in page.get("EndpointConfigs", ())]

    def delete_endpoint(self, name: str) -> None:
        """``DeleteEndpoint``. Raises NotFound."""
        self._call("sagemaker", "delete_endpoint", f"Deleting the endpoint {name}", EndpointName=name)

    def delete_endpoint_config(self, name: str) -> None:
        """``DeleteEndpointConfig``. Raises NotFound."""
        what = f"Deleting the endpoint configuration {name}"
        self._call("sagemaker", "delete_endpoint_config", what, EndpointConfigName=name)

    def delete_model(self, name: str) -> None:
        """``DeleteModel``. Raises NotFound."""
        self._call("sagemaker", "delete_model", f"Deleting the model {name}", ModelName=name)

    def invoke(self, endpoint: str, picture: bytes, content_type: str) -> object:
        """``InvokeEndpoint``: the JSON that the model answers. Raises NotFound without the endpoint."""
        what = f"Asking the endpoint {endpoint}"
        answer = self._call(
            "runtime",
            "invoke_endpoint",
            what,
            EndpointName=endpoint,
            Body=picture,
            ContentType=content_type,
            Accept="application/json",
        )
        text = self._guarded(what, answer["Body"].read)
        try:
            return json.loads(text)
        except ValueError as error:
            raise Transient(f"{what}: the answer is no JSON: {printable(text[:60])}") from error

    # who we are, and what we may

    def identity(self) -> str:
        """``GetCallerIdentity``: our ARN."""
        return str(self._call("sts", "get_caller_identity", "Asking AWS who we are")["Arn"])

    def trust_of(self, role: str) -> str:
        """``GetRole``: who may take this role, as JSON text. Raises NotFound."""
        what = f"Looking at the role {role.rpartition('/')[2]}"
        answer = self._call("iam", "get_role", what, RoleName=role.rpartition("/")[2])
        return json.dumps(answer["Role"].get("AssumeRolePolicyDocument", {}))

    def quotas(self) -> Iterator[tuple[str, float]]:
        """``ListServiceQuotas``: name and value of SageMaker's."""
        arguments = {"ServiceCode": "sagemaker", "MaxResults": 100}
        for page in self._pages("servicequotas", "list_service_quotas", "Reading the quotas", arguments):
            for quota in page.get("Quotas", ()):
                yield str(quota.get("QuotaName", "")), float(quota.get("Value", 0.0))

    # how

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": key}

    def _under(self, prefix: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Prefix": prefix}

    def _sealed(self) -> dict[str, Any]:
        key = self._setup.kms_key
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}

    def _pages(self, service: str, operation: str, what: str, arguments: Mapping[str, Any]) -> Iterator[Any]:
        client = self.client(service)
        pages = iter(client.get_paginator(operation).paginate(**arguments))
        while (page := self._guarded(what, lambda: next(pages, None))) is not None:
            yield page

    def _call(self, service: str, operation: str, what: str, *, repeatable: bool = True, **arguments: Any) -> Any:
        method = getattr(self.client(service), operation)
        return self._guarded(what, lambda: method(**arguments), repeatable=repeatable)

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
            hint = "Log in at AWS, set sagemaker.profile, or give this machine a role"
            raise Unauthorised(f"{what}: {printable(error)}", hint=hint) from error
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
            raise Refused(f"{what}: {printable(error)}") from error


def _said(response: Mapping[str, Any]) -> Said:
    error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, message, status = (
        str(error.get("Code", "")),
        str(error.get("Message", "")),
        int(meta.get("HTTPStatusCode", 0)),
    )
    if code == "ModelError":
        # The container's own answer counts: a picture that it cannot read is refused, its trouble is passing.
        own = int(response.get("OriginalStatusCode") or _TRANSIENT_STATUS)
        return Said(code, str(response.get("OriginalMessage") or message), own)
    return Said(code, message, status, seconds_of(meta.get("HTTPHeaders", {}).get("retry-after")))


def _parts(uri: str) -> dict[str, Any]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise NotFound(f"{printable(uri)} is no place in S3")
    return {"Bucket": bucket, "Key": key}
