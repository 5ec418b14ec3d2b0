"""Pictures at MVI: sent under their category, found again after doubt, listed, given another category, deleted.

With them what is marked in them: tags are made as needed, labels are in MVI's own form.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

from image_sync.domain import Annotation, Batch, Box, DatasetRef, Picture, RemotePicture
from image_sync.errors import Ambiguous, NotFound, PlatformError, Refused, Unfit
from image_sync.platforms.base import Outcome, Reader
from image_sync.platforms.http import picture_parts
from image_sync.platforms.mvi import upload_results, wire
from image_sync.platforms.mvi.api import Api

T = TypeVar("T")

_PAGE = 1000
_MOST_BACKS = 10
_FEW = 10
"""So many pictures are asked for one by one; for more of them the list is quicker."""
_QUOTABLE = re.compile(r"[A-Za-z0-9_.\- ]+")
_SKEW = 86_400.0
"""Seconds by which the server's clock may be behind ours."""


class Pictures:
    """The datasets at MVI, their categories and pictures."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._categories = _Names(
            api,
            lambda dataset: ((category.name, category.id) for category in api.categories(dataset)),
            lambda dataset, name: api.create_category(dataset, name).category_id,
            wire.normal,
        )
        self._tags = _Names(
            api, lambda dataset: ((tag.name, tag.name) for tag in api.tags(dataset)), api.create_tag, _tag_name
        )

    def find_dataset(self, name: str) -> DatasetRef | None:
        """The newest of this name: MVI does not keep names unique."""
        same = [dataset for dataset in self._api.datasets() if wire.normal(dataset.name) == wire.normal(name)]
        newest = max(same, key=lambda dataset: dataset.created_at or 0.0, default=None)
        return None if newest is None else DatasetRef(newest.id, newest.name)

    def ensure_dataset(self, name: str) -> DatasetRef:
        """The dataset of this name, made if there is none."""
        with self._lock:
            return self.find_dataset(name) or self._api.create_once(
                lambda: DatasetRef(self._api.create_dataset(name).dataset_id, name), lambda: self.find_dataset(name)
            )

    def ensure_category(self, dataset: DatasetRef, name: str) -> str:
        """The category's id, which is made if there is none, and remembered."""
        return self._categories.ensure(dataset.id, name)

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:
        """Mark these objects in place of all that is marked there."""
        labels = self._labels(dataset, annotation)
        try:
            self._api.replace_labels(wire.checked(dataset.id, "dataset"), wire.checked(remote_id, "picture"), labels)
        except (NotFound, Refused):
            self._tags.forget(dataset.id)
            raise

    def _labels(self, dataset: DatasetRef, annotation: Annotation) -> list[dict[str, object]]:
        # Tags are ensured first: no document says that a label makes its tag.
        tags = {
            label: self._tags.ensure(dataset.id, label) for label in sorted({box.label for box in annotation.boxes})
        }
        return [_label(box, tags[box.label], annotation) for box in annotation.boxes]

    def upload(self, batch: Batch, read: Reader) -> list[Outcome]:
        """One request for all; outcomes from its answer, or from what then lies there."""
        marked = batch.pictures[0].annotation if len(batch.pictures) == 1 else ""
        labels = self._labels(batch.dataset, Annotation.from_text(marked)) if marked else None
        known = self._in_category(batch.dataset, batch.category, partial(self._sent, batch, read, labels))
        if labels is not None:
            # Only an answer about this very request proves that its labels were taken, too.
            known = {key: outcome._replace(annotated=not outcome.refused) for key, outcome in known.items()}
        if len(known) < len(batch.pictures):
            known = self._looked_up(batch) | known
        if len(known) < len(batch.pictures):
            missing = len(batch.pictures) - len(known)
            raise Ambiguous(
                f"The server took {_counted(batch)}, but neither names nor lists {missing} of them",
                hint="They may appear a little later; the platform will be asked again",
            )
        return [known[picture.key] for picture in batch.pictures]

    def _sent(
        self, batch: Batch, read: Reader, labels: list[dict[str, object]] | None, category_id: str
    ) -> dict[str, Outcome]:
        """What the answer tells of the pictures. Raises Refused when none was taken, Unfit when one was alone in it."""
        what = f"Uploading {_counted(batch)}"
        fields = {}
        if category_id:
            fields = {"category_id": category_id.encode(), "category_name": batch.category.encode()}
        fields["user-metadata"] = json.dumps({"batch": batch.id, "source": "image-sync"}).encode()
        if labels is not None:
            fields["labels"] = json.dumps(labels).encode()
        files = picture_parts("files", batch.pictures, read)
        try:
            body = self._api.upload_files(batch.dataset.id, files, fields, what=what)
        except Refused as error:
            if len(batch.pictures) == 1 and upload_results.unfit(error.words):
                raise Unfit(error.what, hint=error.hint) from None
            raise
        known = {} if body is None else upload_results.outcomes(batch.pictures, body, what=what)
        if len(known) == len(batch.pictures) and all(one.refused and not one.unfit for one in known.values()):
            raise Refused(f"{what}: {next(iter(known.values())).refused}")
        return known

    def _in_category(self, dataset: DatasetRef, category: str, call: Callable[[str], T]) -> T:
        """The call with the category's id. Ids are remembered: one that the server refuses may be out of date.

        Then it is looked up anew and, if it is another one, the call is made again: the first one did nothing.
        """
        category_id = self._category_id(dataset, category)
        try:
            return call(category_id)
        except (NotFound, Refused) as error:
            self._categories.forget(dataset.id)
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
        wanted = PictureMatcher(batch)
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
        wanted = PictureMatcher(batch)
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


class _Names:
    """What is known in each dataset under a name: found, or made once, and remembered.

    Args:
        listed: name and id of all that a dataset has, newest first.
        make: makes one of this name in a dataset, and gives its id.
        normal: the spelling by which names are compared.
    """

    def __init__(
        self,
        api: Api,
        listed: Callable[[str], Iterable[tuple[str, str]]],
        make: Callable[[str, str], str],
        normal: Callable[[str], str],
    ) -> None:
        self._api = api
        self._normal = normal
        self._listed = listed
        self._make = make
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, str]] = {}

    def ensure(self, dataset: str, name: str) -> str:
        """The id of what has this name there."""
        normal = self._normal(name)
        with self._lock:
            known = self._known.get(dataset, {}).get(normal) or self._find(dataset, normal)
            if known is None:
                known = self._api.create_once(lambda: self._make(dataset, name), lambda: self._find(dataset, normal))
                self._known.setdefault(dataset, {})[normal] = known
            return known

    def forget(self, dataset: str) -> None:
        """What is known of this dataset may be out of date."""
        with self._lock:
            self._known.pop(dataset, None)

    def _find(self, dataset: str, normal: str) -> str | None:
        listed = list(self._listed(dataset))
        self._known[dataset] = {self._normal(name): identity for name, identity in reversed(listed) if name}
        return self._known[dataset].get(normal)


class PictureMatcher:
    """The pictures of a batch, and those of them that were found."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._pictures = {wire.normal(picture.key): picture for picture in batch.pictures}
        self._ages: dict[str, float] = {}
        self.found: dict[str, str] = {}
        """Key -> id."""

    @property
    def missing(self) -> set[str]:
        """Keys that were not found yet."""
        return {picture.key for picture in self._pictures.values()} - self.found.keys()

    def take(self, files: Iterable[wire.File]) -> None:
        """Keep those that are wanted: servers answer queries that they do not understand with other files."""
        for file in files:
            key = self.key_of(file)
            if key is None:
                continue
            age = file.uploaded_at or 0.0
            # Of several copies the oldest counts: it is the one that a clean-up of duplicates leaves.
            if key not in self.found or age <= self._ages[key]:
                self.found[key], self._ages[key] = file.id, age

    def key_of(self, file: wire.File) -> str | None:
        """The key of the picture that this file is, or None when it is none of them."""
        picture = self._pictures.get(wire.normal(file.original_file_name))
        return picture.key if picture is not None and self._ours(picture, file) else None

    def _ours(self, picture: Picture, file: wire.File) -> bool:
        if f".{picture.sha256[:16]}" in picture.key:
            return True  # the name holds the content's hash, so the name alone says it
        if file.size is not None and file.size != picture.size:
            return False
        if file.category_name and wire.normal(file.category_name) != wire.normal(self._batch.category):
            return False
        uploaded_at = wire.seconds(file.uploaded_at)
        return uploaded_at is None or uploaded_at >= self._batch.claimed_at - _SKEW


def _label(box: Box, name: str, annotation: Annotation) -> dict[str, object]:
    """One label. MVI counts in whole pixels: the box is rounded outward, as far as the picture goes."""
    entry: dict[str, object] = {
        "name": name,
        "bndbox": {
            "xmin": max(0, math.floor(box.left)),
            "ymin": max(0, math.floor(box.top)),
            "xmax": min(annotation.width, math.ceil(box.right)),
            "ymax": min(annotation.height, math.ceil(box.bottom)),
        },
    }
    if box.polygon:
        corners = [
            [min(max(round(x), 0), annotation.width), min(max(round(y), 0), annotation.height)] for x, y in box.polygon
        ]
        entry["segment_polygons"] = [corners]
    return entry


def _tag_name(label: str) -> str:
    """MVI tells tags apart by their names in small letters."""
    return wire.normal(label).strip().casefold()
