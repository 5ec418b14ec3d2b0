"""What a training is started with: chosen from what lies in the bucket, numbered, and frozen beside it.

AWS does not say what its containers do with a picture that they cannot read. What is learnt from a job that failed is
kept in the bucket, ``left-out.json``, so that every machine leaves the same pictures out; whoever deletes that file
gives them back.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from image_sync.domain import Annotation, Box, RemotePicture
from image_sync.errors import NotFound, PlatformError, Refused
from image_sync.log import get_logger
from image_sync.platforms.base import TrainingPlan
from image_sync.platforms.sagemaker.api import Api, TrainingJob
from image_sync.platforms.sagemaker.datasets import Documents, Place, encoded
from image_sync.platforms.sagemaker.keys import SIDES, id_of, parts_of
from image_sync.platforms.sagemaker.outcomes import Taken, sanitize
from image_sync.platforms.sagemaker.pictures import Pictures
from image_sync.platforms.sagemaker.request import FILE, Snapshot, blank_snapshot

_log = get_logger(__name__)

MIN_CATEGORIES = 2
_FINGERPRINT = 12
_SHOWN = 5
_TOLERANCE = 0.25
"""So far from the configured share a stratum may be split by the pictures' hashes alone."""
_DEPTH = 3
_FILE_NAME = re.compile(r"[^\s/'\"<>|(),;:\[\]]+\.(?:jpg|png)", re.IGNORECASE)
_TROUBLE = re.compile(r"error|cannot|can't|could not|corrupt|fail|invalid|truncat|unable|broken", re.IGNORECASE)
_ABOUT_PICTURES = re.compile(
    r"decod|jpe?g|png|corrupt|truncat|imread|opencv|(?:un|not |cannot |can't )read"
    r"|(?:invalid|bad|broken) (?:image|picture)",
    re.IGNORECASE,
)
_MOST_LINES = 20_000


class Row(NamedTuple):
    """A picture, and what is learnt from it: its class number, or those of what is marked in it."""

    picture: RemotePicture
    numbers: frozenset[int]
    annotation: Annotation | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A snapshot, and the files that belong to it: name below its folder, content."""

    snapshot: Snapshot
    files: tuple[tuple[str, bytes], ...]

    @property
    def fingerprint(self) -> str:
        """Hex digits that stand for all of it: another content is another folder, so nothing is ever overwritten."""
        digest = hashlib.sha256(json.dumps(asdict(self.snapshot), sort_keys=True).encode())
        for name, content in self.files:
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:_FINGERPRINT]


class Lists:
    """Chooses and freezes.

    Args:
        pinned: the pictures' folders say who validates: each is used on the side that it lies on.
    """

    def __init__(self, api: Api, documents: Documents, pictures: Pictures, *, pinned: bool = False) -> None:
        self._api = api
        self._documents = documents
        self._pictures = pictures
        self._pinned = pinned

    def choose(self, place: Place, plan: TrainingPlan) -> Chosen:
        """The pictures of the plan that lie there, with the classes and figures that follow from them.

        Raises:
            Refused: there is too little to train, or a setting is not SageMaker's.
        """
        blank = blank_snapshot(place, plan)
        left_out = self.left_out(place)
        there = [picture for picture in self._pictures.listing(place.ref) if picture.remote_id not in left_out]
        named = self._named(place, _planned(list(plan.contents()), there), detection=blank.detection)

        used = {name: id_of(name) for _, names, _ in named for name in names}
        known = (place.labels if blank.detection else place.classes).ensure(used)
        ids = [class_id for class_id in known if class_id in set(used.values())]
        classes = tuple(known[class_id] for class_id in ids)
        _enough_classes(place, classes, detection=blank.detection)
        numbers = {name: ids.index(class_id) for name, class_id in used.items()}  # several spellings may share one
        rows = [Row(picture, frozenset(numbers[name] for name in names), one) for picture, names, one in named]

        sides = self._split(place, rows)
        if not self._pinned:
            _cover(sides)
        noun = "annotated picture" if blank.detection else "picture"
        _enough_pictures(place, classes, sides, noun)
        lies = Counter(_stored(picture) for picture in there)
        # A channel is read whole: every picture in it needs an annotation, but not a line in a list.
        picked = tuple(
            side
            for side in SIDES
            if any(_stored(row.picture) != side for row in sides[side])
            or (blank.detection and lies[side] > len(sides[side]))
        )
        jpeg = all(row.picture.remote_id.endswith(".jpg") for row in rows)
        snapshot = replace(
            blank,
            classes=classes,
            samples=len(sides["train"]),
            validating=len(sides["validation"]),
            objects=max(len(names) for _, names, _ in named) if blank.detection else 0,
            manifests=picked,
            content_type="image/jpeg" if blank.detection and jpeg else "application/x-image",
        )
        if blank.detection:
            files = list(_annotation_files(sides, numbers, picked))
        else:
            files = [(f"{side}_lst/{side}.lst", listed(sides[side], whole=side in picked)) for side in SIDES]
        for side in picked:  # its folder holds others, or lacks some: it is named picture by picture
            paths = [row.picture.remote_id for row in sides[side]]
            content = [{"prefix": f"s3://{self._api.bucket}/{place.layout.root}/"}, *paths]
            files.append((f"{side}.manifest", json.dumps(content).encode()))
        return Chosen(snapshot, tuple(files))

    def freeze(self, place: Place, root: str, chosen: Chosen) -> str:
        """Store them; the snapshot comes last. Returns the folder's key, ending in a slash."""
        folder = f"{place.layout.jobs}{root}/{chosen.fingerprint}/"

        def put(file: tuple[str, bytes]) -> None:
            try:
                self._api.put(f"{folder}{file[0]}", file[1], unless_there=True)
            except Taken:
                return  # the folder is called after its content

        self._pictures.at_once(put, chosen.files)
        put((FILE, encoded(asdict(chosen.snapshot))))
        return folder

    def left_out(self, place: Place) -> dict[str, str]:
        """Remote id -> why it is left out."""
        try:
            return _reasons(self._documents.read(place.layout.left_out))
        except NotFound:
            return {}

    def leave_out(self, place: Place, job: TrainingJob) -> dict[str, str]:
        """Key -> reason of the pictures that ended this job and were not known before; from now on they are.

        They are found by what the job says, else by decoding each.
        """
        said = sanitize(job.failure)
        before = self.left_out(place)
        there = {one.remote_id: one.key for one in self._pictures.listing(place.ref) if one.remote_id not in before}
        named = {name for line in (job.failure, *self._complaints(job)) for name in _FILE_NAME.findall(line)}
        found = {remote_id: said for remote_id in there if parts_of(remote_id)[2] in named}
        if not found and _ABOUT_PICTURES.search(job.failure):
            reasons = self._pictures.at_once(lambda remote_id: self._pictures.decoding_error(place, remote_id), there)
            found = {remote_id: reason for remote_id, reason in zip(there, reasons, strict=True) if reason}
        if not found:
            return {}

        def added(content: dict[str, Any]) -> dict[str, Any]:
            return {"pictures": [{"id": key, "reason": reason} for key, reason in (_reasons(content) | found).items()]}

        self._documents.change(place.layout.left_out, added)
        _log.warning(
            "training.left_out",
            job=job.name,
            pictures=[there[remote_id] for remote_id in found],
            reason=said,
            hint=f"look at them; to have them trained on again, delete s3://{self._api.bucket}/{place.layout.left_out}",
        )
        return {there[remote_id]: reason for remote_id, reason in found.items()}

    def _complaints(self, job: TrainingJob) -> Iterator[str]:
        """The lines of its log that tell of trouble, as far as we may read it."""
        try:
            for number, line in enumerate(self._api.log_lines(job.name)):
                if number == _MOST_LINES:
                    return
                if _TROUBLE.search(line):
                    yield line
        except PlatformError as error:
            _log.info("training.log_unread", job=job.name, reason=error.what)

    def _named(
        self, place: Place, chosen: Sequence[RemotePicture], *, detection: bool
    ) -> list[tuple[RemotePicture, list[str], Annotation | None]]:
        """Each picture with the names that it is an example of: its category, or the labels of what is marked."""
        if not detection:
            return [(picture, [picture.category], None) for picture in chosen if picture.category]

        def annotation_of(picture: RemotePicture) -> Annotation | None:
            return picture.annotation or self._pictures.annotation(place, picture.remote_id)

        found = {}  # by name, whatever folder it lies in: the annotations of all lie in one
        for picture, annotation in zip(chosen, self._pictures.at_once(annotation_of, chosen), strict=True):
            if annotation is not None and (boxes := usable(annotation)):
                found[parts_of(picture.remote_id)[2]] = (picture, [box.label for box in boxes], annotation)
        return list(found.values())

    def _split(self, place: Place, rows: Sequence[Row]) -> dict[str, list[Row]]:
        """The rows of each side, in the order of hashes: a network that meets class after class learns the last one.

        Every picture lies on the side that its content's hash chose. Where that leaves a stratum (the rarest class in
        a picture) far from the configured share, as it does with few pictures, those whose names hash lowest change
        over.
        """
        among = Counter(number for row in rows for number in row.numbers)
        strata: dict[int, dict[str, list[Row]]] = {}
        for row in sorted(rows, key=_order):
            rarest = min(row.numbers, key=lambda number: (among[number], number))
            strata.setdefault(rarest, {side: [] for side in SIDES})[_stored(row.picture)].append(row)
        sides: dict[str, list[Row]] = {side: [] for side in SIDES}
        for halves in strata.values():
            train, validation = halves["train"], halves["validation"]
            have = len(validation)
            want = have if self._pinned else wanted(len(train) + have, have, place.split)
            taken, given = max(0, want - have), max(0, have - want)
            sides["train"] += [*train[taken:], *validation[:given]]
            sides["validation"] += [*validation[given:], *train[:taken]]
        return {side: sorted(rows_, key=_order) for side, rows_ in sides.items()}


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


def _enough_classes(place: Place, classes: Sequence[str], *, detection: bool) -> None:
    if detection and not classes:
        raise Refused(
            f"No picture of the dataset {place.ref.name} has anything marked in it",
            hint="Object detection learns from annotations: put them beside the pictures",
        )
    if not detection and len(classes) < MIN_CATEGORIES:
        raise Refused(
            f"The dataset {place.ref.name} has pictures of {len(classes)} categories, but a classifier needs "
            f"{MIN_CATEGORIES}"
        )


def _enough_pictures(place: Place, classes: Sequence[str], sides: Mapping[str, Sequence[Row]], noun: str) -> None:
    trained = {number for row in sides["train"] for number in row.numbers}
    lacking = [name for number, name in enumerate(classes) if number not in trained]
    hint = f"Add pictures; {place.split:g} of them are trained on, and the others validate"
    if lacking:
        raise Refused(f"No {noun} of {', '.join(lacking[:_SHOWN])} falls to the training side", hint=hint)
    if not sides["validation"]:
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


def _cover(sides: Mapping[str, list[Row]]) -> None:
    """What would only be seen in validation changes over: a picture may have many classes, but one stratum."""
    trained = {number for row in sides["train"] for number in row.numbers}
    for row in tuple(sides["validation"]):
        if not row.numbers <= trained:
            sides["validation"].remove(row)
            sides["train"].append(row)
            trained |= row.numbers


def listed(rows: Iterable[Row], *, whole: bool = False) -> bytes:
    r"""The ``.lst`` file that image classification reads: number, class, path below the channel, parted by tabs.

    >>> listed([Row(RemotePicture("train/good-2b/b.jpg", "b.jpg", "good"), frozenset({3}))])
    b'0\t3\tgood-2b/b.jpg\n'

    Args:
        whole: the channel begins above both sides.
    """
    lines = [
        f"{at}\t{number}\t{_path(row.picture, whole=whole)}\n" for at, row in enumerate(rows) for number in row.numbers
    ]
    return "".join(lines).encode()


def _annotation_files(
    sides: Mapping[str, Sequence[Row]], numbers: Mapping[str, int], picked: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    for side, rows in sides.items():
        for picture, _, annotation in rows:
            if annotation is not None:
                content = detection_json(_path(picture, whole=side in picked), annotation, numbers)
                stem = parts_of(picture.remote_id)[2].rpartition(".")[0]
                yield f"{side}_annotation/{stem}.json", json.dumps(content, ensure_ascii=False).encode()


def detection_json(path: str, annotation: Annotation, numbers: Mapping[str, int]) -> dict[str, Any]:
    """An annotation as object detection reads it: whole pixels, classes as numbers.

    Args:
        path: of the picture, below its channel.
        numbers: label -> class number, from 0 without gaps.
    """
    edges = [(box, box.pixels(annotation.width, annotation.height)) for box in annotation.boxes]
    return {
        "file": path,
        "image_size": [{"width": annotation.width, "height": annotation.height, "depth": _DEPTH}],
        "annotations": [
            {
                "class_id": numbers[box.label],
                "left": edge[0],
                "top": edge[1],
                "width": edge[2] - edge[0],
                "height": edge[3] - edge[1],
            }
            for box, edge in edges
            if edge
        ],
        "categories": [
            {"class_id": number, "name": label} for label, number in sorted(numbers.items(), key=lambda pair: pair[1])
        ],
    }


def usable(annotation: Annotation) -> tuple[Box, ...]:
    """The boxes of which at least a pixel lies in the picture."""
    return tuple(box for box in annotation.boxes if box.pixels(annotation.width, annotation.height))


def _order(row: Row) -> str:
    return hashlib.sha256(row.picture.remote_id.partition("/")[2].encode()).hexdigest()


def _stored(picture: RemotePicture) -> str:
    return parts_of(picture.remote_id)[0]


def _path(picture: RemotePicture, *, whole: bool) -> str:
    return picture.remote_id if whole else picture.remote_id.partition("/")[2]


def _reasons(content: Mapping[str, Any]) -> dict[str, str]:
    return {str(one["id"]): str(one["reason"]) for one in content.get("pictures", ())}
