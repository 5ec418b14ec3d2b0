"""Trainings, how they go, and what becomes of their models."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from image_sync.domain.pictures import DatasetRef


class RunState(StrEnum):
    """What is known of one training."""

    STARTING = "starting"
    DOUBTFUL = "doubtful"
    RUNNING = "running"
    TRAINED = "trained"
    FAILED = "failed"
    REFUSED = "refused"

    @property
    def active(self) -> bool:
        """Whether it may still be going on at the platform."""
        return self in {RunState.STARTING, RunState.DOUBTFUL, RunState.RUNNING}


class Owed(StrEnum):
    """What is still to be done about a training that has ended, one thing after the other."""

    NOTHING = ""
    JUDGE = "judge"
    """Decide whether its model is deployed."""
    DEPLOY = "deploy"
    RETIRE = "retire"
    """Undeploy the models that it replaces."""
    TIDY = "tidy"
    """Delete the models that are not to be kept."""
    RETRY = "retry"
    """It failed for a cause that passes: start it once more."""


BY_HAND = "by hand"
"""The reason of a fate that a person decided."""


class Fate(StrEnum):
    """What became of a training's model by our doing."""

    UNDECIDED = ""
    DECLINED = "declined"
    """It is not to be deployed."""
    CHOSEN = "chosen"
    """It is to be deployed."""
    DEPLOYED = "deployed"
    REFUSED = "refused"
    """The platform would not deploy it."""
    RETIRED = "retired"
    """It was deployed and no longer is."""
    DELETED = "deleted"
    GONE = "gone"
    """The platform no longer has it, and not by our doing."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training, as the ledger knows it."""

    id: int
    name: str
    """Name of the model to be; unique."""
    state: RunState
    dataset: DatasetRef
    task_id: str = ""
    base: str = ""
    """Model id it continues from; empty when it starts from the beginning."""
    pictures: int = 0
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    not_before: float | None = None
    """Unix time before which "not found at the platform" is not believed."""
    iteration: int = 0
    iterations: int = 0
    loss: float | None = None
    accuracy: float | None = None
    """Held-out accuracy, 0 to 1, as the platform reports it."""
    remaining: float | None = None
    """Seconds that the platform expects it to go on."""
    reason: str = ""
    """Why it failed or was refused, in the platform's words."""
    doubts: int = 0
    """How often it was not known whether it had been started."""
    base_name: str = ""
    """Name of the model it continues from, as far as it is known."""
    retry_of: int | None = None
    """The failed training that this one repeats."""
    owed: Owed = Owed.NOTHING
    fate: Fate = Fate.UNDECIDED
    fate_reason: str = ""
    """Why its model has this fate, one clause."""


class Point(NamedTuple):
    """One look at a running training."""

    at: float
    """Unix time, seconds."""
    iteration: int
    loss: float | None
    accuracy: float | None
    """Held-out accuracy, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Content:
    """The pictures of one category that a training contains.

    ``fingerprint`` is the SHA-256 of their own SHA-256 sums in hex, sorted, each followed by a line feed.
    """

    category: str
    pictures: int
    fingerprint: str
