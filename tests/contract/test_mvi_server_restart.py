"""What survives the end of the server, however it ends."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from image_sync_server.mvi import datasets, tasks
from image_sync_server.mvi.store import Store, StoreInUse
from support.mvi_server import ENDLESS, Caller, picture, serving, until

_SERVE = """
import sys, threading
from pathlib import Path
from image_sync.log import configure
from image_sync_server.mvi.server import MviServer
configure("error")
server = MviServer(Path(sys.argv[1]))
print(server.start(), flush=True)
threading.Event().wait()
"""


def test_everything_is_there_after_a_restart(tmp_path):
    """Datasets, files, labels, metadata, models and deployments answer as before, inference too."""
    with serving(tmp_path) as server:
        caller = Caller(server.url)
        dataset = caller.trainable()
        model = caller.trained(dataset)
        caller.post("/webapis", trained_model_id=model, name="live")
        until(lambda: caller.get(f"/webapis/{model}")["status"] == "ready")
        paths = [
            "/datasets",
            f"/datasets/{dataset}/files",
            f"/datasets/{dataset}/categories",
            "/dltasks",
            "/trained-models",
            "/webapis",
            f"/dltasks/{model}/status",
        ]
        before = {path: caller.get(path) for path in paths}
    with serving(tmp_path) as server:
        caller = Caller(server.url)
        assert {path: caller.get(path) for path in before} == before
        answer = caller.call("POST", f"/dlapis/{model}", files={"files": ("q.jpg", picture("dark", 77))}).json()
        assert answer["classified"][0]["name"] == "dark"


def test_a_stop_ends_a_training_promptly_as_failed_and_keeps_the_queue(tmp_path):
    """The interrupted training is failed with a fault; one that waited trains after the restart."""
    with serving(tmp_path) as server:
        caller = Caller(server.url)
        dataset = caller.trainable()
        task = caller.train(dataset, strategy=ENDLESS)
        waiting = caller.train(dataset, "next")
        until(lambda: caller.status(task).get("data"))
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 5
    with serving(tmp_path) as server:
        caller = Caller(server.url)
        status = caller.status(task)
        assert status["status"] == "failed"
        assert "stopped" in status["fault"]
        assert status["data"]
        assert caller.call("GET", f"/trained-models/{task}").status_code == 404
        assert caller.ended(waiting)["status"] == "trained"


def started(folder: Path) -> tuple[subprocess.Popen[str], Caller]:
    process = subprocess.Popen([sys.executable, "-c", _SERVE, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Caller(process.stdout.readline().strip())


def test_a_killed_server_leaves_no_row_without_a_file(tmp_path):
    """SIGKILL in the middle of uploads and a training: all rows have whole files, the training is failed."""
    process, caller = started(tmp_path)
    try:
        dataset = caller.trainable()
        task = caller.train(dataset, strategy=ENDLESS)
        until(lambda: caller.status(task)["status"] == "training")
        killer = threading.Timer(0.35, process.kill)  # any moment will do, so long as requests are under way
        killer.start()
        pictures = [(f"{n}.jpg", picture("dark", n)) for n in range(10)]
        with contextlib.suppress(requests.RequestException):
            while caller.upload(dataset, pictures).status_code == 200:
                pass
        killer.join()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    with serving(tmp_path) as server:
        caller = Caller(server.url)
        files = caller.get(f"/datasets/{dataset}/files")
        assert len(files) > 12
        for file in files:
            path = tmp_path / "datasets" / dataset / "files" / file["file_name"]
            assert path.stat().st_size == int(file["size"])
        assert caller.status(task)["status"] == "failed"
        assert caller.status(task)["fault"]
        assert list((tmp_path / "incoming").iterdir()) == []


def test_an_interrupted_import_is_failed_and_its_dataset_open(tmp_path):
    """After a start nothing stays working or locked for ever."""
    store = Store(tmp_path)
    dataset = datasets.make(store, "ann", "half", locked=True)
    tasks.begin_background(store, dataset, "import_dataset", "ann", 10, dataset)
    store.close()
    with serving(tmp_path) as server:
        caller = Caller(server.url)
        assert caller.get(f"/datasets/{dataset}")["locked"] == 0
        (task,) = caller.get("/bgtasks")["task_list"]
        assert (task["status"], bool(task["fault"])) == ("failed", True)


def test_two_servers_cannot_share_a_folder(tmp_path):
    """The second one is told so, and the folder is free again once the first has stopped."""
    with serving(tmp_path), pytest.raises(StoreInUse):
        Store(tmp_path)
    Store(tmp_path).close()


def test_a_folder_of_a_newer_version_is_refused(tmp_path):
    """A version that this server does not know is left alone."""
    Store(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "server.sqlite3")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(sqlite3.DatabaseError, match="newer"):
        Store(tmp_path)
