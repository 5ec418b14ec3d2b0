"""What all parts of the ledger share: the database, the clock, the target in use, and who wants to hear of changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection

from image_sync.domain import DatasetRef
from image_sync.ledger.bulk import rows
from image_sync.ledger.database import Database
from image_sync.ledger.schema import keyvalue


class IllegalTransition(RuntimeError):  # noqa: N818 - it is what the program attempted
    """A state change that a batch or a training cannot make: a mistake of ours.

    Pictures change many at a time: each statement names the states that it expects.
    """


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
    """The open ledger."""

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
    """None until it was said where pictures go: then files are only recorded."""
    listeners: list[Callable[[], None]] = field(default_factory=list)
    annotated: bool = field(init=False)
    """Whether annotations are used. If not, nothing that is done for them costs anything."""

    def __post_init__(self) -> None:
        """The setting is known."""
        self.annotated = self.annotations != "none"

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

    def write_value(self, tx: Connection, name: str, value: str) -> None:
        """Keep a text under a name, in place of what was there."""
        statement = self.db.insert(keyvalue).values(name=name, value=value)
        tx.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))

    def set_flag(self, tx: Connection, name: str) -> None:
        """Keep a name, with the time at which it was first set."""
        statement = self.db.insert(keyvalue).values(name=name, value=str(self.clock()))
        tx.execute(statement.on_conflict_do_nothing(index_elements=["name"]))


def value_of(tx: Connection, name: str) -> str | None:
    """What is kept under a name, or None."""
    found = rows(tx, "SELECT value FROM keyvalue WHERE name = ?", name)
    return found[0][0] if found else None
