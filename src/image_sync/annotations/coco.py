"""COCO: one JSON file for all pictures of a folder; parsed once as long as it does not change.

Our own reader, since pycocotools keeps the whole file as objects and checks none of them.
"""

from __future__ import annotations

import json
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from image_sync.annotations.checks import (
    AnnotationError,
    Draft,
    Fault,
    JsonFile,
    Point,
    around,
    called,
    number_of,
    whole_of,
)
from image_sync.annotations.folders import Folders, Format
from image_sync.domain import Annotation, Box, Stamp
from image_sync.errors import PictureError

_FEWEST = 6
"""Numbers in an outline: three corners."""
_MOST_IMAGES = 250_000
_MOST_FAULTS = 100
_KEPT, _KEPT_BYTES = 8, 64 << 20
_OTHERS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Listed:
    """A picture that a COCO file lists.

    Attributes:
        steps: its path as the file gives it, folder by folder, the name last.
        objects: each as its JSON: unpacked, they would take many times the file's size.
    """

    steps: tuple[str, ...]
    width: float | None
    height: float | None
    objects: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class CocoFile:
    """A COCO file, sorted by pictures; the objects are checked when they are read.

    Attributes:
        pictures: by name, without folders, in Unicode's composed form.
    """

    path: bytes
    labels: Mapping[int, str]
    pictures: Mapping[str, tuple[Listed, ...]]

    def read(self, listed: Listed, width: int, height: int) -> Annotation:
        """What it says of one picture, which has this size. Raises :class:`AnnotationError`."""
        draft = Draft(self.path, width, height)
        draft.size(listed.width, listed.height)
        for record in listed.objects:
            _object(json.loads(record), self.labels, draft)
        return draft.finish()


def parse(data: bytes, path: bytes) -> CocoFile | None:
    """The file in these bytes; None when it is JSON and no COCO file, which has lists of images and annotations.

    Raises:
        AnnotationError: it is not JSON, takes too much memory, or it is open which picture or label is meant.
    """
    labels: dict[int, str] = {}
    images: dict[int, _Image] | None = None
    objects: dict[int, list[bytes]] | None = None
    wrong_labels: list[Fault] = []
    wrong_images: list[Fault] = []
    for key, items in JsonFile(data, path).lists():
        if key == "categories":
            labels, wrong_labels = _labels(items)
        elif key == "images":
            images, wrong_images = _images(items, path)
        elif key == "annotations":
            objects, firsts, without = _objects(items)
    if images is None or objects is None:
        return None
    homeless = sorted([*without, *(first for key, first in firsts.items() if key not in images)])
    faults = wrong_labels + wrong_images
    faults += [
        Fault(f"annotation {number} belongs to no image of the file", "Correct its image_id, or delete it.")
        for number in homeless[:_MOST_FAULTS]
    ]
    if faults:
        raise AnnotationError(path, *faults[:_MOST_FAULTS])
    pictures: dict[str, list[Listed]] = {}
    for image, (steps, width, height) in images.items():
        pictures.setdefault(steps[-1], []).append(Listed(steps, width, height, tuple(objects.get(image, ()))))
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


class CocoFiles:
    """Opens COCO files and keeps the last ones."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._files: OrderedDict[bytes, tuple[Stamp, CocoFile | AnnotationError]] = OrderedDict()
        self._others: OrderedDict[bytes, Stamp] = OrderedDict()

    def at(self, path: bytes, stamp: Stamp, *, insist: bool) -> CocoFile | AnnotationError | None:
        """The COCO file of this path and stamp; or what is wrong with it.

        None when it is something else, or JSON that cannot be read; with ``insist`` that is what is wrong with it.
        """
        old = self._files.get(path)
        if old and old[0] == stamp:
            self._files.move_to_end(path)
            return old[1]
        if not insist and self._others.get(path) == stamp:
            return None
        found: CocoFile | AnnotationError | None
        try:
            found = parse(self._folders.read(path, stamp, Format.COCO.largest), path)
        except AnnotationError as error:
            found = error if insist else None
        except PictureError as error:  # not kept: it may pass
            return AnnotationError(path, Fault(error.what, error.hint)) if insist else None
        if found is None and insist:
            text = "it has no lists 'images' and 'annotations' and so is not a COCO file"
            found = AnnotationError(path, Fault(text, "If it is something else, give it another name."))
        if found is None:
            self._others[path] = stamp
            while len(self._others) > _OTHERS_KEPT:
                self._others.popitem(last=False)
            return None
        self._files[path] = stamp, found
        while len(self._files) > 1 and (
            len(self._files) > _KEPT or sum(stamp.size for stamp, _ in self._files.values()) > _KEPT_BYTES
        ):
            self._files.popitem(last=False)
        return found


_Image = tuple[tuple[str, ...], float | None, float | None]


def _images(items: Iterable[tuple[Any, str]], path: bytes) -> tuple[dict[int, _Image], list[Fault]]:
    images: dict[int, _Image] = {}
    faults: list[Fault] = []
    for number, (image, _) in enumerate(items, 1):
        key = whole_of(image.get("id")) if isinstance(image, dict) else None
        if number > _MOST_IMAGES:
            fault = Fault(f"it lists more than {_MOST_IMAGES:,} images", "Split it: one file for each folder.")
            raise AnnotationError(path, fault)
        if key is None or not isinstance(image.get("file_name"), str):
            fault = Fault(f"image {number} has no id or no file_name", "Export the file again, or write both into it.")
        elif key in images:
            fault = Fault(f"two images have the id {key}", "Give each image an id of its own.")
        else:
            name = unicodedata.normalize("NFC", image["file_name"]).replace("\\", "/")
            steps = tuple(step for step in name.split("/") if step not in {"", "."}) or ("",)
            images[key] = steps, number_of(image.get("width")), number_of(image.get("height"))
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
        key = whole_of(record.get("image_id")) if isinstance(record, dict) else None
        if key is not None:
            firsts.setdefault(key, number)
            objects.setdefault(key, []).append(text.encode("utf-8", "surrogatepass"))
        elif len(without) < _MOST_FAULTS:
            without.append(number)
    return objects, firsts, without


def _labels(items: Iterable[tuple[Any, str]]) -> tuple[dict[int, str], list[Fault]]:
    labels: dict[int, str] = {}
    faults: list[Fault] = []
    for number, (record, _) in enumerate(items, 1):
        entry: dict[str, Any] = record if isinstance(record, dict) else {}
        key, name = whole_of(entry.get("id")), entry.get("name")
        if len(faults) >= _MOST_FAULTS:
            continue
        if key is None or not isinstance(name, str):
            faults.append(Fault(f"category {number} has no id or no name", "Write both into the file."))
        elif labels.setdefault(key, name) != name:
            faults.append(Fault(f"two categories have the id {key}", "Give each category an id of its own."))
    return labels, faults


def _object(entry: Mapping[str, Any], labels: Mapping[int, str], draft: Draft) -> None:
    number, category = whole_of(entry.get("id")), whole_of(entry.get("category_id"))
    where = "an annotation without id" if number is None else f"annotation {number}"
    if category is None or category not in labels:
        which = "no category_id" if category is None else f"the category_id {category}, which the file does not name"
        draft.refuse(f"{where} has {which}", "Add the category to 'categories'.")
        return
    subject = called(where, labels[category])
    polygon = _polygon(entry.get("segmentation"), subject, draft)
    if polygon is None:
        return
    if entry.get("bbox") is None and polygon:
        corners = around(polygon)
    else:
        bbox = _numbers(entry.get("bbox"))
        if len(bbox) != 4:  # noqa: PLR2004 - x, y, width, height
            draft.refuse(f"the bbox of {subject} is not four numbers", "Draw the box again.")
            return
        left, top, width, height = bbox
        corners = (left, top, left + width, top + height)
    difficult = bool(whole_of(entry.get("difficult"))) or entry.get("difficult") is True or entry.get("iscrowd") == 1
    draft.object(where, labels[category], corners, polygon, difficult=difficult)


def _polygon(segmentation: object, subject: str, draft: Draft) -> list[Point] | None:
    """The outline; empty when there is none, a mask, or one of several parts; None when it is refused."""
    if not isinstance(segmentation, list) or len(segmentation) != 1:
        return []
    flat = _numbers(segmentation[0])
    if len(flat) % 2 or len(flat) < _FEWEST:
        draft.refuse(f"the outline of {subject} is not a list of three corners or more", "Draw the outline again.")
        return None
    return list(zip(flat[::2], flat[1::2], strict=True))


def _numbers(values: object) -> list[float]:
    """The numbers of a list; empty where it is anything else, or holds anything else."""
    found = [number_of(value) for value in values] if isinstance(values, list) else []
    known = [number for number in found if number is not None]
    return known if len(known) == len(found) else []


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
        record["difficult"] = 1  # not part of COCO, which lets files have keys of their own
    return record
