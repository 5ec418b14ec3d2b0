"""What is wrong with an annotation file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from image_sync.errors import PictureError
from image_sync.log import show_path


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake in a file.

    Attributes:
        text: one clause without full stop; it names the object, as in "object 3 ('scratch') has no area".
        hint: what to do, one sentence.
    """

    text: str
    hint: str


class AnnotationError(PictureError):
    """An annotation file cannot be used; ``faults`` holds every mistake that was found in it, at least one.

    Args:
        path: the file.
    """

    def __init__(self, path: bytes, faults: Sequence[Fault]) -> None:
        more = f" (and {len(faults) - 1} more in this file)" if len(faults) > 1 else ""
        super().__init__(f"{show_path(path)}: {faults[0].text}{more}", hint=faults[0].hint)
        self.path = path
        self.faults = tuple(faults)
