"""Datasets: a folder of the bucket each, with a record that says their name and how they are split."""

from __future__ import annotations

import threading
import unicodedata
from dataclasses import dataclass
from typing import Any

from image_sync.domain import DatasetRef
from image_sync.errors import NotFound
from image_sync.log import get_logger
from image_sync.platforms.sagemaker.classes import Classes
from image_sync.platforms.sagemaker.documents import Documents
from image_sync.platforms.sagemaker.keys import Layout, id_of
from image_sync.platforms.sagemaker.names import endpoint_of, mark_of

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """One dataset, as it lies in the bucket."""

    ref: DatasetRef
    layout: Layout
    split: float
    """Share that is trained on, fixed when the dataset was made."""
    mark: str
    """What the names of its jobs hold."""
    classes: Classes
    labels: Classes

    @property
    def endpoint(self) -> str:
        """The name of its endpoint, unless another one is configured."""
        return endpoint_of(self.ref.id, self.mark)


class Datasets:
    """Finds and makes them.

    Args:
        bucket, prefix: below which all of them lie.
        split: for datasets that are made from now on.
    """

    def __init__(self, documents: Documents, bucket: str, prefix: str, split: float) -> None:
        self._documents = documents
        self._bucket = bucket
        self._prefix = prefix
        self._split = split
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}

    def find(self, name: str) -> DatasetRef | None:
        """The dataset of this name, or None."""
        dataset_id = id_of(name)
        try:
            record = self._documents.read(Layout(self._prefix, dataset_id).record)
        except NotFound:
            return None
        return DatasetRef(dataset_id, str(record["name"]))

    def ensure(self, name: str) -> DatasetRef:
        """The dataset of this name, made if there is none."""
        dataset_id = id_of(name)
        record = {"name": unicodedata.normalize("NFC", name), "split": self._split}
        made = self._documents.make(Layout(self._prefix, dataset_id).record, record)
        return DatasetRef(dataset_id, str(made["name"]))

    def place(self, dataset: DatasetRef | str) -> Place:
        """Where the dataset lies. Raises NotFound when there is none of this id."""
        dataset_id = dataset if isinstance(dataset, str) else dataset.id
        with self._lock:
            if dataset_id not in self._places:
                layout = Layout(self._prefix, dataset_id)
                try:
                    record = self._documents.read(layout.record)
                except NotFound as error:
                    raise NotFound(f"There is no dataset {dataset_id} below {self._prefix}") from error
                self._places[dataset_id] = self._placed(dataset_id, layout, record)
            return self._places[dataset_id]

    def _placed(self, dataset_id: str, layout: Layout, record: dict[str, Any]) -> Place:
        split = float(record.get("split", self._split))
        if split != self._split:
            hint = "a picture never changes sides: the dataset keeps the split it was made with"
            _log.warning("dataset.split", dataset=dataset_id, split=split, configured=self._split, hint=hint)
        return Place(
            ref=DatasetRef(dataset_id, str(record["name"])),
            layout=layout,
            split=split,
            mark=mark_of(f"s3://{self._bucket}/{self._prefix}", dataset_id),
            classes=Classes(self._documents, layout.classes),
            labels=Classes(self._documents, layout.labels),
        )
