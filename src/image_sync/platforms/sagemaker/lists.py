"""What a training is started with: chosen from what lies in the bucket, numbered, and frozen beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from image_sync.domain import Annotation
from image_sync.errors import Refused
from image_sync.logs import get_logger
from image_sync.platforms.base import RemotePicture, TrainingPlan
from image_sync.platforms.sagemaker import listfile, markings
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.datasets import Place
from image_sync.platforms.sagemaker.documents import encoded
from image_sync.platforms.sagemaker.keys import SIDES, id_of, parts_of
from image_sync.platforms.sagemaker.outcomes import Taken
from image_sync.platforms.sagemaker.pictures import Pictures
from image_sync.platforms.sagemaker.snapshot import FILE, Snapshot

_log = get_logger(__name__)

MIN_CATEGORIES = 2
_FINGERPRINT = 12
_SHOWN = 5


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
    """Chooses and freezes."""

    def __init__(self, api: Api, pictures: Pictures) -> None:
        self._api = api
        self._pictures = pictures

    def choose(self, place: Place, plan: TrainingPlan, blank: Snapshot) -> Chosen:
        """The pictures of the plan that lie there, with the classes and figures that follow from them.

        Args:
            blank: everything that does not depend on the pictures.

        Raises:
            Refused: there is too little to train.
        """
        there = list(self._pictures.listing(place.ref))
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
        sides = {side: [one for one in entries if parts_of(one[0].remote_id)[0] == side] for side in SIDES}
        _enough(place, classes, {number for _, number in sides["train"]}, len(sides["validation"]), "picture")
        files = [(f"{side}_lst/{side}.lst", _listed(rows)) for side, rows in sides.items()]
        snapshot = replace(
            blank,
            classes=tuple(classes),
            samples=len(sides["train"]),
            validating=len(sides["validation"]),
        )
        return Chosen(snapshot, tuple(files))

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
        sides = {side: [one for one in marked if parts_of(one[0].remote_id)[0] == side] for side in SIDES}
        trained = {numbers[box.label] for _, one in sides["train"] for box in markings.usable(one)}
        _enough(place, classes, trained, len(sides["validation"]), "annotated picture")
        files = list(_marked(sides, numbers))
        picked = [side for side in SIDES if _count(there, side) > len(sides[side])]
        for side in picked:
            paths = [_path(picture) for picture, _ in sides[side]]
            content = [{"prefix": f"s3://{self._api.bucket}/{place.layout.side(side)}"}, *paths]
            files.append((f"{side}.manifest", json.dumps(content).encode()))
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
    hint = f"Add pictures; {place.split:g} of them are trained on, by their content, and the others validate"
    if lacking:
        raise Refused(f"No {noun} of {', '.join(lacking[:_SHOWN])} falls to the training side", hint=hint)
    if not validating:
        raise Refused(f"No {noun} of the dataset {place.ref.name} falls to the validation side", hint=hint)


def _path(picture: RemotePicture) -> str:
    return picture.remote_id.partition("/")[2]


def _listed(rows: Sequence[tuple[RemotePicture, int]]) -> bytes:
    return listfile.encoded((number, _path(picture)) for picture, number in rows)


def _marked(
    sides: dict[str, list[tuple[RemotePicture, Annotation]]], numbers: dict[str, int]
) -> Iterator[tuple[str, bytes]]:
    for side, rows in sides.items():
        for picture, annotation in rows:
            stem = parts_of(picture.remote_id)[2].rpartition(".")[0]
            yield f"{side}_annotation/{stem}.json", markings.encoded(_path(picture), annotation, numbers)


def _count(there: Sequence[RemotePicture], side: str) -> int:
    return sum(1 for picture in there if picture.remote_id.startswith(f"{side}/"))
