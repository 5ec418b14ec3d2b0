"""One daemon per ledger: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import create_engine, exc, text
from sqlalchemy.engine import make_url

from image_sync.errors import AlreadyRunning, LedgerError
from image_sync.ledger.folder import make_folder, unusable

FILE = "lock"
_ADVISORY = 0x696D676C  # any constant, but another one than the writers'


class Lock:
    """Holds a state folder, or a PostgreSQL ledger, for one daemon.

    Args:
        state: the state folder, or a ``postgresql://`` URL.

    Raises:
        AlreadyRunning: another process has it. LedgerError: the folder cannot be used.
    """

    def __init__(self, state: str | Path) -> None:
        self._close = contextlib.ExitStack()
        if isinstance(state, str) and "://" in state:
            self._hold_server(state)
        else:
            self._hold_folder(Path(state))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.close()

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
            holder = holder_of(folder)
            raise AlreadyRunning(
                f"another image-sync{f' (process {holder})' if holder else ''} works on {folder}",
                hint="Stop it first, or give this configuration its own `state` folder.",
            ) from error
        named = f"{os.getpid()}\n".encode()
        try:  # over the name of the last holder: that takes no room, so a restart succeeds on a full disk
            os.pwrite(handle, named, 0)
            os.ftruncate(handle, len(named))
        except OSError as error:
            self._close.close()
            raise unusable(folder, error) from error

    def _hold_server(self, url: str) -> None:
        engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
        self._close.callback(engine.dispose)
        try:
            connection = engine.connect()
            self._close.callback(connection.close)
            got = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY}).scalar_one()
            connection.commit()
        except exc.DBAPIError as error:
            self._close.close()
            raise LedgerError(
                f"the ledger at {make_url(url).render_as_string(hide_password=True)} cannot be reached",
                hint="Check `state`, and that the database server runs.",
            ) from error
        if not got:
            self._close.close()
            raise AlreadyRunning(
                "another image-sync works on this PostgreSQL ledger",
                hint="Stop it first, or give this configuration its own database.",
            )


def holder_of(state: str | Path) -> int | None:
    """The process id of the daemon that holds the state folder now, or None."""
    if isinstance(state, str) and "://" in state:
        return None
    try:
        handle = os.open(Path(state) / FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with contextlib.closing(os.fdopen(handle, "rb")) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            text_ = file.read(20).strip()
            return int(text_) if text_.isdigit() else None
    return None
