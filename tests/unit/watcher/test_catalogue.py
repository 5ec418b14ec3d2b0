"""How sightings are handed over."""

from __future__ import annotations

import pytest

from image_sync.domain import Sighting, Stamp
from image_sync.errors import LedgerError
from image_sync.watcher.catalogue import SightingBuffer
from support.catalogue import MemoryCatalogue

ROOT = b"/r"


def sighting(name: bytes, folder: bytes = b"/r/a") -> Sighting:
    """A sighting of a file of this name."""
    return Sighting(folder, name, Stamp(1, 2, 3, 4), "a")


def test_sightings_go_in_batches_and_none_is_lost_when_the_catalogue_fails():
    """A thousand at once at most; what could not be handed over is kept for the next time."""
    catalogue = MemoryCatalogue()
    buffer = SightingBuffer(catalogue)
    for number in range(2050):
        buffer.put(ROOT, b"/r/a", [sighting(b"%d" % number)], now=1.0)
    assert catalogue.batches == [1000, 1000]
    catalogue.broken = LedgerError("the disk is full")
    with pytest.raises(LedgerError):
        buffer.flush()
    catalogue.broken = None
    buffer.flush()
    buffer.flush()
    assert catalogue.batches == [1000, 1000, 50]
    assert len(catalogue.places) == 2050


def test_a_sighting_does_not_wait_long_for_company():
    """A slow trickle is handed over four times a second."""
    catalogue = MemoryCatalogue()
    buffer = SightingBuffer(catalogue)
    buffer.put(ROOT, b"/r/a", [sighting(b"1")], now=1.0)
    assert not buffer.overdue(1.2)
    assert buffer.overdue(1.25)
    buffer.put(ROOT, b"/r/a", [sighting(b"2")], now=1.3)
    assert catalogue.batches == [2]


def test_a_look_that_goes_on_learns_what_was_reported_meanwhile():
    """So that no file is reported twice for the same stamp."""
    catalogue = MemoryCatalogue()
    buffer = SightingBuffer(catalogue)
    buffer.put(ROOT, b"/r/a", [sighting(b"early")], now=1.0)
    news = buffer.open(b"/r/a")
    assert catalogue.batches == [1]
    buffer.put(ROOT, b"/r/a", [sighting(b"late")], now=1.0)
    buffer.put(ROOT, b"/r/b", [sighting(b"other", b"/r/b")], now=1.0)
    assert news == {b"late": Stamp(1, 2, 3, 4)}
