"""What all parts of the ledger share: the database, the clock, the target in use, and who wants to hear of changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from image_sync.domain import DatasetRef
from image_sync.ledger.database import Database


@dataclass(frozen=True, slots=True)
class Target:
    """Where this ledger's pictures go at present."""

    id: int
    platform: str
    endpoint: str
    setting: str
    """``dataset.name`` as configured."""
    dataset_name: str
    """As it is called at the platform."""
    dataset_id: str
    """Empty until the platform told it."""

    @property
    def dataset(self) -> DatasetRef:
        """The dataset as platforms are asked for it; its id may still be empty."""
        return DatasetRef(self.dataset_id, self.dataset_name)


@dataclass(slots=True)
class LedgerContext:
    """The open ledger. ``current_target`` is None until it was said where pictures go: then files are only recorded."""

    db: Database
    clock: Callable[[], float]
    """Unix time in seconds: for what people read. Waiting is measured by the stages on the monotonic clock."""
    skip_duplicates: bool = True
    plain_names: bool = False
    """Keys are the files' own names where these are free (``upload.names: "original"``)."""
    annotations: str = "none"
    """The setting of that name."""
    folder: Path | None = None
    """The state folder; None for a database server."""
    current_target: Target | None = None
    listeners: list[Callable[[], None]] = field(default_factory=list)

    @property
    def annotated(self) -> bool:
        """Whether annotations are used. If not, nothing that is done for them costs anything."""
        return self.annotations != "none"

    @property
    def target(self) -> Target:
        """The target in use; asking for it before there is one is a mistake of ours."""
        if self.current_target is None:
            raise RuntimeError("the ledger has no target yet")
        return self.current_target

    def changed(self) -> None:
        """Wake whoever waits for news. Called after the transaction, never inside it."""
        for listener in self.listeners:
            listener()
