"""Pictures that are looked for at MVI, and how their files are recognised."""

from __future__ import annotations

from collections.abc import Iterable

from image_sync.domain import Batch, Picture
from image_sync.platforms.mvi import wire

_SKEW = 86_400.0
"""Seconds by which the server's clock may be behind ours."""


class Wanted:
    """The pictures of a batch, and those of them that were found."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._pictures = {wire.normal(picture.key): picture for picture in batch.pictures}
        self._ages: dict[str, float] = {}
        self.found: dict[str, str] = {}
        """Key -> id."""

    @property
    def missing(self) -> set[str]:
        """Keys that were not found yet."""
        return {picture.key for picture in self._pictures.values()} - self.found.keys()

    def take(self, files: Iterable[wire.File]) -> None:
        """Keep those that are wanted: servers answer queries that they do not understand with other files."""
        for file in files:
            key = self.key_of(file)
            if key is None:
                continue
            age = file.uploaded_at or 0.0
            # Of several copies the oldest counts: it is the one that a clean-up of duplicates leaves.
            if key not in self.found or age <= self._ages[key]:
                self.found[key], self._ages[key] = file.id, age

    def key_of(self, file: wire.File) -> str | None:
        """The key of the picture that this file is, or None when it is none of them."""
        picture = self._pictures.get(wire.normal(file.original_file_name))
        return picture.key if picture is not None and self._ours(picture, file) else None

    def _ours(self, picture: Picture, file: wire.File) -> bool:
        if f".{picture.sha256[:16]}" in picture.key:
            return True  # the name holds the content's hash, so the name alone says it
        if file.size is not None and file.size != picture.size:
            return False
        if file.category_name and wire.normal(file.category_name) != wire.normal(self._batch.category):
            return False
        uploaded_at = wire.seconds(file.uploaded_at)
        return uploaded_at is None or uploaded_at >= self._batch.claimed_at - _SKEW
