"""Whether a new model is deployed, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from image_sync.platforms.base import Model
from image_sync.trainer.recipe import Recipe

_APART = " (each measured on its own held-out pictures, which differ)"
_EQUAL = 1e-9  # accuracies come as decimal fractions: 0.9 + 0.05 is a hair more than 0.95


class Decision(NamedTuple):
    """What was decided."""

    deploy: bool
    reason: str
    """One clause; never empty."""


def judge(recipe: Recipe, accuracy: float | None, deployed: Iterable[Model]) -> Decision:
    """Hold a new model against the rules.

    Args:
        recipe: ``deploy``, ``min_gain`` and ``min_accuracy``.
        accuracy: of the new model, 0 to 1; None when the platform does not tell it.
        deployed: the other models of this name that are deployed; looked at only for ``better``.
    """
    if recipe.deploy == "never":
        return Decision(False, 'model.deploy is "never"')
    if recipe.min_accuracy is not None:
        if accuracy is None:
            return Decision(False, "its accuracy is not known, and model.min_accuracy is set")
        if accuracy < recipe.min_accuracy - _EQUAL:
            return Decision(
                False, f"{_word(recipe)} {accuracy:.3f} is below model.min_accuracy {recipe.min_accuracy:g}"
            )
    if recipe.deploy == "always":
        return Decision(True, 'model.deploy is "always"')
    return _better(recipe, accuracy, list(deployed))


def _better(recipe: Recipe, accuracy: float | None, deployed: list[Model]) -> Decision:
    if not deployed:
        return Decision(True, "no other model of this name was deployed")
    if accuracy is None:
        return Decision(False, "its accuracy is not known, so it cannot be shown to be better")
    unknown = next((model for model in deployed if model.accuracy is None), None)
    if unknown is not None:
        return Decision(False, f"the accuracy of {unknown.name}, which is deployed, is not known")
    rival = max(deployed, key=lambda model: model.accuracy or 0.0)
    mark = (rival.accuracy or 0.0) + recipe.min_gain
    gain = f" and model.min_gain {recipe.min_gain:g}" if recipe.min_gain else ""
    # Each figure rests on the pictures that were held out of its own training: they are not the same ones.
    held = f"the {rival.accuracy or 0.0:.3f} of {rival.name}, which is deployed{gain}{_APART}"
    if accuracy < mark - _EQUAL:
        return Decision(False, f"{_word(recipe)} {accuracy:.3f} does not reach {held}")
    return Decision(True, f"{_word(recipe)} {accuracy:.3f} reaches {held}")


def _word(recipe: Recipe) -> str:
    """What the platform's figure is called."""
    return "mAP" if recipe.detection else "accuracy"
