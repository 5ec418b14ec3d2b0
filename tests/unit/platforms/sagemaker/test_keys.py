"""Names and keys in the bucket, names of jobs and endpoints."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_sync.errors import NotFound, Refused
from image_sync.platforms.sagemaker.keys import (
    Layout,
    attempt_of,
    endpoint_of,
    id_of,
    is_converted,
    is_name,
    is_of,
    job_of,
    key_of,
    mark_of,
    parts_of,
    root_of,
    side_of,
    slug_of,
    stored_name,
)

SHA = st.binary(max_size=8).map(lambda raw: hashlib.sha256(raw).hexdigest())


NAMES = st.text(min_size=1, max_size=60).filter(lambda text: "\0" not in text and text.isprintable())


@given(NAMES, st.sampled_from(["jpg", "png"]), SHA, st.booleans())
def test_every_key_survives_its_way_through_the_bucket(stem: str, suffix: str, sha256: str, converted: bool) -> None:
    """The object's name is plain ASCII with the right ending, and leads back to the key and its content."""
    for key in (f"{stem}.{suffix}", f"{stem}.jpeg", f"x.{sha256[:16]}.{suffix}", stem):
        name = stored_name(key, suffix, sha256, converted=converted)
        assert name.isascii()
        assert name.endswith(f".{suffix}")
        assert not re.search(r"[\s/]", name)
        assert key_of(name) == key
        assert is_of(name, key, sha256)
        assert is_converted(name) == converted
        assert name.startswith(quote(key, safe=""))


def test_names_tell_contents_apart_where_keys_do_not() -> None:
    """A plain name carries part of the hash; another content under it is another object."""
    one, two = "ab" * 32, "cd" * 32

    assert stored_name("1.jpg", "jpg", one) != stored_name("1.jpg", "jpg", two)
    assert not is_of(stored_name("1.jpg", "jpg", one), "1.jpg", two)
    assert stored_name(f"p.{one[:16]}.jpg", "jpg", one) == f"p.{one[:16]}.jpg"


@given(st.lists(SHA, min_size=1, max_size=20), st.floats(0.01, 0.99))
def test_a_side_depends_on_the_content_alone(digests: list[str], split: float) -> None:
    """A picture that is trained on stays so when the share grows."""
    for digest in digests:
        assert side_of(digest, split) == side_of(digest, split)
        if side_of(digest, split) == "train":
            assert side_of(digest, min(0.99, split + 0.1)) == "train"


def test_the_split_is_kept_to() -> None:
    """Of many pictures about the configured share is trained on."""
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(2000)]

    assert 1540 < sum(side_of(digest, 0.8) == "train" for digest in digests) < 1660


@given(NAMES)
def test_names_of_jobs_are_legal_and_their_own(name: str) -> None:
    """Whatever a model is called: letters, digits and hyphens, short enough for attempts and configurations."""
    mark = mark_of("s3://b/p", "d")
    job = job_of(name, mark)

    assert is_name(job)
    assert len(job) <= 56
    assert is_name(f"{job}-0123ab")
    assert job_of(f"{name}!", mark) != job != job_of(name, mark_of("s3://b/p", "e"))
    for number in range(3):
        assert is_name(attempt_of(job, number))
        assert root_of(attempt_of(job, number)) == job
    assert is_name(endpoint_of(id_of(name), mark))


@pytest.mark.parametrize("text", ["", "a_b", "-a", "a-", "a.b", "x" * 64, "a b", "../../evil", "a\n"])
def test_names_that_sagemaker_refuses_are_never_sent(text: str) -> None:
    """boto3 lets them through; we do not."""
    assert not is_name(text)


@given(NAMES)
def test_ids_are_fit_for_keys(name: str) -> None:
    """A dataset or category of any name has an id of small letters, digits and hyphens."""
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", id_of(name))
    assert id_of("Größe") == id_of("Gro\u0308ße".replace("o\u0308", "ö"))
    assert slug_of("  ") == ""


@pytest.mark.parametrize("evil", ["../x", "train/../x/y.jpg", "train/a/b/c.jpg", "other/a/b.jpg", "train/A/b.jpg", ""])
def test_ids_from_outside_lead_nowhere(evil: str) -> None:
    """What cannot be a picture's id is not found, and never becomes a key."""
    with pytest.raises(NotFound):
        Layout("p", "d").picture(evil)
    with pytest.raises(NotFound):
        Layout("p", "../d")
    assert parts_of("train/a/b.jpg") == ("train", "a", "b.jpg")


def test_a_key_that_is_too_long_is_refused() -> None:
    """S3 takes 1024 bytes."""
    with pytest.raises(Refused):
        Layout("p", "d").picture(f"train/a/{'x' * 1020}.jpg")
