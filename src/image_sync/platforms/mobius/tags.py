"""Categories as tags: how they are called there, which categories hold negatives, and what each tag should hold.

Nothing takes an assignment back at a Mobius SDK. So a tag from which a picture was moved away or removed has to be
reset, and everything assigned anew, before it is trained again.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from image_sync.domain import DatasetRef
from image_sync.errors import Refused
from image_sync.platforms.mobius.records import Attempt, Sum, Tag

GENERAL = "_negative_"
"""The category whose pictures show what none of the tags is."""
NEGATIVE = "negative"
"""``<category>/negative`` holds pictures that show what this one tag is not."""

Naming = Literal["category", "dataset"]


class Role(NamedTuple):
    """What the pictures of a category are good for: positives of ``owner``, or negatives of it, or of all (empty)."""

    owner: str
    positive: bool


def role_of(category: str) -> Role:
    """What the pictures of this category are.

    >>> role_of("crack"), role_of("crack/negative"), role_of("_negative_")
    (Role(owner='crack', positive=True), Role(owner='crack', positive=False), Role(owner='', positive=False))
    """
    if category == GENERAL:
        return Role("", positive=False)
    owner, slash, last = category.rpartition("/")
    if slash and last == NEGATIVE and owner:
        return Role(owner, positive=False)
    return Role(category, positive=True)


def tag_of(dataset: DatasetRef, category: str, naming: Naming) -> str:
    """The category's tag. Raises Refused for a name that cannot travel: tags are part of paths and of comma lists."""
    tag = f"{dataset.name}-{category}" if naming == "dataset" else category
    if "/" in tag or "," in tag or not tag.strip(".") or not tag.isprintable():
        raise Refused(
            f"The category {category!a} cannot be a tag of the Mobius SDK",
            hint="Rename the folder, or map it in categories to a name without / and comma; then: image-sync retry",
        )
    return tag


class Rule(NamedTuple):
    """Where negatives come from: ``others``, ``folders`` or ``none`` (see the configuration), and how many at most."""

    negatives: str = "others"
    most: int = 200


class TagPlan:
    """What each tag of a dataset should hold, compared with what is written down of it.

    Args:
        contents: id and category of each picture, as the ledger knows them.
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

    def negatives(self, tag: Tag) -> list[str]:
        """What is to be assigned as negative, what is assigned already included."""
        own, others = self._own_negatives(tag.name), self._others(tag.name)
        return choose(tag.name, own, others, kept=tag.negatives, most=self._rule.most)

    def lacks_negatives(self, tag: str) -> bool:
        """Whether there are none for it, although there should be."""
        return self._rule.negatives == "others" and not self._own_negatives(tag) and not self._others(tag)

    def why_changed(self, tag: Tag) -> str:
        """A clause that says why it has to be trained again; empty when it need not be."""
        positives = self.positives(tag.name)
        if tag.trained is None:
            return "it has not been trained yet" if positives else ""
        if Sum.of(positives) != tag.trained:
            return "it has other pictures than at its last training"
        own = self._own_negatives(tag.name)
        if own.difference(tag.negatives):
            return "it has new negatives"
        if not tag.negatives and (own or self._others(tag.name)):
            return "it was trained without negatives"
        return ""

    def why_reset(self, tag: Tag, attempts: Mapping[str, Attempt]) -> str:
        """A clause that says why it has to be reset before it is trained; empty when it need not be.

        Args:
            attempts: pictures that may have been assigned to it since ``tag.assigned`` was written down.
        """
        positives = self.positives(tag.name)
        if tag.trained is None:
            return "nothing is known of what it was trained with" if positives else ""
        tried = {image for attempt in attempts.values() for image in attempt.ids}
        in_force = {image for attempt in attempts.values() if not attempt.void for image in attempt.ids}
        if in_force - positives or Sum.of(positives - tried) != tag.assigned:
            return "pictures were moved away from it or removed"
        gone = set(tag.negatives) - self._own_negatives(tag.name)
        if self._rule.negatives == "others":
            gone = (gone - self._shown) | (gone & positives)
        return "pictures that were its negatives are so no longer" if gone else ""

    def _own_negatives(self, tag: str) -> set[str]:
        """The pictures that a person says do not show it."""
        if self._rule.negatives == "none":
            return set()
        return (self._general | self._negatives.get(tag, set())) - self.positives(tag)

    def _others(self, tag: str) -> set[str]:
        return self._shown - self.positives(tag) if self._rule.negatives == "others" else set()


def choose(tag: str, own: Collection[str], others: Iterable[str], *, kept: Collection[str], most: int) -> list[str]:
    """The negatives of a tag: all of its ``own``, filled up to ``most`` from the ``others``.

    Those of the others are drawn by a hash of tag and picture: each tag draws its own sample, a new picture takes the
    place of one other at most, and the order in which pictures came does not matter.

    Args:
        own: from the folders for negatives.
        others: of other categories, without those that are positives of the tag.
        kept: assigned earlier: they stay, as long as they are among ``own`` and ``others``, since nothing takes an
            assignment back.
    """
    chosen = sorted(own)
    pool = set(others) - set(chosen)
    stay = sorted(pool & set(kept))
    room = max(0, most - len(chosen) - len(stay))
    draws = {image: hashlib.sha256(f"{tag}\0{image}".encode()).digest() for image in pool - set(stay)}
    return [*chosen, *stay, *heapq.nsmallest(room, draws, key=draws.__getitem__)]
