"""The difference between two readings, and the secrets of one."""

from __future__ import annotations

from pathlib import Path

from image_sync.config import difference, secrets
from support.configuration import settings

BASE = {"endpoint": "https://mvi.example.com"}


def test_equal_settings_have_no_difference(tmp_path: Path) -> None:
    """Reading the same file twice changes nothing."""
    assert difference(settings(tmp_path), settings(tmp_path)) == []


def test_each_changed_key_is_told_with_both_values(tmp_path: Path) -> None:
    """Numbers, texts, entries of objects and lists are told under the names they have in the file."""
    old = settings(tmp_path, threshold={"upload": 3}, categories={"a": "x", "b": "y"}, folders=["one", "two"])
    new = settings(
        tmp_path,
        threshold={"upload": 5},
        categories={"a": "z", "c": "y"},
        folders=["two", "three"],
        watch={"validate": "full"},
        model={"max_per_day": 4, "name": "m", "poll": 0.5},
    )

    assert difference(old, new) == [
        "threshold.upload: 3 -> 5",
        'model.name: "classifier" -> "m"',
        "model.max_per_day: none -> 4",
        "model.poll: 15 -> 0.5",
        f"folders: added {tmp_path}/three, removed {tmp_path}/one",
        'categories.a: "x" -> "z"',
        'categories.b: "y" -> none',
        'watch.validate: "header" -> "full"',
        'categories.c: none -> "y"',
    ]


def test_the_order_of_folders_is_told(tmp_path: Path) -> None:
    """The same folders in another order are a difference, if a small one."""
    assert difference(settings(tmp_path, folders=["a", "b"]), settings(tmp_path, folders=["b", "a"])) == [
        "folders: in another order"
    ]


def test_changed_secrets_are_only_named(tmp_path: Path) -> None:
    """A secret that was added, removed or changed is named without either text."""
    none = settings(tmp_path, credentials=BASE)
    one = settings(tmp_path, credentials={**BASE, "api_key": "S3CRET-1"})
    two = settings(tmp_path, credentials={**BASE, "api_key": "S3CRET-2"})

    assert difference(none, one) == ["credentials.api_key: added"]
    assert difference(one, two) == ["credentials.api_key: changed"]
    assert difference(two, none) == ["credentials.api_key: removed"]


def test_passwords_in_addresses_are_masked(tmp_path: Path) -> None:
    """The password in a database or proxy address is a secret too."""
    old = settings(tmp_path, state="postgresql://sync:S3CRET%21@one/l")
    new = settings(tmp_path, state="postgresql://sync:S3CRET%21@two/l")
    other = settings(tmp_path, state="postgresql://sync:other@two/l")

    assert difference(old, new) == [
        'state: "postgresql://sync:********@one/l" -> "postgresql://sync:********@two/l"',
    ]
    assert difference(new, other) == ["state: changed"]
    assert secrets(old) == ["AbC1-d2E3-fG4h-5IjK", "S3CRET%21", "S3CRET!"]


def test_settings_without_secrets_have_none(tmp_path: Path) -> None:
    """An embedded server needs no credentials: nothing is to be masked."""
    assert secrets(settings(tmp_path, credentials=BASE)) == []
