"""What a tag should hold, held against what is written down of it: whether it changed, and whether it needs a reset.

Nothing takes an assignment back at a Mobius SDK. So a tag from which a picture was moved away or removed has to be
reset, and everything assigned anew, before it is trained again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from image_sync.domain import DatasetRef
from image_sync.errors import Refused
from image_sync.platforms.mobius.negatives import choose
from image_sync.platforms.mobius.records import Attempt, Sum, Tag
from image_sync.platforms.mobius.tags import Naming, role_of, tag_of


@dataclass(frozen=True, slots=True)
class Rule:
    """Where negatives come from."""

    negatives: str = "others"
    """``others``, ``folders`` or ``none``; see the configuration."""
    most: int = 200


@dataclass(frozen=True, slots=True)
class Standing:
    """How a tag stands. Both are a clause that says why, or empty."""

    changed: str
    reset: str


class Survey:
    """The pictures of a dataset by what they are good for.

    Args:
        contents: id and category of each, as the ledger knows them.
    """

    def __init__(self, dataset: DatasetRef, contents: Iterable[tuple[str, str]], naming: Naming, rule: Rule) -> None:
        self._rule = rule
        self.categories: dict[str, str] = {}
        """Tag -> category, for every tag that has pictures."""
        self._positives: dict[str, set[str]] = {}
        self._negatives: dict[str, set[str]] = {}
        self._general: set[str] = set()
        sides: dict[str, set[str]] = {}
        for image, category in contents:
            side = sides.get(category)
            if side is None:
                side = sides[category] = self._side_of(category, dataset, naming)
            side.add(image)
        self._shown: set[str] = set().union(*self._positives.values())

    def _side_of(self, category: str, dataset: DatasetRef, naming: Naming) -> set[str]:
        """Where the pictures of this category belong."""
        role = role_of(category)
        if not role.owner:
            return self._general
        try:
            tag = tag_of(dataset, role.owner, naming)
        except Refused:
            return set()  # moved to a category that can have no tag: told when it was moved
        if not role.positive:
            return self._negatives.setdefault(tag, set())
        self.categories[tag] = role.owner
        return self._positives.setdefault(tag, set())

    def positives(self, tag: str) -> set[str]:
        """The pictures that show it."""
        return self._positives.get(tag, set())

    def own_negatives(self, tag: str) -> set[str]:
        """The pictures that a person says do not show it."""
        if self._rule.negatives == "none":
            return set()
        return (self._general | self._negatives.get(tag, set())) - self.positives(tag)

    def negatives(self, tag: Tag) -> list[str]:
        """What is to be assigned as negative, what is assigned already included."""
        own, others = self.own_negatives(tag.name), self._others(tag.name)
        return choose(tag.name, own, others, kept=tag.negatives, most=self._rule.most)

    def lacks_negatives(self, tag: str) -> bool:
        """Whether there are none for it, although there should be."""
        return self._rule.negatives == "others" and not self._has_negatives(tag)

    def standing(self, tag: Tag, attempts: Mapping[str, Attempt]) -> Standing:
        """Whether it has to be trained again, and whether it has to be reset before.

        Args:
            attempts: pictures that may have been assigned to it since ``tag.assigned`` was written down.
        """
        return Standing(self._changed(tag), self._reset(tag, attempts))

    def _changed(self, tag: Tag) -> str:
        positives = self.positives(tag.name)
        if tag.trained is None:
            return "it has not been trained yet" if positives else ""
        if Sum.of(positives) != tag.trained:
            return "it has other pictures than at its last training"
        own, assigned = self.own_negatives(tag.name), set(tag.negatives)
        if own - assigned:
            return "it has new negatives"
        if not assigned and self._has_negatives(tag.name):
            return "it was trained without negatives"
        return ""

    def _reset(self, tag: Tag, attempts: Mapping[str, Attempt]) -> str:
        if tag.trained is None:
            return "nothing is known of what it was trained with" if self.positives(tag.name) else ""
        positives = self.positives(tag.name)
        tried = {image for attempt in attempts.values() for image in attempt.ids}
        in_force = {image for attempt in attempts.values() if not attempt.void for image in attempt.ids}
        if in_force - positives or Sum.of(positives - tried) != tag.assigned:
            return "pictures were moved away from it or removed"
        gone = set(tag.negatives) - self.own_negatives(tag.name)
        if self._rule.negatives == "others":
            gone = (gone - self._shown) | (gone & positives)
        return "pictures that were its negatives are so no longer" if gone else ""

    def _has_negatives(self, tag: str) -> bool:
        return bool(self.own_negatives(tag) or self._others(tag))

    def _others(self, tag: str) -> set[str]:
        return self._shown - self.positives(tag) if self._rule.negatives == "others" else set()
