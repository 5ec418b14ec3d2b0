"""What happened to one file: the answer to ``image-sync show PATH``.

A picture is in every training of its dataset from the first that counted it (``picture.training_id``) on, until it is
removed. So nothing is written for each picture and training: only when a picture that was trained on is removed or
given another category, the range of trainings that ends is written down.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, func, insert, literal_column, select

from image_sync.domain import FileRole, FileState, ModelOutcome, PictureState, TrainingState
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.keys import plain_stem
from image_sync.ledger.schema import (
    annotation,
    annotation_text,
    batch,
    file,
    folder,
    half_digest,
    kept,
    membership,
    picture,
    target,
    training,
    training_content,
    word,
)

_IN = (TrainingState.DOUBTFUL, TrainingState.RUNNING, TrainingState.TRAINED, TrainingState.FAILED)
"""States of a training that contains what it was begun with."""


@dataclass(frozen=True, slots=True)
class Membership:
    """A training that contains a picture."""

    model: str
    """The training's name, and that of its model."""
    category: str
    """Under which the picture was trained on; empty when that is not known."""
    state: TrainingState
    accuracy: float | None
    fate: ModelOutcome
    pictures: int = 0
    """How many it contains."""


@dataclass(frozen=True, slots=True)
class PictureHistory:
    """One file and the picture of its content. Times are Unix seconds; texts are empty where nothing is known."""

    path: bytes
    state: str
    """``quarantined``, ``uncategorised``, ``waiting``, ``duplicate``, ``conflict`` or the picture's own state."""
    category: str
    reason: str
    size: int
    sha256: str
    seen_at: float
    key: str = ""
    ready_at: float | None = None
    batch: str = ""
    batch_state: str = ""
    claimed_at: float | None = None
    attempts: int = 0
    confirmed_at: float | None = None
    retry_at: float | None = None
    """When a refused picture is sent again by itself; None: only when a person asks."""
    remote_id: str = ""
    remote_category: str = ""
    training: str = ""
    """The training that counted it."""
    sent_as: bytes = b""
    """For a duplicate or a conflict: the file that stands for the same content."""
    sent_category: str = ""
    labels: tuple[str, ...] | None = None
    """Of what is to be marked in it; None when it has no annotation, or annotations are not used."""
    annotated: str = ""
    """``sent``, ``due`` or ``refused``: what is to be marked in it, and whether the platform has it."""
    models: tuple[Membership, ...] = ()
    """The trainings that contain its content, newest first."""


@dataclass(frozen=True, slots=True)
class Left:
    """A picture that a person may want to be rid of."""

    picture_id: int
    key: str
    state: PictureState
    remote_id: str
    category: str
    files: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    """Root, folder and name of every file that holds it."""


CATEGORY_CHANGED = "category-changed"
"""Files of pictures that a person gave another category at the server."""
HELD_BACK = "the same picture lies in another category, too, and is not sent: delete one of the two"


class History:
    """Looks up single files."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context

    def of(self, path: bytes) -> PictureHistory | None:
        """Everything known of the file at this absolute path, or None if it was never recorded."""
        head, _, name = path.rpartition(b"/")
        with self._context.db.reading() as tx:
            here = tx.execute(
                select(file, folder.c.category)
                .join(folder, folder.c.id == file.c.folder_id)
                .where(folder.c.path == (head or b"/"), file.c.name == name)
            ).first()
            if here is None:
                return None
            content = tx.execute(_pictures().where(picture.c.id == here.picture_id)).first()
            owner = tx.execute(
                select(folder.c.path, file.c.name)
                .join(folder, folder.c.id == file.c.folder_id)
                .where(file.c.picture_id == here.picture_id, file.c.role == FileRole.OWNER)
            ).first()
            models = _memberships(tx, self._context.target.id, here.sha256) if here.sha256 else []
            drawn = _annotation(tx, here) if self._context.annotated else {}
        return replace(_history(path, here, content, owner), models=tuple(models), **drawn)

    def left(self, *, category: str = "", name: str = "", stem: str = "") -> list[Left]:
        """Pictures of a category, or of one name (or id) at the platform, or whose file's name began like that and is
        gone; with the files that they stand for."""
        which = (picture.c.category == category) | (picture.c.sent_category == category) if category else None
        if which is None:
            which = (picture.c.key == name) | (picture.c.remote_id == name)
            gone = picture.c.key.startswith(f"{stem}.", autoescape=True) & ~picture.c.id.in_(
                select(file.c.picture_id).where(file.c.picture_id.is_not(None))
            )
            which = which | gone if stem else which
        mine = (picture.c.target_id == self._context.target.id) & which
        files = (
            select(picture.c.id, picture.c.key, picture.c.state, picture.c.remote_id, folder.c.path, folder.c.root)
            .add_columns(file.c.name, picture.c.category)
            .outerjoin(file, file.c.picture_id == picture.c.id)
            .outerjoin(folder, folder.c.id == file.c.folder_id)
            .order_by(picture.c.id)
        )
        found: dict[int, Left] = {}
        with self._context.db.reading() as tx:
            for row in tx.execute(files.where(mine)):
                one = found.setdefault(
                    row.id, Left(row.id, row.key, PictureState(row.state), row.remote_id, row.category)
                )
                if row.path is not None:
                    one.files.append((row.root, row.path, row.name))
        return list(found.values())

    def matching(self, text: str) -> list[PictureHistory]:
        """The pictures of this name or id at the platform, or of this SHA-256, or (gone files) of this file name."""
        stem = plain_stem(text.rpartition("/")[2])
        aim = picture.c.target_id == self._context.target.id
        sha256 = text.lower()
        same = (picture.c.key == text) | ((half_digest == sha256[:16]) & (picture.c.sha256 == sha256))
        same |= (picture.c.remote_id == text) & (picture.c.remote_id != "")
        with self._context.db.reading() as tx:
            rows = tx.execute(_pictures().where(aim, same)).all()
            if not rows and stem:
                # Its key was made of the file's name; a file that is still there is found by its path.
                named = picture.c.key.startswith(f"{stem}.", autoescape=True)
                rows = tx.execute(_pictures().where(aim, named, picture.c.orphaned_at.is_not(None))).all()
            places = {}
            for row in rows:
                lies = file.join(folder, folder.c.id == file.c.folder_id)
                owner = (file.c.picture_id == row.id) & (file.c.role == FileRole.OWNER)
                places[row.id] = tx.execute(select(folder.c.path, file.c.name).select_from(lies).where(owner)).first()
            models = {row.id: _memberships(tx, self._context.target.id, row.sha256) for row in rows}
        found = []
        for row in rows:
            here = places[row.id]
            seen = None if here is None else self.of(_path(here))
            found.append(seen or replace(_gone(row), models=tuple(models[row.id])))
        return found

    def faults(self, limit: int | None = 20) -> list[tuple[bytes, str, str]]:
        """(path, state, reason) of files that need a person: quarantined, refused, conflicting, uncategorised.

        The newest first; None: without limit.
        """
        # Said so that an index leads to each kind: among a million files, few or none need a person.
        targets = picture.c.target_id.in_(select(target.c.id))
        turned_away = select(picture.c.id).where(
            targets, picture.c.state == word(PictureState.REFUSED), picture.c.retry_at.is_(None)
        )
        contradicted = select(file.c.picture_id).where(file.c.role == word(FileRole.CONFLICT))
        held = select(picture.c.id).where(picture.c.id.in_(contradicted), picture.c.state == PictureState.HELD)
        needy = (
            (file.c.state != word(FileState.SOUND)) & (file.c.state != FileState.WAITING),
            file.c.role == word(FileRole.CONFLICT),
            (file.c.role == FileRole.OWNER) & file.c.picture_id.in_(turned_away),
            (file.c.role == FileRole.OWNER) & file.c.picture_id.in_(held),
        )
        files = _files().add_columns(file.c.seen_at).order_by(file.c.seen_at.desc()).limit(limit)
        with self._context.db.reading() as tx:
            rows = [row for which in needy for row in tx.execute(files.where(which))]
            rows.sort(key=lambda row: -row.seen_at)
            marked: Sequence[Any] = []
            if self._context.annotated:
                ids = select(annotation.c.picture_id).where(annotation.c.refused != literal_column("''"))  # an index
                refused = (file.c.role == FileRole.OWNER) & (annotation.c.refused == annotation.c.wanted)
                refused &= file.c.picture_id.in_(ids)
                of_picture = annotation.c.picture_id == picture.c.id
                marked = tx.execute(
                    files.join(annotation, of_picture).add_columns(annotation.c.reason.label("why")).where(refused)
                ).all()
        found = [
            (_path(row), _state(row, row.picture_state), row.reason or row.refusal or _held_back(row)) for row in rows
        ]
        return [*found, *((_path(row), "annotation refused", row.why) for row in marked)][:limit]

    def in_state(self, state: str) -> list[tuple[bytes, str, str]]:
        """(path, state, reason) of all files in one state, by path; ``sending`` is the picture's state ``claimed``."""
        sound = (file.c.state == FileState.SOUND) & (picture.c.target_id == self._context.target.id)
        if state == CATEGORY_CHANGED:
            owners = _files().join(kept, kept.c.picture_id == picture.c.id).add_columns(kept.c.category)
            owners = owners.where(sound, file.c.role == FileRole.OWNER).order_by(folder.c.path, file.c.name)
            with self._context.db.reading() as tx:
                return [(_path(row), state, f"{row.category!r} at the server") for row in tx.execute(owners)]
        if state in set(FileState):
            which = file.c.state == word(state)
            which = which if state == FileState.SOUND else which & (file.c.state != word(FileState.SOUND))
        elif state in set(FileRole):
            which = sound & (file.c.role == word(state))
            if state == FileRole.CONFLICT:
                which |= sound & (file.c.role == FileRole.OWNER) & (picture.c.state == PictureState.HELD)
        else:
            wanted = PictureState.CLAIMED if state == "sending" else state
            which = sound & (file.c.role == FileRole.OWNER) & (picture.c.state == word(wanted))
        with self._context.db.reading() as tx:
            rows = tx.execute(_files().where(which).order_by(folder.c.path, file.c.name)).all()
        return [(_path(row), state, row.reason or row.refusal or _held_back(row)) for row in rows]


def _pictures() -> Any:
    return (
        select(picture, batch.c.state.label("batch_state"), batch.c.claimed_at, training.c.name.label("run_name"))
        .outerjoin(batch, batch.c.id == picture.c.batch_id)
        .outerjoin(training, training.c.id == picture.c.training_id)
    )


def _files() -> Any:
    return (
        select(folder.c.path, file.c.name, file.c.state, file.c.role, file.c.reason)
        .add_columns(picture.c.state.label("picture_state"), picture.c.reason.label("refusal"))
        .join(folder, folder.c.id == file.c.folder_id)
        .outerjoin(picture, picture.c.id == file.c.picture_id)
    )


def _path(row: Any) -> bytes:
    return bytes(row.path.rstrip(b"/") + b"/" + row.name)


def _annotation(tx: Connection, here: Any) -> dict[str, Any]:
    """What is to be marked in a picture, and whether the platform has it."""
    told = tx.execute(
        select(annotation_text.c.labels).where(annotation_text.c.fingerprint == here.annotation_text)
    ).scalar()
    row = tx.execute(select(annotation).where(annotation.c.picture_id == here.picture_id)).first()
    found: dict[str, Any] = {} if told is None else {"labels": tuple(json.loads(told))}
    if here.state == FileState.WAITING:
        found["reason"] = "waits for its annotation"
    if row is not None and here.role == FileRole.OWNER:
        refused = row.refused == row.wanted
        found["annotated"] = "sent" if row.sent == row.wanted else "refused" if refused else "due"
        if refused:
            found["reason"] = f"its annotation was refused: {row.reason}"
    return found


def _held_back(row: Any) -> str:
    if row.state == FileState.UNCATEGORISED:
        return "it lies directly in a watched folder: move it into a folder that is named after its category"
    return HELD_BACK if row.picture_state == PictureState.HELD and row.role != FileRole.DUPLICATE else ""


def _state(here: Any, picture_state: str | None) -> str:
    if here.state != FileState.SOUND:
        return str(here.state)
    if here.role in {FileRole.DUPLICATE, FileRole.CONFLICT}:
        return str(here.role)
    if picture_state == PictureState.HELD:
        return str(FileRole.CONFLICT)
    return picture_state or str(PictureState.READY)


def _history(path: bytes, here: Any, content: Any | None, owner: Any | None) -> PictureHistory:
    basics = {
        "path": path,
        "state": _state(here, None if content is None else content.state),
        "category": here.category or "",
        "reason": here.reason,
        "size": here.size,
        "sha256": here.sha256,
        "seen_at": here.seen_at,
    }
    if content is None:
        return PictureHistory(**basics)
    held = content.state == PictureState.HELD
    if held and here.role == FileRole.CONFLICT:
        basics["reason"] = HELD_BACK
    if here.role in {FileRole.DUPLICATE, FileRole.CONFLICT}:
        sent_as = b"" if owner is None else owner.path.rstrip(b"/") + b"/" + owner.name
        return PictureHistory(**basics, sent_as=sent_as, sent_category=content.category)
    return PictureHistory(
        **{**basics, "reason": here.reason or content.reason or (HELD_BACK if held else "")},
        **_sent(content),
    )


def _gone(content: Any) -> PictureHistory:
    """A picture whose file was deleted."""
    return PictureHistory(
        path=b"",
        state=str(content.state),
        category=content.category,
        reason=content.reason or "its file was deleted",
        size=content.size,
        sha256=content.sha256,
        seen_at=content.ready_at,
        **_sent(content),
    )


def _sent(content: Any) -> dict[str, Any]:
    return {
        "key": content.key,
        "ready_at": content.ready_at,
        "batch": content.batch_id,
        "batch_state": content.batch_state or "",
        "claimed_at": content.claimed_at,
        "attempts": content.attempts,
        "confirmed_at": content.confirmed_at,
        "retry_at": content.retry_at,
        "remote_id": content.remote_id,
        "remote_category": content.sent_category if content.confirmed_at else "",
        "training": content.run_name or "",
    }


def close_membership(tx: Connection, picture_id: int) -> None:
    """A picture is about to be removed or given another category: later trainings do not contain it as it is."""
    row = tx.execute(select(picture).where(picture.c.id == picture_id)).first()
    if row is None or row.training_id is None:
        return
    last = tx.execute(
        select(func.max(training.c.id)).where(training.c.target_id == row.target_id, training.c.state.in_(_IN))
    ).scalar()
    same = (membership.c.target_id == row.target_id) & (membership.c.sha256 == row.sha256)
    ended = tx.execute(select(func.max(membership.c.last_training)).where(same)).scalar()
    first = row.training_id if ended is None else max(row.training_id, ended + 1)
    if last is not None and first <= last:
        values = {"sha256": row.sha256, "category": row.sent_category, "first_training": first, "last_training": last}
        tx.execute(insert(membership).values(target_id=row.target_id, **values))


def _memberships(tx: Connection, target_id: int, sha256: str) -> list[Membership]:
    """The trainings that contain this content, newest first; those that failed or were not started left out."""
    same = (picture.c.target_id == target_id) & (half_digest == sha256[:16]) & (picture.c.sha256 == sha256)
    there = select(picture.c.training_id, picture.c.sent_category.label("category")).where(
        same, picture.c.state == PictureState.CONFIRMED, picture.c.training_id.is_not(None)
    )
    open_ = tx.execute(there.order_by(picture.c.training_id, picture.c.id)).first()
    closed = tx.execute(
        select(membership)
        .where(membership.c.target_id == target_id, membership.c.sha256 == sha256)
        .order_by(membership.c.id)
    ).all()
    if open_ is None and not closed:
        return []
    wanted = [str(TrainingState.RUNNING), str(TrainingState.TRAINED)]
    known = (training.c.target_id == target_id) & training.c.state.in_(wanted)
    found = []
    for row in tx.execute(select(training).where(known).order_by(training.c.id.desc())):
        category = _category(row.id, open_, closed)
        if category is not None and _contains(tx, row.id, category):
            state, fate = TrainingState(row.state), ModelOutcome(row.fate)
            found.append(Membership(row.name, category, state, row.accuracy, fate, row.pictures))
    return found


def _contains(tx: Connection, training_id: int, category: str) -> bool:
    """Whether the training contains the category; the oldest ones, of which nothing was noted, contain all."""
    noted = set(
        tx.execute(select(training_content.c.category).where(training_content.c.training_id == training_id)).scalars()
    )
    return not noted or category in noted


def _category(training_id: int, open_: Any | None, closed: Any) -> str | None:
    """Under which category a training contains the picture; None when it does not."""
    for one in closed:
        if one.first_training <= training_id <= one.last_training:
            return str(one.category)
    return str(open_.category) if open_ is not None and training_id >= open_.training_id else None
