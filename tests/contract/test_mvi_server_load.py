"""The server under many clients and all faults at once: nothing leaks, nothing breaks, nothing is half stored."""

from __future__ import annotations

import gc
import logging
import os
import random
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from image_sync_server import web as server_module
from image_sync_server.mvi.fault_presets import KINDS, parsed
from image_sync_server.mvi.server import MviServer
from support.mvi_server import Caller, archive, contents, picture, serving, until

CLIENTS = 8
SECONDS = 3.0
PICTURES = [picture("dark", n) for n in range(8)]


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def serving_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(("AnyIO", "mvi-"))}


def busy_client(url: str, dataset: str, number: int, stop: threading.Event) -> Counter[str]:
    """Uploads, lists and asks until it shall stop; what it saw, by status or name of error."""
    luck, caller, seen = random.Random(number), Caller(url), Counter[str]()
    with caller.session:
        while not stop.is_set():
            name = f"{number}-{sum(seen.values())}"
            try:
                match luck.randrange(10):
                    case 0:
                        files = [("some.zip", archive({f"{name}-{n}.jpg": PICTURES[n] for n in range(3)}))]
                        answer = caller.upload(dataset, files, {"category_name": "zipped"})
                    case 1 | 2:
                        answer = caller.call("GET", f"/datasets/{dataset}/files", params={"limit": "20"})
                    case _:
                        files = [(f"{name}-{n}.jpg", luck.choice(PICTURES)) for n in range(luck.randrange(1, 6))]
                        answer = caller.upload(dataset, files, {"category_name": f"c{number % 2}"})
                seen[str(answer.status_code)] += 1
            except requests.RequestException as error:
                seen[type(error).__name__] += 1
    return seen


def test_all_faults_under_eight_clients_leak_nothing(tmp_path, caplog, capfd):
    """After seconds of all=5% every connection, task, thread and scratch file is gone, and no traceback was logged."""
    caplog.set_level(logging.WARNING)
    expected = set(KINDS) - {"train-500"}  # there are no trainings here
    files, threads = open_files(), serving_threads()
    with serving(tmp_path / "data", fault_seed=1) as server:
        dataset = Caller(server.url).dataset()
        server.faults.add(*parsed("all=0.05"), *parsed("trickle=0.05:0.2"), *parsed("late-zip=0.5"))
        stop, gate = threading.Event(), time.monotonic() + SECONDS
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(busy_client, server.url, dataset, n, stop) for n in range(CLIENTS)]
            try:
                until(lambda: time.monotonic() > gate and expected <= set(server.faults.counts), 60)
            finally:
                stop.set()
        seen = sum((client.result() for client in clients), Counter[str]())
        server.faults.clear()
        struck = server.faults.counts
        assert set(struck) == expected, (struck, seen)
        assert seen["200"] > sum(seen.values()) / 4
        gc.collect()  # what clients left open when their answers broke
        http = server._http
        until(lambda: not http.server_state.connections and not http.server_state.tasks)
        assert list((tmp_path / "data" / "incoming").iterdir()) == []
        assert 0 < len(serving_threads() - threads) < 45
        held = contents(server)
        assert len(held) == len(list((tmp_path / "data").rglob("files/*.jpg")))
        # Only what is repeated on purpose lies there twice.
        twice = sum(count - 1 for count in Counter(one.name for one in held).values())
        assert 0 < twice <= 5 * struck["duplicate"]
    until(lambda: serving_threads() <= threads)
    gc.collect()
    until(lambda: open_files() <= files)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err + caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_stopping_among_faults_and_stalled_clients_is_quiet(tmp_path, caplog, capfd, monkeypatch):
    """Late work is given up, a client that stalls in its body is cut off in time, and no traceback is logged."""
    monkeypatch.setattr(server_module, "_GRACE", 1)
    with serving(tmp_path / "data") as server:
        caller = Caller(server.url)
        dataset = caller.dataset()
        server.faults.add(*parsed("late=1:600"), *parsed("late-zip=1:600"))
        with pytest.raises(requests.ConnectionError):
            caller.upload(dataset, [("a.jpg", PICTURES[0])])
        server.faults.add(*parsed("late=0"))
        assert caller.upload(dataset, [("a.zip", archive({"a.jpg": PICTURES[0]}))]).status_code == 200
        with stalled(server, dataset) as connection, ThreadPoolExecutor(1) as pool:
            server.faults.add(*parsed("trickle=1:600"))
            trickled = pool.submit(caller.call, "GET", "/datasets")
            until(lambda: server.faults.counts["trickle"])
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 4
            assert isinstance(trickled.exception(5), requests.RequestException)
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    assert contents(tmp_path / "data") == []
    assert list((tmp_path / "data" / "incoming").iterdir()) == []
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err + caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def stalled(server: MviServer, dataset: str) -> socket.socket:
    """A connection of a client that has begun an upload and says no more."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(
        f"POST /api/datasets/{dataset}/files HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 99999\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode()
    )
    return connection


def test_contents_are_what_was_stored(tmp_path: Path):
    """The list for tests names dataset, category, name and the hash of the bytes, also of a server that has ended."""
    with serving(tmp_path) as server:
        caller = Caller(server.url)
        for name in ("one", "two"):
            dataset = caller.dataset(name)
            assert caller.upload(dataset, [("a.jpg", PICTURES[0])], {"category_name": "dent"}).status_code == 200
        assert caller.upload(dataset, [("b.jpg", PICTURES[1])]).status_code == 200
        held = contents(server)
        assert [(one.dataset, one.category, one.name) for one in held] == [
            ("one", "dent", "a.jpg"),
            ("two", "dent", "a.jpg"),
            ("two", "", "b.jpg"),
        ]
        assert held[0].sha256 == held[1].sha256 != held[2].sha256
    assert contents(tmp_path) == held
