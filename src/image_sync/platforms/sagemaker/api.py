"""SageMaker, and who we are there, in AWS's own words: one method for each operation that we use, plain values back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from image_sync.errors import Permanent, Transient
from image_sync.platforms.sagemaker import wire
from image_sync.platforms.sagemaker.objects import Objects
from image_sync.platforms.sagemaker.outcomes import sanitize


class Api(Objects):
    """The operations on objects, trainings, models and endpoints."""

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
        """``StopTrainingJob``. Raises Refused when it has ended."""
        self._call("sagemaker", "stop_training_job", f"Stopping the training job {name}", TrainingJobName=name)

    def log_lines(self, group: str, stream: str) -> Iterator[str]:
        """``FilterLogEvents``: the lines of the streams whose name begins so. Raises NotFound without the group."""
        arguments = {"logGroupName": group, "logStreamNamePrefix": stream}
        for page in self._pages("logs", "filter_log_events", f"Reading the log {stream}", arguments):
            for event in page.get("events", ()):
                yield str(event.get("message", "")).rstrip()

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
        text = self._body(what, answer)
        try:
            return json.loads(text)
        except ValueError as error:
            raise Transient(f"{what}: the answer is not JSON: {sanitize(text[:60])}") from error

    def machines(self, *, training: bool) -> list[str]:
        """The instance types that this boto3 knows, without asking anybody; empty when it does not say."""
        model = self.client("sagemaker").meta.service_model
        shape = "TrainingInstanceType" if training else "ProductionVariantInstanceType"
        return list(model.shape_for(shape).enum) if shape in model.shape_names else []

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
