"""Names of models: ``<name>-<UTC yyyymmdd-hhmmss>``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from image_sync.platforms.base import Model

_STAMP = re.compile(r"-\d{8}-\d{6}$")


def stamped(name: str, unix: float, taken: Collection[str]) -> str:
    """The name with the time, moved on by a second for as long as it is taken.

    >>> stamped("plates", 0, {"plates-19700101-000000"})
    'plates-19700101-000001'
    """
    second = int(unix)
    while (full := f"{name}-{datetime.fromtimestamp(second, UTC):%Y%m%d-%H%M%S}") in taken:
        second += 1
    return full


def stem_of(full: str) -> str:
    """The name without its time.

    >>> stem_of("plates-xl-20260101-000000"), stem_of("plates")
    ('plates-xl', 'plates')
    """
    return _STAMP.sub("", full)


def of_name(name: str, models: Iterable[Model]) -> list[Model]:
    """Those called ``<name>-<time>``, or ``<name>`` itself, newest first."""
    ours = [model for model in models if stem_of(model.name) == name]
    return sorted(ours, key=lambda model: -(model.created_at or 0.0))


def newest_of(name: str, models: Iterable[Model]) -> Model | None:
    """The newest of our models of this name."""
    return next(iter(of_name(name, models)), None)
