"""Annotation files, and folders full of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from image_sync.annotations import Finder, Format, Source
from image_sync.domain import Annotation, Box
from image_sync.watcher.folders import open_folder
from image_sync.watcher.rules import Filter, Rules
from support.pictures import jpeg, png

WIDTH, HEIGHT = 40, 30
SCRATCH = Box("scratch", 4.0, 6.0, 20.0, 16.0)
PICTURE = jpeg(1, WIDTH, HEIGHT)
PNG = png(1, WIDTH, HEIGHT)


def annotation(*boxes: Box, width: int = WIDTH, height: int = HEIGHT) -> Annotation:
    return Annotation(width, height, boxes or (SCRATCH,))


def voc_object(
    label: str = "scratch", corners: Sequence[object] = (4, 6, 20, 16), before: str = "", behind: str = ""
) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    bndbox = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object>{before}<name>{label}</name><bndbox>{bndbox}</bndbox>{behind}</object>"


def voc(*objects: str, size: tuple[int, int] | None = (WIDTH, HEIGHT), filename: str = "x.jpg") -> str:
    told = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{told}{''.join(objects or (voc_object(),))}</annotation>"


def coco(*names: str, bbox: Sequence[float] = (4, 6, 16, 10), **changes: Any) -> str:
    """A COCO file that marks one scratch in each picture."""
    document: dict[str, Any] = {
        "images": [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in enumerate(names, 1)
        ],
        "annotations": [
            {"id": 10 + number, "image_id": number, "category_id": 7, "bbox": list(bbox)}
            for number in range(1, len(names) + 1)
        ],
        "categories": [{"id": 7, "name": "scratch"}],
    }
    return json.dumps(document | changes)


def sagemaker(**changes: Any) -> str:
    document: dict[str, Any] = {
        "file": "x.jpg",
        "image_size": [{"width": WIDTH, "height": HEIGHT, "depth": 3}],
        "annotations": [{"class_id": 0, "left": 4, "top": 6, "width": 16, "height": 10}],
        "categories": [{"class_id": 0, "name": "scratch"}],
    }
    return json.dumps(document | changes)


YOLO = "0 0.3 0.366666667 0.4 0.333333333\n"


def put(root: Path, files: Mapping[str, bytes | str]) -> Path:
    """Make these files, and the folders that they lie in."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def finder_of(root: Path, formats: Sequence[Format] = tuple(Format), **options: Any) -> Finder:
    """A finder that takes for pictures what the watcher does."""
    raw = os.fsencode(root)
    return Finder(raw, partial(open_folder, raw), Filter(Rules()).file, formats=formats, **options)


def found(finder: Finder, folder: Path) -> dict[str, Source]:
    """The sources of all pictures that lie in the folder."""
    wanted = Filter(Rules()).file
    raw = os.fsencode(folder)
    sources = finder.beside(raw, [name for name in os.listdir(raw) if wanted(name)])
    return {os.fsdecode(name): source for name, source in sources.items()}


def read(root: Path, folder: str = "", name: str = "x.jpg") -> Annotation:
    """What is marked in one picture, found anew."""
    return found(finder_of(root), root / folder)[name].read(WIDTH, HEIGHT)
