"""MVI as a platform of ours: what the protocol promises, said through ``api``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from image_sync.domain import Annotation, DatasetRef
from image_sync.errors import ConfigError, Unsupported
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
from image_sync.platforms.http import Client, Timeouts
from image_sync.platforms.mvi import wire
from image_sync.platforms.mvi.api import Api
from image_sync.platforms.mvi.auth import Anonymous, ApiKey, Auth, Password, log_in
from image_sync.platforms.mvi.labels import Labels
from image_sync.platforms.mvi.making import Making
from image_sync.platforms.mvi.models import Models
from image_sync.platforms.mvi.pictures import Pictures
from image_sync.platforms.mvi.trainings import Trainings


class MviPlatform:
    """IBM Maximo Visual Inspection, or the embedded server.

    Args:
        endpoint: its address with any context root, with or without ``/api``.
        port: replaces the address's port.
        username, password: for servers up to 1.3; ignored when there is an ``api_key``.
        verify: whether to check the server's certificate, or a file with those to trust.
        proxy: URL of a proxy.
        batch_files, batch_bytes: most pictures and bytes for one request, as configured.
        timeouts: of requests; an upload gets the time on top that its bytes need on a slow line.
        stop: ends every wait.
        alive: called for each request, and each block of it.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        stop: threading.Event,
        port: int | None = None,
        username: str = "",
        password: str = "",
        api_key: str = "",
        verify: bool | str = True,
        proxy: str = "",
        batch_files: int = 500,
        batch_bytes: int = 32 * 2**20,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - a frozen value
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        client = Client(
            base_uri(endpoint, port),
            verify=verify,
            proxy=proxy,
            headers={"Accept-Language": "en-US"},
            timeouts=timeouts,
            fault=wire.fault,
            alive=alive,
        )
        self._auth: Auth = Anonymous()
        if api_key:
            self._auth = ApiKey(api_key)
        elif username:
            self._auth = Password(lambda: log_in(client, username, password))
        self._api = Api(client, self._auth, timeouts)
        self._making = Making(stop)
        self._labels = Labels(self._api, self._making)
        self._pictures = Pictures(self._api, self.ensure_category, self._forget, self._labels.part)
        self._models = Models(self._api, self._making, stop)
        self._trainings = Trainings(self._api, self._models)
        self._categories: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()
        self._traits = Traits(
            name="mvi",
            batch_files=batch_files,
            batch_bytes=batch_bytes,
            suffixes=frozenset({"jpg", "jpeg", "png"}),
            min_categories=2,
            min_pictures=5,
            idempotent_uploads=False,
            min_labelled=5,
            labels_ignore_case=True,
        )

    def describe(self) -> Traits:
        """What MVI is like; the minimums are IBM's."""
        return self._traits

    def sign_in(self) -> None:
        """Read the list of datasets: that needs a server, a way to it, and an account."""
        for _ in self._api.datasets():
            pass

    def find_dataset(self, name: str) -> DatasetRef | None:
        """The newest of this name: MVI does not keep names unique."""
        same = [dataset for dataset in self._api.datasets() if wire.normal(dataset.name) == wire.normal(name)]
        newest = max(same, key=lambda dataset: dataset.created_at or 0.0, default=None)
        return None if newest is None else DatasetRef(newest.id, newest.name)

    def ensure_dataset(self, name: str) -> DatasetRef:
        """The dataset of this name, made if there is none."""
        with self._lock:
            return self.find_dataset(name) or self._making.made(
                lambda: DatasetRef(self._api.create_dataset(name).dataset_id, name), lambda: self.find_dataset(name)
            )

    def ensure_category(self, dataset: DatasetRef, name: str) -> str:
        """The category's id, remembered: each shipment asks for it."""
        with self._lock:
            known = self._categories.get(dataset.id, {}).get(wire.normal(name))
            return known or self._find_category(dataset, name) or self._make_category(dataset, name)

    def upload(self, shipment: Shipment) -> list[Outcome]:
        """One ``POST /files`` for the whole shipment."""
        return self._pictures.upload(shipment)

    def find(self, shipment: Shipment) -> dict[str, str]:
        """What of it lies there now."""
        return self._pictures.find(shipment)

    def copies(self, shipment: Shipment) -> dict[str, list[RemotePicture]]:
        """Every stored picture of its keys."""
        return self._pictures.copies(shipment)

    def count(self, dataset: DatasetRef) -> int | None:
        """What the dataset says of itself."""
        return self._pictures.count(dataset)

    def relabel(self, dataset: DatasetRef, remote_id: str, category: str) -> None:
        """Another category for a stored picture."""
        self._pictures.relabel(dataset, remote_id, category)

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:
        """Other objects for a stored picture."""
        self._labels.annotate(dataset, remote_id, annotation)

    def remove(self, dataset: DatasetRef, remote_id: str) -> None:
        """Delete a stored picture."""
        self._pictures.remove(dataset, remote_id)

    def listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:
        """Every picture, newest first."""
        return self._pictures.listing(dataset)

    def start_training(self, plan: TrainingPlan) -> str:
        """One ``POST /dltasks``."""
        return self._trainings.start(plan)

    def find_trainings(self, dataset: DatasetRef, name: str) -> list[str]:
        """The tasks and models of this name."""
        return self._trainings.find(dataset, name)

    def progress(self, task_id: str) -> Progress:
        """How far it is."""
        return self._trainings.progress(task_id)

    def stop_training(self, task_id: str) -> None:
        """One ``POST /dltasks/{id}/action``."""
        self._trainings.stop(task_id)

    def training_log(self, task_id: str) -> Iterator[str]:
        """Not here."""
        raise Unsupported(
            f"MVI has no log of the training {task_id} that can be read from outside",
            hint="`image-sync models plot` draws its curve; MVI's own pages show the rest",
        )

    def models(self, dataset: DatasetRef) -> list[Model]:
        """Trained models of the dataset."""
        return self._models.of_dataset(dataset)

    def model_of(self, task_id: str) -> Model | None:
        """The model that this training made."""
        return self._models.of_task(task_id)

    def deploy(self, model: Model) -> None:
        """Deploy and wait."""
        self._models.deploy(model)

    def undeploy(self, model: Model) -> None:
        """Take it from service."""
        self._models.undeploy(model)

    def predict(self, model: Model, picture: bytes) -> list[Prediction]:
        """Ask the deployed model."""
        return self._models.predict(model, picture)

    def export(self, model: Model, to: Path) -> Path:
        """Write the model's archive."""
        return self._models.export(model, to)

    def import_model(self, source: Path) -> Model:
        """Send an archive back."""
        return self._models.import_(source)

    def delete_model(self, model: Model) -> None:
        """Delete a model that is not deployed."""
        self._models.delete(model)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _find_category(self, dataset: DatasetRef, name: str) -> str | None:
        categories = list(self._api.categories(dataset.id))
        found = {wire.normal(category.name): category.id for category in reversed(categories)}
        self._categories[dataset.id] = found
        return found.get(wire.normal(name))

    def _make_category(self, dataset: DatasetRef, name: str) -> str:
        identity = self._making.made(
            lambda: self._api.create_category(dataset.id, name).category_id, lambda: self._find_category(dataset, name)
        )
        self._categories.setdefault(dataset.id, {})[wire.normal(name)] = identity
        return identity

    def _forget(self, dataset_id: str) -> None:
        with self._lock:
            self._categories.pop(dataset_id, None)


def base_uri(endpoint: str, port: int | None = None) -> str:
    """The address below which the API lies.

    >>> base_uri("https://mvi.example.com/visual-inspection/", 9443)
    'https://mvi.example.com:9443/visual-inspection/api'
    """
    parts = urlsplit(endpoint.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ConfigError(
            "credentials.endpoint must look like https://mvi.example.com or https://mvi.example.com/visual-inspection",
            hint="Users, passwords, queries and fragments do not belong there",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    number = port if port is not None else parts.port
    root = parts.path.rstrip("/").removesuffix("/api")
    return f"{parts.scheme}://{host}{f':{number}' if number else ''}{root}/api"
