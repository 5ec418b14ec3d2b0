"""How good a model is, said by its right name, and with the number of pictures that it was measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from image_sync.config import Settings

_SPLIT = 0.8  # of MVI, and of the embedded server


@dataclass(frozen=True, slots=True)
class Measure:
    """What the platform's figure is, and which share of the pictures it is measured on."""

    name: str
    share: float | None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The measure of the models that these settings lead to."""
        name = "mAP" if settings.model.is_detection else "accuracy"
        if settings.platform == "sagemaker":
            return cls(name, 1 - settings.sagemaker.split)
        ratio = settings.model.strategy.get("ratio", _SPLIT)
        known = settings.platform == "mvi" and isinstance(ratio, int | float) and 0 < ratio < 1
        return cls(name, 1 - float(ratio) if known else None)

    def held_out(self, pictures: int | None) -> int | None:
        """About so many pictures of a training are held out to measure it; None when nobody knows."""
        return None if self.share is None or not pictures else max(1, round(pictures * self.share))

    def text(self, value: float | None, pictures: int | None) -> str:
        """``accuracy 0.500 on about 4 held-out pictures``; empty while there is no figure."""
        if value is None:
            return ""
        return f"{self.name} {value:.3f} on {self.on(pictures)}"

    def on(self, pictures: int | None) -> str:
        """``about 4 held-out pictures``."""
        count = self.held_out(pictures)
        if count is None:
            return "an unknown number of held-out pictures"
        return f"about {count} held-out {'picture' if count == 1 else 'pictures'}"
