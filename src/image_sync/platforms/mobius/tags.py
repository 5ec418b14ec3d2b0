"""Categories as tags: how they are called there, and which categories are none, because they hold negatives."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

from image_sync.domain import DatasetRef
from image_sync.errors import Refused

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
            hint='Rename the folder, or give it a name without / and , in the setting "categories"',
        )
    return tag


def short(text: str) -> str:
    """16 hex digits that stand for a text where it is too long or too odd to be a name."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def image_id(sha256: str) -> str:
    """The id of a picture at the server: half of its content's hash, so that adding it twice is adding it once.

    Only letters and digits, as Mobius recommends; it stands in paths and in comma lists.
    """
    return sha256[:32]
