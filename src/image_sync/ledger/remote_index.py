"""What lies at the platform already: so that a ledger that was lost, rebuilt or restored sends nothing twice."""

from __future__ import annotations

import contextlib
import os
import time
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, func, insert, literal_column, select, update

from image_sync.domain import PictureState, RemotePicture
from image_sync.ledger.annotations import mark_unknown, update_due
from image_sync.ledger.batches import given_out
from image_sync.ledger.context import LedgerContext, value_of
from image_sync.ledger.history import close_membership
from image_sync.ledger.keys import LONGEST, digest_of
from image_sync.ledger.schema import (
    annotation,
    file,
    half_digest,
    kept,
    keyvalue,
    pending_removal,
    picture,
    picture_count,
    remote_index,
    target,
    told,
)
from image_sync.log import get_logger

log = get_logger(__name__)
_CHUNK = 500
_PAGE = 10_000
GONE = "it is no longer at the platform: image-sync repair sends it again"
REPAIR = "repair"
RELABEL = "relabel/"
"""Notes of pictures (ids) of which nobody knows which category the platform has until it was told."""
RESTORED = "restored/"
"""Notes of targets (ids) whose pictures were told categories that this ledger does not know of."""
_PLAIN = picture.c.plain == literal_column("1")  # as the index says it
_GENERATION = "generation"
_WRITING = 3.0  # seconds that writing its file may take
BEFORE = 0
"""The "training" that counted what was trained on before this ledger knew of it."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """What reading the platform's listing came to."""

    listed: int
    adopted: int
    """Pictures that were ready to be sent and lie there already."""
    remembered: int
    """Pictures of ours whose files were not found yet."""
    foreign: int
    """Files that are none of ours."""
    doubles: tuple[int, ...]
    """Pictures (ids) of which there seems to be more than one copy under one name."""
    misnamed: tuple[tuple[int, RemotePicture], ...]
    """Pictures (ids) that this ledger sent under another name as well, before their file got its present one."""
    absent: frozenset[int] = frozenset()
    """Pictures (ids) that were confirmed before the listing was begun and are not in it."""
    changed: tuple[tuple[int, str], ...] = ()
    """Pictures (ids) that have another category than the platform was told last, and than is known to be a person's,
    with that category."""
    foreign_copies: int = 0
    """Copies of our pictures, under the same names, that another ledger has sent."""


class RemoteIndex:
    """Compares the ledger with the platform's listing."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context
        self.checked = False
        """Whether ledger and platform were compared since this ledger was opened."""
        self._shared: bool | None = None

    @property
    def shared(self) -> bool:
        """Whether others send the same pictures to the dataset: then it is asked for each before it is sent."""
        if self._shared is None:
            with self._context.db.reading() as tx:
                self._shared = value_of(tx, self._sharing) is not None
        return self._shared

    def share(self) -> None:
        """Others send the same pictures to the dataset."""
        with self._context.db.writing() as tx:
            self._context.set_flag(tx, self._sharing)
        self._shared = True

    @property
    def _sharing(self) -> str:
        return f"shared/{self._context.target.id}"

    def agree(self) -> None:
        """They were compared: uploads may begin."""
        if not self.checked:
            self.checked = True
            self._context.changed()

    def doubt(self) -> None:
        """Something that should be there was not: they are compared again before anything more is sent."""
        if self.checked:
            self.checked = False
            self._context.changed()

    @property
    def restored(self) -> bool:
        """Whether this ledger is older than what was told to the platform: it came from a backup."""
        with self._context.db.reading() as tx:
            return value_of(tx, self._restored) is not None

    def recognise_backup(self) -> None:
        """Whoever takes the ledger asks this first: is it older than the file beside it, or is that one a copy?"""
        if self._context.folder is None:
            return
        there, copied = _noted_generation(self._context.folder)
        with self._context.db.writing() as tx:
            number = _generation(tx)
            older = there > number or copied
            if number and not older:
                return  # nothing to write down: on a full disk the daemon begins all the same, and waits for room
            targets = tx.execute(select(target.c.id)).scalars().all() if older else []
            for one in targets:
                self._context.set_flag(tx, f"{RESTORED}{one}")
            number = raise_generation(tx, self._context, above=there)
        note_generation(self._context, number)
        if targets:
            log.warning(
                "ledger.restored",
                ledger=self._context.db.where,
                hint="It is older than what the platform was told, or was moved: all categories are compared, "
                "and those of the folders are told anew",
            )

    @property
    def _restored(self) -> str:
        return f"{RESTORED}{self._context.target.id}"

    def least(self) -> int:
        """How many files the dataset should hold at least."""
        aim = self._context.target.id
        with self._context.db.reading() as tx:
            sent = (picture_count.c.target_id == aim) & (picture_count.c.state == PictureState.CONFIRMED)
            mine = tx.execute(select(func.coalesce(func.sum(picture_count.c.pictures), 0)).where(sent)).scalar_one()
            leaving = tx.execute(select(func.count()).where(pending_removal.c.target_id == aim)).scalar_one()
        return int(mine - leaving)

    def expected(self) -> int:
        """How many files the dataset should hold at most, as far as the ledger knows."""
        aim = self._context.target.id
        there = [str(PictureState.CONFIRMED), str(PictureState.CLAIMED)]
        with self._context.db.reading() as tx:
            sent = (picture_count.c.target_id == aim) & picture_count.c.state.in_(there)
            mine = tx.execute(select(func.coalesce(func.sum(picture_count.c.pictures), 0)).where(sent)).scalar_one()
            waiting = tx.execute(select(func.count()).where(remote_index.c.target_id == aim)).scalar_one()
            leaving = tx.execute(select(func.count()).where(pending_removal.c.target_id == aim)).scalar_one()
            foreign = tx.execute(select(target.c.foreign_files).where(target.c.id == aim)).scalar() or 0
        return int(mine + waiting + leaving + foreign)

    def recognises(self, rows: Iterable[RemotePicture]) -> bool:
        """Whether every one of these pictures that carries our kind of name is one that the ledger sent or knows."""
        aim = self._context.target.id
        wanted = {row.key for row in rows if digest_of(row.key)}
        there = [str(PictureState.CONFIRMED), str(PictureState.CLAIMED)]
        for keys in _chunks(sorted(wanted)):
            with self._context.db.reading() as tx:
                sent = select(picture.c.key).where(
                    picture.c.target_id == aim, half_digest.in_(set(map(digest_of, keys))), picture.c.state.in_(there)
                )
                known = select(remote_index.c.key).where(remote_index.c.target_id == aim, remote_index.c.key.in_(keys))
                wanted -= {row.key for row in tx.execute(sent)} | {row.key for row in tx.execute(known)}
        return not wanted

    def adopt(self, rows: Iterable[RemotePicture], *, trained_until: float | None) -> Adoption:
        """Take note of everything that the platform lists: what is there is not sent again.

        In a ledger from a backup the listed categories are believed, so that what the folders say is told anew.

        Args:
            rows: the whole listing.
            trained_until: Unix time of the newest training of the dataset; earlier pictures count as trained on.
        """
        aim = self._context.target.id
        began = self._context.clock()
        listed = adopted = foreign = foreign_copies = 0
        seen: set[int] = set()  # hashes: the ids of a million pictures would be large
        changed: list[tuple[int, str]] = []
        doubles: set[int] = set()
        misnamed: list[tuple[int, RemotePicture]] = []
        restored = self.restored
        with self._context.db.writing() as tx:
            tx.execute(delete(remote_index).where(remote_index.c.target_id == aim))
        for chunk in _chunks(rows):
            listed += len(chunk)
            with self._context.db.writing() as tx:
                known = _Known(tx, aim, chunk)
                seen.update(hash(row.remote_id) for row in chunk)
                for row in chunk:
                    stored = known.by_remote.get(row.remote_id)
                    if stored is not None:
                        changed += self._category(tx, stored, row, restored=restored)
                    if stored is not None or row.remote_id in known.leaving:
                        continue
                    mine = known.of(row)
                    counted = trained_until is not None and (row.uploaded_at or 0.0) <= trained_until
                    if mine is None:
                        if digest_of(row.key):
                            self._remember(tx, aim, row, known.category(row), counted=counted)
                        else:
                            foreign += 1
                    elif mine.state in {PictureState.READY, PictureState.HELD, PictureState.REFUSED}:
                        known.taken.add(mine.id)
                        adopted += 1
                        self._take(tx, mine.id, row, known.category(row), counted=counted)
                    elif mine.key == row.key:
                        doubles.add(mine.id)
                        foreign_copies += bool(row.batch_id) and row.batch_id not in known.batches
                    elif row.batch_id in known.batches and mine.state == PictureState.CONFIRMED:
                        misnamed.append((mine.id, row))
                    else:
                        foreign += 1  # the same content under another name: somebody else's
        with self._context.db.writing() as tx:
            tx.execute(delete(keyvalue).where(keyvalue.c.name == self._restored))
            tx.execute(update(target).where(target.c.id == aim).values(foreign_files=foreign))
            remembered = tx.execute(select(func.count()).where(remote_index.c.target_id == aim)).scalar_one()
        self._context.changed()
        absent = frozenset(self._absent(seen, before=began))
        found = (tuple(sorted(doubles)), tuple(misnamed), absent, tuple(changed), foreign_copies)
        return Adoption(listed, adopted, int(remembered), foreign, *found)

    def _category(self, tx: Connection, stored: Any, row: RemotePicture, *, restored: bool) -> list[tuple[int, str]]:
        """Compare the category of a stored picture with what it should be. Returns what is new and not ours."""
        if stored.kept is not None:
            if same(row.category, stored.kept):
                return []
            tx.execute(delete(kept).where(kept.c.picture_id == stored.id))
        if same(row.category, stored.sent_category):
            return []
        if not restored:
            return [(stored.id, row.category)]
        close_membership(tx, stored.id)
        tx.execute(update(picture).where(picture.c.id == stored.id).values(sent_category=row.category))
        return []

    def keep(self, changed: Collection[tuple[int, str]]) -> None:
        """These pictures (ids) have at the platform a category that a person gave them: it stays.

        What is about to be told anyway is left out.
        """
        for chunk in _chunks(changed):
            with self._context.db.writing() as tx:
                telling = select(keyvalue.c.name).where(keyvalue.c.name.in_([f"{RELABEL}{one}" for one, _ in chunk]))
                told_soon = set(tx.execute(telling).scalars())
                statement = self._context.db.insert(kept)
                for picture_id, category in chunk:
                    if f"{RELABEL}{picture_id}" not in told_soon:
                        added = statement.values(picture_id=picture_id, category=category)
                        tx.execute(
                            added.on_conflict_do_update(index_elements=["picture_id"], set_={"category": category})
                        )

    def kept(self) -> int:
        """How many pictures have a category that a person gave them at the platform."""
        mine = picture.c.target_id == self._context.target.id
        with self._context.db.reading() as tx:
            return int(tx.execute(select(func.count()).select_from(kept.join(picture)).where(mine)).scalar_one())

    def _absent(self, seen: Collection[int], *, before: float) -> Iterator[int]:
        """Pictures that were confirmed before that Unix time and are not among those that were seen."""
        last = 0
        mine = (picture.c.target_id == self._context.target.id) & (picture.c.state == PictureState.CONFIRMED)
        columns = (picture.c.id, picture.c.remote_id, picture.c.confirmed_at)
        while True:
            with self._context.db.reading() as tx:
                page = select(*columns).where(mine, picture.c.id > last).order_by(picture.c.id).limit(_PAGE)
                rows = tx.execute(page).all()
            if not rows:
                return
            last = rows[-1].id
            yield from (row.id for row in rows if hash(row.remote_id) not in seen and row.confirmed_at < before)

    def missed(self, picture_ids: Collection[int] | None = None) -> int:
        """These pictures (None: all) are no longer at the platform: they wait for :meth:`repair`, with the reason.

        Those that have no file any more are forgotten. Returns how many wait.
        """
        waiting = 0
        mine = (picture.c.target_id == self._context.target.id) & (picture.c.state == PictureState.CONFIRMED)
        files = select(file.c.picture_id).where(file.c.picture_id == picture.c.id).exists()
        gone = {"state": PictureState.REFUSED, "reason": GONE, "retry_at": None, "batch_id": ""}
        gone |= {"remote_id": "", "sent_category": ""}
        if picture_ids is None:
            with self._context.db.reading() as tx:
                picture_ids = tx.execute(select(picture.c.id).where(mine)).scalars().all()
        for chunk in _chunks(picture_ids):
            these = mine & picture.c.id.in_(chunk)
            with self._context.db.writing() as tx:
                for picture_id in chunk:
                    close_membership(tx, picture_id)
                if self._context.annotated:
                    mark_unknown(tx, chunk)
                tx.execute(delete(picture).where(these, ~files))
                tx.execute(delete(kept).where(kept.c.picture_id.in_(chunk)))
                waiting += int(tx.execute(update(picture).where(these).values(**gone)).rowcount)
                if self._context.annotated:
                    update_due(tx, annotation.c.picture_id.in_(chunk))
        self._context.changed()
        return waiting

    def missing(self) -> int:
        """How many pictures were at the platform, and are no longer."""
        with self._context.db.reading() as tx:
            return int(tx.execute(select(func.count()).where(self._gone)).scalar_one())

    def repair(self) -> int:
        """What is no longer at the platform goes back in line. Returns how many."""
        values = {"state": PictureState.READY, "reason": "", "attempts": 0, "ready_at": self._context.clock()}
        with self._context.db.writing() as tx:
            again = int(tx.execute(update(picture).where(self._gone).values(**values)).rowcount)
            tx.execute(delete(keyvalue).where(keyvalue.c.name == REPAIR))
        if again:
            self._context.changed()
        return again

    def request_repair(self) -> None:
        """A person wants to have sent again what is no longer there."""
        with self._context.db.writing() as tx:
            self._context.set_flag(tx, REPAIR)

    def repair_requested(self) -> bool:
        """Whether a person asked for it."""
        with self._context.db.reading() as tx:
            return value_of(tx, REPAIR) is not None

    def sample(self, after: int, number: int) -> list[int]:
        """The next stored pictures (ids) behind this one; from the beginning again when there are no more."""
        mine = (picture.c.target_id == self._context.target.id) & (picture.c.state == PictureState.CONFIRMED)
        page = select(picture.c.id).where(mine).order_by(picture.c.id).limit(number)
        with self._context.db.reading() as tx:
            return list(
                tx.execute(page.where(picture.c.id > after)).scalars().all() or tx.execute(page).scalars().all()
            )

    @property
    def _gone(self) -> Any:
        mine = picture.c.target_id == self._context.target.id
        return mine & (picture.c.state == PictureState.REFUSED) & (picture.c.reason == GONE)

    def _remember(self, tx: Connection, aim: int, row: RemotePicture, category: str, *, counted: bool) -> None:
        tx.execute(
            insert(remote_index).values(
                target_id=aim,
                remote_id=row.remote_id,
                digest=digest_of(row.key),
                key=row.key,
                category=category,
                size=row.size,
                counted=int(counted),
            )
        )

    def _take(self, tx: Connection, picture_id: int, row: RemotePicture, category: str, *, counted: bool) -> None:
        tx.execute(
            update(picture)
            .where(picture.c.id == picture_id)
            .values(
                state=PictureState.CONFIRMED,
                key=row.key[:LONGEST],
                plain=int(not digest_of(row.key)),
                remote_id=row.remote_id,
                sent_category=category,
                reason="",
                training_id=BEFORE if counted else None,
                confirmed_at=row.uploaded_at or self._context.clock(),
            )
        )
        if self._context.annotated:
            update_due(tx, annotation.c.picture_id == picture_id)


def raise_generation(tx: Connection, context: LedgerContext, *, above: int = 0) -> int:
    """The platform is about to be told something: from here on an earlier copy of the ledger is out of date.

    Returns the number for :func:`note_generation`, which is to be called after the transaction: the file beside the
    ledger must never be ahead of it.
    """
    number = 1 + max(above, _generation(tx))
    context.write_value(tx, _GENERATION, str(number))
    return number


def note_generation(context: LedgerContext, number: int) -> None:
    """Write the number into the file beside the ledger; a database server has none."""
    if context.folder is not None:
        _write_generation(context.folder, number)


def _generation(tx: Connection) -> int:
    return int(value_of(tx, _GENERATION) or 0)


def _noted_generation(folder: Path) -> tuple[int, bool]:
    """The number in the file beside the ledger (0: there is none), and whether that file is itself a copy.

    It names the time at which it was written, and no copy can have its own time of change set to that.
    """
    file = folder / _GENERATION
    try:
        number, written = file.read_text(encoding="ascii").split()
        return int(number), abs(file.stat().st_ctime - float(written)) > _WRITING
    except (OSError, ValueError):
        return 0, False


def _write_generation(folder: Path, number: int) -> None:
    """Write the number down. Where that fails a ledger from a backup is not recognised: no reason to stop."""
    file = folder / _GENERATION
    with contextlib.suppress(OSError):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as text:
            text.write(f"{number} {time.time()!r}\n")


def take_known(tx: Connection, aim: int, sha256: str, size: int) -> Any:
    """The oldest remembered picture of this content, or None. It is no longer remembered afterwards."""
    row = tx.execute(
        select(remote_index)
        .where(remote_index.c.target_id == aim, remote_index.c.digest == sha256[:16])
        .order_by(remote_index.c.key, remote_index.c.remote_id)
        .limit(1)
    ).first()
    if row is None or (row.size is not None and row.size != size):
        return None
    for table in (remote_index, told):
        tx.execute(delete(table).where(table.c.target_id == aim, table.c.remote_id == row.remote_id))
    return row


class _Known:
    """What the ledger knows of a few listed pictures."""

    def __init__(self, tx: Connection, aim: int, rows: Sequence[RemotePicture]) -> None:
        mine = (
            select(
                picture.c.id,
                picture.c.key,
                picture.c.sha256,
                picture.c.size,
                picture.c.category,
                picture.c.state,
                picture.c.remote_id,
                picture.c.sent_category,
                kept.c.category.label("kept"),
            )
            .outerjoin(kept, kept.c.picture_id == picture.c.id)
            .where(picture.c.target_id == aim)
            .order_by(picture.c.id)
        )
        keys = [row.key for row in rows if not digest_of(row.key)]
        digests = sorted({digest for row in rows if (digest := digest_of(row.key))})
        ids = [row.remote_id for row in rows]
        self.batches = given_out(tx, {row.batch_id for row in rows if row.batch_id})
        gone = select(pending_removal.c.remote_id).where(
            pending_removal.c.target_id == aim, pending_removal.c.remote_id.in_(ids)
        )
        self.leaving = set(tx.execute(gone).scalars())
        self._by_key = {row.key: row for row in tx.execute(mine.where(picture.c.key.in_(keys), _PLAIN))}
        self._by_digest: dict[str, list[Any]] = {}
        for row in tx.execute(mine.where(half_digest.in_(digests))):
            self._by_digest.setdefault(row.sha256[:16], []).append(row)
            self._by_key[row.key] = row
        # Ids have no index: only those are looked for that nothing of the same content has.
        self.by_remote = {one.remote_id: one for found in self._by_digest.values() for one in found if one.remote_id}
        if strange := [row.remote_id for row in rows if row.remote_id not in self.by_remote]:
            for row in tx.execute(mine.where(picture.c.remote_id.in_(strange))):
                self.by_remote[row.remote_id] = row
        before = select(told.c.remote_id, told.c.category).where(told.c.target_id == aim, told.c.remote_id.in_(ids))
        self._told = {row.remote_id: row.category for row in tx.execute(before)}
        self.taken: set[int] = set()

    def category(self, row: RemotePicture) -> str:
        """Which category this one was told last, as far as that is known; else the one it has."""
        return str(self._told.get(row.remote_id, row.category))

    def of(self, row: RemotePicture) -> Any:
        """Our picture that this one is, or None."""
        named = self._by_key.get(row.key)
        if digest_of(row.key):
            candidates = self._by_digest.get(digest_of(row.key), [])
            ordered = ([named] if named is not None else []) + candidates
            free = [one for one in ordered if one.id not in self.taken and _fits(one, row)]
            return free[0] if free else None
        # A plain name says little: size and category must agree, too.
        if named is None or named.id in self.taken or not _fits(named, row) or named.category != row.category:
            return None
        return named


def same(one: str, other: str) -> bool:
    """Whether these are one category: servers may write letters with accents in another way."""
    return one == other or unicodedata.normalize("NFC", one).strip() == unicodedata.normalize("NFC", other).strip()


def _fits(mine: Any, row: RemotePicture) -> bool:
    return row.size is None or row.size == mine.size


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
