"""Pictures that were just checked are kept for the senders, within a bound."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest
import requests

from image_sync import fresh
from image_sync.fresh import FreshPictures
from image_sync_server.mvi.server import MviServer
from support.daemon import Plant, put_plates
from support.mvi_server import Caller
from support.pictures import jpeg


def nothing() -> None:
    """A call that nobody needs."""


def test_what_is_kept_is_found_until_it_is_dropped() -> None:
    """Each content once; nothing above the bound but the content that reaches it."""
    kept = FreshPictures(10)
    for sha256, content in (("a", b"1234"), ("a", b"1234"), ("b", b"12345678"), ("c", b"1")):
        kept.keep(sha256, content)

    full = kept.full
    assert full
    assert kept.find(["a", "b", "c", "d"]) == {"a": b"1234", "b": b"12345678"}
    kept.drop(["b", "d"])
    full = kept.full
    assert not full
    assert kept.find(["a", "b"]) == {"a": b"1234"}


def test_without_room_nothing_is_kept_and_nobody_waits() -> None:
    """That is so in the daemon, which reads a backlog long before it sends it."""
    kept = FreshPictures()
    kept.keep("a", b"1")

    assert not kept.full
    assert kept.find(["a"]) == {}
    kept.wait_for_room(threading.Event(), nothing)


def test_the_watcher_waits_for_the_senders_until_half_is_free() -> None:
    """It says that it lives meanwhile."""
    kept, lives = FreshPictures(4), threading.Event()
    for sha256 in "abcd":
        kept.keep(sha256, b"1")
    waiter = threading.Thread(target=kept.wait_for_room, args=(threading.Event(), lives.set))
    waiter.start()
    assert lives.wait(5)
    kept.drop(["a"])
    waiter.join(0.3)
    assert waiter.is_alive()
    kept.drop(["b"])
    waiter.join(5)
    assert not waiter.is_alive()
    assert list(kept.find("abcd")) == ["c", "d"]


def test_a_sender_that_takes_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow line the watcher goes on, and what was kept is let go, for a while."""
    monkeypatch.setattr(fresh, "_PATIENCE", 0.2)
    kept, began = FreshPictures(2), time.monotonic()
    kept.keep("a", b"12")
    kept.wait_for_room(threading.Event(), nothing)

    assert 0.2 <= time.monotonic() - began < 5
    kept.keep("b", b"12")
    assert kept.find(["a", "b"]) == {}


def test_a_program_that_ends_is_not_held_up() -> None:
    """The wait ends with the stop event."""
    kept, stop = FreshPictures(1), threading.Event()
    kept.keep("a", b"1")
    stop.set()
    kept.wait_for_room(stop, nothing)
    assert kept.full


def test_a_single_run_sends_what_lies_there(tmp_path: Path, server: MviServer) -> None:
    """Small pictures that are kept, large ones that are not, and equal ones once."""
    plant = Plant(tmp_path / "plant", server.url)
    put_plates(plant, each=12)
    plant.put("dark/large.jpg", jpeg(1, 2400, 1800))
    plant.put("dark/copy.jpg", (plant.root / "dark/000.jpg").read_bytes())
    assert plant.call("run", "--once").returncode == 0

    (dataset,) = Caller(server.url).get("/datasets")
    arrived = [
        requests.get(
            f"{server.url}/uploads/{file['owner']}/datasets/{dataset['_id']}/files/{file['file_name']}", timeout=9
        )
        for file in Caller(server.url).get(f"/datasets/{dataset['_id']}/files")
    ]
    assert sorted(digest(answer.content) for answer in arrived) == sorted(
        {digest(path.read_bytes()) for path in plant.root.rglob("*.jpg")}
    )


def digest(content: bytes) -> str:
    """Its SHA-256."""
    return hashlib.sha256(content).hexdigest()
