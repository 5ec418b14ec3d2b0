"""Files of which nothing is known, neither path nor content: most of a first sync, and so written down in bulk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from image_sync.domain import PictureState, PlaceRole, PlaceState, Sighting, Stamp
from image_sync.ledger import markings
from image_sync.ledger.book import Book
from image_sync.ledger.bulk import Bulk
from image_sync.ledger.names import key_of
from image_sync.ledger.schema import annotation, inventory, picture, place


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
    looks = Counter((seen.folder, seen.name) for seen in sightings)
    if len(looks) < len(sightings):  # a file was looked at twice: the later look replaces the earlier one
        alone = [seen for seen in alone if looks[seen.folder, seen.name] == 1]
    if book.annotated:
        alone = [seen for seen in alone if not seen.waits]
    known = _known_places(tx, folders, alone)
    fresh = [seen for seen in alone if (folders[seen.folder], seen.name) not in known]
    known_contents = _known_contents(tx, aim, [seen.sha256 for seen in fresh])
    fresh = [seen for seen in fresh if seen.sha256 not in known_contents and seen.sha256[:16] not in known_contents]
    keyed = _with_free_keys(tx, aim, fresh)
    if not keyed:
        return sightings
    now = book.clock()
    _INSERT_PICTURE(tx, [(aim, seen.sha256, seen.category, key, seen.stamp.size, now) for seen, key in keyed])
    if book.annotated:
        _INSERT_MARKED_PLACE(
            tx,
            [(*_place(folders[seen.folder], seen, now), *marks_of(seen).values(), aim, key) for seen, key in keyed],
        )
        marked = [(seen, key) for seen, key in keyed if seen.annotation]
        _INSERT_ANNOTATION(tx, [(aim, markings.fingerprint(seen.annotation), aim, key) for seen, key in marked])
    else:
        _INSERT_PLACE(tx, [(*_place(folders[seen.folder], seen, now), aim, key) for seen, key in keyed])
    done = {id(seen) for seen, _ in keyed}
    return [seen for seen in sightings if id(seen) not in done]


def _with_free_keys(tx: Connection, aim: int, sightings: Sequence[Sighting]) -> list[tuple[Sighting, str]]:
    """Those whose names at the platform nobody has, with them; two contents may share the digits of a name."""
    keys = [key_of(seen.name, seen.sha256, seen.suffix) for seen in sightings]
    times = Counter(keys)
    taken = set(tx.execute(_TAKEN, {"aim": aim, "these": keys}).scalars())
    return [(seen, key) for seen, key in zip(sightings, keys, strict=True) if key not in taken and times[key] == 1]


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


def marks_of(seen: Sighting) -> dict[str, Any]:
    """The same of its annotation."""
    return {"annotation": seen.stamp.annotation, "marks": markings.fingerprint(seen.annotation)}


def _known_places(
    tx: Connection, folders: Mapping[bytes, int], sightings: Sequence[Sighting]
) -> set[tuple[int, bytes]]:
    inside: dict[int, list[bytes]] = {}
    for seen in sightings:
        inside.setdefault(folders[seen.folder], []).append(seen.name)
    return {
        (folder, name)
        for folder, names in inside.items()
        for name in tx.execute(_KNOWN_PLACES, {"folder": folder, "these": names}).scalars()
    }


def _known_contents(tx: Connection, aim: int, digests: Sequence[str]) -> set[str]:
    """Those that the ledger has a picture of, and the first halves of those that lie at the platform."""
    found = set(tx.execute(_KNOWN_CONTENTS, {"aim": aim, "these": digests}).scalars())
    if tx.execute(_ANY_THERE, {"aim": aim}).first() is not None:
        halves = [digest[:16] for digest in digests]
        found |= set(tx.execute(_THERE, {"aim": aim, "these": halves}).scalars())
    return found


def _place(folder_id: int, seen: Sighting, now: float) -> tuple[Any, ...]:
    return (folder_id, seen.name, *columns_of(seen, now).values())


_LOOK = tuple(columns_of(Sighting(b"", b"", Stamp(0, 0, 0, 0), ""), 0.0))
_OWNS = {
    "state": f"'{PlaceState.SOUND}'",
    "role": f"'{PlaceRole.OWNER}'",
    "picture_id": "(SELECT id FROM picture WHERE target_id = ? AND key = ?)",
}

# Statements are made once: making one costs more than carrying it out.
_INSERT_PICTURE = Bulk.into(
    picture,
    *("target_id", "sha256", "category", "key", "size", "ready_at"),
    copy="0",
    state=f"'{PictureState.READY}'",
    attempts="0",
    refusals="0",
    **dict.fromkeys(("sent_category", "batch_id", "remote_id", "reason"), "''"),
)
_INSERT_PLACE = Bulk.into(place, "folder_id", "name", *_LOOK, **_OWNS)
_INSERT_MARKED_PLACE = Bulk.into(place, "folder_id", "name", *_LOOK, "annotation", "marks", **_OWNS)
_INSERT_ANNOTATION = Bulk.into(annotation, "target_id", "wanted", picture_id=_OWNS["picture_id"])
_MINE = picture.c.target_id == bindparam("aim")
_TAKEN = select(picture.c.key).where(_MINE, picture.c.key.in_(bindparam("these", expanding=True)))
_KNOWN_CONTENTS = select(picture.c.sha256).where(_MINE, picture.c.sha256.in_(bindparam("these", expanding=True)))
_KNOWN_PLACES = select(place.c.name).where(
    place.c.folder_id == bindparam("folder"), place.c.name.in_(bindparam("these", expanding=True))
)
_ANY_THERE = select(inventory.c.remote_id).where(inventory.c.target_id == bindparam("aim")).limit(1)
_THERE = select(inventory.c.digest).where(
    inventory.c.target_id == bindparam("aim"), inventory.c.digest.in_(bindparam("these", expanding=True))
)
