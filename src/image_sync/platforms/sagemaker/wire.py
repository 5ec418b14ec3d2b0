"""What AWS answers, as far as we use it. What is missing or new does not matter; what has a wrong shape does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from image_sync.errors import Transient

B = TypeVar("B", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Object:
    """An object in the bucket; listings know no metadata."""

    key: str
    size: int
    modified: float
    """Unix time, in whole seconds."""
    metadata: Mapping[str, str]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Metric(_Part):
    """One figure of a training."""

    MetricName: str = ""
    Value: float = 0.0


class Artifacts(_Part):
    """Where the model lies."""

    S3ModelArtifacts: str = ""


class S3Source(_Part):
    """What a channel reads."""

    S3Uri: str = ""


class Source(_Part):
    """Where a channel reads."""

    S3DataSource: S3Source = Field(default_factory=S3Source)


class Channel(_Part):
    """One input of a training."""

    ChannelName: str = ""
    DataSource: Source = Field(default_factory=Source)


class Resources(_Part):
    """What a training runs on."""

    InstanceType: str = ""


class TrainingJob(_Part):
    """``DescribeTrainingJob``."""

    TrainingJobName: str
    TrainingJobStatus: str
    SecondaryStatus: str = ""
    FailureReason: str = ""
    ModelArtifacts: Artifacts = Field(default_factory=Artifacts)
    ResourceConfig: Resources = Field(default_factory=Resources)
    HyperParameters: dict[str, str] = Field(default_factory=dict)
    InputDataConfig: list[Channel] = Field(default_factory=list)
    FinalMetricDataList: list[Metric] = Field(default_factory=list)
    BillableTimeInSeconds: float | None = None
    CreationTime: datetime | None = None
    TrainingEndTime: datetime | None = None
    LastModifiedTime: datetime | None = None

    def channel(self, name: str) -> str:
        """The URI that a channel reads, or an empty text."""
        found = (one for one in self.InputDataConfig if one.ChannelName == name)
        return next((one.DataSource.S3DataSource.S3Uri for one in found), "")

    def metric(self, *names: str) -> float | None:
        """The last value of the first of these metrics that there is."""
        values = {metric.MetricName: metric.Value for metric in self.FinalMetricDataList}
        return next((values[name] for name in names if name in values), None)


class Endpoint(_Part):
    """``DescribeEndpoint``."""

    EndpointName: str
    EndpointStatus: str
    EndpointConfigName: str = ""
    FailureReason: str = ""


def read(model: type[B], answer: Mapping[str, Any], what: str) -> B:
    """The answer in this shape. Raises Transient when it has another one."""
    try:
        return model.model_validate({key: value for key, value in answer.items() if value is not None})
    except ValidationError as error:
        raise Transient(f"{what}: the answer has another shape than documented") from error
