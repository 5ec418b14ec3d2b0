"""The nouns that every part shares. Frozen values only; no behaviour that needs a disk, a clock or a network."""

from image_sync.domain.counts import (
    Census,
    Counts,
    Tally,
    Verdict,
)
from image_sync.domain.pictures import (
    Annotation,
    Batch,
    BatchState,
    Box,
    Claimed,
    DatasetRef,
    PictureState,
    PlaceRole,
    PlaceState,
    RootReport,
    RootState,
    Sighting,
    Stamp,
    WatchMode,
)
from image_sync.domain.trainings import (
    Content,
    Fate,
    Owed,
    Point,
    Run,
    RunState,
)

__all__ = [
    "Annotation",
    "Batch",
    "BatchState",
    "Box",
    "Census",
    "Claimed",
    "Content",
    "Counts",
    "DatasetRef",
    "Fate",
    "Owed",
    "PictureState",
    "PlaceRole",
    "PlaceState",
    "Point",
    "RootReport",
    "RootState",
    "Run",
    "RunState",
    "Sighting",
    "Stamp",
    "Tally",
    "Verdict",
    "WatchMode",
]
