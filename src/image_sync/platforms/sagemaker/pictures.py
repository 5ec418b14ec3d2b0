"""Pictures in the bucket: one object each, never moved, never stored twice."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from tempfile import SpooledTemporaryFile
from typing import IO, Any, TypeVar
from urllib.parse import quote

from image_sync.domain import Annotation, Batch, Box, DatasetRef, Picture, RemotePicture
from image_sync.errors import NotFound, PictureError, Refused
from image_sync.platforms.base import Outcome, Reader
from image_sync.platforms.sagemaker import color
from image_sync.platforms.sagemaker.api import Api, Object
from image_sync.platforms.sagemaker.datasets import Datasets, Place
from image_sync.platforms.sagemaker.keys import (
    SIDES,
    id_of,
    is_converted,
    is_of,
    key_of,
    parts_of,
    side_of,
    stored_name,
)
from image_sync.platforms.sagemaker.outcomes import Taken, sanitize

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 16
_IN_MEMORY = 8 * 2**20
_LARGE = 64 * 2**20
_PIECE = 16 * 2**20
_FEW = 64
"""So many questions for single keys are always quicker than reading the whole listing."""
_PAGE = 1000
"""Objects that one answer of a listing tells."""
_TWINS = 20
_CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png"}


class Pictures:
    """The picture part of the platform.

    Args:
        pinned: a folder ``train`` or ``validation`` above a picture says which side it belongs to.
    """

    def __init__(self, api: Api, datasets: Datasets, *, pinned: bool = False) -> None:
        self._api = api
        self._pinned = pinned
        self._datasets = datasets
        self._counts: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")

    def close(self) -> None:
        """End the threads; what they are sending is finished by them or lost, which does no harm."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def find_dataset(self, name: str) -> DatasetRef | None:
        """The one of this name: names are unique."""
        return self._datasets.find(name)

    def ensure_dataset(self, name: str) -> DatasetRef:
        """A record in the bucket, made if there is none."""
        return self._datasets.ensure(name)

    def upload(self, batch: Batch, read: Reader) -> list[Outcome]:
        """Every picture as an object of its own, several at a time; one that is there already is as good as sent."""
        place = self._datasets.place(batch.dataset)
        place.classes.ensure([batch.category])
        return self.at_once(lambda item: self._store(place, batch, read, item), batch.pictures)

    def find(self, batch: Batch) -> dict[str, str]:
        """Key -> remote id of what lies under the batch's category; without batch and category: under any."""
        place = self._datasets.place(batch.dataset)
        if not batch.id and not batch.category:
            newest_first = sorted(self._everywhere(place, batch.pictures), key=lambda one: -one[1].modified)
            return {key_of(parts_of(remote_id)[2]): remote_id for remote_id, _ in newest_first}
        category = id_of(batch.category)
        found = self.at_once(lambda item: self._stored(place, item, category), batch.pictures)
        return {item.key: objects[0][0] for item, objects in zip(batch.pictures, found, strict=True) if objects}

    def copies(self, batch: Batch) -> dict[str, list[RemotePicture]]:
        """Key -> all that lies there under it, in any category, oldest first."""
        place = self._datasets.place(batch.dataset)
        copies: dict[str, list[RemotePicture]] = {}
        found = self.at_once(lambda one: self._looked_at(place, *one), self._everywhere(place, batch.pictures))
        there = [picture for picture in found if picture is not None]
        for picture in sorted(there, key=lambda picture: picture.uploaded_at or 0.0):
            copies.setdefault(picture.key, []).append(picture)
        return copies

    def count(self, dataset: DatasetRef) -> int:
        """How many there are: a listing tells of 1000 at once."""
        place = self._datasets.place(dataset)
        self._counts[place.ref.id] = found = sum(1 for _ in self._objects(place))
        return found

    def listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:
        """Every picture, in the order of their keys. Batches are not told: that would take a question for each."""
        place = self._datasets.place(dataset)
        moved: dict[str, tuple[float, str]] = {}
        for mark in self._api.objects(place.layout.moves):
            remote_id, _, category = mark.key.removeprefix(place.layout.moves).rpartition("/")
            moved[remote_id] = max(moved.get(remote_id, (0.0, "")), (mark.modified, category))
        for remote_id, stored in self._objects(place):
            yield _picture(place, remote_id, stored, moved.get(remote_id, (0.0, ""))[1])

    def relabel(self, dataset: DatasetRef, remote_id: str, category: str) -> None:
        """A mark beside the picture says its category from now on. The object stays: a job may be reading it."""
        place = self._datasets.place(dataset)
        self._api.head(place.layout.picture(remote_id))
        place.classes.ensure([category])
        mark = f"{place.layout.moved(remote_id)}{id_of(category)}"
        self._api.put(mark, b"")
        self._api.delete(*(older for older in self._marks(place, remote_id) if older != mark))

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:
        """What is marked in a stored picture, in place of what was."""
        place = self._datasets.place(dataset)
        self._api.head(place.layout.picture(remote_id))
        self._put_annotation(place, remote_id, annotation)

    def annotation(self, place: Place, remote_id: str) -> Annotation | None:
        """What is marked in a stored picture, as far as it was ever told."""
        try:
            raw, _ = self._api.get(place.layout.annotation(remote_id))
        except NotFound:
            return None
        content = json.loads(raw)
        boxes = tuple(
            Box(**{**box, "polygon": tuple((x, y) for x, y in box.get("polygon", ()))}) for box in content["boxes"]
        )
        return Annotation(content["width"], content["height"], boxes)

    def remove(self, dataset: DatasetRef, remote_id: str) -> None:
        """The picture first, then what lies beside it: a crash in between leaves nothing that anybody sees."""
        place = self._datasets.place(dataset)
        try:
            self._api.delete(place.layout.picture(remote_id))
        except NotFound:  # no id of ours: there is nothing
            return
        self._api.delete(place.layout.annotation(remote_id), *self._marks(place, remote_id))

    def decoding_error(self, place: Place, remote_id: str) -> str:
        """Why a stored picture cannot be decoded; empty when it can, or has gone meanwhile."""
        try:
            content, _ = self._api.get(place.layout.picture(remote_id))
            color.inspect(io.BytesIO(content))
        except NotFound:
            return ""
        except Refused as error:
            return error.what
        return ""

    def at_once(self, work: Callable[[T], R], things: Iterable[T]) -> list[R]:
        """The results of several calls, made at the same time; the first error is raised when all have ended."""
        futures: list[Future[R]] = [self._pool.submit(work, thing) for thing in things]
        errors = []
        for future in futures:
            error = future.exception()
            self._api.alive()  # the calls are made in threads of their own
            if error is not None:
                errors.append(error)
        # A picture that changed comes through as it is; anything else would hide it until the next attempt.
        for error in sorted(errors, key=lambda error: not isinstance(error, PictureError)):
            raise error
        return [future.result() for future in futures]

    def _store(self, place: Place, batch: Batch, read: Reader, item: Picture) -> Outcome:
        with SpooledTemporaryFile(_IN_MEMORY) as original, SpooledTemporaryFile(_IN_MEMORY) as plain:
            pieces = read(item)
            for piece in (pieces,) if isinstance(pieces, bytes) else pieces:
                original.write(piece)
            original.seek(0)
            try:
                suffix, as_it_is = color.inspect(original)
                if not as_it_is:
                    color.convert(original, plain)
            except Refused as error:
                return Outcome(item.key, refused=error.what, unfit=True)
            name = stored_name(item.key, suffix, item.sha256, converted=not as_it_is)
            remote_id = f"{self._side_of(place, item)}/{id_of(batch.category)}/{name}"
            try:
                self._put(place.layout.picture(remote_id), original if as_it_is else plain, batch.id, item, suffix)
            except Taken:  # an earlier request stored it: the key holds the content's hash
                self._api.delete(*self._marks(place, remote_id))
        if item.annotation:
            self._put_annotation(place, remote_id, Annotation.from_text(item.annotation))
        return Outcome(item.key, remote_id, annotated=item.annotation != "")

    def _put(self, key: str, body: IO[bytes], batch_id: str, item: Picture, suffix: str) -> None:
        more: dict[str, Any] = {
            "ContentType": _CONTENT_TYPES[suffix],
            "Metadata": {
                "sha256": item.sha256,
                "key": quote(item.key, safe=" "),
                "batch": batch_id,
                "source": "image-sync",
            },
        }
        size = body.seek(0, 2)
        body.seek(0)
        if size > _LARGE:
            self._api.put_large(key, body, _PIECE, **more)
        else:
            self._api.put(key, body, unless_there=True, **more)

    def _put_annotation(self, place: Place, remote_id: str, annotation: Annotation) -> None:
        place.labels.ensure(box.label for box in annotation.boxes)
        content = json.dumps(asdict(annotation), ensure_ascii=False).encode()
        self._api.put(place.layout.annotation(remote_id), content, ContentType="application/json")

    def _stored(self, place: Place, item: Picture, category: str) -> list[tuple[str, Object]]:
        """What lies there of it under this category; the folder that chose its side may not be known any more."""
        likely = self._side_of(place, item)
        found: list[tuple[str, Object]] = []
        for side in sorted(SIDES, key=lambda side: side != likely):
            begins = f"{place.layout.side(side)}{category}/{quote(item.key, safe='')}"
            for stored in self._api.some(begins, _TWINS):
                remote_id = place.layout.remote_id(stored.key)
                if remote_id and is_of(parts_of(remote_id)[2], item.key, item.sha256):
                    found.append((remote_id, stored))
            if not self._pinned:
                break
        return found

    def _side_of(self, place: Place, item: Picture) -> str:
        if self._pinned:
            for folder in reversed(os.fsdecode(item.path).split("/")[:-1]):
                if folder.lower() in SIDES:
                    return folder.lower()
        return side_of(item.sha256, place.split)

    def _everywhere(self, place: Place, items: Sequence[Picture]) -> list[tuple[str, Object]]:
        """What lies there of them in any category."""
        categories = place.classes.all()
        wanted = {item.key: item for item in items}
        pages = self._counts.get(place.ref.id, 0) // _PAGE
        if len(wanted) * len(categories) <= max(_FEW, _THREADS * pages):
            pairs = [(item, category) for item in wanted.values() for category in categories]
            return [one for few in self.at_once(lambda pair: self._stored(place, *pair), pairs) for one in few]
        keyed = [(key_of(parts_of(remote_id)[2]), remote_id, stored) for remote_id, stored in self._objects(place)]
        return [
            (remote_id, stored)
            for key, remote_id, stored in keyed
            if key in wanted and is_of(parts_of(remote_id)[2], key, wanted[key].sha256)
        ]

    def _objects(self, place: Place) -> Iterator[tuple[str, Object]]:
        """Remote id and object of every stored picture."""
        for side in SIDES:
            for stored in self._api.objects(place.layout.side(side)):
                if remote_id := place.layout.remote_id(stored.key):
                    yield remote_id, stored

    def _looked_at(self, place: Place, remote_id: str, stored: Object) -> RemotePicture | None:
        """The same with its batch and its present category; None when it has gone meanwhile."""
        try:
            stored = self._api.head(stored.key)
        except NotFound:
            return None
        marks = sorted(self._api.objects(place.layout.moved(remote_id)), key=lambda mark: mark.modified)
        return _picture(place, remote_id, stored, marks[-1].key.rpartition("/")[2] if marks else "")

    def _marks(self, place: Place, remote_id: str) -> list[str]:
        return [mark.key for mark in self._api.objects(place.layout.moved(remote_id))]


def _picture(place: Place, remote_id: str, stored: Object, moved_to: str) -> RemotePicture:
    _, category, name = parts_of(remote_id)
    category = moved_to or category
    return RemotePicture(
        remote_id=remote_id,
        key=key_of(name),
        category=place.classes.names([category]).get(category, ""),
        size=None if is_converted(remote_id) else stored.size,
        batch_id=sanitize(stored.metadata.get("batch", "")),
        uploaded_at=stored.modified,
    )
