"""Pictures of other folders that may have their annotations in the same place."""

from __future__ import annotations

import os
from functools import cached_property

from image_sync.annotations.content import Disk
from image_sync.annotations.listing import Listings
from image_sync.annotations.places import NAMES


class Neighbours:
    """The pictures in a folder and in the folders directly in it, but for one of these.

    Args:
        shared_in: the folder; empty for a place that nobody shares, which has no neighbours.
        but: the folder that asks.
    """

    def __init__(self, disk: Disk, listings: Listings, shared_in: bytes, but: bytes) -> None:
        self._disk = disk
        self._listings = listings
        self._shared_in = shared_in
        self._but = but

    def rival(self, stem: bytes) -> bytes:
        """The folder that has a picture of this stem too, the nearest to the place first; empty when none has."""
        if not self._shared_in:
            return b""
        return next((folder for folder, stems in self._pictures if stem in stems), b"")

    def has(self, name: bytes, stem: bytes) -> bytes:
        """The folder that has a file of this very name too; empty when none has."""
        if not self._shared_in:
            return b""
        return next((one for one, stems in self._pictures if stem in stems and self._there(one, name)), b"")

    @cached_property
    def _pictures(self) -> list[tuple[bytes, frozenset[bytes]]]:
        found = []
        fd, listing = self._listings.of(self._shared_in)
        os.close(fd)
        inner = [self._shared_in + b"/" + name for name in listing.folders if name not in NAMES]
        for folder in [self._shared_in, *inner]:
            if folder == self._but:
                continue
            try:
                fd, listing = self._listings.of(folder)
            except OSError:
                continue  # gone, or not for us: its pictures are not taken either
            os.close(fd)
            if listing.pictures:
                found.append((folder, listing.pictures))
        return found

    def _there(self, folder: bytes, name: bytes) -> bool:
        try:
            fd = self._disk.open_folder(folder)
        except OSError:
            return False
        try:
            return self._disk.stamp_at(fd, name) is not None
        finally:
            os.close(fd)
