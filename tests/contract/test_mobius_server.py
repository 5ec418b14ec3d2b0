"""The emulator of a Mobius SDK, called as the vendor's samples call it."""

from __future__ import annotations

import io
import sqlite3
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from image_sync_server.faults import Faults
from image_sync_server.mobius.fault_presets import KINDS, parsed
from image_sync_server.mobius.server import MobiusServer
from image_sync_server.web import Unprotected
from support.mobius import fault, serving_mobius
from support.mvi_server import picture


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MobiusServer]:
    with serving_mobius(tmp_path / "data") as running:
        yield running


class Sdk:
    """The vendor's samples."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False

    def get(self, path: str) -> Any:
        return self.session.get(self.url + path, timeout=20).json()

    def post(self, path: str, content: bytes) -> Any:
        return self.session.post(self.url + path, files={"data": io.BytesIO(content)}, timeout=20).json()

    def add(self, image: str, content: bytes) -> Any:
        return self.post(f"/system/database/image/add?image_id={image}", content)

    def fill(self, tag: str = "dark", other: str = "light", count: int = 5) -> None:
        for kind, label in ((tag, "positive"), (other, "negative")):
            for number in range(count):
                self.add(f"{kind}{number}", picture(kind, number))
                assert self.get(f"/custom/assign/{kind}{number}/{label}/{tag}") == {"status": "success"}

    def trained(self, tag: str) -> None:
        task = self.get(f"/custom/train/{tag}")
        assert task["message"] == "training"
        until = time.monotonic() + 30
        while (seen := self.get(f"/status/{task['task_id']}"))["status"] in {"in_queue", "ongoing"}:
            assert time.monotonic() < until
            threading.Event().wait(0.02)
        assert seen == {"status": "success"}


@pytest.fixture
def sdk(server: MobiusServer) -> Sdk:
    return Sdk(server.url)


def said(message: str) -> dict[str, str]:
    return {"status": "error", "message": message}


def test_the_life_of_a_tag(sdk: Sdk) -> None:
    """Added, assigned, trained, asked in every way, reset: as the vendor's page goes."""
    sdk.fill()
    sdk.trained("dark")
    new = picture("dark", 99)

    for found in (
        sdk.post("/predict/custom/dark", new)["result"],
        sdk.post("/predict/custom", new)["result"],
        sdk.post("/predict", new)["result"],
        sdk.get("/custom/predict/dark0")["result"],
        sdk.get("/custom/predict/dark/dark0")["result"],
        sdk.get("/custom/predict_batch?image_id=dark0,light0&tags=dark")["result"]["dark0"],
    ):
        assert 0.5 < found["dark"] <= 1
    assert set(sdk.post("/predict", new)["result"]) == {"dark", "light"}
    assert sdk.get("/custom/predict_batch?tags=dark&image_id=light0")["result"]["light0"]["dark"] < 0.5
    assert sdk.get("/custom/delete/dark") == {"status": "success"}
    assert sdk.get("/custom/delete/dark") == said("unknown_custom_model")
    assert sdk.get("/custom/train/dark") == said("positive_samples_required")


def test_training_again_goes_on_with_the_model(sdk: Sdk) -> None:
    """Fine-tuning: the scores change."""
    sdk.fill()
    sdk.trained("dark")
    before = sdk.get("/custom/predict/dark/light1")
    sdk.trained("dark")

    assert sdk.get("/custom/predict/dark/light1") != before


def test_without_negatives_the_rest_stands_for_them(sdk: Sdk) -> None:
    """A tag needs one kind of pictures only; one that has nothing to be told from cannot be learnt."""
    for number in range(4):
        sdk.add(f"a{number}", picture("dark", number))
        sdk.get(f"/custom/assign/a{number}/positive/dark")
    task = sdk.get("/custom/train/dark")["task_id"]
    until = time.monotonic() + 20
    while (seen := sdk.get(f"/status/{task}"))["status"] != "error":
        assert time.monotonic() < until
    assert seen["message"] == "training_error"
    assert seen["exception"]
    for number in range(4):
        sdk.add(f"b{number}", picture("light", number))
    sdk.trained("dark")

    assert sdk.get("/custom/predict/dark/b0")["result"]["dark"] < 0.5


def test_messages(sdk: Sdk, server: MobiusServer) -> None:
    """The vendor's words for what cannot be done."""
    content = picture("dark", 1)
    assert sdk.add("a1", content) == {"status": "success", "image_id": "a1"}
    assert sdk.add("a1", content) == said("duplicate_image_id")
    assert sdk.add("a2", b"no picture") == said("image_reading_error")
    assert sdk.add("../a", content) == said("wrong_arguments_format")
    drawn = sdk.post("/system/database/image/add", content)["image_id"]
    assert server.store.has(drawn)
    assert sdk.session.post(f"{server.url}/predict/custom", timeout=9).json() == said("data_payload_required")
    assert sdk.get("/custom/assign/nobody/positive/x") == said("image_id_not_found")
    assert sdk.get("/custom/assign/a1/perhaps/x") == said("wrong_arguments_format")
    assert sdk.get("/custom/predict/nobody") == said("image_id_not_found")
    assert sdk.get("/custom/predict/x/a1") == said("unknown_custom_model")
    assert sdk.get("/custom/predict_batch?tags=x") == said("wrong_arguments_format")
    assert sdk.get("/status/nobody") == said("unknown_task_id")
    assert sdk.session.get(f"{server.url}/nowhere", timeout=9).status_code == 404
    assert sdk.session.post(f"{server.url}/custom/train/x", timeout=9).status_code == 405


def test_odd_tags(sdk: Sdk, server: MobiusServer) -> None:
    """Whatever may stand in a path comes back as it was."""
    sdk.add("a1", picture("dark", 1))
    for tag in ("Größe 10% & mehr", "点", "a?b#c"):
        sdk.get(f"/custom/assign/a1/positive/{quote(tag, safe='')}")

    assert [tag for tag, _, _ in server.store.assigned()] == sorted(("Größe 10% & mehr", "点", "a?b#c"))


def test_state_goes_to_another_server(sdk: Sdk, server: MobiusServer, tmp_path: Path) -> None:
    """`set_state` replaces everything: what was there is gone, what came answers."""
    sdk.fill()
    sdk.trained("dark")
    state = sdk.session.get(f"{server.url}/get_state", timeout=20).content
    with serving_mobius(tmp_path / "second") as second:
        other = Sdk(second.url)
        other.add("old", picture("dark", 7))

        assert other.post("/set_state", b"no tar at all") == said("wrong_arguments_format")
        assert second.store.has("old")
        assert other.post("/set_state", state) == {"status": "success"}
        assert not second.store.has("old")
        assert other.get("/custom/predict/dark/light1") == sdk.get("/custom/predict/dark/light1")


@pytest.mark.parametrize("name", ["../evil", "pictures/../../evil", "/tmp/evil", "pictures/a/b", "other.txt"])
def test_a_hostile_state_writes_nothing(sdk: Sdk, server: MobiusServer, tmp_path: Path, name: str) -> None:
    """Members with other names than a state has are refused, and everything stays as it was."""
    sdk.add("a1", picture("dark", 1))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for member in ("state.sqlite", name):
            info = tarfile.TarInfo(member)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"bad"))

    assert sdk.post("/set_state", raw.getvalue()) == said("wrong_arguments_format")
    assert server.store.has("a1")
    assert not list(tmp_path.rglob("evil"))


def test_a_state_with_a_broken_database_is_refused(sdk: Sdk, server: MobiusServer, tmp_path: Path) -> None:
    """Neither garbage nor another database is taken."""
    sdk.add("a1", picture("dark", 1))
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE picture (id TEXT)")
    other.close()
    for content in (b"garbage" * 200, (tmp_path / "other").read_bytes()):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            info = tarfile.TarInfo("state.sqlite")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        assert sdk.post("/set_state", raw.getvalue()) == said("wrong_arguments_format")
    assert server.store.has("a1")


def test_what_is_kept_survives_a_restart(tmp_path: Path) -> None:
    """Pictures, assignments and models; tasks do not."""
    with serving_mobius(tmp_path) as server:
        sdk = Sdk(server.url)
        sdk.fill()
        sdk.trained("dark")
        before = sdk.get("/custom/predict/dark/light1")
        task = next(iter(server.tasks.all))
    with serving_mobius(tmp_path) as server:
        sdk = Sdk(server.url)
        assert sdk.get("/custom/predict/dark/light1") == before
        assert sdk.get(f"/status/{task}") == said("unknown_task_id")


def test_only_this_machine_and_no_web_page(tmp_path: Path, server: MobiusServer) -> None:
    """It asks nobody who they are: so it listens to this machine only, and not to pages in its browser."""
    with pytest.raises(Unprotected):
        MobiusServer(tmp_path / "open").start("0.0.0.0")
    sdk = Sdk(server.url)
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "[::1"},
    ):
        answer = sdk.session.get(f"{server.url}/custom/delete/x", headers=headers, timeout=9)
        assert answer.status_code == 403


BROKEN = {"reset", "lost-answer", "late"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault(server: MobiusServer, kind: str) -> None:
    """Each kind does what it says, and no more than asked."""
    sdk = Sdk(server.url)
    server.faults.add(fault(kind, 1.0, 0.5, path="add", count=1))
    done = kind not in {"500-before", "reset", "html", "429", "unknown-error"}
    began = time.monotonic()
    try:
        answer = sdk.session.post(
            f"{server.url}/system/database/image/add?image_id=a1", files={"data": picture("dark", 1)}, timeout=9
        )
    except requests.ConnectionError:
        assert kind in BROKEN
    else:
        assert kind not in BROKEN
        status = {"500-before": 500, "500-after": 500, "html": 502, "429": 429}.get(kind, 200)
        assert answer.status_code == status
        if kind == "twice":
            assert answer.json() == said("duplicate_image_id")
        if kind == "slow":
            assert time.monotonic() - began >= 0.5
    if kind == "late":
        assert not server.store.has("a1")
        until = time.monotonic() + 10
        while not server.store.has("a1"):
            assert time.monotonic() < until
            threading.Event().wait(0.02)
    assert server.store.has("a1") is done
    assert server.faults.counts == {kind: 1}
    assert sdk.get("/status/x") == said("unknown_task_id")


def test_faults_are_lots_that_can_be_drawn_again() -> None:
    """A seed gives the same luck; words of the command line are read, or refused with the right form."""
    first, second = Faults(3), Faults(3)
    for faults in (first, second):
        faults.add(parsed("slow=30%:0.5"))
    assert [first.pick("GET", "/") is None for _ in range(50)] == [second.pick("GET", "/") is None for _ in range(50)]
    assert 5 < first.counts["slow"] < 30
    for text in ("slow", "nobody=1", "slow=2", "html=1:3", "slow=x", "slow=5%:"):
        with pytest.raises(ValueError, match=r"KIND=RATE|known|between|seconds"):
            parsed(text)
