"""One daemon per ledger: a lock that ends with the process that holds it, however it ends.

A state folder is held by a lock on a file, which nothing can take away. A PostgreSQL ledger is held by a session, and a
session can be cut: the lock is free then, while this process still runs and another may begin. Therefore each daemon
also writes its *term* into the ledger when it begins, and each of its transactions looks whether the term is still its
own (``ledger/database.py``). So two never write, whatever happens to their connections.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine, exc, text
from sqlalchemy.engine import make_url

from image_sync.errors import AlreadyRunning, LedgerError
from image_sync.ledger.database import TERM, make_folder, postgresql, unusable

FILE = "lock"
_ADVISORY = 0x696D676C  # any constant, but another one than the writers'
_LOOK = 2.0  # seconds between two proofs that the session is there
_TERM = text("SELECT value FROM keyvalue WHERE name = :name")
_HELD = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = :key"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a ledger."""

    pid: int
    host: str = ""
    """Its machine, if that is another one."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.host else f"process {self.pid}"


class Lock:
    """Holds a state folder, or a PostgreSQL ledger, for one daemon.

    Args:
        state: the state folder, or a ``postgresql://`` URL.

    Raises:
        AlreadyRunning: another process has it. LedgerError: the folder cannot be used.
    """

    def __init__(self, state: str | Path) -> None:
        self._close = contextlib.ExitStack()
        self._engine: Engine | None = None
        self._session: Connection | None = None
        self.term = ""
        """What a PostgreSQL ledger knows this process by; empty for a folder, which cannot be lost."""
        if isinstance(state, str) and "://" in state:
            self._where = make_url(state).render_as_string(hide_password=True)
            self._engine = postgresql(make_url(state))
            self._close.callback(self._engine.dispose)
            self.term = json.dumps({"pid": os.getpid(), "host": platform.node(), "term": uuid.uuid4().hex})
            with contextlib.ExitStack() as failed:
                failed.callback(self._close.close)
                self._hold_server(self._engine)
                failed.pop_all()
        else:
            self._hold_folder(Path(state))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _drop(self._session)
        self._close.close()

    def keep(self, _now: float) -> float:
        """Prove that it is still held, and take it again where the connection was cut. Returns seconds to wait.

        Raises:
            AlreadyRunning: another process has taken it meanwhile. LedgerError: the database cannot be reached.
        """
        if self._engine is None:
            return _LOOK
        if self._session is not None:
            try:
                self._session.execute(text("SELECT 1"))
                self._session.rollback()
            except exc.SQLAlchemyError:
                _drop(self._session)
                self._session = None
        if self._session is None:
            self._hold_server(self._engine, again=True)
        return _LOOK

    def _hold_folder(self, folder: Path) -> None:
        try:
            make_folder(folder)
            handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise unusable(folder, error) from error
        self._close.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._close.close()
            raise AlreadyRunning(
                f"another image-sync{_named(holder_of(folder))} works on {folder}",
                hint="Stop it first, or give this configuration its own `state` folder.",
            ) from error
        named = f"{os.getpid()}\n".encode()
        try:  # over the name of the last holder: that takes no room, so a restart succeeds on a full disk
            os.pwrite(handle, named, 0)
            os.ftruncate(handle, len(named))
        except OSError as error:
            self._close.close()
            raise unusable(folder, error) from error

    def _hold_server(self, engine: Engine, *, again: bool = False) -> None:
        """Open a session that holds the lock; ``again``: after the one that held it was cut."""
        session, got, whose = self._ask(engine)
        mine = whose == self.term
        if got and (mine or not again):
            self._session = session
            return
        _drop(session)
        if again and mine:
            return  # the server takes the dead session for alive: nobody else gets the lock either
        raise AlreadyRunning(
            f"another image-sync{_named(_holder(whose))} works on the ledger {self._where}",
            hint="Stop it first, or give this configuration its own database.",
        )

    def _ask(self, engine: Engine) -> tuple[Connection, bool, str]:
        """A new session, whether it has the lock now, and whose term it is."""
        session = None
        try:
            session = engine.connect()
            got = session.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY}).scalar_one()
            whose = _term(session)
            session.commit()
        except exc.SQLAlchemyError as error:
            _drop(session)
            said = str(error.orig).strip() if isinstance(error, exc.DBAPIError) else str(error)
            raise LedgerError(
                f"the ledger {self._where} cannot be reached: {said}",
                hint="Check `state`, and that the database server runs.",
                passing=isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError),
            ) from error
        return session, bool(got), whose


def holder_of(state: str | Path) -> Holder | None:
    """The process that holds the state folder or the database now, or None."""
    if isinstance(state, str) and "://" in state:
        return _holder_at_server(state)
    try:
        handle = os.open(Path(state) / FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with contextlib.closing(os.fdopen(handle, "rb")) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            said = file.read(20).strip()
            return Holder(int(said)) if said.isdigit() else None
    return None


def _holder_at_server(url: str) -> Holder | None:
    engine = postgresql(make_url(url))
    try:
        with engine.connect() as session:
            held = session.execute(_HELD, {"key": _ADVISORY}).scalar_one()
            return _holder(_term(session)) if held else None
    except exc.SQLAlchemyError:
        return None  # whoever opens the ledger is told why
    finally:
        engine.dispose()


def _drop(session: Connection | None) -> None:
    """End the session, and with it the lock that it may hold."""
    if session is not None:
        with contextlib.suppress(exc.SQLAlchemyError):
            session.invalidate()
        with contextlib.suppress(exc.SQLAlchemyError):
            session.close()


def _term(session: Connection) -> str:
    if not session.dialect.has_table(session, "keyvalue"):
        return ""
    return str(session.execute(_TERM, {"name": TERM}).scalar() or "")


def _holder(term: str) -> Holder | None:
    if not term:
        return None
    said = json.loads(term)
    return Holder(said["pid"], "" if said["host"] == platform.node() else said["host"])


def _named(holder: Holder | None) -> str:
    return f" ({holder})" if holder else ""
