"""Objects in pictures at MVI: tags made as needed, labels in its own form."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable

from image_sync.domain import Annotation, Box, DatasetRef
from image_sync.errors import NotFound, Refused
from image_sync.platforms.mvi import wire
from image_sync.platforms.mvi.api import Api
from image_sync.platforms.mvi.making import Making


class Labels:
    """The label part of the platform. Tags are ensured first: no document says that a label makes its tag."""

    def __init__(self, api: Api, making: Making) -> None:
        self._api = api
        self._making = making
        self._lock = threading.Lock()
        self._tags: dict[str, dict[str, str]] = {}

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:
        """Mark these objects in place of all that is marked there."""
        entries = self.entries(dataset, annotation)
        try:
            self._api.replace_labels(wire.checked(dataset.id, "dataset"), wire.checked(remote_id, "picture"), entries)
        except (NotFound, Refused):
            self._forget(dataset.id)
            raise

    def part(self, dataset: DatasetRef, annotation: Annotation) -> bytes:
        """What is sent beside the one picture of an upload."""
        return json.dumps(self.entries(dataset, annotation)).encode()

    def entries(self, dataset: DatasetRef, annotation: Annotation) -> list[dict[str, object]]:
        """The labels in MVI's form, their tags made."""
        names = self._ensured(dataset, {box.label for box in annotation.boxes})
        return [_entry(box, names[box.label], annotation) for box in annotation.boxes]

    def _ensured(self, dataset: DatasetRef, labels: Iterable[str]) -> dict[str, str]:
        """Label -> the name of its tag. MVI tells tags apart by their names in small letters."""
        with self._lock:
            return {label: self._tag(dataset, label) for label in sorted(labels)}

    def _tag(self, dataset: DatasetRef, label: str) -> str:
        known = self._tags.get(dataset.id, {}).get(_normal(label)) or self._find(dataset, label)
        if known is None:
            known = self._making.made(lambda: self._made(dataset, label), lambda: self._find(dataset, label))
            self._tags.setdefault(dataset.id, {})[_normal(label)] = known
        return known

    def _made(self, dataset: DatasetRef, label: str) -> str:
        self._api.create_tag(dataset.id, label)
        return label

    def _find(self, dataset: DatasetRef, label: str) -> str | None:
        found = {_normal(tag.name): tag.name for tag in reversed(self._api.tags(dataset.id)) if tag.name}
        self._tags[dataset.id] = found
        return found.get(_normal(label))

    def _forget(self, dataset_id: str) -> None:
        with self._lock:
            self._tags.pop(dataset_id, None)


def _entry(box: Box, name: str, annotation: Annotation) -> dict[str, object]:
    """One label. MVI counts in whole pixels: the box is rounded outward, as far as the picture goes."""
    entry: dict[str, object] = {
        "name": name,
        "bndbox": {
            "xmin": max(0, math.floor(box.left)),
            "ymin": max(0, math.floor(box.top)),
            "xmax": min(annotation.width, math.ceil(box.right)),
            "ymax": min(annotation.height, math.ceil(box.bottom)),
        },
    }
    if box.polygon:
        corners = [
            [min(max(round(x), 0), annotation.width), min(max(round(y), 0), annotation.height)] for x, y in box.polygon
        ]
        entry["segment_polygons"] = [corners]
    return entry


def _normal(label: str) -> str:
    return wire.normal(label).strip().casefold()
