"""Questions to the platform about pictures: which batches one question can be about, and how it is put."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from image_sync.domain import Batch
from image_sync.ledger.keys import digest_of

_TOGETHER = 10_000  # pictures in one question


def groups(batches: Sequence[Batch], *, singly: int) -> Iterator[list[Batch]]:
    """Batches that one question can be about. A plain name says too little without its category and time.

    Args:
        singly: so few are asked about one by one all the same: by their ids that takes no listing.
    """
    joinable = [batch for batch in batches if all(digest_of(item.key) for item in batch.pictures)]
    if len(joinable) <= singly:
        joinable = []
    together = {batch.id for batch in joinable}
    yield from ([batch] for batch in batches if batch.id not in together)
    group: list[Batch] = []
    for batch in joinable:
        if group and sum(len(one.pictures) for one in group) + len(batch.pictures) > _TOGETHER:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one of no category and no id."""
    if len(batches) == 1:
        return batches[0]
    pictures = {item.picture_id: item for batch in batches for item in batch.pictures}
    since = min((batch.claimed_at for batch in batches), default=0.0)
    return Batch("", batches[0].dataset, "", tuple(pictures.values()), since)
