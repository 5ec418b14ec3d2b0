"""What became of a training's model, in words."""

from __future__ import annotations

from image_sync.domain import BY_HAND, ModelOutcome, Training

_WORDS = {
    ModelOutcome.UNDECIDED: "",
    ModelOutcome.DECLINED: "not deployed",
    ModelOutcome.CHOSEN: "is being deployed",
    ModelOutcome.DEPLOYED: "deployed",
    ModelOutcome.REFUSED: "could not be deployed",
    ModelOutcome.RETIRED: "no longer deployed",
    ModelOutcome.DELETED: "deleted",
    ModelOutcome.GONE: "gone",
}
_BY_HAND = {ModelOutcome.DEPLOYED: "deployed by hand", ModelOutcome.RETIRED: "undeployed by hand"}


def fate_of(run: Training) -> str:
    """``not deployed: accuracy 0.810 is below ...``; empty while nothing was decided."""
    if run.fate_reason == BY_HAND and run.fate in _BY_HAND:
        return _BY_HAND[run.fate]
    words = _WORDS[run.fate]
    return f"{words}: {run.fate_reason}" if words and run.fate_reason else words
