"""The embedded server, as the end-to-end tests use it: it must take more than the daemon can send."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.backlog import yardstick
from benchmarks.process import Spoiled, spend
from benchmarks.session import Session, confirmed, median, plant
from benchmarks.table import Row, at_least
from support.daemon import PROGRAM
from support.mvi_server import Caller, picture, until

_COUNT = 10_000
_SIZE = 20_480
_TRAINED = 1000
_SENDERS = "4"
_PATIENCE = 600.0


def measure(session: Session) -> Iterator[Row]:
    """Uploads a second, and the time of a training."""
    tree = session.tree("embedded", session.scaled(_COUNT), _SIZE)
    there, here = session.plant(tree, "sink"), []
    with _serving(session) as url:
        daemon = plant(tree.root.parent / "embedded", url, tree.root, dataset={"name": "ours"})
        taken, sent = [], []
        for number in range(3):
            session.say(f"embedded: round {number + 1} of 3")
            taken.append(yardstick("multipart", _dataset(url, f"theirs-{number}"), tree, "--threads", _SENDERS))
            sent.append(session.once(there, tree).spent.seconds)
            shutil.rmtree(daemon.folder / "state", ignore_errors=True)
            daemon.configure(dataset={"name": f"ours-{number}"})
            here.append(spend([*PROGRAM, "run", "--once", "-c", daemon.config], daemon.environ).seconds)
            confirmed(daemon, tree.count)
        took, count = _training(session, url)
    rate = tree.count / median(taken)
    note = f"what it takes from {_SENDERS} senders that do nothing else, beside what our daemon sends to nginx"
    yield Row("embedded server, uploads", rate, "pictures/s", "daemon", tree.count / median(sent), at_least(1), note)
    yield Row("embedded server with the daemon", tree.count / median(here), "pictures/s")
    yield Row("embedded server, training", took, "s", note=f"{count:,} pictures, the default strategy")


def _dataset(url: str, name: str) -> str:
    """The address to upload to, of a new dataset."""
    return f"{url}/api/datasets/{Caller(url).dataset(name)}/files"


def _training(session: Session, url: str) -> tuple[float, int]:
    """Seconds that a training takes, and of how many pictures."""
    caller, count = Caller(url), session.scaled(_TRAINED)
    dataset = caller.dataset("trained")
    for kind in ("dark", "light"):
        files = [(f"{kind}{number}.jpg", picture(kind, number)) for number in range(count // 2)]
        answer = caller.upload(dataset, files, {"category_id": caller.category(dataset, kind), "category_name": kind})
        answer.raise_for_status()
    session.say(f"embedded: a training of {count} pictures")
    begun = time.perf_counter()
    body = {"action": "create", "name": "bench", "dataset_id": dataset, "usage": "cic"}
    task = str(caller.post("/dltasks", **body)["task_id"])
    ended = until(lambda: _ended(caller.status(task)), _PATIENCE)
    if ended["status"] != "trained":
        raise Spoiled(f"the training ended so: {json.dumps(ended)}")
    return time.perf_counter() - begun, count


def _ended(status: dict[str, Any]) -> dict[str, Any] | None:
    return status if status["status"] in {"trained", "failed", "aborted"} else None


@contextmanager
def _serving(session: Session) -> Iterator[str]:
    command = [*PROGRAM, "serve", "--port", "0", "--data", str(session.work / "embedded" / "server")]
    with (session.work / "embedded" / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "http" not in line:
            raise Spoiled(f"the embedded server did not start: {line!r}")
        yield next(word for word in line.split() if word.startswith("http"))
    finally:
        process.terminate()
        process.wait(60)
