"""Finds scores in whatever shape they come, and tells by them whether a tag's model has changed.

No public page shows the body of a prediction. Shapes that the vendor's other calls, its later versions and its mobile
SDK use are all found: objects with a name and a score, pairs of both, and maps from a name to a number, nested at will,
per picture or not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from image_sync.errors import NotFound, Refused
from image_sync.platforms.mobius.api import NO_MODEL, Api

_NAMES = ("name", "tag", "custom_concept_id", "concept", "label", "id")
_SCORES = ("score", "confidence", "probability", "value")
_PICTURES = ("image_id", "id")
_NOISE = frozenset({"status", "message", "task_id", "time", "elapsed", "duration", "version", "traceback", "exception"})
_RESULT = "result"
_DEEPEST = 12
_PAIR = 2
_SIDE = 4
_UNTRAINED = "untrained"


class Score(NamedTuple):
    """How sure the server is of a tag, 0 to 1; ``image`` is empty when the body names no picture."""

    image: str
    tag: str
    value: float


def scores(body: Any, *, tags: Collection[str] = (), images: Collection[str] = ()) -> list[Score]:
    """Every score in the body, in its order.

    >>> scores({"status": "success", "result": {"crack": 0.9, "rust": 12}})
    [Score(image='', tag='crack', value=0.009), Score(image='', tag='rust', value=0.12)]

    Args:
        tags: what was asked for; others are left out. Empty: every name is taken for a tag. A score without a name
            belongs to the tag that was asked for, if it is the only one.
        images: the ids that were asked for.
    """
    found = list(_walk(body, "", next(iter(tags)) if len(tags) == 1 else "", frozenset(tags), frozenset(images), 0))
    # Percentages, as some releases of other vendors' servers have them too: then at least one exceeds 1.
    divisor = 100.0 if any(score.value > 1 for score in found) else 1.0
    return [Score(image, tag, min(max(value / divisor, 0.0), 1.0)) for image, tag, value in found]


def _walk(node: Any, image: str, tag: str, tags: frozenset[str], images: frozenset[str], depth: int) -> Iterator[Score]:
    if depth > _DEEPEST:
        return
    if _is_number(node):
        if tag and (not tags or tag in tags):
            yield Score(image, tag, float(node))
        return
    if isinstance(node, list):
        if len(node) == _PAIR and isinstance(node[0], str) and _is_number(node[1]):
            known = node[0] in images
            yield from _walk(node[1], node[0] if known else image, tag if known else node[0], tags, images, depth + 1)
            return
        for item in node:
            # A number in a list has no name of its own: it is none of a tag's scores.
            if not _is_number(item):
                yield from _walk(item, image, tag, tags, images, depth + 1)
    elif isinstance(node, dict):
        yield from _object(node, image, tag, tags, images, depth)


def _object(
    node: dict[str, Any], image: str, tag: str, tags: frozenset[str], images: frozenset[str], depth: int
) -> Iterator[Score]:
    image = next((node[key] for key in _PICTURES if isinstance(node.get(key), str) and node[key] in images), image)
    named = next((node[key] for key in _NAMES if isinstance(node.get(key), str) and node[key] not in images), "")
    score = next((node[key] for key in _SCORES if _is_number(node.get(key))), None)
    if score is not None and (named or tag):
        yield from _walk(score, image, named or tag, tags, images, depth + 1)
        return
    for key, value in node.items():
        scored = isinstance(value, dict) and any(_is_number(value.get(one)) for one in _SCORES)
        if key in images:
            yield from _walk(value, key, tag, tags, images, depth + 1)
        elif key in tags or (scored and not tags and key != _RESULT):
            yield from _walk(value, image, key, tags, images, depth + 1)
        elif key == _RESULT or (not _is_number(value) and key not in _NOISE):
            yield from _walk(value, image, named or tag, tags, images, depth + 1)
        elif not tags and key not in _NOISE:
            yield from _walk(value, image, key, tags, images, depth + 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def sample_of(positives: Collection[str], negatives: Collection[str]) -> tuple[str, ...]:
    """A few pictures of both kinds, always the same of the same."""
    return (*sorted(positives)[:_SIDE], *sorted(negatives)[:_SIDE])


def score_fingerprint(api: Api, tag: str, sample: tuple[str, ...]) -> str:
    """The scores of a sample as a text, which tells a tag's model from an earlier one: the server has no other way.

    ``untrained`` without a model, empty when it cannot be told.
    """
    if not sample:
        return ""
    try:
        body = api.predict_batch(sample, [tag])
    except NotFound as error:
        return _UNTRAINED if NO_MODEL in error.what else ""
    except Refused:
        return ""
    found = {score.image: score.value for score in scores(body, tags=[tag], images=sample)}
    return json.dumps(found, sort_keys=True) if found and "" not in found else ""


def changed(before: str, after: str) -> bool:
    """Whether the model must have been trained between two fingerprints."""
    return bool(before) and after not in {"", _UNTRAINED, before}
