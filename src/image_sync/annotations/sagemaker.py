"""SageMaker's built-in object detection: one JSON file for each picture.

Facts from Amazon's developer guide (object detection algorithm, input and output interface): coordinates are whole
pixels, the only depth is 3, class ids go from 0 without a gap, ``file`` is relative to the folder of the image channel.
No library reads these files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from image_sync.annotations.checks import (
    SOMETHING_ELSE,
    AnnotationError,
    Draft,
    Fault,
    JsonFile,
    called,
    number_of,
    whole_of,
)
from image_sync.domain import Annotation

_KEYS = ("left", "top", "width", "height")
_OTHERS = {
    "shapes": ("a labelme file", "Export the labels as COCO or Pascal VOC."),
    "images": (
        "a COCO file",
        "It is named like a picture: call it annotations.json, or something that no picture is called.",
    ),
}


def read(data: bytes, draft: Draft) -> Annotation:
    """What the file says. Raises :class:`AnnotationError`."""
    document = JsonFile(data, draft.path).whole()
    if not isinstance(document, dict) or not isinstance(document.get("annotations"), list) or "images" in document:
        raise AnnotationError(draft.path, _foreign(document))
    size = document.get("image_size")
    first = size[0] if isinstance(size, list) and size and isinstance(size[0], dict) else {}
    draft.size(number_of(first.get("width")), number_of(first.get("height")))
    names = _names(document.get("categories"), draft)
    for number, record in enumerate(document["annotations"], 1):
        _object(record, f"object {number}", names, draft)
    return draft.finish()


def write(annotation: Annotation, file: str, classes: Mapping[str, int]) -> bytes:
    """The file for a picture.

    Args:
        file: the picture's path below the folder of the image channel.
        classes: the id of each label, 0 to n - 1.
    """
    document = {
        "file": file,
        "image_size": [{"width": annotation.width, "height": annotation.height, "depth": 3}],
        "annotations": [
            {
                "class_id": classes[box.label],
                "left": edges[0],
                "top": edges[1],
                "width": edges[2] - edges[0],
                "height": edges[3] - edges[1],
            }
            for box in annotation.boxes
            if (edges := box.pixels(annotation.width, annotation.height))
        ],
        "categories": [{"class_id": number, "name": name} for name, number in classes.items()],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _foreign(document: object) -> Fault:
    keys = document if isinstance(document, dict) else {}
    for key, (kind, hint) in _OTHERS.items():
        if isinstance(keys.get(key), list):
            return Fault(f"it is {kind}, not one of SageMaker's", hint)
    return Fault("it has no list 'annotations' and so is not one of SageMaker's files", SOMETHING_ELSE)


def _names(categories: object, draft: Draft) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, record in enumerate(categories if isinstance(categories, list) else [], 1):
        entry: dict[str, Any] = record if isinstance(record, dict) else {}
        class_id, name = whole_of(entry.get("class_id")), entry.get("name")
        if class_id is None or not isinstance(name, str):
            draft.refuse(f"category {number} has no class_id or no name", "Write both into the file.")
        elif names.setdefault(class_id, name) != name:
            draft.refuse(f"class_id {class_id} has two names in 'categories'", "Delete one of them.")
    return names


def _object(record: object, where: str, names: Mapping[int, str], draft: Draft) -> None:
    entry: dict[str, Any] = record if isinstance(record, dict) else {}
    class_id = whole_of(entry.get("class_id"))
    if class_id is None or class_id not in names:
        which = "no class_id" if class_id is None else f"the class_id {class_id}, which 'categories' does not name"
        draft.refuse(f"{where} has {which}", "Add the class to 'categories' in this file.")
        return
    known = [value for key in _KEYS if (value := number_of(entry.get(key))) is not None]
    if len(known) < len(_KEYS):
        draft.refuse(
            f"{called(where, names[class_id])}: left, top, width or height is not a number", "Write a number for each."
        )
        return
    left, top, width, height = known
    draft.object(where, names[class_id], (left, top, left + width, top + height))
