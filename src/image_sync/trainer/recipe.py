"""What to train, and what becomes of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Recipe:
    """The section ``model`` of the settings. Times in seconds."""

    name: str
    """Models are called ``<name>-<UTC yyyymmdd-hhmmss>``."""
    continues: bool = False
    """``model.action: "retrain"``: begin with the newest model of this name in the dataset."""
    pretrained: str | None = None
    """``model.pretrained_model``: an id, ``latest`` or ``none``; overrides ``continues``."""
    nn_arch: str = ""
    detection: bool = False
    """Objects are found in pictures, rather than pictures told apart."""
    strategy: Mapping[str, object] = field(default_factory=dict)
    grace: float = 600.0
    """So long an unconfirmed start may still be carried out at the platform."""
    poll: float = 15.0
    deadline: float = math.inf
    """A training that takes longer is no longer waited for."""
    deploy: Literal["never", "always", "better"] = "never"
    min_gain: float = 0.0
    """For ``better``: the accuracy must be at least that of the deployed model plus this."""
    min_accuracy: float | None = None
    keep: int | None = None
    """So many of the newest models stay; None: all."""
