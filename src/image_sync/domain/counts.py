"""Counts, and the verdicts that they lead to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from image_sync.domain.trainings import Run


@dataclass(frozen=True, slots=True)
class Counts:
    """How many pictures stand where, for one category or for all."""

    found: int = 0
    """Files that lie in the folders and were checked."""
    ready: int = 0
    """Wait for the threshold, or have passed it and wait for a request."""
    sending: int = 0
    """In a request whose outcome is open."""
    confirmed: int = 0
    quarantined: int = 0
    refused: int = 0
    conflicts: int = 0
    duplicates: int = 0
    waiting: int = 0
    """Sound, but their annotations are not there yet."""


@dataclass(frozen=True, slots=True)
class Census:
    """Everything that ``status`` counts."""

    total: Counts = field(default_factory=Counts)
    categories: Mapping[str, Counts] = field(default_factory=lambda: MappingProxyType({}))
    uncategorised: int = 0
    settling: int = 0
    """Files that are not quiet yet, as the watcher last reported."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Everything the tracker decides by: one consistent look at the ledger.

    ``ready`` pictures wait for the threshold; ``cleared`` ones have passed it and wait for a request;
    ``sending`` ones are in a request whose outcome is open (``doubtful`` of them: the platform must be asked).
    """

    ready: int = 0
    cleared: int = 0
    sending: int = 0
    doubtful: int = 0
    confirmed: int = 0
    refused: int = 0
    untrained: int = 0
    """Confirmed since the last training of this dataset was started."""
    trainable: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Confirmed pictures per category, all that a training would contain."""
    labelled: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Confirmed pictures per label that is marked in them; empty unless annotations are used."""
    unmarked: int = 0
    """Confirmed pictures whose present annotations the platform does not have yet."""
    moving: int = 0
    """Confirmed pictures whose category the platform has still to be told, because their files were moved."""
    newest_ready_id: int = 0
    """Grows whenever a picture becomes ready: the quiet time is counted from its last change."""
    newest_ready_at: float | None = None
    """Unix time of the last picture that began to wait for the threshold."""
    active: Run | None = None
    last: Run | None = None
    """The newest training that was started, active or ended."""
    refusal: Run | None = None
    """The newest attempt, if the platform refused to start it."""
    retry: Run | None = None
    """The failed training that is to be started once more."""
    starts: tuple[float, ...] = ()
    """Unix times of the trainings started in the last 24 hours, oldest first."""
    train_requested: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a stage should act now; the same value is logged, shown and obeyed.

    Attributes:
        due: act now.
        have, need: pictures counted, and the threshold they are held against.
        wait: seconds until it would be due if nothing changes; None when time alone changes nothing.
        reason: one clause that says why; never empty.
    """

    due: bool
    have: int
    need: int
    reason: str
    wait: float | None = None

    @property
    def short_by(self) -> int:
        """Pictures missing from the threshold; none is missing where something else made it due."""
        return 0 if self.due else max(0, self.need - self.have)
