"""The database under the ledger: SQLite in the state folder, or PostgreSQL; one writer at a time in both.

SQLite runs with ``synchronous=FULL`` and a truncated rollback journal: in power-cut tests WAL with NORMAL lost
acknowledged commits, this pair lost none. A lost "about to send" row would be a picture sent twice.

All threads take turns at one connection to SQLite: what was read for one need not be read again for another, and
nobody sleeps because of a lock of our own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine, event, exc, inspect, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import StaticPool

from image_sync.errors import AlreadyRunning, LedgerError
from image_sync.ledger import counters, schema
from image_sync.ledger.schema import annotation, file, keyvalue, metadata, picture
from image_sync.log import get_logger

FILE = "ledger.sqlite"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_LITTLE = 128 << 10
"""Bytes of room below which a ledger cannot be written to: a transaction needs some pages, twice."""
_BUSY_MS = 30_000
_CACHE_KIB = 16_384
_OFTEN = 1_000_000  # steps of SQLite's machine between two signs of life: some hundredths of a second
_ADVISORY = 0x696D6773  # any constant; ours spells "imgs"
TERM = "daemon"
"""The name under which it is kept which daemon may write to a PostgreSQL ledger."""
_WHOSE = select(keyvalue.c.value).where(keyvalue.c.name == TERM)
_CONNECT = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",  # milliseconds
}
# A server that lost a client without a word must not keep the client's locks for the two hours of TCP's own patience.
_SESSION = (
    "SET lock_timeout = '60s'; SET idle_in_transaction_session_timeout = '10min'; "
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
)

log = get_logger(__name__)


T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    """One thread's part of a transaction."""

    work: Callable[[Connection], Any]
    result: Any = None
    error: BaseException | None = None
    done: bool = False


class Database:
    """One ledger database. Transactions are short; writers queue behind one lock, with SQLite readers, too.

    Args:
        state: the state folder, or a ``postgresql://`` URL.
        alone: the caller holds the ledger's lock: an older schema is migrated. Others leave it as it is.
        term: who the caller is, if its right to write can be lost while it runs (``ledger/lock.py``). From here on
            the ledger is its own, and a transaction of any earlier one fails.
        alive: called at each transaction, and in SQLite also within a long statement, in the thread that waits for it.

    Raises:
        LedgerError: it cannot be opened, or was written by a newer image-sync, or by an older one and not ``alone``.
    """

    def __init__(
        self, state: str | Path, *, alone: bool = False, term: str = "", alive: Callable[[], None] = lambda: None
    ) -> None:
        self._alive = alive
        self.where = _shown(state)
        self._alone = alone
        self._term = ""
        self._writer = threading.RLock()
        self._jobs: deque[_Job] = deque()
        self._engine = _engine(state, alive)
        self._file = self._engine.dialect.name == "sqlite"
        self._reader = self._writer if self._file else contextlib.nullcontext()
        self.insert = _insert(self._engine.dialect.name)
        try:
            self._migrate()
            self._take_over(term)
        except BaseException as error:
            self._engine.dispose()
            if isinstance(error, exc.SQLAlchemyError):
                raise self._told(error) from error
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A short read transaction: one consistent look."""
        self._alive()
        try:
            with self._reader, self._engine.begin() as connection:
                if self._file:
                    connection.exec_driver_sql("BEGIN")
                yield connection
        except exc.SQLAlchemyError as error:
            raise self._told(error) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A short write transaction, durable when it returns; rolled back whole when it raises."""
        self._alive()
        try:
            with self._writer, self._engine.begin() as connection:
                if self._file:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY})
                    # Asked in a statement of its own: this one sees what was committed while that one waited.
                    if self._term and connection.execute(_WHOSE).scalar() != self._term:
                        raise AlreadyRunning(
                            f"another image-sync has taken over {self.where}",
                            hint="The connection to the database was cut, and the other one was quicker.",
                        )
                yield connection
        except exc.SQLAlchemyError as error:
            raise self._told(error) from error

    def write(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` in a write transaction, durable when it returns, and return its result.

        What several threads want written at one moment is written in one transaction: they share the wait for the
        disk. ``work`` may be called a second time, after a rollback, and must change nothing but the database.
        """
        job = _Job(work)
        self._jobs.append(job)
        with self._writer:  # whoever is first does it for all who wait here
            if not job.done:
                self._do([self._jobs.popleft() for _ in range(len(self._jobs))])
        if job.error is not None:
            raise job.error
        return cast("T", job.result)

    def _do(self, jobs: Sequence[_Job]) -> None:
        try:
            with self.writing() as tx:
                for job in jobs:
                    job.result = job.work(tx)
        except BaseException as error:  # noqa: BLE001 - it is raised where it belongs
            # A database that went away while it committed may have committed: nothing is done a second time here.
            whole = len(jobs) == 1 or (isinstance(error, LedgerError) and error.passing)
            for job in jobs:
                if whole:
                    job.error = error
                else:  # one of them is to blame: each for itself, then
                    self._do([job])
        for job in jobs:
            job.done = True

    def prove(self) -> None:
        """Read everything and compare it with what the indexes say. Raises LedgerError if it is damaged."""
        if not self._file:
            return  # a database server looks after itself
        with self.reading() as tx:
            found = tx.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        if found != ["ok"]:
            hint, _ = _remedy("malformed", lost=False)
            raise LedgerError(f"the ledger {self.where} is damaged: {'; '.join(map(str, found[:3]))}", hint=hint)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _migrate(self) -> None:
        # Alembic takes longer to import than everything else here: asked only when there is something to do.
        with self._engine.begin() as connection:
            version = _version(connection)
        if version is None:
            with self.writing() as connection:
                if connection.dialect.has_table(connection, "alembic_version"):  # another process was quicker
                    version = _version(connection)
                else:
                    version = _make(connection)
        ours = schema.HEAD
        if version == ours:
            return
        from image_sync.ledger import migrations

        if version is not None and not migrations.known(version):
            raise LedgerError(
                f"the ledger {self.where} was written by a newer image-sync (schema {version}, this one knows {ours})",
                hint="Install the newer version again, or point `state` at another folder.",
            )
        if not self._alone:
            raise LedgerError(
                f"the ledger {self.where} has the schema {version} of an older image-sync (this one knows {ours})",
                hint="Start the daemon of this version: it brings the ledger up to date, and keeps a copy.",
            )
        copy = self._copy(version)
        with self.writing() as connection:
            migrations.upgrade(connection)
        log.info("ledger.migrated", was=version, now=ours, copy=copy)

    def _copy(self, version: str | None) -> str:
        """Keep the ledger as the older version left it, should anybody want to go back to that. Returns where."""
        name = f"schema-{version}"
        if self._file:
            return self._copy_file(f"{self._engine.url.database}.{name}")
        name = name.replace("-", "_")
        with self.writing() as connection:
            tables = inspect(connection).get_table_names()
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS image_sync_{name}"))
            for table in tables:
                copied = f'image_sync_{name}."{table}"'
                connection.execute(text(f"DROP TABLE IF EXISTS {copied}"))
                connection.execute(text(f'CREATE TABLE {copied} AS TABLE "{table}"'))
        return f"schema image_sync_{name} of the database"

    def _copy_file(self, to: str) -> str:
        draft = Path(f"{to}.draft")
        try:
            draft.unlink(missing_ok=True)
            os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with self._reader, self._engine.connect() as connection, contextlib.closing(sqlite3.connect(draft)) as copy:
                cast("sqlite3.Connection", connection.connection.driver_connection).backup(copy)
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            draft.replace(to)
        except (OSError, sqlite3.Error) as error:
            draft.unlink(missing_ok=True)
            raise LedgerError(
                f"the ledger is not brought up to date, because no copy of it can be kept as {to}: {error}",
                hint="Make room, or copy the state folder elsewhere and begin with an empty one.",
            ) from error
        return to

    def _take_over(self, term: str) -> None:
        if term:
            with self.writing() as connection:
                statement = self.insert(keyvalue).values(name=TERM, value=term)
                connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": term}))
            self._term = term

    def _told(self, error: exc.SQLAlchemyError) -> LedgerError:
        """What the driver raised, with what to do about it."""
        if not isinstance(error, exc.DBAPIError):
            passing = isinstance(error, exc.TimeoutError)  # all connections are busy waiting for the server
            return LedgerError(f"the ledger {self.where} cannot be used: {error}", passing=passing)
        said = str(error.orig).strip()
        # Of a database server these are about the connection, or about what it lacks at the moment.
        served = not self._file and isinstance(error, exc.OperationalError | exc.InterfaceError)
        hint, passing = _remedy(said, lost=served or error.connection_invalidated)
        return LedgerError(f"the ledger {self.where} cannot be used: {said}", hint=hint, passing=passing)


def carry_over(old: Path, new: Path) -> int:
    """From a SQLite ledger that was set aside, into a new one: the datasets, and which categories they were told.

    A change of category that was under way is left out: nobody knows whether it was told.

    Returns:
        Of how many pictures.

    Raises:
        sqlite3.Error: the old one cannot be read; the new one is as it was.
    """
    columns = "id, platform, endpoint, setting, action, dataset_name, created_at"
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as ledger:
        ledger.execute("ATTACH DATABASE ? AS old", (str(old),))
        ledger.execute("BEGIN IMMEDIATE")
        try:
            ledger.execute(
                f"INSERT INTO target ({columns}, dataset_id, cleared_to) SELECT {columns}, '', 0 FROM old.target"
            )
            told = ledger.execute(
                "INSERT INTO told (target_id, remote_id, category) SELECT DISTINCT target_id, remote_id, sent_category"
                " FROM old.picture WHERE state = 'confirmed' AND remote_id <> ''"
                " AND 'relabel/' || id NOT IN (SELECT name FROM old.keyvalue)"
            ).rowcount
        except sqlite3.Error:
            ledger.execute("ROLLBACK")
            raise
        ledger.execute("COMMIT")
    return told


def make_folder(folder: Path) -> None:
    """Make it, and what is missing above it, if it is not there. Raises OSError.

    SQLite syncs its files and the folder they are in; that the folder itself is there is for its maker to sync.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unusable(folder: Path, error: OSError) -> LedgerError:
    """What to tell a person whose state folder cannot be used."""
    hint = "Make it readable and writable for the user that runs image-sync, or point `state` at another folder."
    if error.errno in _FULL:
        hint = "The disk is full: free some space. Nothing was sent without being written down first."
    elif error.errno in _DENIED:
        hint = f"Run this as the user that runs the daemon, or as root (sudo). Else: {hint[0].lower()}{hint[1:]}"
    return LedgerError(f"the state folder {folder} cannot be used: {error.strerror}", hint=hint)


def full(folder: Path) -> bool:
    """Whether the disk has no room for the ledger any more. A daemon cannot write that down in the ledger itself."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False  # not there: another trouble, told elsewhere
    return disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < _LITTLE


def _insert(dialect: str) -> Any:
    """The kind of insertion that knows what to do about a row that is there already."""
    if dialect == "sqlite":
        return sqlite.insert
    from sqlalchemy.dialects import postgresql  # late: most ledgers are files, and it takes time

    return postgresql.insert


def _version(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    row = connection.execute(text("SELECT version_num FROM alembic_version")).first()
    return None if row is None else str(row[0])


def _make(connection: Connection) -> str:
    """Make the newest schema in an empty database, as all migrations together would, in a tenth of the time."""
    if connection.dialect.name == "postgresql":
        for index in annotation.indexes | picture.indexes | file.indexes:
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
    metadata.create_all(connection, checkfirst=False)
    counters.install(connection)
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": schema.HEAD})
    return schema.HEAD


def _shown(state: str | Path) -> str:
    if isinstance(state, str) and "://" in state:
        return make_url(state).render_as_string(hide_password=True)
    return str(Path(state) / FILE)


def _engine(state: str | Path, alive: Callable[[], None]) -> Engine:
    if isinstance(state, str) and "://" in state:
        return postgresql(make_url(state))
    folder = Path(state)
    try:
        make_folder(folder)
        file = folder / FILE
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise unusable(folder, error) from error
    # The driver's own transaction handling is off: `reading` and `writing` say what kind is meant.
    engine = create_engine(
        URL.create("sqlite", database=str(file)),
        connect_args={"timeout": _BUSY_MS / 1000, "isolation_level": None, "check_same_thread": False},
        poolclass=StaticPool,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "connect", lambda connection, _record: connection.set_progress_handler(alive, _OFTEN))
    return engine


def postgresql(url: URL) -> Engine:
    """Connections to a database server, which notice within a minute or so when it is gone."""
    try:
        import psycopg  # noqa: F401 - asked for here so that the message below can say how to get it
    except ImportError as error:
        raise LedgerError(
            "a PostgreSQL ledger needs a driver that is not installed",
            hint="Run: pip install 'image-sync[postgres]'",
        ) from error
    # Statements are not kept prepared: a plan made while a table was empty would read all of it for ever after.
    chosen = {key: value for key, value in _CONNECT.items() if key not in url.query}
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        connect_args={"prepare_threshold": None, **chosen},
    )
    event.listen(engine, "connect", _introduce)
    return engine


def _introduce(connection: Any, _record: Any) -> None:
    from psycopg.types.numeric import IntLoader

    connection.adapters.register_loader("numeric", IntLoader)  # the sum of whole numbers, which would be a Decimal
    connection.execute(_SESSION)
    connection.commit()


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    connection.execute("PRAGMA journal_mode=TRUNCATE")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _remedy(said: str, *, lost: bool) -> tuple[str, bool]:
    """What to do about the driver's words, and whether it passes by itself."""
    words = said.lower()
    if "full" in words or "no space" in words:
        return "The disk is full: free some space. Nothing is sent meanwhile, and nothing is lost.", True
    if "locked" in words or "busy" in words:
        return "Another program holds the ledger; close it.", True
    if "malformed" in words or "not a database" in words:
        return "The file is damaged. To begin anew from what the platform has: image-sync ledger rebuild", False
    if "unable to open" in words and not _may_open():
        return "Too many files are open in this process: raise the limit (ulimit -n, LimitNOFILE=).", True
    if "readonly" in words or "read-only" in words or "unable to open" in words:
        return "Make the state folder writable for the user that runs image-sync.", False
    if lost:
        return "The database server does not answer, or refuses the connection; it is tried again.", True
    return "Nothing was sent without being written down first; start again when the cause is gone.", False


def _may_open() -> bool:
    """Whether the process can open one more file: SQLite says the same of a missing right and a missing descriptor."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
