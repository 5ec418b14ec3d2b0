"""The server's disk: one SQLite file and the pictures, models and scratch files beside it."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_VERSION = 2
"""Kept in ``PRAGMA user_version``; a folder of a newer version is refused."""

_TABLES = """
CREATE TABLE IF NOT EXISTS datasets (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, owner TEXT NOT NULL,
    scenario TEXT NOT NULL DEFAULT '', purpose TEXT NOT NULL DEFAULT '', project_group_id TEXT NOT NULL DEFAULT '',
    type INTEGER NOT NULL DEFAULT 0, locked INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);

CREATE TABLE IF NOT EXISTS categories (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE, created_at INTEGER NOT NULL,
    UNIQUE (dataset_id, name));

CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE, owner TEXT NOT NULL,
    original_file_name TEXT NOT NULL, file_name TEXT NOT NULL, content_type TEXT NOT NULL,
    category_id TEXT REFERENCES categories(id) ON DELETE SET NULL, size INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, user_metadata TEXT NOT NULL DEFAULT '{}',
    created_at INTEGER NOT NULL, uploaded_at INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS files_by_dataset ON files (dataset_id, seq);
CREATE INDEX IF NOT EXISTS files_by_category ON files (category_id, seq);
CREATE INDEX IF NOT EXISTS files_by_name ON files (dataset_id, original_file_name);

CREATE TABLE IF NOT EXISTS tags (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, normalized_name TEXT NOT NULL,
    dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE, created_at INTEGER NOT NULL);

CREATE TABLE IF NOT EXISTS labels (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE,
    file_id TEXT NOT NULL REFERENCES files(id) ON DELETE CASCADE,
    tag_id TEXT NOT NULL REFERENCES tags(id) ON DELETE CASCADE,
    generate_type TEXT NOT NULL, shape TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS labels_by_file ON labels (file_id);
CREATE INDEX IF NOT EXISTS labels_by_dataset ON labels (dataset_id);
CREATE INDEX IF NOT EXISTS labels_by_tag ON labels (tag_id);

CREATE TABLE IF NOT EXISTS keys (
    dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE, name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '', created_at INTEGER NOT NULL, PRIMARY KEY (dataset_id, name));

CREATE TABLE IF NOT EXISTS tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, dataset_id TEXT NOT NULL,
    owner TEXT NOT NULL, status TEXT NOT NULL, fault TEXT NOT NULL DEFAULT '', nn_arch TEXT NOT NULL DEFAULT '',
    strategy TEXT NOT NULL, base TEXT NOT NULL DEFAULT '', project_group_id TEXT NOT NULL DEFAULT '',
    summary TEXT NOT NULL DEFAULT '{}', series TEXT NOT NULL DEFAULT '[]',
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, usage TEXT NOT NULL DEFAULT 'cic');

CREATE TABLE IF NOT EXISTS models (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, dataset_id TEXT NOT NULL,
    owner TEXT NOT NULL, nn_arch TEXT NOT NULL DEFAULT '', strategy TEXT NOT NULL, accuracy REAL NOT NULL,
    categories TEXT NOT NULL, summary TEXT NOT NULL DEFAULT '{}', project_group_id TEXT NOT NULL DEFAULT '',
    production_status TEXT NOT NULL DEFAULT 'untested', created_at INTEGER NOT NULL,
    usage TEXT NOT NULL DEFAULT 'cic', evaluation TEXT NOT NULL DEFAULT '{}');

CREATE TABLE IF NOT EXISTS webapis (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE REFERENCES models(id), name TEXT NOT NULL,
    owner TEXT NOT NULL, status TEXT NOT NULL, fault TEXT NOT NULL DEFAULT '', accel_type TEXT NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL);

CREATE TABLE IF NOT EXISTS bgtasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, event_type TEXT NOT NULL,
    owner TEXT NOT NULL, dataset_id TEXT NOT NULL, total INTEGER NOT NULL, completed INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    fault TEXT NOT NULL DEFAULT '', created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);

CREATE TABLE IF NOT EXISTS tokens (digest TEXT PRIMARY KEY, owner TEXT NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS api_keys (owner TEXT PRIMARY KEY, key TEXT NOT NULL);
"""

_CHANGES = {
    1: """
ALTER TABLE tasks ADD COLUMN usage TEXT NOT NULL DEFAULT 'cic';
ALTER TABLE models ADD COLUMN usage TEXT NOT NULL DEFAULT 'cic';
ALTER TABLE models ADD COLUMN evaluation TEXT NOT NULL DEFAULT '{}';
"""
}
"""What brings the tables of a version to the next one."""

_LAGGING = """
CREATE TEMP TABLE lagging (id TEXT PRIMARY KEY, dataset_id TEXT NOT NULL, until REAL NOT NULL)
"""
"""Files that listings do not show yet, because a fault switch wants it so; in memory, for one connection."""


FILES = "SELECT f.*, c.name AS category_name FROM files f LEFT JOIN categories c ON c.id = f.category_id"
SHOWN = "f.id NOT IN (SELECT id FROM lagging WHERE until > monotonic())"
"""The condition that leaves out what a fault switch hides from listings."""
UNLABELED = "f.category_id IS NULL AND NOT EXISTS (SELECT 1 FROM labels l WHERE l.file_id = f.id)"
"""The condition of a file that nothing is known of: no category, no labels."""
VIDEO = "video/mp4"
NO_VIDEO = f"f.content_type <> '{VIDEO}'"
"""The condition that leaves videos out, which nothing is trained on."""


class StoreInUse(Exception):  # noqa: N818 - it is a state of affairs, named as such
    """Another server works on this folder."""


def new_id() -> str:
    """A fresh id in the form that MVI uses: a lower-case UUID."""
    return str(uuid.uuid4())


def now_ms() -> int:
    """The time in milliseconds since 1970, as MVI stamps things."""
    return time.time_ns() // 1_000_000


class Store:
    """Everything that survives a restart.

    One connection, used under one lock, which also keeps a second server out of the folder. A file is put under a
    temporary name and renamed before its row is written, so a crash leaves no row without a file.

    Raises:
        StoreInUse: another server has the folder.
        OSError, sqlite3.DatabaseError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / "incoming"
        self._lock = threading.RLock()
        self._depth = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connection = sqlite3.connect(
            folder / "server.sqlite3", timeout=0.2, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare()
        except sqlite3.OperationalError as error:
            self._connection.close()
            if "locked" in str(error):
                raise StoreInUse(f"another server works on {folder}") from error
            raise
        except BaseException:
            self._connection.close()
            raise
        # Whatever was under way when the last server ended belongs to nobody now.
        shutil.rmtree(self._incoming, ignore_errors=True)
        for name in ("incoming", "datasets", "models", "inferences"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = TRUNCATE")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA foreign_keys = ON")
        run("BEGIN EXCLUSIVE")
        (found,) = run("PRAGMA user_version").fetchone()
        run("COMMIT")
        if found > _VERSION:
            raise sqlite3.DatabaseError(f"version {found} is newer than this server's {_VERSION}")
        # A new folder is made with all columns; an older one gets those that it lacks. All or nothing.
        changes = "".join(_CHANGES[version] for version in range(found or _VERSION, _VERSION))
        self._connection.executescript(f"BEGIN; {_TABLES} {changes} PRAGMA user_version = {_VERSION}; COMMIT;")
        run("PRAGMA temp_store = MEMORY")
        run(_LAGGING)
        self._connection.create_function("monotonic", 0, time.monotonic)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, on disk when it ends; one inside another is part of the outer one."""
        with self._lock:
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield self._connection
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._connection.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._connection.execute("COMMIT")

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        with self._lock:
            found: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
            return found

    def run(self, sql: str, *values: Any) -> int:
        """One statement in a transaction of its own, unless one is open; how many rows it changed."""
        with self.transaction() as connection:
            return connection.execute(sql, values).rowcount

    def insert(self, table: str, **values: Any) -> None:
        """Add a row. Raises sqlite3.IntegrityError when it contradicts the others."""
        places = ", ".join("?" * len(values))
        self.run(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", *values.values())

    def update(self, table: str, row_id: str, **values: Any) -> None:
        """Change columns of the row with this id."""
        self.run(
            f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?", *values.values(), row_id
        )

    def delete(self, table: str, row_id: str) -> bool:
        """Remove the row with this id; whether there was one."""
        return bool(self.run(f"DELETE FROM {table} WHERE id = ?", row_id))

    def count(self, what: str, *values: Any) -> int:
        """How many rows there are ``FROM`` what is written here."""
        (row,) = self.rows(f"SELECT count(*) AS n FROM {what}", *values)
        return int(row["n"])

    def lag(self, dataset_id: str, file_ids: Iterable[str], seconds: float) -> None:
        """Keep files of a dataset out of listings and counts for a while; a restart shows them at once."""
        until = time.monotonic() + seconds
        with self.transaction() as connection:
            connection.execute("DELETE FROM lagging WHERE until <= monotonic()")
            connection.executemany(
                "INSERT INTO lagging (id, dataset_id, until) VALUES (?, ?, ?)",
                [(file_id, dataset_id, until) for file_id in file_ids],
            )

    def scratch(self) -> Path:
        """A fresh path for a file that is not finished; on the same file system as all others."""
        return self._incoming / uuid.uuid4().hex

    def pictures(self, dataset_id: str) -> Path:
        """The folder of a dataset's pictures; the argument must come from a row, never from a client."""
        return self.folder / "datasets" / dataset_id / "files"

    def picture(self, dataset_id: str, file_name: str) -> Path:
        """Where a picture lies; both arguments must come from a row, never from a client."""
        return self.pictures(dataset_id) / file_name

    def thumbnail(self, dataset_id: str, file_id: str) -> Path:
        """Where a picture's thumbnail lies once somebody asked for it."""
        return self.folder / "datasets" / dataset_id / "thumbnails" / f"{file_id}.jpg"

    def model(self, model_id: str) -> Path:
        return self.folder / "models" / f"{model_id}.model"

    def make_room(self, dataset_id: str) -> None:
        for name in ("files", "thumbnails"):
            (self.folder / "datasets" / dataset_id / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    def clear_room(self, dataset_id: str) -> None:
        """Remove the folders of a dataset; what a crash leaves over is removed at the next start."""
        grave = self.scratch()
        try:
            (self.folder / "datasets" / dataset_id).rename(grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave, ignore_errors=True)
