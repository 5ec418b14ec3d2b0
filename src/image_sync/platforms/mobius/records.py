"""What is written down of tags and trainings, because the server cannot be asked: it lists nothing, its trainings have
no names, and it does not tell what is assigned to a tag.

Names of the notes: ``d/<dataset>``, ``t/<tag>``, ``r/<training>``, ``a/<tag>/<batch>``, each part 16 hex digits.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from image_sync.domain import DatasetRef
from image_sync.platforms.mobius.tags import short
from image_sync.platforms.notes import Notes

_MODULUS = 1 << 128


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
    """How far the start of a tag's training is; written down before each step."""

    run: str
    """Name of the training that it belongs to."""
    step: str
    """``resetting``, ``assigning`` and ``asking`` are under way, ``asked`` is done."""
    task: str = ""
    positives: Sum = EMPTY
    """What it contains."""
    probes: tuple[str, ...] = ()
    """Pictures by whose scores it can be told whether the model has changed ..."""
    marks: str = ""
    """... and their scores before it was asked for; see ``marks.py``."""


@dataclass(frozen=True, slots=True)
class Tag:
    """What is known of a tag."""

    name: str
    dataset: str
    category: str
    assigned: Sum = EMPTY
    """The positives that were assigned, as of its last training that was started."""
    negatives: tuple[str, ...] = ()
    """The negatives that were assigned since it was last reset."""
    trained: Sum | None = None
    """The positives that its model was trained with; None: it has no model that is known here."""
    model: str = ""
    """Name of the training that made its model."""
    start: Start | None = None
    """The training that is being started or goes on."""

    @property
    def blank(self) -> Self:
        """The same tag after a reset."""
        return replace(self, assigned=EMPTY, negatives=(), trained=None, model="")


@dataclass(frozen=True, slots=True)
class Attempt:
    """Pictures that may have been assigned to a tag since its last training was started."""

    ids: tuple[str, ...]
    void: bool = False
    """The tag was reset afterwards: what of them is not wanted is not there either."""


@dataclass(frozen=True, slots=True)
class Training:
    """One training: the tags it starts, and what became of them. Its id is made from its name."""

    name: str
    dataset: str
    began: float
    """Unix time."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tag -> ``started``, ``trained``, ``reset`` or, for one that failed, the reason."""
    complete: bool = False
    """Whether every tag has been started."""
    ended: float | None = None

    @property
    def id(self) -> str:
        """Its task id, towards our own stages."""
        return short(self.name)


STARTED, TRAINED, RESET = "started", "trained", "reset"


class Records:
    """Reads and writes them."""

    def __init__(self, notes: Notes) -> None:
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

    def tag(self, name: str, dataset: str, category: str) -> Tag:
        """What is known of this tag; nothing, if it is new."""
        text = self._notes.get(_tag(name))
        return Tag(name, dataset, category) if text is None else _read_tag(text)

    def tags(self, dataset: str) -> list[Tag]:
        """The known tags of a dataset, by name."""
        found = map(_read_tag, self._notes.under("t/").values())
        return sorted((tag for tag in found if tag.dataset == dataset), key=lambda tag: tag.name)

    def save(self, tag: Tag, **changes: Any) -> Tag:
        """Write the changed tag down, and return it."""
        changed = replace(tag, **changes)
        self._notes.write({_tag(tag.name): _text(changed)})
        return changed

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

    def reset(self, tag: Tag, attempts: Mapping[str, Attempt], start: Start | None) -> Tag:
        """The tag was reset: nothing that was assigned before holds any more."""
        blank = replace(tag.blank, start=start)
        void = {name: _text(replace(attempt, void=True)) for name, attempt in attempts.items() if not attempt.void}
        self._notes.write({_tag(tag.name): _text(blank), **void})
        return blank

    def settle(self, tag: Tag, attempts: Collection[str], **changes: Any) -> Tag:
        """What these attempts were about is part of ``assigned`` now."""
        changed = replace(tag, **changes)
        self._notes.write({_tag(tag.name): _text(changed), **dict.fromkeys(attempts)})
        return changed

    # trainings

    def training(self, training_id: str) -> Training | None:
        """The training of this id."""
        text = self._notes.get(f"r/{training_id}") if training_id.isalnum() else None
        return None if text is None else _read_training(text)

    def trainings(self, dataset: str) -> list[Training]:
        """The trainings of a dataset that are still known, oldest first."""
        found = map(_read_training, self._notes.under("r/").values())
        return sorted((one for one in found if one.dataset == dataset), key=lambda one: one.began)

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


def _tag(name: str) -> str:
    return f"t/{short(name)}"


def _text(value: Tag | Attempt | Training) -> str:
    return json.dumps(asdict(value), separators=(",", ":"))


def _read_tag(text: str) -> Tag:
    raw = json.loads(text)
    raw["assigned"], raw["negatives"] = Sum(**raw["assigned"]), tuple(raw["negatives"])
    raw["trained"] = None if raw["trained"] is None else Sum(**raw["trained"])
    start = raw["start"]
    if start is not None:
        raw["start"] = Start(**{**start, "positives": Sum(**start["positives"]), "probes": tuple(start["probes"])})
    return Tag(**raw)


def _read_training(text: str) -> Training:
    return Training(**json.loads(text))
