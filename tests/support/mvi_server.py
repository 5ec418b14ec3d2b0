"""A real embedded server on a free port, and a client that speaks plain HTTP to it."""

from __future__ import annotations

import hashlib
import io
import random
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests
from PIL import Image, ImageDraw

from image_sync_server.mvi.server import MviServer
from image_sync_server.mvi.store import Store

QUICK = {"max_iter": 60, "test_interval": 20, "learning_rate": 0.01}
"""A strategy that ends within a second."""
ENDLESS = {"max_iter": 100_000, "test_interval": 1000}
"""A strategy that does not end while a test looks."""


class Stored(NamedTuple):
    """A picture as it lies at the server."""

    dataset: str
    category: str
    """Empty without one."""
    name: str
    """As the client called it."""
    sha256: str
    """Of the stored bytes, in hex."""


def contents(where: MviServer | Path) -> list[Stored]:
    """Every picture that a server holds, oldest first, read past its API: no fault, lag or limit hides one.

    Args:
        where: a server that may be at work, or the data folder of one that has ended.
    """
    if isinstance(where, Path):
        store = Store(where)
        try:
            return _contents(store)
        finally:
            store.close()
    return _contents(where.store)


def _contents(store: Store) -> list[Stored]:
    rows = store.rows(
        "SELECT f.dataset_id, f.file_name, f.original_file_name, d.name AS dataset, IFNULL(c.name, '') AS category"
        " FROM files f JOIN datasets d ON d.id = f.dataset_id LEFT JOIN categories c ON c.id = f.category_id"
        " ORDER BY f.seq"
    )
    found = []
    for row in rows:
        try:
            raw = store.picture(row["dataset_id"], row["file_name"]).read_bytes()
        except FileNotFoundError:
            # Its row goes first when a picture is deleted; a row that stays has lost its bytes.
            left = store.row("SELECT 1 FROM files WHERE file_name = ?", row["file_name"])
            assert left is None, f"{row['original_file_name']} has a row and no bytes"
            continue
        sha256 = hashlib.sha256(raw).hexdigest()
        found.append(Stored(row["dataset"], row["category"], row["original_file_name"], sha256))
    return found


@contextmanager
def serving(data: Path, **options: Any) -> Iterator[MviServer]:
    """A server that is started, and stopped at the end."""
    server = MviServer(data, **options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def picture(kind: str, seed: int, *, suffix: str = "jpg", size: int = 64) -> bytes:
    """A small picture: kind ``dark`` and ``light`` differ plainly, seeds differ slightly."""
    luck = random.Random(f"{kind}{seed}")
    ground = 40 if kind == "dark" else 200
    image = Image.new("RGB", (size, size), (ground + luck.randrange(20),) * 3)
    draw = ImageDraw.Draw(image)
    for _ in range(8):
        x, y = luck.randrange(size), luck.randrange(size)
        colour = (200, 60, 40) if kind == "dark" else (40, 80, 160)
        draw.rectangle((x, y, x + 8, y + 8), fill=colour)
    raw = io.BytesIO()
    image.save(raw, "PNG" if suffix == "png" else "JPEG")
    return raw.getvalue()


def archive(members: Mapping[str, bytes]) -> bytes:
    """A plain zip file."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return raw.getvalue()


def until(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What ``check`` returns once it is true; asked again and again until the deadline."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while True:
        if found := check():
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.02)


class Caller:
    """Calls an MVI API: every method returns the response, checked by nobody."""

    def __init__(self, url: str, token: str | None = "any") -> None:
        self.api = f"{url}/api"
        self.session = requests.Session()
        self.session.trust_env = False
        if token is not None:
            self.session.headers["X-Auth-Token"] = token

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """One request below ``/api``."""
        options.setdefault("timeout", 30)
        return self.session.request(method, self.api + path, **options)

    def get(self, path: str, **params: Any) -> Any:
        """The JSON of a GET that must work."""
        response = self.call("GET", path, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """The JSON of a POST that must work."""
        response = self.call("POST", path, json=body)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def dataset(self, name: str = "parts") -> str:
        """The id of a new dataset."""
        return str(self.post("/datasets", name=name)["dataset_id"])

    def category(self, dataset: str, name: str) -> str:
        """The id of a category."""
        return str(self.post(f"/datasets/{dataset}/categories", name=name)["dataset_category_id"])

    def upload(
        self, dataset: str, files: Sequence[tuple[str, bytes]], fields: Mapping[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """Upload files as plain clients do."""
        parts = [("files", (name, content)) for name, content in files]
        return self.call("POST", f"/datasets/{dataset}/files", files=parts, data=fields or {}, **options)

    def trainable(self, name: str = "parts", each: int = 6) -> str:
        """The id of a dataset with two categories that can be told apart."""
        dataset = self.dataset(name)
        for kind in ("dark", "light"):
            category = self.category(dataset, kind)
            files = [(f"{kind}{n}.jpg", picture(kind, n)) for n in range(each)]
            response = self.upload(dataset, files, {"category_id": category, "category_name": kind})
            assert response.status_code == 200, response.text
        return dataset

    def train(self, dataset: str, name: str = "model", **body: Any) -> str:
        """The id of a training that was started."""
        body = {"strategy": QUICK, "usage": "cic", **body}
        return str(self.post("/dltasks", action="create", name=name, dataset_id=dataset, **body)["task_id"])

    def status(self, task: str) -> dict[str, Any]:
        """The status of a training."""
        found: dict[str, Any] = self.get(f"/dltasks/{task}/status")
        return found

    def ended(self, task: str) -> dict[str, Any]:
        """The status of a training when it is over."""

        def look() -> dict[str, Any] | None:
            found = self.status(task)
            return found if found["status"] in {"trained", "failed", "aborted"} else None

        found: dict[str, Any] = until(look)
        return found

    def trained(self, dataset: str, name: str = "model", **body: Any) -> str:
        """The id of a model that was trained."""
        task = self.train(dataset, name, **body)
        assert self.ended(task)["status"] == "trained", self.status(task)
        return task
