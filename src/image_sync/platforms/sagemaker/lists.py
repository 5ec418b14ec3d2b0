"""What a training is started with: chosen from what lies in the bucket, numbered, and frozen beside it."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from image_sync.domain import Annotation
from image_sync.errors import Refused
from image_sync.log import get_logger
from image_sync.platforms.base import RemotePicture, TrainingPlan
from image_sync.platforms.sagemaker import markings
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.datasets import Place
from image_sync.platforms.sagemaker.documents import encoded
from image_sync.platforms.sagemaker.keys import SIDES, id_of, parts_of
from image_sync.platforms.sagemaker.outcomes import Taken
from image_sync.platforms.sagemaker.pictures import Pictures
from image_sync.platforms.sagemaker.snapshot import FILE, Snapshot
from image_sync.platforms.sagemaker.spoilers import Spoilers

T = TypeVar("T")

_log = get_logger(__name__)

Row = tuple[RemotePicture, T]
"""A picture, and what is learnt from it: its class number, or what is marked in it."""

MIN_CATEGORIES = 2
_FINGERPRINT = 12
_SHOWN = 5
_TOLERANCE = 0.25
"""So far from the configured share a stratum may be split by the pictures' hashes alone."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A snapshot, and the files that belong to it: name below its folder, content."""

    snapshot: Snapshot
    files: tuple[tuple[str, bytes], ...]

    @property
    def fingerprint(self) -> str:
        """Hex digits that stand for all of it: another content is another folder, so nothing is ever overwritten."""
        digest = hashlib.sha256(json.dumps(self.snapshot.encoded(), sort_keys=True).encode())
        for name, content in self.files:
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:_FINGERPRINT]


class Lists:
    """Chooses and freezes.

    Args:
        pinned: the pictures' folders say who validates: each is used on the side that it lies on.
    """

    def __init__(self, api: Api, pictures: Pictures, spoilers: Spoilers, *, pinned: bool = False) -> None:
        self._api = api
        self._pictures = pictures
        self._spoilers = spoilers
        self._pinned = pinned

    def choose(self, place: Place, plan: TrainingPlan, blank: Snapshot) -> Chosen:
        """The pictures of the plan that lie there, with the classes and figures that follow from them.

        Args:
            blank: everything that does not depend on the pictures.

        Raises:
            Refused: there is too little to train.
        """
        spoilt = self._spoilers.known(place)
        there = [picture for picture in self._pictures.listing(place.ref) if picture.remote_id not in spoilt]
        chosen = _planned(list(plan.contents()), there)
        if blank.detection:
            return self._detection(place, blank, chosen, there)
        return self._classification(place, blank, chosen)

    def freeze(self, place: Place, root: str, chosen: Chosen) -> str:
        """Store them; the snapshot comes last. Returns the folder's key, ending in a slash."""
        folder = f"{place.layout.jobs}{root}/{chosen.fingerprint}/"
        self._pictures.at_once(lambda file: self._put(f"{folder}{file[0]}", file[1]), chosen.files)
        self._put(f"{folder}{FILE}", encoded(chosen.snapshot.encoded()))
        return folder

    def _put(self, key: str, content: bytes) -> None:
        try:
            self._api.put(key, content, unless_there=True)
        except Taken:
            return  # the folder is called after its content

    def _classification(self, place: Place, blank: Snapshot, chosen: Sequence[RemotePicture]) -> Chosen:
        known = place.classes.ensure({picture.category for picture in chosen if picture.category})
        used = {picture.category: id_of(picture.category) for picture in chosen if picture.category}
        classes, numbers = _numbered(known, used)
        if len(classes) < MIN_CATEGORIES:
            raise Refused(
                f"The dataset {place.ref.name} has pictures of {len(classes)} categories, but a classifier needs "
                f"{MIN_CATEGORIES}"
            )
        entries = [(picture, numbers[picture.category]) for picture in chosen if picture.category]
        sides = self._split(place, entries, [str(number) for _, number in entries])
        _enough(place, classes, {number for _, number in sides["train"]}, len(sides["validation"]), "picture")
        picked = [side for side in SIDES if any(_stored(picture) != side for picture, _ in sides[side])]
        files = [(f"{side}_lst/{side}.lst", listed(rows, whole=side in picked)) for side, rows in sides.items()]
        snapshot = replace(
            blank,
            classes=tuple(classes),
            samples=len(sides["train"]),
            validating=len(sides["validation"]),
            manifests=tuple(picked),
        )
        return Chosen(snapshot, (*files, *self._manifests(place, sides, picked)))

    def _detection(
        self, place: Place, blank: Snapshot, chosen: Sequence[RemotePicture], there: Sequence[RemotePicture]
    ) -> Chosen:
        marked = _once((picture, one) for picture, one in self._annotated(place, chosen) if markings.usable(one))
        used = {label: id_of(label) for label in {box.label for _, one in marked for box in markings.usable(one)}}
        classes, numbers = _numbered(place.labels.ensure(used), used)
        if not classes:
            raise Refused(
                f"No picture of the dataset {place.ref.name} has anything marked in it",
                hint="Object detection learns from annotations: put them beside the pictures",
            )
        labels = [{numbers[box.label] for box in markings.usable(one)} for _, one in marked]
        among = Counter(number for held in labels for number in held)
        rarest = [str(min(held, key=lambda number: (among[number], number))) for held in labels]
        sides = self._split(place, marked, rarest)
        if not self._pinned:
            _cover(sides, labels_of=lambda one: {numbers[box.label] for box in markings.usable(one)})
        trained = {numbers[box.label] for _, one in sides["train"] for box in markings.usable(one)}
        _enough(place, classes, trained, len(sides["validation"]), "annotated picture")
        lies = Counter(_stored(picture) for picture in there)
        picked = [
            side
            for side, rows in sides.items()
            if lies[side] > len(rows) or any(_stored(picture) != side for picture, _ in rows)
        ]
        files = [*_marked(sides, numbers, picked), *self._manifests(place, sides, picked)]
        jpeg = all(picture.remote_id.endswith(".jpg") for picture, _ in marked)
        snapshot = replace(
            blank,
            classes=tuple(classes),
            samples=len(sides["train"]),
            validating=len(sides["validation"]),
            objects=max(len(markings.usable(one)) for _, one in marked),
            manifests=tuple(picked),
            content_type="image/jpeg" if jpeg else "application/x-image",
        )
        return Chosen(snapshot, tuple(files))

    def _split(self, place: Place, rows: Sequence[Row[T]], strata: Sequence[str]) -> dict[str, list[Row[T]]]:
        """The rows of each side, in the order of hashes: a network that meets class after class learns the last one.

        Every picture lies on the side that its content's hash chose. Where that leaves a stratum far from the
        configured share, as it does with few pictures, those whose names hash lowest change over.

        Args:
            strata: for each row what it stands for, that every side should have its share of.
        """
        stored: dict[str, dict[str, list[Row[T]]]] = {}
        for row, stratum in sorted(zip(rows, strata, strict=True), key=lambda pair: _order(pair[0][0])):
            stored.setdefault(stratum, {side: [] for side in SIDES})[_stored(row[0])].append(row)
        sides: dict[str, list[Row[T]]] = {side: [] for side in SIDES}
        for halves in stored.values():
            train, validation = halves["train"], halves["validation"]
            have = len(validation)
            want = have if self._pinned else wanted(len(train) + have, have, place.split)
            taken, given = max(0, want - have), max(0, have - want)
            sides["train"] += [*train[taken:], *validation[:given]]
            sides["validation"] += [*validation[given:], *train[:taken]]
        return {side: sorted(rows_, key=lambda row: _order(row[0])) for side, rows_ in sides.items()}

    def _manifests(
        self, place: Place, sides: Mapping[str, Sequence[Row[T]]], picked: Sequence[str]
    ) -> Iterator[tuple[str, bytes]]:
        """A side whose folder holds others, or lacks some, is named picture by picture."""
        for side in picked:
            paths = [picture.remote_id for picture, _ in sides[side]]
            content = [{"prefix": f"s3://{self._api.bucket}/{place.layout.root}/"}, *paths]
            yield f"{side}.manifest", json.dumps(content).encode()

    def _annotated(self, place: Place, chosen: Sequence[RemotePicture]) -> Iterator[tuple[RemotePicture, Annotation]]:
        """What the plan says is marked; else what lies beside the picture."""

        def marked(picture: RemotePicture) -> Annotation | None:
            return picture.annotation or self._pictures.annotation(place, picture.remote_id)

        for picture, one in zip(chosen, self._pictures.at_once(marked, chosen), strict=True):
            if one is not None:
                yield picture, one


def _planned(wanted: Sequence[RemotePicture], there: Sequence[RemotePicture]) -> list[RemotePicture]:
    """What the ledger wants and the bucket has; everything in the bucket when the plan names nothing."""
    if not wanted:
        return list(there)
    present = {picture.remote_id for picture in there}
    found = [picture for picture in wanted if picture.remote_id in present]
    if len(found) < len(wanted):
        missing = [picture.key for picture in wanted if picture.remote_id not in present][:_SHOWN]
        _log.warning("training.missing", pictures=len(wanted) - len(found), such_as=missing)
    return found


def _numbered(known: Mapping[str, str], used: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """The classes in their order, and the number of each spelling of them, without gaps.

    Args:
        known: id -> name of every class that there ever was, in order.
        used: spelling -> id of those that are trained.
    """
    ids = [class_id for class_id in known if class_id in set(used.values())]
    return [known[class_id] for class_id in ids], {spelling: ids.index(class_id) for spelling, class_id in used.items()}


def _once(marked: Iterable[tuple[RemotePicture, Annotation]]) -> list[tuple[RemotePicture, Annotation]]:
    """Those whose names differ, whatever folder they lie in: the annotations of all lie in one."""
    return list({parts_of(picture.remote_id)[2]: (picture, one) for picture, one in marked}.values())


def _enough(place: Place, classes: Sequence[str], trained: Iterable[int], validating: int, noun: str) -> None:
    there = set(trained)
    lacking = [name for number, name in enumerate(classes) if number not in there]
    hint = f"Add pictures; {place.split:g} of them are trained on, and the others validate"
    if lacking:
        raise Refused(f"No {noun} of {', '.join(lacking[:_SHOWN])} falls to the training side", hint=hint)
    if not validating:
        raise Refused(f"No {noun} of the dataset {place.ref.name} falls to the validation side", hint=hint)


def wanted(pictures: int, by_hash: int, split: float) -> int:
    """How many of a stratum's pictures validate.

    A large stratum stays as the hashes split it, so that no picture changes sides when others come; a small one is
    brought to its share, and has one on either side if it has two.

    >>> [wanted(10, by_hash, 0.8) for by_hash in (0, 2, 5)], wanted(1, 1, 0.8), wanted(1000, 190, 0.8)
    ([2, 2, 2], 0, 190)

    Args:
        by_hash: so many lie on the validation side.
        split: share that is trained on.
    """
    share = round(pictures * (1 - split), 6)
    least, most = math.ceil((1 - _TOLERANCE) * share), math.floor((1 + _TOLERANCE) * share)
    if least > most:
        least = most = round(share)
    return min(max(by_hash, least, 1), max(most, 1), pictures - 1)


def listed(rows: Iterable[Row[int]], *, whole: bool = False) -> bytes:
    r"""The ``.lst`` file that image classification reads: number, class, path below the channel, parted by tabs.

    >>> listed([(RemotePicture("train/good-2b/b.jpg", "b.jpg", "good"), 3)])
    b'0\t3\tgood-2b/b.jpg\n'

    Args:
        whole: the channel begins above both sides.
    """
    lines = (
        f"{number}\t{class_number}\t{_path(picture, whole=whole)}\n"
        for number, (picture, class_number) in enumerate(rows)
    )
    return "".join(lines).encode()


def _cover(sides: Mapping[str, list[Row[T]]], *, labels_of: Callable[[T], set[int]]) -> None:
    """What would only be seen in validation changes over: a picture has many labels, but one stratum."""
    trained = {number for _, one in sides["train"] for number in labels_of(one)}
    for row in tuple(sides["validation"]):
        if not labels_of(row[1]) <= trained:
            sides["validation"].remove(row)
            sides["train"].append(row)
            trained |= labels_of(row[1])


def _order(picture: RemotePicture) -> str:
    return hashlib.sha256(picture.remote_id.partition("/")[2].encode()).hexdigest()


def _stored(picture: RemotePicture) -> str:
    return parts_of(picture.remote_id)[0]


def _path(picture: RemotePicture, *, whole: bool) -> str:
    return picture.remote_id if whole else picture.remote_id.partition("/")[2]


def _marked(
    sides: Mapping[str, Sequence[Row[Annotation]]], numbers: dict[str, int], picked: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    for side, rows in sides.items():
        for picture, annotation in rows:
            stem = parts_of(picture.remote_id)[2].rpartition(".")[0]
            path = _path(picture, whole=side in picked)
            yield f"{side}_annotation/{stem}.json", markings.encoded(path, annotation, numbers)
