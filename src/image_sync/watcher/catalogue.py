"""What the watcher asks of whatever remembers the pictures it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from image_sync.domain import RootReport, Sighting, Stamp


class Catalogue(Protocol):
    """The watcher's view of the ledger. All paths are absolute and bytes; called from the watcher's thread only.

    Any method may raise :class:`~image_sync.errors.LedgerError`: it passes through ``Watcher.step``, which starts
    over with a full look when it is called again.
    """

    def known(self, folder: bytes) -> tuple[str | None, Mapping[bytes, Stamp]]:
        """What is recorded of this folder itself, not of the folders in it.

        Returns:
            The category that its files were last recorded under or recategorised to (None when nothing is recorded,
            or without a category), and the stamp of each recorded file, sound or not, by name, that of its annotation
            included where annotations are used.
        """
        ...

    def recorded(self, folder: bytes) -> tuple[str | None, int]:
        """The category as :meth:`known` tells it, and how many files are recorded."""
        ...

    def folders(self, root: bytes) -> Sequence[bytes]:
        """Every folder at or below ``root`` that has recorded files."""
        ...

    def record(self, root: bytes, sightings: Sequence[Sighting]) -> None:
        """Remember these, all or none; a sighting replaces what was recorded for its folder and name."""
        ...

    def gone(self, folder: bytes, names: Sequence[bytes], *, deleted: bool = True) -> None:
        """Forget these recorded files: they are no longer there.

        Args:
            deleted: somebody deleted or moved them, as far as can be told. If not, they are out of sight: another file
                system lies there, they are not wanted any more, or they are about to be recorded anew.
        """
        ...

    def ground(self, folder: bytes) -> str | None:
        """The ground (see :class:`~image_sync.domain.Sighting`) on which all recorded files of the folder were seen;
        None when nothing was ever recorded of it. A folder's first sighting says on which it begins."""
        ...

    def stands(self, folder: bytes, ground: str) -> None:
        """All recorded files of the folder were seen, unchanged, on this ground."""
        ...

    def recategorise(self, folder: bytes, category: str | None) -> None:
        """Give the recorded files of this folder another category: the rules changed, the files did not."""
        ...

    def report(self, root: RootReport) -> None:
        """Remember the state of a root; replaces the report before."""
        ...

    def rescan_requested(self) -> bool:
        """Whether somebody asked for a full look since the last call."""
        ...
