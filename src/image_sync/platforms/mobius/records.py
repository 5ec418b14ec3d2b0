"""What is written down of tags and trainings, because the server cannot be asked: it lists nothing, its trainings have
no names, and it does not tell what is assigned to a tag.

Names of the notes: ``d/<dataset>``, ``t/<tag>``, ``r/<training>``, ``a/<tag>/<batch>``, each part 16 hex digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from image_sync.domain import DatasetRef
from image_sync.platforms.base import PlatformState

_MODULUS = 1 << 128
STARTED, TRAINED, RESET = "started", "trained", "reset"
RESETTING, ASSIGNING, ASKING, ASKED = "resetting", "assigning", "asking", "asked"


def short(text: str) -> str:
    """16 hex digits that stand for a text where it is too long or too odd to be a name."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def image_id(sha256: str) -> str:
    """The id of a picture at the server: half of its content's hash, so that adding it twice is adding it once.

    Only letters and digits, as Mobius recommends; it stands in paths and in comma lists.
    """
    return sha256[:32]


@dataclass(frozen=True, slots=True)
class Sum:
    """Tells a set of picture ids from another one, whatever their order, without holding it."""

    size: int
    total: str
    """Sum of the ids as numbers, hexadecimal."""

    @classmethod
    def of(cls, ids: Collection[str]) -> Self:
        """The sum of these ids, which must differ from each other."""
        return cls(len(ids), f"{sum(int(one, 16) for one in ids) % _MODULUS:x}")


EMPTY = Sum(0, "0")


@dataclass(frozen=True, slots=True)
class Start:
    """How far the start of a tag's training is; written down before each step.

    Attributes:
        run: name of the training that it belongs to.
        step: RESETTING, ASSIGNING and ASKING are under way, ASKED is done.
        positives: what it contains.
        sample: pictures by whose scores it can be told whether the model has changed ...
        fingerprint: ... and their scores before it was asked for; see ``scores.py``.
    """

    run: str
    step: str
    task: str = ""
    positives: Sum = EMPTY
    sample: tuple[str, ...] = ()
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Tag:
    """What is known of a tag.

    Attributes:
        assigned: the positives that were assigned, as of its last training that was started.
        negatives: the negatives that were assigned since it was last reset.
        trained: the positives that its model was trained with; None: it has no model that is known here.
        model: name of the training that made its model.
        start: the training that is being started or goes on.
    """

    name: str
    dataset: str
    category: str
    assigned: Sum = EMPTY
    negatives: tuple[str, ...] = ()
    trained: Sum | None = None
    model: str = ""
    start: Start | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """Pictures that may have been assigned to a tag since its last training was started.

    Attributes:
        void: the tag was reset afterwards: what of them is not wanted is not there either.
    """

    ids: tuple[str, ...]
    void: bool = False


@dataclass(frozen=True, slots=True)
class Training:
    """One training: the tags it starts, and what became of them. Its id is made from its name.

    Attributes:
        began, ended: Unix time.
        tags: tag -> STARTED, TRAINED, RESET or, for one that failed, the reason.
        complete: whether every tag has been started.
    """

    name: str
    dataset: str
    began: float
    tags: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False
    ended: float | None = None

    @property
    def id(self) -> str:
        """Its task id, towards our own stages."""
        return short(self.name)

    @property
    def succeeded(self) -> bool:
        """Whether it has ended and left models, or there was nothing to train."""
        return self.ended is not None and (not self.tags or TRAINED in self.tags.values())


class Records:
    """Reads and writes them."""

    def __init__(self, notes: PlatformState) -> None:
        self._notes = notes

    # datasets

    def dataset(self, name: str) -> DatasetRef | None:
        """The dataset of this name, if one was ever asked for."""
        return None if self._notes.get(f"d/{short(name)}") is None else DatasetRef(short(name), name)

    def make_dataset(self, name: str) -> DatasetRef:
        """The dataset of this name."""
        if self.dataset(name) is None:
            self._notes.write({f"d/{short(name)}": name})
        return DatasetRef(short(name), name)

    # tags

    def tag(self, name: str, dataset: str, category: str = "") -> Tag:
        """What is known of this tag; nothing, if it is new."""
        text = self._notes.get(f"t/{short(name)}")
        return Tag(name, dataset, category) if text is None else _read_tag(text)

    def tags(self, dataset: str) -> list[Tag]:
        """The known tags of a dataset, by name."""
        found = map(_read_tag, self._notes.under("t/").values())
        return sorted((tag for tag in found if tag.dataset == dataset), key=lambda tag: tag.name)

    def save(self, tag: Tag, settled: Collection[str] = (), **changes: Any) -> Tag:
        """Write the changed tag down, and return it.

        Args:
            settled: names of attempts whose pictures are part of ``assigned`` now.
        """
        changed = replace(tag, **changes)
        self._notes.write({f"t/{short(tag.name)}": _text(changed), **dict.fromkeys(settled)})
        return changed

    def reset(self, tag: Tag, attempts: Mapping[str, Attempt], start: Start | None) -> Tag:
        """The tag was reset: nothing that was assigned before holds any more."""
        blank = replace(tag, assigned=EMPTY, negatives=(), trained=None, model="", start=start)
        void = {name: _text(replace(attempt, void=True)) for name, attempt in attempts.items() if not attempt.void}
        self._notes.write({f"t/{short(tag.name)}": _text(blank), **void})
        return blank

    # pictures that may be assigned

    def attempts(self) -> dict[str, dict[str, Attempt]]:
        """Tag's note -> name of the attempt's note -> attempt."""
        found: dict[str, dict[str, Attempt]] = {}
        for name, text in self._notes.under("a/").items():
            raw = json.loads(text)
            found.setdefault(name.split("/")[1], {})[name] = Attempt(tuple(raw["ids"]), raw["void"])
        return found

    def attempt(self, tag: str, batch: str, ids: Iterable[str]) -> str:
        """Write down that pictures are about to be assigned to the tag. Returns the note's name."""
        name = f"a/{short(tag)}/{short(batch)}"
        self._notes.write({name: _text(Attempt(tuple(ids)))})
        return name

    # trainings

    def training(self, training_id: str) -> Training | None:
        """The training of this id."""
        text = self._notes.get(f"r/{training_id}") if training_id.isalnum() else None
        return None if text is None else Training(**json.loads(text))

    def trainings(self, dataset: str) -> list[Training]:
        """The trainings of a dataset that are still known, oldest first."""
        found = (Training(**json.loads(text)) for text in self._notes.under("r/").values())
        return sorted((one for one in found if one.dataset == dataset), key=lambda one: one.began)

    def current(self, dataset: str) -> Training | None:
        """The training whose models are in use: the newest one that ended well for any tag."""
        ended = [one for one in self.trainings(dataset) if one.succeeded]
        return max(ended, key=lambda one: one.ended or 0.0, default=None)

    def save_training(self, training: Training, **changes: Any) -> Training:
        """Write the changed training down, and return it."""
        changed = replace(training, **changes)
        self._notes.write({f"r/{training.id}": _text(changed)})
        return changed

    def forget_training(self, training: Training) -> None:
        """Remove it."""
        self._notes.write({f"r/{training.id}": None})

    def forget_all(self) -> None:
        """The server is another one now: nothing that is written down of tags and trainings holds any more."""
        self._notes.write({name: None for kind in "tra" for name in self._notes.under(f"{kind}/")})


def _text(value: Tag | Attempt | Training) -> str:
    return json.dumps(asdict(value), separators=(",", ":"))


def _read_tag(text: str) -> Tag:
    raw = json.loads(text)
    raw["assigned"], raw["negatives"] = Sum(**raw["assigned"]), tuple(raw["negatives"])
    raw["trained"] = None if raw["trained"] is None else Sum(**raw["trained"])
    if start := raw["start"]:
        # Written by earlier versions as probes and marks.
        sample = tuple(start.get("sample", start.get("probes", ())))
        fingerprint = start.get("fingerprint", start.get("marks", ""))
        raw["start"] = Start(start["run"], start["step"], start["task"], Sum(**start["positives"]), sample, fingerprint)
    return Tag(**raw)
