"""The watcher's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Rules:
    """What is taken for a picture, when it is taken to be finished, and how often to look.

    Attributes:
        settle: seconds that a file must rest before it is read.
        rescan: seconds between two full looks at a root whose events are heard.
        poll: seconds between two looks at a root whose events are not heard, and between two checks that a root is
            still there.
        mode: ``events`` believes that the file system tells of changes even where that is doubtful; ``polling`` does
            without; ``auto`` decides for each root.
        recursive: whether folders below a category folder are looked at.
        category_from: ``first``: the first folder below the root names the category; ``parent``: the folder that the
            picture lies in.
        exclude: patterns of .gitignore, seen from the root: what they match is left alone.
        categories: folder name to category name; None: the folder is left alone.
        negatives: name of the folder in a category folder whose pictures show what the category is not: their category
            is ``<category>/<negatives>``; ``_<negatives>_`` beside the categories is for all of them; empty: neither.
        annotations: ``required``: a picture waits until its annotation is there; ``optional``: it goes without if there
            is none; ``none``: they are not looked for.
        ignored_labels: labels whose boxes are left out, composed and folded to one case.
        annotation_format: which files are taken for annotations; ``auto``: all formats.
        suffixes: file types that are wanted, lower case, without the dot.
        validate: ``header`` checks type, dimensions and the end; ``full`` decodes the picture as well.
        max_pixels, max_bytes: a larger picture is refused.
        max_folders: a root with more folders is polled.
        impatient: believe a file that is older than ``settle`` at one look on every file system, and report losses as
            soon as everything else is done (for a run that ends when it is idle).
    """

    settle: float = 2.0
    rescan: float = 300.0
    poll: float = 10.0
    mode: Literal["auto", "events", "polling"] = "auto"
    recursive: bool = True
    category_from: Literal["first", "parent"] = "first"
    exclude: tuple[str, ...] = ()
    categories: Mapping[str, str | None] = field(default_factory=lambda: MappingProxyType({}))
    negatives: str = ""
    annotations: Literal["required", "optional", "none"] = "none"
    ignored_labels: frozenset[str] = frozenset()
    annotation_format: Literal["auto", "voc", "coco", "yolo", "sagemaker"] = "auto"
    suffixes: frozenset[str] = frozenset({"jpg", "jpeg", "png"})
    validate: Literal["header", "full"] = "header"
    max_pixels: int = 100_000_000
    max_bytes: int = 256 * 1024 * 1024
    max_folders: int = 4000
    impatient: bool = False
