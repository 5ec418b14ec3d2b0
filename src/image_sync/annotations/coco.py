"""COCO: one JSON file for all pictures of a folder."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from image_sync.annotations.document import lists_of
from image_sync.annotations.draft import Draft, Metric, around, called
from image_sync.annotations.fault import AnnotationError, Fault
from image_sync.annotations.figure import figure, whole
from image_sync.domain import Annotation, Box

_FEWEST = 6
"""Numbers in an outline: three corners."""
_MOST_IMAGES = 250_000
_MOST_FAULTS = 100


@dataclass(frozen=True, slots=True)
class Listed:
    """A picture that a COCO file lists.

    Attributes:
        steps: its path as the file gives it, folder by folder, the name last.
    """

    steps: tuple[str, ...]
    width: float | None
    height: float | None
    objects: tuple[bytes, ...] = ()
    """Each as its JSON: unpacked, they would take many times the file's size."""


@dataclass(frozen=True, slots=True)
class CocoFile:
    """A COCO file, sorted by pictures; the objects are checked when they are read."""

    path: bytes
    labels: Mapping[int, str]
    pictures: Mapping[str, tuple[Listed, ...]] = field(repr=False)
    """By name, without folders, in Unicode's composed form."""

    def read(self, listed: Listed, draft: Draft) -> Annotation:
        """What it says of one picture. Raises :class:`AnnotationError`."""
        draft.size(listed.width, listed.height)
        for record in listed.objects:
            _object(json.loads(record), self.labels, draft)
        return draft.finish()


def parse(data: bytes, path: bytes) -> CocoFile | None:
    """The file in these bytes; None when it is JSON and no COCO file, which has lists of images and annotations.

    Raises:
        AnnotationError: it is not JSON, takes too much memory, or nobody could say which picture or label is meant.
    """
    found: dict[str, Any] = {}
    for key, items in lists_of(data, path):
        if key == "categories":
            found[key] = _labels(items)
        elif key == "images":
            found[key] = _images(items, path)
        elif key == "annotations":
            found[key] = _objects(items)
    if "images" not in found or "annotations" not in found:
        return None
    labels, wrong = found.get("categories", ({}, []))
    images, also_wrong = found["images"]
    objects, firsts, without = found["annotations"]
    lost = sorted([*without, *(first for key, first in firsts.items() if key not in images)])
    homeless = [
        Fault(f"annotation {number} belongs to no image of the file", "Correct its image_id, or delete it.")
        for number in lost[:_MOST_FAULTS]
    ]
    if faults := [*wrong, *also_wrong, *homeless]:
        raise AnnotationError(path, faults[:_MOST_FAULTS])
    pictures: dict[str, list[Listed]] = {}
    for key, (steps, width, height) in images.items():
        pictures.setdefault(steps[-1], []).append(Listed(steps, width, height, tuple(objects.get(key, ()))))
    return CocoFile(path, labels, {name: tuple(listed) for name, listed in pictures.items()})


_Image = tuple[tuple[str, ...], float | None, float | None]


def _images(items: Iterable[tuple[Any, str]], path: bytes) -> tuple[dict[int, _Image], list[Fault]]:
    images: dict[int, _Image] = {}
    faults: list[Fault] = []
    for number, (image, _) in enumerate(items, 1):
        key = whole(image.get("id")) if isinstance(image, dict) else None
        if number > _MOST_IMAGES:
            fault = Fault(f"it lists more than {_MOST_IMAGES:,} images", "Split it: one file for each folder.")
            raise AnnotationError(path, [fault])
        if key is None or not isinstance(image.get("file_name"), str):
            fault = Fault(f"image {number} has no id or no file_name", "Export the file again.")
        elif key in images:
            fault = Fault(f"two images have the id {key}", "Give each image an id of its own.")
        else:
            images[key] = _steps(image["file_name"]), figure(image.get("width")), figure(image.get("height"))
            continue
        if len(faults) < _MOST_FAULTS:
            faults.append(fault)
    return images, faults


def _objects(items: Iterable[tuple[Any, str]]) -> tuple[dict[int, list[bytes]], dict[int, int], list[int]]:
    """The objects of each image as JSON, the number of each image's first one, and the numbers of those without."""
    objects: dict[int, list[bytes]] = {}
    firsts: dict[int, int] = {}
    without: list[int] = []
    for number, (record, text) in enumerate(items, 1):
        key = whole(record.get("image_id")) if isinstance(record, dict) else None
        if key is not None:
            firsts.setdefault(key, number)
            objects.setdefault(key, []).append(text.encode("utf-8", "surrogatepass"))
        elif len(without) < _MOST_FAULTS:
            without.append(number)
    return objects, firsts, without


def write(pictures: Iterable[tuple[str, Annotation]], classes: Mapping[str, int]) -> bytes:
    """The file for the pictures of a folder, given by their names; the ids of categories begin at 1."""
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, (name, annotation) in enumerate(pictures, 1):
        images.append({"id": number, "file_name": name, "width": annotation.width, "height": annotation.height})
        for box in annotation.boxes:
            objects.append({"id": len(objects) + 1, "image_id": number, **_record(box, classes)})
    categories = [{"id": number + 1, "name": name} for name, number in classes.items()]
    document = {"images": images, "annotations": objects, "categories": categories}
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def _record(box: Box, classes: Mapping[str, int]) -> dict[str, Any]:
    width, height = box.right - box.left, box.bottom - box.top
    record: dict[str, Any] = {
        "category_id": classes[box.label] + 1,
        "bbox": [box.left, box.top, width, height],
        "area": width * height,
        "segmentation": [[value for point in box.polygon for value in point]] if box.polygon else [],
        "iscrowd": 0,
    }
    if box.difficult:
        record["difficult"] = 1  # no part of COCO, which lets files have keys of their own
    return record


def _steps(name: str) -> tuple[str, ...]:
    steps = [step for step in unicodedata.normalize("NFC", name).replace("\\", "/").split("/") if step not in {"", "."}]
    return tuple(steps) or ("",)


def _labels(items: Iterable[tuple[Any, str]]) -> tuple[dict[int, str], list[Fault]]:
    labels: dict[int, str] = {}
    faults: list[Fault] = []
    for number, (record, _) in enumerate(items, 1):
        entry: dict[str, Any] = record if isinstance(record, dict) else {}
        key, name = whole(entry.get("id")), entry.get("name")
        if len(faults) >= _MOST_FAULTS:
            continue
        if key is None or not isinstance(name, str):
            faults.append(Fault(f"category {number} has no id or no name", "Write both."))
        elif labels.setdefault(key, name) != name:
            faults.append(Fault(f"two categories have the id {key}", "Give each category an id of its own."))
    return labels, faults


def _object(entry: Mapping[str, Any], labels: Mapping[int, str], draft: Draft) -> None:
    number, category = whole(entry.get("id")), whole(entry.get("category_id"))
    where = "an annotation without id" if number is None else f"annotation {number}"
    if category is None or category not in labels:
        which = "no category_id" if category is None else f"the category_id {category}, which the file does not name"
        draft.refuse(f"{where} has {which}", "Add the category to 'categories'.")
        return
    subject = called(where, labels[category])
    polygon = _polygon(entry.get("segmentation"), subject, draft)
    if polygon is None:
        return
    bbox = entry.get("bbox")
    if bbox is None and polygon:
        corners = around(polygon)
    else:
        known = [value for part in (bbox if isinstance(bbox, list) else []) if (value := figure(part)) is not None]
        if not isinstance(bbox, list) or len(bbox) != 4 or len(known) != 4:  # noqa: PLR2004 - x, y, width, height
            draft.refuse(f"the bbox of {subject} is not four numbers", "Draw the box again.")
            return
        left, top, width, height = known
        corners = (left, top, left + width, top + height)
    difficult = bool(whole(entry.get("difficult"))) or entry.get("difficult") is True or entry.get("iscrowd") == 1
    draft.object(where, labels[category], corners, polygon, difficult=difficult)


def _polygon(segmentation: object, subject: str, draft: Draft) -> list[Metric] | None:
    """The outline; empty when there is none, a mask, or one of several parts; None when it is refused."""
    if not isinstance(segmentation, list) or len(segmentation) != 1:
        return []
    flat = segmentation[0]
    known = [value for part in (flat if isinstance(flat, list) else []) if (value := figure(part)) is not None]
    if not isinstance(flat, list) or len(known) != len(flat) or len(flat) % 2 or len(flat) < _FEWEST:
        draft.refuse(f"the outline of {subject} is not a list of three corners or more", "Draw the outline again.")
        return None
    return list(zip(known[::2], known[1::2], strict=True))
