"""How the tags of a Mobius SDK stand, for ``status``: worked out from the ledger alone, without asking anybody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from image_sync.config import Settings
from image_sync.domain import DatasetRef
from image_sync.errors import Refused
from image_sync.ledger import Ledger
from image_sync.platforms.mobius.records import Records, Tag
from image_sync.platforms.mobius.survey import Rule, Survey
from image_sync.platforms.mobius.tags import role_of, short, tag_of


def tags_of(settings: Settings, ledger: Ledger) -> list[dict[str, Any]]:
    """Each tag with its pictures, and whether and why it will be trained or reset."""
    how, dataset, records = settings.mobius, ledger.target.dataset, Records(ledger.notes)
    contents = ((image, category) for image, _, category, _ in ledger.trainings.contents())
    survey = Survey(dataset, contents, how.tags, Rule(how.negatives, how.max_negatives))
    known, attempts = {tag.name: tag for tag in records.tags(dataset.id)}, records.attempts()
    rows = []
    for name in sorted({*known, *survey.categories}):
        tag = known.get(name) or Tag(name, dataset.id, survey.categories[name])
        standing = survey.standing(tag, attempts.get(short(name), {}))
        rows.append(
            {
                "tag": name,
                "category": tag.category,
                "positives": len(survey.positives(name)),
                "negatives": len(tag.negatives),
                "trained": tag.trained is not None,
                "training": tag.start is not None,
                "changed": standing.changed or None,
                # One that was never trained is reset in any case: that is no news.
                "reset": standing.reset or None if tag.trained is not None else None,
            }
        )
    return rows


def without_tag(settings: Settings, categories: Iterable[str]) -> Iterator[Refused]:
    """Why these categories, of those given, can have no tag."""
    dataset = DatasetRef("", settings.dataset.name)
    for category in categories:
        try:
            tag_of(dataset, role_of(category).owner or category, settings.mobius.tags)
        except Refused as error:
            yield error


def shown(row: Mapping[str, Any]) -> str:
    """A tag's row as one line."""
    counts = (
        f"{row[kind]} {kind if row[kind] != 1 else kind.removesuffix('s')}" for kind in ("positives", "negatives")
    )
    parts = [f"{row['tag']}: {', '.join(counts)} assigned"]
    if row["training"]:
        parts.append("is being trained")
    elif row["changed"]:
        parts.append(f"to be trained, since {row['changed']}")
    if row["reset"] and not row["training"]:
        parts.append(f"to be reset before, since {row['reset']}")
    return "; ".join(parts)
