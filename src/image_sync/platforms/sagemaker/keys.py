"""Where everything lies in the bucket, and how names become parts of keys and back; the names of jobs and endpoints.

::

    <prefix>/<dataset>/dataset.json                        name and split; made once
                      /classes.json, labels.json           append-only: their order is the order of the class numbers
                      /train/<category>/<picture>.jpg      pictures never move: a running job may be reading them
                      /validation/<category>/<picture>.jpg
                      /moved/<side>/<category>/<picture>/<category>   a picture that has another category by now
                      /annotations/<side>/<category>/<picture>.json
                      /left-out.json                       pictures that broke a training
                      /jobs/<job>/<fingerprint>/...        what one training was started with, frozen
                      /output/<job>/output/model.tar.gz    written by SageMaker
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from urllib.parse import quote, unquote

from image_sync.errors import NotFound, Refused
from image_sync.platforms.sagemaker.outcomes import sanitize

SIDES = ("train", "validation")
_LONGEST_KEY = 1024
_SLUG = 40
_DIGEST = 16
_DATASET = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_REMOTE = re.compile(r"(train|validation)/([a-z0-9-]{1,64})/([^/\x00-\x20\x7f]+)")
_PLAIN = re.compile(r".+\.(jpg|png)")
_STORED = re.compile(r"(.*?)(%-[0-9a-f]{16})?(%rgb|%)?\.(?:jpg|png)")
_AWS_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_ATTEMPT = re.compile(r"-r([0-9]{1,2})$")
_LONGEST_NAME = 63


def slug_of(name: str, longest: int = _SLUG) -> str:
    """The name in small letters, digits and single hyphens, cut; may be empty.

    >>> slug_of("Größe 10% & mehr")
    'grosse-10-mehr'
    """
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:longest].strip("-")


def digest_of(*texts: str, digits: int = 8) -> str:
    """So many hex digits that stand for the texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:digits]


def id_of(name: str) -> str:
    """The id of a dataset or category: legible, and unique to the name in Unicode's composed form."""
    composed = unicodedata.normalize("NFC", name)
    return f"{slug_of(name) or 'x'}-{digest_of(composed)}"


def side_of(sha256: str, split: float) -> str:
    """``train`` or ``validation``, by the content alone: a picture never changes sides.

    Args:
        sha256: 64 hex digits.
        split: the share that is trained on, 0 to 1.
    """
    return SIDES[int(sha256[-8:], 16) >= split * 2**32]


def stored_name(key: str, suffix: str, sha256: str, *, converted: bool = False) -> str:
    """The key as the last part of an object's: ASCII, with an ending that the algorithms know, unique to the content.

    >>> stored_name("a.abababababababab.png", "png", "ab" * 32, converted=True)
    'a.abababababababab.png%rgb.png'
    >>> stored_name("a 1.jpeg", "jpg", "ab" * 32)
    'a%201.jpeg%-abababababababab.jpg'

    Args:
        key: as the ledger knows it.
        suffix: what its content calls for: ``jpg`` or ``png``.
        sha256: of the content, 64 hex digits: a key without some of them may stand for several contents.
        converted: whether it is stored with three channels although it has others.
    """
    name = quote(key, safe="")
    mark = "" if f".{sha256[:_DIGEST]}" in key else f"%-{sha256[:_DIGEST]}"
    mark += "%rgb" if converted else ""
    if not mark and name.endswith(f".{suffix}"):
        return name
    return f"{name}{mark or '%'}.{suffix}"


def is_converted(remote_id: str) -> bool:
    """Whether the picture was stored with three channels although it had others."""
    return "%rgb." in remote_id


def key_of(name: str) -> str:
    """The key that became this name."""
    found = _STORED.fullmatch(name)
    return unquote(found[1] if found and (found[2] or found[3]) else name)


def is_of(name: str, key: str, sha256: str) -> bool:
    """Whether the name stands for this key and content."""
    found = _STORED.fullmatch(name)
    digest = found[2] if found else None
    return key_of(name) == key and (digest is None or digest == f"%-{sha256[:_DIGEST]}")


class Layout:
    """The keys of one dataset.

    Args:
        prefix: of everything that is ours in the bucket.
        dataset: its id.

    Raises:
        NotFound: it cannot be the id of any dataset.
    """

    def __init__(self, prefix: str, dataset: str) -> None:
        if not _DATASET.fullmatch(dataset):
            raise NotFound(f"There is no dataset {sanitize(dataset)}")
        self.root = f"{prefix}/{dataset}"
        self.record = f"{self.root}/dataset.json"
        self.classes = f"{self.root}/classes.json"
        self.labels = f"{self.root}/labels.json"
        self.jobs = f"{self.root}/jobs/"
        self.output = f"{self.root}/output"
        self.moves = f"{self.root}/moved/"
        self.left_out = f"{self.root}/left-out.json"

    def side(self, side: str) -> str:
        """All pictures of one side, ending in a slash: without it, other folders would be read too."""
        return f"{self.root}/{side}/"

    def picture(self, remote_id: str) -> str:
        """The object of a picture, whose remote id is ``<side>/<category>/<name>``.

        Raises:
            NotFound: it cannot be the id of any picture. Refused: the key is longer than S3 takes.
        """
        if not _REMOTE.fullmatch(remote_id):
            raise NotFound(f"There is no picture {sanitize(remote_id)}")
        key = f"{self.root}/{remote_id}"
        if len(key) > _LONGEST_KEY:
            raise Refused("The picture's name is longer than S3 takes", hint="Give the file a shorter name")
        return key

    def remote_id(self, key: str) -> str:
        """The remote id of the picture that this object is; empty for an object that is none of ours."""
        remote_id = key.removeprefix(f"{self.root}/")
        return remote_id if _REMOTE.fullmatch(remote_id) and _PLAIN.fullmatch(remote_id) else ""

    def stopped(self, job: str) -> str:
        """The mark of a training that a person stopped: no other attempt is made at it."""
        return f"{self.jobs}{job}/stopped"

    def moved(self, remote_id: str) -> str:
        """Below it lie the marks that say which category a picture has by now."""
        return f"{self.moves}{remote_id}/"

    def annotation(self, remote_id: str) -> str:
        """What is marked in a picture."""
        return f"{self.root}/annotations/{remote_id}.json"


def parts_of(remote_id: str) -> tuple[str, str, str]:
    """Side, category and name of a remote id."""
    side, category, name = remote_id.split("/", 2)
    return side, category, name


# Names of jobs, models and endpoints are made from what is known before the call, so that a lost answer is no matter.
# SageMaker takes letters, digits and single hyphens between them, at most 63.


def is_name(text: str) -> bool:
    """Whether SageMaker would take it as the name of a job, model or endpoint."""
    return len(text) <= _LONGEST_NAME and _AWS_NAME.fullmatch(text) is not None


def mark_of(uri: str, dataset: str) -> str:
    """What the names of all jobs of a dataset hold: other datasets and buckets in the account have other marks."""
    return digest_of(uri, dataset, digits=6)


def job_of(model: str, mark: str) -> str:
    """The training job for a model of this name. At most 56 characters, so that attempts and settings can be added."""
    return f"{slug_of(model) or 'model'}-{mark}-{digest_of(mark, model)}"


def attempt_of(job: str, number: int) -> str:
    """The job for the n-th attempt at a training, from 0."""
    return f"{job}-r{number + 1}" if number else job


def root_of(job: str) -> str:
    """The job of the first attempt, by which the training and its model are known."""
    return _ATTEMPT.sub("", job)


def endpoint_of(dataset: str, mark: str) -> str:
    """The endpoint of a dataset."""
    return f"{dataset[: _LONGEST_NAME - 7].rstrip('-')}-{mark}"
