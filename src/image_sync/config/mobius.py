"""The section ``mobius``, and what else of a configuration means something else there, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from image_sync.config.context import Context
from image_sync.config.model import Model
from image_sync.config.problems import Mistake
from image_sync.config.section import Section

if TYPE_CHECKING:
    from image_sync.config.settings import Settings

PLATFORM = "mobius"


class Mobius(Section):
    """How a Mobius Vision SDK is used; only with `platform` "mobius"."""

    negatives: Literal["others", "folders", "none"] = Field(
        default="others",
        description=(
            "What a tag is not: `others` takes pictures of the other categories, `folders` only those in a folder "
            "`_negative_` (for all tags) or `<category>/negative` (for one), `none` assigns no negatives."
        ),
    )
    max_negatives: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="Most negatives of a tag that are taken from other categories; those in folders are all taken.",
    )
    parallel: int = Field(
        default=4, ge=1, le=32, description="Most pictures that are added or assigned at the same time."
    )
    tags: Literal["category", "dataset"] = Field(
        default="category",
        description=(
            "`category` calls a tag as its category; `dataset` puts the dataset's name before it "
            "(`<dataset>-<category>`), for servers that several datasets share."
        ),
    )


def applicable(model: Model, context: Context) -> Model:
    """The model without what does not apply at a Mobius SDK, which is told."""
    for key, is_set in (("nn_arch", model.nn_arch is not None), ("strategy", bool(model.strategy))):
        if is_set:
            context.warn(("model", key), "does not apply to a Mobius SDK, which chooses for itself; it is ignored")
    for key in ("deploy", "min_gain", "min_accuracy", "keep"):
        if getattr(model, key) != type(model).model_fields[key].default:
            context.warn(("model", key), "does not apply: a Mobius SDK's tags answer as soon as they are trained")
    return model.model_copy(update={"nn_arch": None, "strategy": {}})


def judge(settings: Settings, context: Context) -> None:
    """Tell what does not apply at a Mobius SDK. Raises :class:`Mistake` for what cannot be meant at all."""
    model = settings.model
    if model.pretrained_model not in {None, "latest", "none"}:
        raise Mistake(
            "model.pretrained_model names a model, but a Mobius SDK keeps no earlier ones; "
            'write "latest" or "none", or leave the key out',
            bare=True,
        )
    if settings.annotations.mode != "none":
        raise Mistake(
            f'annotations is "{settings.annotations.mode}", but a Mobius SDK detects no objects; leave the key out',
            bare=True,
        )
    who = settings.credentials
    for key, is_set in (("api_key", who.api_key is not None), ("username", who.username is not None)):
        if is_set:
            context.warn(("credentials", key), "is not used: a Mobius SDK has neither users nor keys")
    if settings.dataset.action == "create" and settings.mobius.tags == "category":
        context.warn(
            ("dataset", "action"),
            'makes nothing new at a Mobius SDK, which has no datasets; set mobius.tags to "dataset" to get new tags',
        )
    _refuse_odd_tags(settings.categories)


def _refuse_odd_tags(categories: Mapping[str, str | None]) -> None:
    for name in filter(None, categories.values()):
        if "/" in name or "," in name or not name.strip("."):
            raise Mistake(
                f'categories has "{name}", which cannot be a tag of a Mobius SDK; leave out / and ,', bare=True
            )
