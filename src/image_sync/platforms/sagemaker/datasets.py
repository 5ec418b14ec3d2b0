"""Datasets: a folder of the bucket each, with small JSON documents that two machines may change at once.

The record says a dataset's name and how it is split; lists of categories and labels only ever grow, because the order
in which a class became known decides its number.
"""

from __future__ import annotations

import json
import threading
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from image_sync.domain import DatasetRef
from image_sync.errors import NotFound, Refused, Transient
from image_sync.log import get_logger
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.keys import Layout, id_of, mark_of
from image_sync.platforms.sagemaker.outcomes import Taken

_log = get_logger(__name__)

_FORMAT = 1
_TRIES = 20
_PAUSE = 0.2
_JSON = "application/json"


class Documents:
    """Small JSON documents in the bucket, changed so that two machines never undo each other's work.

    Args:
        stop: ends the wait between two tries.
    """

    def __init__(self, api: Api, stop: threading.Event) -> None:
        self._api = api
        self._stop = stop

    def read(self, key: str) -> dict[str, Any]:
        """The document. Raises NotFound without one, Refused when it is none of ours."""
        return self._versioned(key)[0]

    def make(self, key: str, content: dict[str, Any]) -> dict[str, Any]:
        """The document that lies there: this one, unless somebody was quicker."""
        try:
            self._api.put(key, encoded(content), unless_there=True, ContentType=_JSON)
        except Taken:
            return self.read(key)
        return content

    def change(self, key: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> dict[str, Any]:
        """The document after the change, which starts from what is there now ({} without a document).

        Args:
            change: gives the new content, or None when nothing has to be changed; may be called several times.
        """
        for _ in range(_TRIES):
            try:
                content, etag = self._versioned(key)
            except NotFound:
                content, etag = {}, ""
            changed = change(content)
            if changed is None:
                return content
            try:
                self._api.put(key, encoded(changed), unless_there=not etag, match=etag, ContentType=_JSON)
            except (Taken, NotFound):  # somebody else changed or made it, or took it away
                self._stop.wait(_PAUSE)
                continue
            return changed
        raise Transient(f"{key} is changed by somebody else again and again")

    def _versioned(self, key: str) -> tuple[dict[str, Any], str]:
        raw, etag = self._api.get(key)
        try:
            content = json.loads(raw)
        except ValueError:
            content = None
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise Refused(f"{key} in the bucket {self._api.bucket} is not what image-sync wrote there")
        if content["format"] > _FORMAT:
            raise Refused(f"{key} was written by a newer image-sync", hint="Upgrade this one")
        return content, etag


def encoded(content: dict[str, Any]) -> bytes:
    """The document as it is stored."""
    return json.dumps({"format": _FORMAT, **content}, ensure_ascii=False, indent=1).encode()


class Classes:
    """The categories, or the labels, of one dataset, in the order in which they became known.

    Args:
        key: of the document that holds them.
    """

    def __init__(self, documents: Documents, key: str) -> None:
        self._documents = documents
        self._key = key
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        """Id -> name, in order; replaced as a whole, never changed."""

    def ensure(self, names: Iterable[str]) -> dict[str, str]:
        """Id -> name of all classes in their order, after these were added, several in the order of the alphabet."""
        wanted = {id_of(name): unicodedata.normalize("NFC", name) for name in sorted(set(names))}

        def grown(content: dict[str, Any]) -> dict[str, Any] | None:
            known = _names(content)
            if wanted.keys() <= known.keys():
                return None
            both = known | {class_id: name for class_id, name in wanted.items() if class_id not in known}
            return {"classes": [{"id": class_id, "name": name} for class_id, name in both.items()]}

        with self._lock:
            if not wanted.keys() <= self._known.keys():
                self._known = _names(self._documents.change(self._key, grown))
            return self._known

    def all(self) -> dict[str, str]:
        """Id -> name of all classes in their order, as they are now."""
        with self._lock:
            try:
                self._known = _names(self._documents.read(self._key))
            except NotFound:
                self._known = {}
            return self._known

    def names(self, ids: Iterable[str]) -> dict[str, str]:
        """Id -> name of the classes, asked for only when one of these ids is new to us."""
        known = self._known
        return known if set(ids) <= known.keys() else self.all()


def _names(content: dict[str, Any]) -> dict[str, str]:
    return {str(one["id"]): str(one["name"]) for one in content.get("classes", ())}


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


class Datasets:
    """Finds and makes datasets.

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
                split = float(record.get("split", self._split))
                if split != self._split:
                    hint = "a picture never changes sides: the dataset keeps the split it was made with"
                    _log.warning("dataset.split", dataset=dataset_id, split=split, configured=self._split, hint=hint)
                self._places[dataset_id] = Place(
                    ref=DatasetRef(dataset_id, str(record["name"])),
                    layout=layout,
                    split=split,
                    mark=mark_of(f"s3://{self._bucket}/{self._prefix}", dataset_id),
                    classes=Classes(self._documents, layout.classes),
                    labels=Classes(self._documents, layout.labels),
                )
            return self._places[dataset_id]
