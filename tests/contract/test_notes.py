"""What the platform writes down for itself: the same promises in memory and in the ledger, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from image_sync.ledger import Ledger, open_ledger
from image_sync.platforms.base import MemoryState, PlatformState
from support.postgres import a_database


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger | None]:
    if request.param == "memory":
        yield None
        return
    states = a_database() if request.param == "postgresql" else iter([tmp_path / "state"])
    for state in states:
        ledger = open_ledger(state)
        ledger.use_target("mobius", "http://server", "parts", "append", "parts")
        yield ledger
        ledger.close()


@pytest.fixture
def notes(place: Ledger | None) -> PlatformState:
    return MemoryState() if place is None else place.notes


def test_notes_are_kept_changed_and_removed(notes: PlatformState) -> None:
    """Several changes at one stroke; what was never there is removed without an error."""
    assert notes.get("t/a") is None
    notes.write({"t/a": "1", "t/b": "2" * 100_000, "r/a": "3"})
    notes.write({"t/a": "ä", "r/a": None, "r/b": None})

    assert notes.get("t/a") == "ä"
    assert notes.get("r/a") is None
    assert notes.under("t/") == {"t/a": "ä", "t/b": "2" * 100_000}


def test_a_prefix_is_taken_literally(notes: PlatformState) -> None:
    """Neither capitals nor wildcards match."""
    notes.write({"t/%": "1", "T/x": "2", "t/_": "3", "ty": "4"})

    assert notes.under("t/%") == {"t/%": "1"}
    assert set(notes.under("t/")) == {"t/%", "t/_"}


def test_each_target_has_its_own(place: Ledger | None) -> None:
    """Another dataset sees none of them; the first one sees its own again."""
    if place is None:
        pytest.skip("one memory, one platform")
    place.notes.write({"t/a": "1"})
    place.use_target("mobius", "http://server", "other", "append", "other")
    assert place.notes.under("") == {}
    place.notes.write({"t/a": "2"})
    place.use_target("mobius", "http://server", "parts", "append", "parts")

    assert place.notes.under("") == {"t/a": "1"}
