"""The file formats that are read and written."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """How annotations are written down; in the order in which they are looked for."""

    VOC = "voc"
    """One XML file for each picture (Pascal VOC, labelImg, MVI's own export)."""
    COCO = "coco"
    """One JSON file for all pictures of a folder."""
    YOLO = "yolo"
    """One text file for each picture, and one with the names of the classes."""
    SAGEMAKER = "sagemaker"
    """One JSON file for each picture (SageMaker's built-in object detection)."""

    @property
    def words(self) -> str:
        """What a person calls it."""
        return _WORDS[self]

    @property
    def suffix(self) -> str:
        """How names of its files end, in lower case."""
        return _SUFFIXES[self]

    @property
    def largest(self) -> int:
        """Bytes beyond which a file is not read: a COCO file holds many pictures, the others one."""
        return 64 << 20 if self is Format.COCO else 8 << 20


def chosen(name: str) -> tuple[Format, ...]:
    """The formats that a setting means: the one of this name, or all for ``auto``."""
    return tuple(Format) if name == "auto" else (Format(name),)


_WORDS = {
    Format.VOC: "Pascal VOC",
    Format.COCO: "COCO",
    Format.YOLO: "YOLO",
    Format.SAGEMAKER: "SageMaker",
}
_SUFFIXES = {Format.VOC: ".xml", Format.COCO: ".json", Format.YOLO: ".txt", Format.SAGEMAKER: ".json"}
