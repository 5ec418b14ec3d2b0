"""SageMaker as a platform of ours: what the protocol promises, said through ``api``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from image_sync.config.sagemaker import SageMaker
from image_sync.domain import Annotation, DatasetRef
from image_sync.errors import NotFound, Permanent, Unsupported
from image_sync.platforms.base import (
    Model,
    Outcome,
    Prediction,
    Progress,
    RemotePicture,
    Shipment,
    TrainingPlan,
    Traits,
)
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.datasets import Datasets, Documents
from image_sync.platforms.sagemaker.endpoints import Endpoints
from image_sync.platforms.sagemaker.lists import MIN_CATEGORIES, Lists
from image_sync.platforms.sagemaker.models import Models
from image_sync.platforms.sagemaker.pictures import Pictures
from image_sync.platforms.sagemaker.trainings import Jobs, Trainings

_EACH = 2
"""One picture to train on and one to validate with, at the least."""


class SageMakerPlatform:
    """A bucket for the pictures, SageMaker for the rest.

    Args:
        setup: as configured.
        stop: ends every wait.
        batch_files, batch_bytes: most pictures and bytes that are handed over at once; each is a request of its own.
        timeout: seconds for a connection and for each answer.
        alive: called for each request.

    Raises:
        ConfigError: boto3 is not installed.
    """

    def __init__(
        self,
        setup: SageMaker,
        *,
        stop: threading.Event,
        batch_files: int = 500,
        batch_bytes: int = 32 * 2**20,
        timeout: float = 60.0,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.api = Api(setup, timeout=timeout, alive=alive)
        self._setup = setup
        documents = Documents(self.api, stop)
        self._datasets = Datasets(documents, setup.bucket, setup.prefix, setup.split)
        pinned = setup.sides == "folders"
        self._pictures = Pictures(self.api, self._datasets, pinned=pinned)
        jobs = Jobs(self.api, self._datasets, documents)
        self.endpoints = Endpoints(self.api, setup, stop)
        self._models = Models(self.api, self._datasets, jobs, self._pictures, self.endpoints)
        lists = Lists(self.api, documents, self._pictures, pinned=pinned)
        self._trainings = Trainings(self.api, setup, self._datasets, jobs, lists)
        self._traits = Traits(
            name="sagemaker",
            batch_files=batch_files,
            batch_bytes=batch_bytes,
            suffixes=frozenset({"jpg", "jpeg", "png"}),
            min_categories=MIN_CATEGORIES,
            min_pictures=_EACH,
            leaves_out=True,
            idempotent_uploads=True,
            min_labelled=_EACH,
        )

    def describe(self) -> Traits:
        """What SageMaker is like."""
        return self._traits

    def sign_in(self) -> None:
        """Look at the bucket: that needs a network, credentials, and the right region."""
        try:
            region = self.api.bucket_region()
        except NotFound as error:
            hint = f"Make it: aws s3 mb s3://{self._setup.bucket} --region {self._setup.region}"
            raise NotFound(f"There is no bucket {self._setup.bucket}", hint=hint) from error
        if region and region != self._setup.region:
            raise Permanent(
                f"The bucket {self._setup.bucket} lies in {region}, but sagemaker.region is {self._setup.region}",
                hint="SageMaker reads only buckets of its own region: correct one of the two",
            )

    def find_dataset(self, name: str) -> DatasetRef | None:
        """The one of this name: names are unique."""
        return self._datasets.find(name)

    def ensure_dataset(self, name: str) -> DatasetRef:
        """A record in the bucket, made if there is none."""
        return self._datasets.ensure(name)

    def ensure_category(self, dataset: DatasetRef, name: str) -> str:
        """A line in the dataset's list of classes, added if there is none."""
        return self._pictures.ensure_category(dataset, name)

    def upload(self, shipment: Shipment) -> list[Outcome]:
        """An object for each picture."""
        return self._pictures.upload(shipment)

    def find(self, shipment: Shipment) -> dict[str, str]:
        """What of it lies there now."""
        return self._pictures.find(shipment)

    def copies(self, shipment: Shipment) -> dict[str, list[RemotePicture]]:
        """Every stored picture of its keys."""
        return self._pictures.copies(shipment)

    def count(self, dataset: DatasetRef) -> int | None:
        """Counted from the listing."""
        return self._pictures.count(dataset)

    def relabel(self, dataset: DatasetRef, remote_id: str, category: str) -> None:
        """A mark beside the picture."""
        self._pictures.relabel(dataset, remote_id, category)

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:
        """A file beside the picture."""
        self._pictures.annotate(dataset, remote_id, annotation)

    def remove(self, dataset: DatasetRef, remote_id: str) -> None:
        """Delete one picture, if it is there."""
        self._pictures.remove(dataset, remote_id)

    def listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:
        """Every picture, in the order of their keys."""
        return self._pictures.listing(dataset)

    def start_training(self, plan: TrainingPlan) -> str:
        """A training job."""
        return self._trainings.start(plan)

    def find_trainings(self, dataset: DatasetRef, name: str) -> list[str]:
        """The job of this name, if there is one."""
        return self._trainings.find(dataset, name)

    def progress(self, task_id: str) -> Progress:
        """How far the job is."""
        return self._trainings.progress(task_id)

    def stop_training(self, task_id: str) -> None:
        """``StopTrainingJob``, and no other attempt."""
        self._trainings.stop(task_id)

    def training_log(self, task_id: str) -> Iterator[str]:
        """What CloudWatch has of its newest job."""
        return self._trainings.log(task_id)

    def models(self, dataset: DatasetRef) -> list[Model]:
        """Those of one dataset, newest first."""
        return self._models.of_dataset(dataset)

    def model_of(self, task_id: str) -> Model | None:
        """The model that a job made."""
        return self._models.of_task(task_id)

    def deploy(self, model: Model) -> None:
        """The endpoint of the dataset, made or changed."""
        self._models.deploy(model)

    def undeploy(self, model: Model) -> None:
        """The endpoint, deleted if it serves this model."""
        self._models.undeploy(model)

    def predict(self, model: Model, picture: bytes) -> list[Prediction]:
        """Ask the endpoint."""
        return self._models.predict(model, picture)

    def export(self, model: Model, to: Path) -> Path:
        """``model.tar.gz`` and a JSON file beside it, to a file, a folder or ``s3://bucket/key``."""
        return self._models.export(model, to)

    def import_model(self, source: Path) -> Model:
        """Not possible: a model of ours is what a training job made."""
        raise Unsupported(
            f"{source.name} cannot be brought to SageMaker: a model there is what a training job made",
            hint="To continue from one that still lies there, name its id in model.pretrained_model; to serve an "
            "archive, make a model of it in SageMaker by hand, with the container that `image-sync check` tells",
        )

    def delete_model(self, model: Model) -> None:
        """Delete one that does not answer."""
        self._models.delete(model)

    def close(self) -> None:
        """End threads and connections."""
        self._pictures.close()
        self.api.close()
