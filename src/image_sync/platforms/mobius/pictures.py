"""Pictures at a Mobius SDK: added under the id of their content, and noted for the tag of their category."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from image_sync.domain import Annotation, Batch, DatasetRef, Picture, RemotePicture
from image_sync.errors import NotFound, Refused, Transient, Unsupported
from image_sync.log import get_logger
from image_sync.platforms.base import Outcome, Reader
from image_sync.platforms.http import picture_parts, sanitize
from image_sync.platforms.mobius.api import BAD_PICTURE, Api
from image_sync.platforms.mobius.records import Records, image_id
from image_sync.platforms.mobius.tags import Naming, role_of, tag_of

_log = get_logger(__name__)

_REMEMBERED = 64
"""Batches of which it is known in this process how far they got."""


class Pictures:
    """The picture part of the platform.

    Args:
        stop: set when the program is to end: no further picture of a batch is begun then.
    """

    def __init__(self, api: Api, records: Records, naming: Naming, stop: threading.Event) -> None:
        self._api = api
        self._records = records
        self._naming = naming
        self._stop = stop
        self._lock = threading.Lock()
        self._done: OrderedDict[str, dict[str, Outcome]] = OrderedDict()
        self._in_flight: set[str] = set()

    @property
    def in_flight(self) -> set[str]:
        """Names of the notes of what is being added at this moment."""
        with self._lock:
            return set(self._in_flight)

    def find_dataset(self, name: str) -> DatasetRef | None:
        """The dataset, if it was asked for before: the server knows none."""
        return self._records.dataset(name)

    def ensure_dataset(self, name: str) -> DatasetRef:
        """The dataset; a name of ours only."""
        return self._records.make_dataset(name)

    def upload(self, batch: Batch, read: Reader) -> list[Outcome]:
        """Add each picture. What is done already of this batch is not done again.

        Everything here may be repeated: the id is the content's. So an answer that got lost is reported as Transient,
        and the batch comes again. Pictures are assigned when their tag is trained: a tag that is reset before its
        training would need all of them a second time.
        """
        role = role_of(batch.category)
        try:
            tag = tag_of(batch.dataset, role.owner or batch.category, self._naming)
        except Refused as error:
            return [Outcome(picture.key, refused=str(error), unfit=True) for picture in batch.pictures]
        ids = {picture.key: image_id(picture.sha256) for picture in batch.pictures}
        # Written down first: what a tag has got since its last training is assigned at the next one.
        note = self._records.attempt(tag, batch.id, ids.values()) if role.positive else ""
        with self._lock:
            self._in_flight.add(note)
            done = self._done.setdefault(batch.id, {})
            self._done.move_to_end(batch.id)
            while len(self._done) > _REMEMBERED:
                self._done.popitem(last=False)
        try:
            for picture in batch.pictures:
                if picture.key in done:
                    continue
                if self._stop.is_set():
                    raise Transient("The program ends; the rest of the pictures is sent at the next start")
                done[picture.key] = self._send(picture, ids[picture.key], read)
        finally:
            with self._lock:
                self._in_flight.discard(note)
        stored = [image for key, image in ids.items() if not done[key].refused]
        if role.positive and len(stored) < len(ids):  # the others are not there
            self._records.attempt(tag, batch.id, stored)
        with self._lock:
            self._done.pop(batch.id, None)
        return [done[picture.key] for picture in batch.pictures]

    def relabel(self, dataset: DatasetRef, remote_id: str, category: str) -> None:
        """Note it for the other tag. The one it had is reset at its next training: nothing takes it out."""
        if not (remote_id.isascii() and remote_id.isalnum()):
            raise NotFound(f"{sanitize(remote_id, 60) or 'An empty string'} is not an id of a picture")
        role = role_of(category)
        try:
            tag = tag_of(dataset, role.owner or category, self._naming)
        except Refused as error:  # it has no tag any more
            _log.error("mobius.no_tag", image=remote_id, error=error.what, hint=error.hint)
            return
        if role.positive:
            self._records.attempt(tag, remote_id, [remote_id])

    def remove(self, dataset: DatasetRef, remote_id: str) -> None:  # noqa: ARG002 - the protocol
        """Nothing to call: no documented call removes a picture. Its tag is reset at its next training."""
        _log.info("mobius.picture_left", image=remote_id, hint="its tag is assigned anew at its next training")

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:  # noqa: ARG002
        """Not here."""
        raise Unsupported("A Mobius SDK detects no objects", hint="Use one folder per category")

    def find(self, batch: Batch) -> dict[str, str]:  # noqa: ARG002 - the protocol
        """Nothing: the server does not tell what it has. Sending again is harmless."""
        return {}

    def copies(self, batch: Batch) -> dict[str, list[RemotePicture]]:  # noqa: ARG002 - the protocol
        """None: an id is there once."""
        return {}

    def count(self, dataset: DatasetRef) -> int | None:  # noqa: ARG002 - the protocol
        """Unknown."""
        return None

    def listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:  # noqa: ARG002 - the protocol
        """Nothing: the server does not tell what it has."""
        return iter(())

    def _send(self, picture: Picture, image: str, read: Reader) -> Outcome:
        reply = self._api.add(image, *picture_parts("data", [picture], read))
        if reply.failed and reply.message in BAD_PICTURE:
            return Outcome(picture.key, refused=f"the Mobius SDK says {reply.message}", unfit=True)
        named = reply.id_of("image_id", "id")
        if named and named != image:
            raise Refused(
                f"The Mobius SDK gave the picture {picture.key} the id {named} instead of the one that was asked for",
                hint="Only servers that take image_id can be used: SDK 1.4 and later",
            )
        return Outcome(picture.key, image)
