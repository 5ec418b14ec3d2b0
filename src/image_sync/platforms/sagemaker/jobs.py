"""Training jobs as attempts: a training whose machine AWS did not have goes on as another job of a related name."""

from __future__ import annotations

import threading
from enum import StrEnum
from typing import NamedTuple

from image_sync.errors import NotFound
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.datasets import Datasets, Place
from image_sync.platforms.sagemaker.documents import Documents
from image_sync.platforms.sagemaker.names import attempt_of, is_name
from image_sync.platforms.sagemaker.snapshot import FILE, Snapshot
from image_sync.platforms.sagemaker.wire import TrainingJob

_CAPACITY = "CapacityError"
_THEIRS = "InternalServerError"
_LISTS = ("train_lst", "train_annotation")
_ENDED = {"Completed", "Failed", "Stopped"}


class Blame(StrEnum):
    """Who or what ended a training."""

    OURS = "ours"
    ALGORITHM = "algorithm"
    CAPACITY = "capacity"
    AWS = "aws"


class Attempt(NamedTuple):
    """One job of a training."""

    job: TrainingJob
    number: int
    """0 for the first."""


class Origin(NamedTuple):
    """Where what a job was started with lies."""

    place: Place
    folder: str
    """Key, ending in a slash."""


def blame_of(reason: str) -> Blame:
    """Whose fault it is, by how AWS begins its reasons."""
    if _CAPACITY in reason:
        return Blame.CAPACITY
    if reason.startswith(_THEIRS):
        return Blame.AWS
    return Blame.ALGORITHM if reason.startswith("AlgorithmError") else Blame.OURS


class Jobs:
    """Looks up jobs, their attempts and their snapshots."""

    def __init__(self, api: Api, datasets: Datasets, documents: Documents) -> None:
        self._api = api
        self._datasets = datasets
        self._documents = documents
        self._lock = threading.Lock()
        self._ended: dict[str, TrainingJob] = {}
        """What has ended does not change: it is asked for once."""

    def job(self, name: str) -> TrainingJob | None:
        """The job of this name, or None."""
        if not is_name(name):
            return None
        with self._lock:
            known = self._ended.get(name)
        if known is not None:
            return known
        try:
            job = self._api.training_job(name)
        except NotFound:
            return None
        if job.TrainingJobStatus == "Deleting":
            return None
        if job.TrainingJobStatus in _ENDED:
            with self._lock:
                self._ended[name] = job
        return job

    def last(self, root: str) -> Attempt:
        """The newest attempt at a training. Raises NotFound without any, or when the job is none of ours."""
        job = self.job(root)
        if job is None or self.origin(job) is None:
            raise NotFound(f"There is no training job {root!r} of ours")
        number = 0
        while retried(job) and (following := self.job(attempt_of(root, number + 1))) is not None:
            job, number = following, number + 1
        return Attempt(job, number)

    def origin(self, job: TrainingJob) -> Origin | None:
        """Where its lists lie, if they are ours: by this a job is known to be what its name says."""
        uri = next((uri for name in _LISTS if (uri := job.channel(name))), "")
        key = uri.removeprefix(f"s3://{self._api.bucket}/")
        head, found, tail = key.partition("/jobs/")
        parts = tail.split("/")
        if key == uri or not found or len(parts) < 3:  # noqa: PLR2004 - job, fingerprint, list
            return None
        try:
            place = self._datasets.place(head.rpartition("/")[2])
        except NotFound:
            return None
        if place.layout.root != head:
            return None
        return Origin(place, f"{place.layout.jobs}{parts[0]}/{parts[1]}/")

    def snapshot(self, job: TrainingJob) -> Snapshot | None:
        """What it was started with; None when its model was deleted since."""
        origin = self.origin(job)
        if origin is None:
            return None
        try:
            return Snapshot.of(self._documents.read(f"{origin.folder}{FILE}"))
        except NotFound:
            return None

    def forget(self, *names: str) -> None:
        """They are being deleted."""
        with self._lock:
            for name in names:
                self._ended.pop(name, None)


def retried(job: TrainingJob) -> bool:
    """Whether another attempt makes sense: AWS was to blame, not we."""
    return job.TrainingJobStatus == "Failed" and blame_of(job.FailureReason) in {Blame.CAPACITY, Blame.AWS}
