"""What lies at the platform already: so that a ledger that was lost, rebuilt or restored sends nothing twice."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from image_sync.domain import PictureState
from image_sync.ledger import contents, markings
from image_sync.ledger.batches import given_out
from image_sync.ledger.book import Book
from image_sync.ledger.names import LONGEST, digest_of
from image_sync.ledger.schema import annotation, inventory, note, picture, picture_count, place, removal, target

_CHUNK = 500
_PAGE = 10_000
GONE = "it is no longer at the platform: image-sync repair sends it again"
REPAIR = "repair"
BEFORE = 0
"""The "training" that counted what was trained on before this ledger knew of it."""


@dataclass(frozen=True, slots=True)
class Remote:
    """One picture as the platform lists it."""

    remote_id: str
    key: str
    category: str
    size: int | None
    uploaded_at: float | None
    """Unix time."""
    batch_id: str = ""


@dataclass(frozen=True, slots=True)
class Adoption:
    """What reading the platform's listing came to."""

    listed: int
    adopted: int
    """Pictures that were ready to be sent and lie there already."""
    remembered: int
    """Pictures of ours whose files were not found yet."""
    strangers: int
    """Files that are none of ours."""
    doubles: tuple[int, ...]
    """Pictures (ids) of which there seems to be more than one copy under one name."""
    strays: tuple[tuple[int, Remote], ...]
    """Pictures (ids) that this ledger sent under another name as well, before their file got its present one."""
    absent: frozenset[int] = frozenset()
    """Pictures (ids) that were confirmed before the listing was begun and are not in it."""
    changed: tuple[tuple[int, str], ...] = ()
    """Pictures (ids) that have another category than the platform was told last, with that category."""
    foreign: int = 0
    """Copies of our pictures, under the same names, that another ledger has sent."""


class Inventory:
    """Compares the ledger with the platform's listing."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.checked = False
        """Whether ledger and platform were compared since this ledger was opened."""
        self._shared: bool | None = None

    @property
    def shared(self) -> bool:
        """Whether others send the same pictures to the dataset: then it is asked for each before it is sent."""
        if self._shared is None:
            with self._book.db.reading() as tx:
                known = tx.execute(select(note.c.name).where(note.c.name == self._sharing)).first()
            self._shared = known is not None
        return self._shared

    def share(self) -> None:
        """Others send the same pictures to the dataset."""
        with self._book.db.writing() as tx:
            statement = self._book.db.insert(note).values(name=self._sharing, value=str(self._book.clock()))
            tx.execute(statement.on_conflict_do_nothing(index_elements=["name"]))
        self._shared = True

    @property
    def _sharing(self) -> str:
        return f"shared/{self._book.aimed().id}"

    def agree(self) -> None:
        """They were compared: uploads may begin."""
        if not self.checked:
            self.checked = True
            self._book.changed()

    def doubt(self) -> None:
        """Something that should be there was not: they are compared again before anything more is sent."""
        if self.checked:
            self.checked = False
            self._book.changed()

    def least(self) -> int:
        """How many files the dataset should hold at least."""
        aim = self._book.aimed().id
        with self._book.db.reading() as tx:
            sent = (picture_count.c.target_id == aim) & (picture_count.c.state == PictureState.CONFIRMED)
            mine = tx.execute(select(func.coalesce(func.sum(picture_count.c.pictures), 0)).where(sent)).scalar_one()
            leaving = tx.execute(select(func.count()).where(removal.c.target_id == aim)).scalar_one()
        return int(mine - leaving)

    def expected(self) -> int:
        """How many files the dataset should hold at most, as far as the ledger knows."""
        aim = self._book.aimed().id
        there = [str(PictureState.CONFIRMED), str(PictureState.CLAIMED)]
        with self._book.db.reading() as tx:
            sent = (picture_count.c.target_id == aim) & picture_count.c.state.in_(there)
            mine = tx.execute(select(func.coalesce(func.sum(picture_count.c.pictures), 0)).where(sent)).scalar_one()
            waiting = tx.execute(select(func.count()).where(inventory.c.target_id == aim)).scalar_one()
            leaving = tx.execute(select(func.count()).where(removal.c.target_id == aim)).scalar_one()
            strangers = tx.execute(select(target.c.strangers).where(target.c.id == aim)).scalar() or 0
        return int(mine + waiting + leaving + strangers)

    def recognises(self, rows: Iterable[Remote]) -> bool:
        """Whether every one of these pictures that carries our kind of name is one that the ledger sent or knows."""
        aim = self._book.aimed().id
        wanted = {row.key for row in rows if digest_of(row.key)}
        there = [str(PictureState.CONFIRMED), str(PictureState.CLAIMED)]
        for keys in _chunks(sorted(wanted)):
            with self._book.db.reading() as tx:
                sent = select(picture.c.key).where(
                    picture.c.target_id == aim, picture.c.key.in_(keys), picture.c.state.in_(there)
                )
                known = select(inventory.c.key).where(inventory.c.target_id == aim, inventory.c.key.in_(keys))
                wanted -= {row.key for row in tx.execute(sent)} | {row.key for row in tx.execute(known)}
        return not wanted

    def adopt(self, rows: Iterable[Remote], *, trained_until: float | None) -> Adoption:
        """Take note of everything that the platform lists: what is there is not sent again.

        Args:
            rows: the whole listing.
            trained_until: Unix time of the newest training of the dataset; earlier pictures count as trained on.
        """
        aim = self._book.aimed().id
        began = self._book.clock()
        listed = adopted = strangers = foreign = 0
        seen: set[int] = set()  # hashes: the ids of a million pictures would be large
        changed: list[tuple[int, str]] = []
        doubles: set[int] = set()
        strays: list[tuple[int, Remote]] = []
        with self._book.db.writing() as tx:
            tx.execute(delete(inventory).where(inventory.c.target_id == aim))
        for chunk in _chunks(rows):
            listed += len(chunk)
            with self._book.db.writing() as tx:
                known = _Known(tx, aim, chunk)
                seen.update(hash(row.remote_id) for row in chunk)
                for row in chunk:
                    stored = known.by_remote.get(row.remote_id)
                    if stored is not None and not same(row.category, stored.sent_category):
                        changed.append((stored.id, row.category))
                    if stored is not None or row.remote_id in known.leaving:
                        continue
                    mine = known.of(row)
                    counted = trained_until is not None and (row.uploaded_at or 0.0) <= trained_until
                    if mine is None:
                        if digest_of(row.key):
                            self._remember(tx, aim, row, counted=counted)
                        else:
                            strangers += 1
                    elif mine.state in {PictureState.READY, PictureState.HELD, PictureState.REFUSED}:
                        known.taken.add(mine.id)
                        adopted += 1
                        self._take(tx, mine.id, row, counted=counted)
                    elif mine.key == row.key:
                        doubles.add(mine.id)
                        foreign += bool(row.batch_id) and row.batch_id not in known.batches
                    elif row.batch_id in known.batches and mine.state == PictureState.CONFIRMED:
                        strays.append((mine.id, row))
                    else:
                        strangers += 1  # the same content under another name: somebody else's
        with self._book.db.writing() as tx:
            tx.execute(update(target).where(target.c.id == aim).values(strangers=strangers))
            remembered = tx.execute(select(func.count()).where(inventory.c.target_id == aim)).scalar_one()
        self._book.changed()
        absent = frozenset(self._absent(seen, before=began))
        found = (tuple(sorted(doubles)), tuple(strays), absent, tuple(changed), foreign)
        return Adoption(listed, adopted, int(remembered), strangers, *found)

    def _absent(self, seen: Collection[int], *, before: float) -> Iterator[int]:
        """Pictures that were confirmed before that Unix time and are not among those that were seen."""
        last = 0
        mine = (picture.c.target_id == self._book.aimed().id) & (picture.c.state == PictureState.CONFIRMED)
        columns = (picture.c.id, picture.c.remote_id, picture.c.confirmed_at)
        while True:
            with self._book.db.reading() as tx:
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
        mine = (picture.c.target_id == self._book.aimed().id) & (picture.c.state == PictureState.CONFIRMED)
        files = select(place.c.picture_id).where(place.c.picture_id == picture.c.id).exists()
        gone = {"state": PictureState.REFUSED, "reason": GONE, "retry_at": None, "batch_id": ""}
        gone |= {"remote_id": "", "sent_category": ""}
        if picture_ids is None:
            with self._book.db.reading() as tx:
                picture_ids = tx.execute(select(picture.c.id).where(mine)).scalars().all()
        for chunk in _chunks(picture_ids):
            these = mine & picture.c.id.in_(chunk)
            with self._book.db.writing() as tx:
                for picture_id in chunk:
                    contents.close(tx, picture_id)
                if self._book.annotated:
                    markings.lost(tx, chunk)
                tx.execute(delete(picture).where(these, ~files))
                waiting += int(tx.execute(update(picture).where(these).values(**gone)).rowcount)
                if self._book.annotated:
                    markings.reckon(tx, annotation.c.picture_id.in_(chunk))
        self._book.changed()
        return waiting

    def missing(self) -> int:
        """How many pictures were at the platform, and are no longer."""
        with self._book.db.reading() as tx:
            return int(tx.execute(select(func.count()).where(self._gone)).scalar_one())

    def repair(self) -> int:
        """What is no longer at the platform goes back in line. Returns how many."""
        values = {"state": PictureState.READY, "reason": "", "attempts": 0, "ready_at": self._book.clock()}
        with self._book.db.writing() as tx:
            again = int(tx.execute(update(picture).where(self._gone).values(**values)).rowcount)
            tx.execute(delete(note).where(note.c.name == REPAIR))
        if again:
            self._book.changed()
        return again

    def request_repair(self) -> None:
        """A person wants to have sent again what is no longer there."""
        with self._book.db.writing() as tx:
            statement = self._book.db.insert(note).values(name=REPAIR, value=str(self._book.clock()))
            tx.execute(statement.on_conflict_do_nothing(index_elements=["name"]))

    def repair_requested(self) -> bool:
        """Whether a person asked for it."""
        with self._book.db.reading() as tx:
            return tx.execute(select(note.c.name).where(note.c.name == REPAIR)).first() is not None

    def sample(self, after: int, number: int) -> list[int]:
        """The next stored pictures (ids) behind this one; from the beginning again when there are no more."""
        mine = (picture.c.target_id == self._book.aimed().id) & (picture.c.state == PictureState.CONFIRMED)
        page = select(picture.c.id).where(mine).order_by(picture.c.id).limit(number)
        with self._book.db.reading() as tx:
            return list(
                tx.execute(page.where(picture.c.id > after)).scalars().all() or tx.execute(page).scalars().all()
            )

    @property
    def _gone(self) -> Any:
        mine = picture.c.target_id == self._book.aimed().id
        return mine & (picture.c.state == PictureState.REFUSED) & (picture.c.reason == GONE)

    def _remember(self, tx: Connection, aim: int, row: Remote, *, counted: bool) -> None:
        tx.execute(
            insert(inventory).values(
                target_id=aim,
                remote_id=row.remote_id,
                digest=digest_of(row.key),
                key=row.key,
                category=row.category,
                size=row.size,
                counted=int(counted),
            )
        )

    def _take(self, tx: Connection, picture_id: int, row: Remote, *, counted: bool) -> None:
        tx.execute(
            update(picture)
            .where(picture.c.id == picture_id)
            .values(
                state=PictureState.CONFIRMED,
                key=row.key[:LONGEST],
                remote_id=row.remote_id,
                sent_category=row.category,
                reason="",
                run_id=BEFORE if counted else None,
                confirmed_at=row.uploaded_at or self._book.clock(),
            )
        )
        if self._book.annotated:
            markings.reckon(tx, annotation.c.picture_id == picture_id)


def waiting_for(tx: Connection, aim: int, sha256: str, size: int) -> Any:
    """The oldest remembered picture of this content, or None. It is no longer remembered afterwards."""
    row = tx.execute(
        select(inventory)
        .where(inventory.c.target_id == aim, inventory.c.digest == sha256[:16])
        .order_by(inventory.c.key, inventory.c.remote_id)
        .limit(1)
    ).first()
    if row is None or (row.size is not None and row.size != size):
        return None
    tx.execute(delete(inventory).where(inventory.c.target_id == aim, inventory.c.remote_id == row.remote_id))
    return row


class _Known:
    """What the ledger knows of a few listed pictures."""

    def __init__(self, tx: Connection, aim: int, rows: Sequence[Remote]) -> None:
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
            )
            .where(picture.c.target_id == aim)
            .order_by(picture.c.id)
        )
        keys = [row.key for row in rows]
        digests = sorted({digest for row in rows if (digest := digest_of(row.key))})
        ids = [row.remote_id for row in rows]
        self.batches = given_out(tx, {row.batch_id for row in rows if row.batch_id})
        gone = select(removal.c.remote_id).where(removal.c.target_id == aim, removal.c.remote_id.in_(ids))
        self.leaving = set(tx.execute(gone).scalars())
        self.by_remote = {row.remote_id: row for row in tx.execute(mine.where(picture.c.remote_id.in_(ids)))}
        self._by_key = {row.key: row for row in tx.execute(mine.where(picture.c.key.in_(keys)))}
        halves = func.substr(picture.c.sha256, 1, 16)
        self._by_digest: dict[str, list[Any]] = {}
        for row in tx.execute(mine.where(halves.in_(digests))):
            self._by_digest.setdefault(row.sha256[:16], []).append(row)
        self.taken: set[int] = set()

    def of(self, row: Remote) -> Any:
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


def _fits(mine: Any, row: Remote) -> bool:
    return row.size is None or row.size == mine.size


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
