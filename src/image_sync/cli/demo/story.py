"""What a demo is about: its pictures in the order in which they come, and how its model is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from image_sync.cli.demo.scene import Scene
from image_sync.platforms.base import Prediction

UPLOAD, TRAINING = 12, 24
"""The thresholds of both demos."""
Ask = Callable[[bytes], list[Prediction]]
"""What the deployed model says of a picture."""


@dataclass(frozen=True, slots=True)
class Wave:
    """Files that come one after the other, and what is true of the watched folder once they are there.

    Attributes:
        text: what comes, in words.
        files: where each lies, and where below the watched folder it is to lie.
        pictures: so many are there, all waves together.
        waiting: so many of them wait for their annotation.
        uploads: whether they reach the upload threshold.
    """

    text: str
    files: Sequence[tuple[Path, Path]]
    pictures: int
    waiting: int = 0
    uploads: bool = True


class Story(Protocol):
    """One of the demos."""

    @property
    def name(self) -> str:
        """Of the dataset, the model and the files that stay."""
        ...

    @property
    def model(self) -> Mapping[str, object]:
        """What its configuration says of the model, beside what both say."""
        ...

    @property
    def measure(self) -> str:
        """What the platform's accuracy is."""
        ...

    def waves(self, stock: Path) -> list[Wave]:
        """The pictures as they come; what must be drawn for that is drawn into the folder ``stock``."""
        ...

    def judge(self, ask: Ask, scene: Scene) -> str:
        """Show what the model says of pictures that it has never seen; returns the sum of it, one clause."""
        ...
