"""What the emulator keeps, in one folder: pictures, the tags that they are assigned to, models; and who trains."""

from __future__ import annotations

import io
import queue
import re
import shutil
import sqlite3
import tarfile
import threading
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from image_sync_server.learn.learner import Model, Sample, train

_log = structlog.stdlib.get_logger(__name__)
_STATE = "state.sqlite"
_PICTURES = "pictures"
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MOST = 4 * 2**30
"""Bytes that a state may unpack to."""
_TABLES = """
CREATE TABLE IF NOT EXISTS picture (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS assigned (tag TEXT, image TEXT, kind TEXT, PRIMARY KEY (tag, image));
CREATE TABLE IF NOT EXISTS model (tag TEXT PRIMARY KEY, raw BLOB NOT NULL);
"""


def usable_id(image: str) -> bool:
    """Whether a picture may be called so."""
    return _ID.fullmatch(image) is not None


class Store:
    """The state. Safe to use from several threads.

    Args:
        folder: made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._models: dict[str, Model] = {}
        (folder / _PICTURES).mkdir(parents=True, exist_ok=True)
        self._db = self._opened()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def path(self, image: str) -> Path:
        return self._folder / _PICTURES / image

    def has(self, image: str) -> bool:
        return bool(self._rows("SELECT 1 FROM picture WHERE id = ?", image))

    def add(self, image: str, content: bytes) -> bool:
        """Keep a picture; False, and nothing changes, if there is one of this id."""
        with self._lock:
            if self.has(image):
                return False
            self.path(image).write_bytes(content)
            self._write("INSERT INTO picture VALUES (?)", image)
            return True

    def pictures(self) -> list[str]:
        return [row[0] for row in self._rows("SELECT id FROM picture ORDER BY id")]

    def assign(self, tag: str, image: str, kind: str) -> None:
        """Assign a picture, in place of what it was assigned as."""
        self._write("INSERT OR REPLACE INTO assigned VALUES (?, ?, ?)", tag, image, kind)

    def assigned(self, tag: str = "") -> list[tuple[str, str, str]]:
        """(tag, picture, kind) of one tag or of all."""
        where = "WHERE tag = ?" if tag else ""
        return self._rows(f"SELECT tag, image, kind FROM assigned {where} ORDER BY tag, image", *([tag] if tag else []))

    def reset(self, tag: str) -> bool:
        """Forget a tag's model and assignments; False if there were none."""
        with self._lock:
            self._models.pop(tag, None)
            gone = [self._write(f"DELETE FROM {table} WHERE tag = ?", tag) for table in ("assigned", "model")]
            return any(gone)

    def model(self, tag: str) -> Model | None:
        with self._lock:
            if tag not in self._models:
                rows = self._rows("SELECT raw FROM model WHERE tag = ?", tag)
                if not rows:
                    return None
                self._models[tag] = Model.from_bytes(rows[0][0])
            return self._models[tag]

    def keep_model(self, tag: str, model: Model) -> None:
        """Put a model in the place of the tag's earlier one."""
        with self._lock:
            self._write("INSERT OR REPLACE INTO model VALUES (?, ?)", tag, model.to_bytes())
            self._models[tag] = model

    def trained(self) -> list[str]:
        return [row[0] for row in self._rows("SELECT tag FROM model ORDER BY tag")]

    def state(self) -> bytes:
        """All of it as a tar."""
        raw = io.BytesIO()
        with self._lock, tarfile.open(fileobj=raw, mode="w") as tar:
            tar.add(self._folder / _STATE, _STATE)
            tar.add(self._folder / _PICTURES, _PICTURES)
        return raw.getvalue()

    def replace(self, state: bytes) -> None:
        """Forget everything and take this instead. Raises ValueError when it is no such tar; nothing changes then."""
        draft = self._folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        (draft / _PICTURES).mkdir(parents=True)
        try:
            self._unpack(state, draft)
            with self._lock:
                self._db.close()
                self._models.clear()
                shutil.rmtree(self._folder / _PICTURES)
                (draft / _PICTURES).replace(self._folder / _PICTURES)
                (draft / _STATE).replace(self._folder / _STATE)
                self._db = self._opened()
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _unpack(self, state: bytes, draft: Path) -> None:
        try:
            with tarfile.open(fileobj=io.BytesIO(state)) as tar:
                members = [member for member in tar.getmembers() if member.isfile()]
                if sum(member.size for member in members) > _MOST:
                    raise ValueError("it is too large")
                for member in members:
                    folder, _, name = member.name.rpartition("/")
                    if (folder, name) != ("", _STATE) and not (folder == _PICTURES and usable_id(name)):
                        raise ValueError("it holds what no state holds")
                    content = tar.extractfile(member)
                    (draft / member.name).write_bytes(content.read() if content else b"")
        except tarfile.TarError as error:
            raise ValueError("it is no tar") from error
        if not (draft / _STATE).is_file():
            raise ValueError("it holds no state")
        try:
            with closing(sqlite3.connect(draft / _STATE)) as check:
                check.execute("SELECT id FROM picture, assigned, model LIMIT 1")
        except sqlite3.DatabaseError as error:
            raise ValueError("its state cannot be read") from error

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._folder / _STATE, check_same_thread=False, isolation_level=None)
        # A rehearsal's state need not survive a power cut.
        db.execute("PRAGMA synchronous = OFF")
        db.executescript(_TABLES)
        return db

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with self._lock:
            return self._db.execute(statement, values).fetchall()

    def _write(self, statement: str, *values: object) -> int:
        with self._lock:
            return self._db.execute(statement, values).rowcount


_STRATEGY = {"max_iter": 150, "learning_rate": 0.005, "test_interval": 150}
_PATIENCE = 10.0


@dataclass(slots=True)
class Task:
    """One training of one tag."""

    id: str
    tag: str
    status: str = "in_queue"
    message: str = ""
    exception: str = ""

    def as_json(self) -> dict[str, Any]:
        """What ``/status/<task_id>`` answers."""
        fields = {"status": self.status, "message": self.message, "exception": self.exception}
        return {key: value for key, value in fields.items() if value}


class Tasks:
    """The queue, and the thread that works it off."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mobius-server-tasks", daemon=True)
        self.all: dict[str, Task] = {}
        """Every task since the start, oldest first."""
        self.doomed = threading.Event()
        """While set, trainings fail."""
        self.gate = threading.Event()
        """While clear, the next task waits in the queue."""
        self.gate.set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self.gate.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)

    def train(self, tag: str) -> Task:
        task = Task(str(uuid.uuid4()), tag)
        self.all[task.id] = task
        self._queue.put(task)
        return task

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            self.gate.wait()
            if self._stop.is_set():
                return
            task.message, task.status = "training", "ongoing"
            try:
                self._train(task.tag)
            except Exception as error:  # noqa: BLE001 - whatever went wrong, the next task must have its turn
                _log.info("mobius_server.training_failed", tag=task.tag, error=str(error))
                task.exception, task.message, task.status = str(error) or "stopped", "training_error", "error"
            else:
                task.message, task.status = "", "success"

    def _train(self, tag: str) -> None:
        from threadpoolctl import threadpool_limits

        if self.doomed.is_set():
            raise ValueError("This failure was asked for.")
        kinds = {image: kind for _, image, kind in self._store.assigned(tag)}
        if "negative" not in kinds.values():
            kinds = dict.fromkeys(self._store.pictures(), "negative") | kinds
        samples = [Sample(self._store.path(image), kind) for image, kind in kinds.items()]
        base = self._store.model(tag)
        with threadpool_limits(limits=1):
            model = train(samples, _STRATEGY, base=base, report=lambda _point: None, stop=self._stop)
        self._store.keep_model(tag, model)
