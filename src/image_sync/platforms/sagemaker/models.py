"""Models: the trainings that were completed, with what they learned, and what a running one answers."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from image_sync.domain import Box, DatasetRef
from image_sync.errors import ImageSyncError, NotFound, Permanent, Refused, Transient, Unsupported
from image_sync.log import get_logger, show_path
from image_sync.platforms.base import Model, Prediction
from image_sync.platforms.sagemaker import color
from image_sync.platforms.sagemaker.api import Api, TrainingJob
from image_sync.platforms.sagemaker.datasets import Datasets, Place
from image_sync.platforms.sagemaker.endpoints import Endpoints
from image_sync.platforms.sagemaker.keys import is_name, root_of
from image_sync.platforms.sagemaker.outcomes import sanitize
from image_sync.platforms.sagemaker.pictures import Pictures
from image_sync.platforms.sagemaker.request import FILE, Snapshot, network_of
from image_sync.platforms.sagemaker.trainings import Jobs, accuracy_of

_log = get_logger(__name__)

_LARGEST_PICTURE = 5 * 2**20
"""Bytes; an endpoint takes 6 MiB."""
_LEAST_CONFIDENCE = 0.05
_MOST_OBJECTS = 100
_FIGURES = 6
_ARCHIVE = ".tar.gz"
_S3 = ("s3:",)


class Models:
    """The model part of the platform."""

    def __init__(self, api: Api, datasets: Datasets, jobs: Jobs, pictures: Pictures, endpoints: Endpoints) -> None:
        self._api = api
        self._datasets = datasets
        self._jobs = jobs
        self._pictures = pictures
        self._endpoints = endpoints

    def of_dataset(self, dataset: DatasetRef) -> list[Model]:
        """Those of one dataset, newest first."""
        place = self._datasets.place(dataset)
        kept = set(self._api.folders(place.layout.jobs))
        names = list(self._api.training_jobs(f"-{place.mark}-", StatusEquals="Completed"))
        roots = list(dict.fromkeys(root for name in names if (root := root_of(name)) in kept))
        serving = self._endpoints.serving(place) if roots else ""
        found = self._pictures.at_once(lambda root: self._model(root, serving), roots)
        return sorted((model for model in found if model is not None), key=lambda model: -(model.created_at or 0.0))

    def of_task(self, task_id: str) -> Model | None:
        """The model of a training: it has the training's id."""
        return self._model(task_id, None) if is_name(task_id) else None

    def deploy(self, model: Model) -> None:
        """Bring it into service."""
        place, job, snapshot = self._known(model)
        self._endpoints.deploy(place, model.id, job, snapshot)

    def undeploy(self, model: Model) -> None:
        """Take it from service."""
        if is_name(model.id):
            self._endpoints.undeploy(self._datasets.place(model.dataset_id), model.id)

    def predict(self, model: Model, picture: bytes) -> list[Prediction]:
        """What it says of the picture."""
        place, _, snapshot = self._known(model)
        if self._endpoints.serving(place) != model.id:
            raise NotFound(f"The model {model.name} is not deployed")
        content, content_type = color.fitting(picture, _LARGEST_PICTURE)
        if not snapshot.detection:
            content_type = "application/x-image"
        answer = self._api.invoke(self._endpoints.name(place), content, content_type)
        figures = answer.get("prediction") if isinstance(answer, dict) else answer
        if not isinstance(figures, list):
            raise Transient(f"The model {model.name} answers with something else than a prediction")
        if snapshot.detection:
            return _objects(figures, snapshot.classes, color.size_of(picture))
        return _classes(figures, snapshot.classes, model.name)

    def export(self, model: Model, to: Path) -> Path:
        """Its archive, and beside it a JSON file with what the archive does not say: class names, shape, network."""
        _, job, snapshot = self._known(model)
        content = {
            "format": 1,
            "model": snapshot.name,
            "id": model.id,
            "algorithm": "object-detection" if snapshot.detection else "image-classification",
            "classes": list(snapshot.classes),
            **network_of(snapshot),
            "training_job": job.name,
            "artifact": job.artifact,
            "accuracy": accuracy_of(job),
            "hyperparameters": dict(job.hyperparameters),
        }
        sidecar = json.dumps(content, ensure_ascii=False, indent=1).encode()
        name = f"{sanitize(model.id)}{_ARCHIVE}"
        if to.parts[:1] == _S3:  # s3://bucket/key, of which a path keeps one slash
            target = "s3://" + "/".join(to.parts[1:])
            target = target if target.endswith((".gz", ".tgz")) else f"{target}/{name}"
            self._api.copy(job.artifact, target)
            self._api.put_at(f"{target}.json", sidecar)
            return to if target.endswith(to.name) else to / name
        target_file = to / name if to.is_dir() else to
        _write(target_file.with_name(f"{target_file.name}.json"), lambda file: file.write(sidecar))
        _write(target_file, lambda file: self._api.fetch(job.artifact, file.write))
        return target_file

    def import_model(self, source: Path) -> Model:
        """Not possible: a model of ours is what a training job made."""
        raise Unsupported(
            f"{source.name} cannot be brought to SageMaker: a model there is what a training job made",
            hint="To continue from one that still lies there, name its id in model.pretrained_model; to serve an "
            "archive, make a model of it in SageMaker by hand, with the container that `image-sync check` tells",
        )

    def delete(self, model: Model) -> None:
        """Everything of it: SageMaker's entries, the archive, and what it was trained with but the pictures."""
        if not is_name(model.id):
            return
        place = self._datasets.place(model.dataset_id)
        if self._endpoints.serving(place) == model.id:
            raise Refused(f"The model {model.name} is deployed", hint="Undeploy it first")
        self._endpoints.sweep(model.id)
        jobs = self._jobs.attempts(model.id)
        folders = [f"{place.layout.jobs}{model.id}/"]
        folders += [f"{place.layout.root}/{kind}/{job}/" for job in jobs for kind in ("output", "checkpoints")]
        keys = [found.key for folder in folders for found in self._api.objects(folder)]
        last = [key for key in keys if key.endswith(f"/{FILE}")]
        self._api.delete(*(key for key in keys if key not in set(last)))
        self._api.delete(*last)  # without it the model is no longer listed
        self._jobs.forget(*jobs)
        for job in reversed(jobs):
            try:
                self._delete_job(job)
            except (NotFound, Permanent) as error:
                # An old boto3, or no right to it: the entry of the job stays at SageMaker, and costs nothing.
                _log.info("training.kept", job=job, reason=error.what)

    def _delete_job(self, name: str) -> None:
        if not hasattr(self._api.client("sagemaker"), "delete_training_job"):
            raise Permanent("This boto3 cannot delete training jobs", hint="pip install --upgrade boto3")
        what = f"Deleting the training job {name}"
        self._api.call("sagemaker", "delete_training_job", what, TrainingJobName=name)

    def _model(self, root: str, serving: str | None) -> Model | None:
        """The model; ``serving`` is the id of the one in service, None: ask."""
        try:
            first, (job, _) = self._jobs.job(root), self._jobs.last(root)
        except NotFound:
            return None
        if job.status != "Completed":
            return None
        snapshot = self._jobs.snapshot(job)
        if snapshot is None:
            return None
        if serving is None:
            serving = self._endpoints.serving(self._datasets.place(snapshot.dataset))
        created = first.created_at if first is not None else None
        return Model(
            id=root,
            name=snapshot.name,
            dataset_id=snapshot.dataset,
            accuracy=accuracy_of(job),
            categories=snapshot.classes,
            created_at=None if created is None else created.timestamp(),
            deployed=serving == root,
            billed_seconds=job.billed,
        )

    def _known(self, model: Model) -> tuple[Place, TrainingJob, Snapshot]:
        job = self._jobs.last(model.id).job if is_name(model.id) else None
        snapshot = None if job is None else self._jobs.snapshot(job)
        if job is None or snapshot is None or job.status != "Completed":
            raise NotFound(f"There is no model {sanitize(model.name)}")
        return self._datasets.place(snapshot.dataset), job, snapshot


def _classes(figures: list[Any], classes: tuple[str, ...], name: str) -> list[Prediction]:
    """From ``[p0, p1, ...]``, in the order of the classes."""
    if len(figures) != len(classes) or not all(isinstance(one, int | float) for one in figures):
        raise Transient(
            f"The model {name} answers with {len(figures)} figures, but was trained for {len(classes)} classes"
        )
    found = [Prediction(label, _share(value)) for label, value in zip(classes, figures, strict=True)]
    return sorted(found, key=lambda one: -one.confidence)


def _objects(rows: Iterable[Any], classes: tuple[str, ...], size: tuple[int, int]) -> list[Prediction]:
    """From ``[class, score, left, top, right, bottom]`` with coordinates from 0 to 1; most rows are noise."""
    width, height = size
    found = []
    for row in rows:
        if not isinstance(row, list) or len(row) != _FIGURES or not all(isinstance(one, int | float) for one in row):
            continue
        number, score, left, top, right, bottom = row
        if not 0 <= int(number) < len(classes) or score < _LEAST_CONFIDENCE:
            continue
        label = classes[int(number)]
        box = Box(label, _share(left) * width, _share(top) * height, _share(right) * width, _share(bottom) * height)
        found.append(Prediction(label, _share(score), box))
    return sorted(found, key=lambda one: -one.confidence)[:_MOST_OBJECTS]


def _share(value: float) -> float:
    return min(1.0, max(0.0, float(value)))


def _write(target: Path, fill: Any) -> None:
    """Write beside the place, then move it there: a file of that name is always a whole one."""
    part = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        part = Path(name)
        with os.fdopen(handle, "wb") as file:
            fill(file)
        part.replace(target)
    except OSError as error:
        raise ImageSyncError(
            f"The model cannot be written to {show_path(str(target))}: {error.strerror or error}",
            hint="Choose another place, or make room and rights there",
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
