"""SageMaker as a platform of ours: what the protocol promises, said through ``api``."""

from __future__ import annotations

import threading
from collections.abc import Callable

from image_sync.config.sagemaker import SageMaker
from image_sync.errors import NotFound, Permanent
from image_sync.platforms.base import Adapter, Site, Traits
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
        datasets = Datasets(documents, setup.bucket, setup.prefix, setup.split)
        pinned = setup.sides == "folders"
        self.pictures = Pictures(self.api, datasets, pinned=pinned)
        jobs = Jobs(self.api, datasets, documents)
        self.endpoints = Endpoints(self.api, setup, stop)
        self.models = Models(self.api, datasets, jobs, self.pictures, self.endpoints)
        lists = Lists(self.api, documents, self.pictures, pinned=pinned)
        self.trainings = Trainings(self.api, setup, datasets, jobs, lists)
        self.traits = Traits(
            name="sagemaker",
            who=f"AWS in {setup.region}",
            batch_files=batch_files,
            batch_bytes=batch_bytes,
            suffixes=frozenset({"jpg", "jpeg", "png"}),
            min_categories=MIN_CATEGORIES,
            min_pictures=_EACH,
            leaves_out=True,
            idempotent_uploads=True,
            min_labelled=_EACH,
        )

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

    def close(self) -> None:
        """End threads and connections."""
        self.pictures.close()
        self.api.close()


def _make(site: Site) -> SageMakerPlatform:
    upload = site.settings.upload
    return SageMakerPlatform(
        site.settings.sagemaker,
        stop=site.stop,
        batch_files=upload.batch_files,
        batch_bytes=upload.batch_bytes,
        timeout=upload.timeout,
        alive=site.alive,
    )


ADAPTER = Adapter(_make)
