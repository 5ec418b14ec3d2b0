"""What of a configuration means something else at a Mobius SDK, or nothing."""

from __future__ import annotations

from collections.abc import Iterator

from image_sync.config.settings import Settings
from image_sync.config.values import Problem


def impossible(settings: Settings) -> Iterator[str]:
    """What cannot be meant at a Mobius SDK."""
    if settings.model.pretrained_model not in {None, "latest", "none"}:
        yield (
            "model.pretrained_model names a model, but a Mobius SDK keeps no earlier ones; "
            'write "latest" or "none", or leave the key out'
        )
    if settings.annotations.mode != "none":
        yield f'annotations is "{settings.annotations.mode}", but a Mobius SDK detects no objects; leave the key out'
    for name in filter(None, settings.categories.values()):
        if "/" in name or "," in name or not name.strip("."):
            yield f'categories has "{name}", which cannot be a tag of a Mobius SDK; leave out / and ,'


def unused(settings: Settings) -> Iterator[Problem]:
    """What does not apply at a Mobius SDK."""
    model, who = settings.model, settings.credentials
    for key, is_set in (("nn_arch", model.nn_arch is not None), ("strategy", bool(model.strategy))):
        if is_set:
            text = "does not apply to a Mobius SDK, which chooses for itself; it is ignored"
            yield Problem(("model", key), text)
    for key in ("deploy", "min_gain", "min_accuracy", "keep"):
        if getattr(model, key) != type(model).model_fields[key].default:
            text = "does not apply: a Mobius SDK's tags answer as soon as they are trained"
            yield Problem(("model", key), text)
    for key, is_set in (("api_key", who.api_key is not None), ("username", who.username is not None)):
        if is_set:
            yield Problem(("credentials", key), "is not used: a Mobius SDK has neither users nor keys")
    if settings.dataset.action == "create" and settings.mobius.tags == "category":
        text = 'makes nothing new at a Mobius SDK, which has no datasets; set mobius.tags to "dataset" to get new tags'
        yield Problem(("dataset", "action"), text)


def as_used(settings: Settings) -> Settings:
    """The settings without the network and its parameters, which a Mobius SDK chooses for itself."""
    model = settings.model.model_copy(update={"nn_arch": None, "strategy": {}})
    return settings.model_copy(update={"model": model})
