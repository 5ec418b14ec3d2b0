"""Objects drawn in pictures, as files: Pascal VOC, COCO, YOLO and SageMaker; found, checked, read and written."""

from image_sync.annotations.checks import AnnotationError, Fault
from image_sync.annotations.finder import Finder
from image_sync.annotations.folders import Format, Source, chosen

__all__ = ["AnnotationError", "Fault", "Finder", "Format", "Source", "chosen"]
