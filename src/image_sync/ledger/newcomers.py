"""Files of which nothing is known, neither path nor content: most of a first sync, and so written down in bulk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from image_sync.domain import PictureState, PlaceRole, PlaceState, Sighting
from image_sync.ledger.book import Book
from image_sync.ledger.names import key_of
from image_sync.ledger.schema import inventory, picture, place


def write_down(
    tx: Connection, book: Book, folders: Mapping[bytes, int], sightings: Sequence[Sighting]
) -> Sequence[Sighting]:
    """Record the sound newcomers among the sightings; return the others, in their order.

    Args:
        folders: the ids of the sightings' folders.
    """
    if book.target is None or book.plain_names:  # plain names must be compared one by one
        return sightings
    aim = book.target.id
    contents = Counter(seen.sha256 for seen in sightings)
    alone = [seen for seen in sightings if seen.category is not None and not seen.fault and contents[seen.sha256] == 1]
    known = _known_places(tx, folders, alone)
    fresh = [seen for seen in alone if (folders[seen.folder], seen.name) not in known]
    known_contents = _known_contents(tx, aim, [seen.sha256 for seen in fresh])
    fresh = [seen for seen in fresh if seen.sha256 not in known_contents and seen.sha256[:16] not in known_contents]
    fresh = _with_free_keys(tx, aim, fresh)
    if not fresh:
        return sightings
    now = book.clock()
    pictures = [_picture(aim, seen, now) for seen in fresh]
    made = tx.execute(insert(picture).returning(picture.c.id, sort_by_parameter_order=True), pictures).scalars()
    places = [_place(folders[seen.folder], seen, now, picture_id) for seen, picture_id in zip(fresh, made, strict=True)]
    tx.execute(insert(place), places)
    done = {id(seen) for seen in fresh}
    return [seen for seen in sightings if id(seen) not in done]


def _with_free_keys(tx: Connection, aim: int, sightings: Sequence[Sighting]) -> list[Sighting]:
    """Those whose names at the platform nobody has; two contents may share the digits that a name holds."""
    keys = [key_of(seen.name, seen.sha256, seen.suffix) for seen in sightings]
    times = Counter(keys)
    taken = set(tx.execute(select(picture.c.key).where(picture.c.target_id == aim, picture.c.key.in_(keys))).scalars())
    return [seen for seen, key in zip(sightings, keys, strict=True) if key not in taken and times[key] == 1]


def columns_of(seen: Sighting, now: float) -> dict[str, Any]:
    """What one look says of one file, as the columns of its place."""
    return {
        "size": seen.stamp.size,
        "mtime_ns": seen.stamp.mtime_ns,
        "ctime_ns": seen.stamp.ctime_ns,
        "inode": str(seen.stamp.inode),
        "reason": seen.fault,
        "sha256": seen.sha256,
        "suffix": seen.suffix,
        "seen_at": now,
    }


def _known_places(
    tx: Connection, folders: Mapping[bytes, int], sightings: Sequence[Sighting]
) -> set[tuple[int, bytes]]:
    rows = tx.execute(
        select(place.c.folder_id, place.c.name).where(
            place.c.folder_id.in_({folders[seen.folder] for seen in sightings}),
            place.c.name.in_([seen.name for seen in sightings]),
        )
    )
    return {(row.folder_id, row.name) for row in rows}


def _known_contents(tx: Connection, aim: int, digests: Sequence[str]) -> set[str]:
    """Those that the ledger has a picture of, and the first halves of those that lie at the platform."""
    mine = select(picture.c.sha256).where(picture.c.target_id == aim, picture.c.sha256.in_(digests))
    found = set(tx.execute(mine).scalars())
    if tx.execute(select(func.count()).select_from(inventory).where(inventory.c.target_id == aim)).scalar_one():
        halves = [digest[:16] for digest in digests]
        there = select(inventory.c.digest).where(inventory.c.target_id == aim, inventory.c.digest.in_(halves))
        found |= set(tx.execute(there).scalars())
    return found


def _picture(aim: int, seen: Sighting, now: float) -> dict[str, Any]:
    return {
        "target_id": aim,
        "sha256": seen.sha256,
        "copy": 0,
        "category": seen.category,
        "key": key_of(seen.name, seen.sha256, seen.suffix),
        "size": seen.stamp.size,
        "state": PictureState.READY,
        "ready_at": now,
    }


def _place(folder_id: int, seen: Sighting, now: float, picture_id: int) -> dict[str, Any]:
    standing = {"state": PlaceState.SOUND, "role": PlaceRole.OWNER, "picture_id": picture_id}
    return {"folder_id": folder_id, "name": seen.name, **columns_of(seen, now), **standing}
