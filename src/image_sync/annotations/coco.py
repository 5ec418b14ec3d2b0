"""COCO: one JSON file for all pictures of a folder."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from image_sync.annotations.draft import Draft, Point, around, called
from image_sync.annotations.fault import AnnotationError, Fault
from image_sync.annotations.figure import figure, whole
from image_sync.domain import Annotation, Box

_FEWEST = 6
"""Numbers in an outline: three corners."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A picture that a COCO file lists.

    Attributes:
        steps: its path as the file gives it, folder by folder, the name last.
    """

    steps: tuple[str, ...]
    width: float | None
    height: float | None
    objects: tuple[Any, ...] = ()


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
            entry: dict[str, Any] = record if isinstance(record, dict) else {}
            _object(entry, self.labels, draft)
        return draft.finish()


def is_coco(document: object) -> bool:
    """Whether a JSON document has what every COCO file has."""
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations"))


def parse(document: Mapping[str, Any], path: bytes) -> CocoFile:
    """The file that this document (see :func:`is_coco`) makes.

    Raises:
        AnnotationError: nobody could say which picture or label is meant.
    """
    faults: list[Fault] = []
    labels = _labels(document.get("categories"), faults)
    objects: dict[int, list[Any]] = {}
    images: dict[int, tuple[str, Mapping[str, Any]]] = {}
    for number, image in enumerate(document["images"], 1):
        key = whole(image.get("id")) if isinstance(image, dict) else None
        if key is None or not isinstance(image.get("file_name"), str):
            faults.append(Fault(f"image {number} has no id or no file_name", "Export the file again."))
        elif key in images:
            faults.append(Fault(f"two images have the id {key}", "Give each image an id of its own."))
        else:
            images[key] = (image["file_name"], image)
    for number, record in enumerate(document["annotations"], 1):
        key = whole(record.get("image_id")) if isinstance(record, dict) else None
        if key is None or key not in images:
            text = f"annotation {number} belongs to no image of the file"
            faults.append(Fault(text, "Correct its image_id, or delete it."))
        else:
            objects.setdefault(key, []).append(record)
    if faults:
        raise AnnotationError(path, faults[:100])
    pictures: dict[str, list[Listed]] = {}
    for key, (name, image) in images.items():
        steps = _steps(name)
        size = figure(image.get("width")), figure(image.get("height"))
        pictures.setdefault(steps[-1], []).append(Listed(steps, *size, tuple(objects.get(key, ()))))
    return CocoFile(path, labels, {name: tuple(listed) for name, listed in pictures.items()})


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


def _labels(categories: object, faults: list[Fault]) -> dict[int, str]:
    labels: dict[int, str] = {}
    for number, record in enumerate(categories if isinstance(categories, list) else [], 1):
        entry: dict[str, Any] = record if isinstance(record, dict) else {}
        key, name = whole(entry.get("id")), entry.get("name")
        if key is None or not isinstance(name, str):
            faults.append(Fault(f"category {number} has no id or no name", "Write both."))
        elif labels.setdefault(key, name) != name:
            faults.append(Fault(f"two categories have the id {key}", "Give each category an id of its own."))
    return labels


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


def _polygon(segmentation: object, subject: str, draft: Draft) -> list[Point] | None:
    """The outline; empty when there is none, a mask, or one of several parts; None when it is refused."""
    if not isinstance(segmentation, list) or len(segmentation) != 1:
        return []
    flat = segmentation[0]
    known = [value for part in (flat if isinstance(flat, list) else []) if (value := figure(part)) is not None]
    if not isinstance(flat, list) or len(known) != len(flat) or len(flat) % 2 or len(flat) < _FEWEST:
        draft.refuse(f"the outline of {subject} is no list of three corners or more", "Draw the outline again.")
        return None
    return list(zip(known[::2], known[1::2], strict=True))
