"""Pictures at MVI: sent under their category, found again after doubt, listed, given another category, deleted."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from image_sync.domain import Annotation, Batch, DatasetRef
from image_sync.errors import Ambiguous, NotFound, PlatformError, Refused, Unfit
from image_sync.platforms.base import Outcome, Reader, RemotePicture
from image_sync.platforms.http import Part
from image_sync.platforms.mvi import wire
from image_sync.platforms.mvi.api import Api
from image_sync.platforms.mvi.labels import Labels
from image_sync.platforms.mvi.making import Making
from image_sync.platforms.mvi.outcomes import outcomes, unfit
from image_sync.platforms.mvi.wanted import Wanted

T = TypeVar("T")

_PAGE = 1000
_MOST_BACKS = 10
_FEW = 10
"""So many pictures are asked for one by one; for more of them the list is quicker."""
_QUOTABLE = re.compile(r"[A-Za-z0-9_.\- ]+")


class Pictures:
    """The datasets at MVI, their categories and pictures."""

    def __init__(self, api: Api, making: Making, labels: Labels) -> None:
        self._api = api
        self._making = making
        self._labels = labels
        self._lock = threading.Lock()
        self._categories: dict[str, dict[str, str]] = {}
        """Dataset -> normal name -> id: each upload asks for it."""

    def find_dataset(self, name: str) -> DatasetRef | None:
        """The newest of this name: MVI does not keep names unique."""
        same = [dataset for dataset in self._api.datasets() if wire.normal(dataset.name) == wire.normal(name)]
        newest = max(same, key=lambda dataset: dataset.created_at or 0.0, default=None)
        return None if newest is None else DatasetRef(newest.id, newest.name)

    def ensure_dataset(self, name: str) -> DatasetRef:
        """The dataset of this name, made if there is none."""
        with self._lock:
            return self.find_dataset(name) or self._making.made(
                lambda: DatasetRef(self._api.create_dataset(name).dataset_id, name), lambda: self.find_dataset(name)
            )

    def ensure_category(self, dataset: DatasetRef, name: str) -> str:
        """The category's id, which is made if there is none, and remembered."""
        with self._lock:
            known = self._categories.get(dataset.id, {}).get(wire.normal(name))
            return known or self._find_category(dataset, name) or self._make_category(dataset, name)

    def _find_category(self, dataset: DatasetRef, name: str) -> str | None:
        categories = list(self._api.categories(dataset.id))
        found = {wire.normal(category.name): category.id for category in reversed(categories)}
        self._categories[dataset.id] = found
        return found.get(wire.normal(name))

    def _make_category(self, dataset: DatasetRef, name: str) -> str:
        identity = self._making.made(
            lambda: self._api.create_category(dataset.id, name).category_id, lambda: self._find_category(dataset, name)
        )
        self._categories.setdefault(dataset.id, {})[wire.normal(name)] = identity
        return identity

    def _forget(self, dataset_id: str) -> None:
        with self._lock:
            self._categories.pop(dataset_id, None)

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:
        """Other objects for a stored picture."""
        self._labels.annotate(dataset, remote_id, annotation)

    def upload(self, batch: Batch, read: Reader) -> list[Outcome]:
        """One request for all; outcomes from its answer, or from what then lies there."""
        marked = batch.pictures[0].annotation if len(batch.pictures) == 1 else ""
        labels = self._labels.part(batch.dataset, Annotation.from_text(marked)) if marked else None
        known = self._in_category(
            batch.dataset, batch.category, lambda category_id: self._sent(batch, read, category_id, labels)
        )
        if labels is not None:
            # Only an answer about this very request proves that its labels were taken, too.
            known = {key: replace(outcome, annotated=not outcome.refused) for key, outcome in known.items()}
        if len(known) < len(batch.pictures):
            known = self._looked_up(batch) | known
        if len(known) < len(batch.pictures):
            missing = len(batch.pictures) - len(known)
            raise Ambiguous(
                f"The server took {_counted(batch)}, but neither names nor lists {missing} of them",
                hint="They may appear a little later; the platform will be asked again",
            )
        return [known[picture.key] for picture in batch.pictures]

    def _sent(self, batch: Batch, read: Reader, category_id: str, labels: bytes | None) -> dict[str, Outcome]:
        """What the answer tells of the pictures. Raises Refused when none was taken, Unfit when one was alone in it."""
        try:
            uploaded = self._api.upload_files(
                batch.dataset.id,
                [Part.of_picture("files", picture, read) for picture in batch.pictures],
                category_id=category_id,
                category_name=batch.category,
                metadata={"batch": batch.id, "source": "image-sync"},
                labels=labels,
            )
        except Refused as error:
            if len(batch.pictures) == 1 and unfit(error.words):
                raise Unfit(error.what, hint=error.hint) from None
            raise
        known = outcomes(batch.pictures, uploaded) if uploaded else {}
        if len(known) == len(batch.pictures) and all(one.refused and not one.unfit for one in known.values()):
            raise Refused(f"Uploading {_counted(batch)}: {next(iter(known.values())).refused}")
        return known

    def _in_category(self, dataset: DatasetRef, category: str, call: Callable[[str], T]) -> T:
        """The call with the category's id. Ids are remembered: one that the server refuses may be out of date.

        Then it is looked up anew and, if it is another one, the call is made again: the first one did nothing.
        """
        category_id = self._category_id(dataset, category)
        try:
            return call(category_id)
        except (NotFound, Refused) as error:
            self._forget(dataset.id)
            if isinstance(error, Unfit):
                raise
            try:
                newer = self._category_id(dataset, category)
            except PlatformError:
                raise error from None
            if newer == category_id:
                raise
        return call(newer)

    def find(self, batch: Batch) -> dict[str, str]:
        """Key -> id of what lies there, asked three ways: by batch, by name, and by reading the category's list.

        The first two are shortcuts that old releases ignore or refuse. Only the list can prove that a picture is
        not there, so it is read whenever one is missing. Without a category it is that of the whole dataset.
        """
        wanted = Wanted(batch)
        dataset = batch.dataset.id
        if batch.id:
            wanted.take(self._query(dataset, f'user_metadata.batch == "{batch.id}"', len(batch.pictures)))
        if 0 < len(wanted.missing) <= _FEW:
            for key in sorted(wanted.missing):
                if _QUOTABLE.fullmatch(key):
                    wanted.take(self._query(dataset, f'original_file_name == "{key}"', _FEW))
        if wanted.missing:
            category = batch.category
            only = {"category_id": self.ensure_category(batch.dataset, category)} if category else {}
            for file in self._files(dataset, **only):
                wanted.take([file])
                if not wanted.missing:
                    break
        return wanted.found

    def copies(self, batch: Batch) -> dict[str, list[RemotePicture]]:
        """Key -> all that lies there under it, in any category and of any batch, oldest first.

        A few are asked for one by one; many, or those of a server that does not answer such questions, are picked
        out of the list of the whole dataset. The list of one category would not do: people sort pictures anew.
        """
        wanted = Wanted(batch)
        dataset = batch.dataset
        files = self._named(dataset, [picture.key for picture in batch.pictures])
        if files is None:
            files = list(self._files(dataset.id))
        found: dict[str, list[RemotePicture]] = {}
        # Lists come newest first; where times are equal or missing, that order is all there is.
        ours = [(key, file) for file in reversed(files) if (key := wanted.key_of(file)) is not None]
        for (key, _), picture in zip(ours, self._remote(dataset, [file for _, file in ours]), strict=True):
            found.setdefault(key, []).append(picture)
        for pictures in found.values():
            pictures.sort(key=lambda picture: picture.uploaded_at or 0.0)
        return found

    def count(self, dataset: DatasetRef) -> int | None:
        """How many it holds; None when this release does not tell. Some tell it only in the list of datasets."""
        told = self._api.dataset(wire.checked(dataset.id, "dataset")).total_file_count
        if told is not None:
            return told
        return next((one.total_file_count for one in self._api.datasets() if one.id == dataset.id), None)

    def listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:
        """Every picture, newest first."""
        return self._remote(dataset, self._files(dataset.id))

    def _remote(self, dataset: DatasetRef, files: Iterable[wire.File]) -> Iterator[RemotePicture]:
        names: dict[str, str] = {}
        for file in files:
            if file.category_id and not file.category_name and file.category_id not in names:
                names = {category.id: category.name for category in self._api.categories(dataset.id)}
                names.setdefault(file.category_id, "")
            batch = file.user_metadata.get("batch", "")
            yield RemotePicture(
                remote_id=file.id,
                key=file.original_file_name,
                category=file.category_name or names.get(file.category_id, ""),
                size=file.size,
                batch_id=batch if isinstance(batch, str) else "",
                uploaded_at=wire.seconds(file.uploaded_at),
            )

    def _named(self, dataset: DatasetRef, keys: list[str]) -> list[wire.File] | None:
        """All files of these names, newest first, asked for one by one.

        None when that is no use: a name cannot be asked for, reading the list takes fewer requests, or nothing proves
        that this server understands the question. Proof is an answer of the right files and no others; nothing but
        empty answers prove nothing.
        """
        if not all(_QUOTABLE.fullmatch(key) for key in keys):
            return None
        if len(keys) > _FEW and len(keys) > (self.count(dataset) or 0) / _PAGE:
            return None
        found: dict[str, wire.File] = {}
        for key in keys:
            answer = self._query(dataset.id, f'original_file_name == "{key}"', _PAGE)
            if len(answer) >= _PAGE or any(file.original_file_name != key for file in answer):
                return None
            found.update((file.id, file) for file in answer)
        return list(found.values()) or None

    def relabel(self, dataset: DatasetRef, remote_id: str, category: str) -> None:
        """Another category for one picture, or none."""
        picture = wire.checked(remote_id, "picture")
        self._in_category(dataset, category, lambda new: self._api.change_category(dataset.id, picture, new))

    def remove(self, dataset: DatasetRef, remote_id: str) -> None:
        """Delete one picture, if it is there."""
        try:
            self._api.delete_file(dataset.id, wire.checked(remote_id, "picture"))
        except NotFound:
            return

    def _category_id(self, dataset: DatasetRef, category: str) -> str:
        return self.ensure_category(dataset, category) if category else ""

    def _looked_up(self, batch: Batch) -> dict[str, Outcome]:
        try:
            found = self.find(batch)
        except PlatformError as error:
            raise Ambiguous(
                f"The server took {_counted(batch)}, but cannot be asked which: {error.what}",
                hint="The platform will be asked again later",
            ) from error
        return {key: Outcome(key, remote_id) for key, remote_id in found.items()}

    def _query(self, dataset: str, query: str, limit: int) -> list[wire.File]:
        try:
            return list(self._api.files(dataset, query=query, limit=str(limit)))
        except Refused:
            return []  # this release knows no such query

    def _files(self, dataset: str, **query: str) -> Iterator[wire.File]:
        """All files, page by page, whether or not the server knows ``limit`` and ``skip``.

        Each page begins with the last file of the one before. If it does not, files were deleted meanwhile and the
        rest has moved up: the listing steps back, because a file that is overlooked would be sent a second time.
        """
        seen: set[str] = set()
        before: list[str] = []
        skip = backs = 0
        while backs <= _MOST_BACKS:
            rest = self._api.files(dataset, limit=str(_PAGE), skip=str(skip), **query)
            page = list(islice(rest, _PAGE + 1))
            ids = [file.id for file in page]
            if skip and ids == before:
                break  # the same page again: this server cannot skip
            moved = skip > 0 and (not ids or ids[0] not in seen)
            fresh = [file for file in page if file.id not in seen]
            seen.update(ids)
            yield from fresh
            yield from rest if skip == 0 else (file for file in rest if file.id not in seen)
            if len(ids) > _PAGE or (len(ids) <= 1 and not moved):
                return
            before = ids
            backs += moved
            skip = max(0, skip - _PAGE) if moved else skip + len(ids) - 1
        yield from (file for file in self._api.files(dataset, **query) if file.id not in seen)


def _counted(batch: Batch) -> str:
    return f"{len(batch.pictures)} pictures{f' of {batch.category}' if batch.category else ''}"
