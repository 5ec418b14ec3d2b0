"""Pictures at MVI: sent under their category, found again after doubt, listed, given another category, deleted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from image_sync.domain import Annotation, DatasetRef
from image_sync.errors import Ambiguous, NotFound, PlatformError, Refused, Unfit
from image_sync.platforms.base import Outcome, RemotePicture, Shipment
from image_sync.platforms.http import Part
from image_sync.platforms.mvi import wire
from image_sync.platforms.mvi.api import Api
from image_sync.platforms.mvi.outcomes import outcomes, unfit
from image_sync.platforms.mvi.wanted import Wanted

T = TypeVar("T")

_PAGE = 1000
_MOST_BACKS = 10
_FEW = 10
"""So many pictures are asked for one by one; for more of them the list is quicker."""
_QUOTABLE = re.compile(r"[A-Za-z0-9_.\- ]+")


class Pictures:
    """The picture part of the platform.

    Args:
        category_of: the id of a dataset's category, made if there is none.
        forget: called with a dataset's id when what is known of its categories may be out of date.
        labels_part: the objects of a single picture in the form in which they travel with it.
    """

    def __init__(
        self,
        api: Api,
        category_of: Callable[[DatasetRef, str], str],
        forget: Callable[[str], None],
        labels_part: Callable[[DatasetRef, Annotation], bytes],
    ) -> None:
        self._api = api
        self._labels_part = labels_part
        self._category_of = category_of
        self._forget = forget

    def upload(self, shipment: Shipment) -> list[Outcome]:
        """One request for all; outcomes from its answer, or from what then lies there."""
        annotation = shipment.items[0].annotation if len(shipment.items) == 1 else None
        labels = None if annotation is None else self._labels_part(shipment.dataset, annotation)
        known = self._in_category(
            shipment.dataset, shipment.category, lambda category_id: self._sent(shipment, category_id, labels)
        )
        if labels is not None:
            # Only an answer about this very request proves that its labels were taken, too.
            known = {key: replace(outcome, annotated=not outcome.refused) for key, outcome in known.items()}
        if len(known) < len(shipment.items):
            known = self._looked_up(shipment) | known
        if len(known) < len(shipment.items):
            missing = len(shipment.items) - len(known)
            raise Ambiguous(
                f"The server took {_counted(shipment)}, but neither names nor lists {missing} of them",
                hint="They may appear a little later; the platform will be asked again",
            )
        return [known[item.key] for item in shipment.items]

    def _sent(self, shipment: Shipment, category_id: str, labels: bytes | None) -> dict[str, Outcome]:
        """What the answer tells of the pictures. Raises Refused when none was taken, Unfit when one was alone in it."""
        try:
            uploaded = self._api.upload_files(
                shipment.dataset.id,
                [Part.of_picture("files", item) for item in shipment.items],
                category_id=category_id,
                category_name=shipment.category,
                metadata={"batch": shipment.batch_id, "source": "image-sync"},
                labels=labels,
            )
        except Refused as error:
            if len(shipment.items) == 1 and unfit(error.words):
                raise Unfit(error.what, hint=error.hint) from None
            raise
        known = outcomes(shipment.items, uploaded) if uploaded else {}
        if len(known) == len(shipment.items) and all(one.refused and not one.unfit for one in known.values()):
            raise Refused(f"Uploading {_counted(shipment)}: {next(iter(known.values())).refused}")
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

    def find(self, shipment: Shipment) -> dict[str, str]:
        """Key -> id of what lies there, asked three ways: by batch, by name, and by reading the category's list.

        The first two are shortcuts that old releases ignore or refuse. Only the list can prove that a picture is
        not there, so it is read whenever one is missing. Without a category it is that of the whole dataset.
        """
        wanted = Wanted(shipment)
        dataset = shipment.dataset.id
        if shipment.batch_id:
            wanted.take(self._query(dataset, f'user_metadata.batch == "{shipment.batch_id}"', len(shipment.items)))
        if 0 < len(wanted.missing) <= _FEW:
            for key in sorted(wanted.missing):
                if _QUOTABLE.fullmatch(key):
                    wanted.take(self._query(dataset, f'original_file_name == "{key}"', _FEW))
        if wanted.missing:
            category = shipment.category
            only = {"category_id": self._category_of(shipment.dataset, category)} if category else {}
            for file in self._files(dataset, **only):
                wanted.take([file])
                if not wanted.missing:
                    break
        return wanted.found

    def copies(self, shipment: Shipment) -> dict[str, list[RemotePicture]]:
        """Key -> all that lies there under it, in any category and of any batch, oldest first.

        A few are asked for one by one; many, or those of a server that does not answer such questions, are picked
        out of the list of the whole dataset. The list of one category would not do: people sort pictures anew.
        """
        wanted = Wanted(shipment)
        dataset = shipment.dataset
        files = self._named(dataset, [item.key for item in shipment.items])
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
        return self._category_of(dataset, category) if category else ""

    def _looked_up(self, shipment: Shipment) -> dict[str, Outcome]:
        try:
            found = self.find(shipment)
        except PlatformError as error:
            raise Ambiguous(
                f"The server took {_counted(shipment)}, but cannot be asked which: {error.what}",
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


def _counted(shipment: Shipment) -> str:
    return f"{len(shipment.items)} pictures{f' of {shipment.category}' if shipment.category else ''}"
