"""Files of which nothing is known, neither path nor content: most of a first sync, and so written down in bulk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from image_sync.domain import FileRole, FileState, PictureState, Sighting
from image_sync.ledger import markings
from image_sync.ledger.bulk import Bulk
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.names import key_of
from image_sync.ledger.schema import annotation, inventory, picture, place


def write_down(
    tx: Connection, context: LedgerContext, folders: Mapping[bytes, int], sightings: Sequence[Sighting]
) -> Sequence[Sighting]:
    """Record the sound newcomers among the sightings; return the others, in their order.

    Args:
        folders: the ids of the sightings' folders.
    """
    if context.current_target is None or context.plain_names:  # plain names must be compared one by one
        return sightings
    aim = context.current_target.id
    contents = Counter(seen.sha256 for seen in sightings)
    alone = [seen for seen in sightings if seen.category is not None and not seen.fault and contents[seen.sha256] == 1]
    looks = Counter((seen.folder, seen.name) for seen in sightings)
    if len(looks) < len(sightings):  # a file was looked at twice: the later look replaces the earlier one
        alone = [seen for seen in alone if looks[seen.folder, seen.name] == 1]
    if context.annotated:
        alone = [seen for seen in alone if not seen.waits]
    known = _known_places(tx, folders, alone)
    fresh = [seen for seen in alone if (folders[seen.folder], seen.name) not in known]
    if tx.execute(_ANY_THERE, {"aim": aim}).first() is not None:
        there = {digest for (digest,) in _THERE(tx, [(seen.sha256[:16],) for seen in fresh], aim)}
        fresh = [seen for seen in fresh if seen.sha256[:16] not in there]
    copies = {sha256 for (sha256,) in _COPIES(tx, [(seen.sha256,) for seen in fresh], aim)}
    fresh = [seen for seen in fresh if seen.sha256 not in copies]
    now = context.clock()
    # What the ledger has already makes no row: the content, or its name at the platform, whose digits two may share.
    pictures = [
        (aim, seen.sha256, seen.category, key_of(seen.name, seen.sha256, seen.suffix), seen.stamp.size, now)
        for seen in fresh
    ]
    ids = {sha256: picture_id for picture_id, sha256 in _INSERT_PICTURE(tx, pictures)}
    made = [seen for seen in fresh if seen.sha256 in ids]
    if not made:
        return sightings
    rows = [(folders[seen.folder], seen.name, *columns_of(seen, now), ids[seen.sha256]) for seen in made]
    if context.annotated:
        _INSERT_MARKED_PLACE(tx, [(*row, *marks_of(seen).values()) for row, seen in zip(rows, made, strict=True)])
        marked = [(aim, markings.fingerprint(seen.annotation), ids[seen.sha256]) for seen in made if seen.annotation]
        _INSERT_ANNOTATION(tx, marked)
    else:
        _INSERT_PLACE(tx, rows)
    done = {id(seen) for seen in made}
    return [seen for seen in sightings if id(seen) not in done]


LOOK = ("size", "mtime_ns", "ctime_ns", "inode", "reason", "sha256", "suffix", "seen_at")
"""The columns of a place that one look fills."""


def columns_of(seen: Sighting, now: float) -> tuple[Any, ...]:
    """What one look says of one file: the values of ``LOOK``."""
    size, mtime_ns, ctime_ns, inode, _ = seen.stamp
    return size, mtime_ns, ctime_ns, str(inode), seen.fault, seen.sha256, seen.suffix, now


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
        for (name,) in _KNOWN_PLACES(tx, [(name,) for name in names], folder)
    }


_OWNS = {"state": f"'{FileState.SOUND}'", "role": f"'{FileRole.OWNER}'"}

# Statements are made once: making one costs more than carrying it out.
_INSERT_PICTURE = Bulk.into(
    picture,
    *("target_id", "sha256", "category", "key", "size", "ready_at"),
    then="ON CONFLICT DO NOTHING RETURNING id, sha256",
    copy="0",
    state=f"'{PictureState.READY}'",
    attempts="0",
    refusals="0",
    **dict.fromkeys(("sent_category", "batch_id", "remote_id", "reason"), "''"),
)
_INSERT_PLACE = Bulk.into(place, "folder_id", "name", *LOOK, "picture_id", **_OWNS)
_INSERT_MARKED_PLACE = Bulk.into(place, "folder_id", "name", *LOOK, "picture_id", "annotation", "marks", **_OWNS)
_INSERT_ANNOTATION = Bulk.into(annotation, "target_id", "wanted", "picture_id")
_KNOWN_PLACES = Bulk("SELECT name FROM place WHERE name IN ({rows}) AND folder_id = ?", "?")
_ANY_THERE = select(inventory.c.remote_id).where(inventory.c.target_id == bindparam("aim")).limit(1)
_COPIES = Bulk("SELECT sha256 FROM picture WHERE sha256 IN ({rows}) AND target_id = ? AND copy > 0", "?")
_THERE = Bulk("SELECT digest FROM inventory WHERE digest IN ({rows}) AND target_id = ?", "?")
