"""Which model a person means."""

from __future__ import annotations

from image_sync.errors import NotFound, UsageError
from image_sync.logs import show_text
from image_sync.platforms.base import Model, Platform
from image_sync.trainer import newest_of

_NAMED = 5


def chosen(platform: Platform, found: list[Model], wanted: str, name: str) -> Model:
    """The model that is meant by a name, an id or ``latest``.

    Args:
        found: the dataset's models; one that was imported belongs to no dataset, and is asked for by its id.
        name: ``model.name``, whose newest model ``latest`` is.

    Raises:
        UsageError: there is none.
    """
    if wanted == "latest":
        newest = newest_of(name, found)
        if newest is not None:
            return newest
    for model in found:
        if wanted in {model.id, model.name}:
            return model
    imported = None if wanted == "latest" else _by_id(platform, wanted)
    if imported is not None:
        return imported
    known = ", ".join(model.name for model in found[:_NAMED]) or "none"
    raise UsageError(f"there is no model {wanted!r} in this dataset", hint=f"The newest are: {show_text(known)}.")


def _by_id(platform: Platform, wanted: str) -> Model | None:
    try:
        return platform.model_of(wanted)
    except NotFound:
        return None
