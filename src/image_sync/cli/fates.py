"""What became of a training's model, in words."""

from __future__ import annotations

from image_sync.domain import BY_HAND, Fate, Run

_WORDS = {
    Fate.UNDECIDED: "",
    Fate.DECLINED: "not deployed",
    Fate.CHOSEN: "is being deployed",
    Fate.DEPLOYED: "deployed",
    Fate.REFUSED: "could not be deployed",
    Fate.RETIRED: "no longer deployed",
    Fate.DELETED: "deleted",
    Fate.GONE: "gone",
}
_BY_HAND = {Fate.DEPLOYED: "deployed by hand", Fate.RETIRED: "undeployed by hand"}


def fate_of(run: Run) -> str:
    """``not deployed: accuracy 0.810 is below ...``; empty while nothing was decided."""
    if run.fate_reason == BY_HAND and run.fate in _BY_HAND:
        return _BY_HAND[run.fate]
    words = _WORDS[run.fate]
    return f"{words}: {run.fate_reason}" if words and run.fate_reason else words
