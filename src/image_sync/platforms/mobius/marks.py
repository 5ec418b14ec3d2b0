"""Tells a tag's model from an earlier one by what it says of a few pictures: the server has no other way to tell."""

from __future__ import annotations

import json
from collections.abc import Collection

from image_sync.errors import NotFound, Refused
from image_sync.platforms.mobius import wire
from image_sync.platforms.mobius.api import Api
from image_sync.platforms.mobius.scores import scores

_SIDE = 4
_UNTRAINED = "untrained"


def probes_of(positives: Collection[str], negatives: Collection[str]) -> tuple[str, ...]:
    """A few pictures of both kinds, always the same of the same."""
    return (*sorted(positives)[:_SIDE], *sorted(negatives)[:_SIDE])


def marks_of(api: Api, tag: str, probes: tuple[str, ...]) -> str:
    """The model's marks: the probes' scores as a text, ``untrained`` without a model, empty when it cannot be told."""
    if not probes:
        return ""
    try:
        body = api.predict_batch(probes, [tag])
    except NotFound as error:
        return _UNTRAINED if wire.NO_MODEL in error.what else ""
    except Refused:
        return ""
    found = {score.image: score.value for score in scores(body, tags=[tag], images=probes)}
    return json.dumps(found, sort_keys=True) if found and "" not in found else ""


def proves(before: str, after: str) -> bool:
    """Whether the model must have been trained between the two looks."""
    return bool(before) and after not in {"", _UNTRAINED, before}
