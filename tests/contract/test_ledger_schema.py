"""A ledger is made at one stroke, and brought up to date by migrations: whole or not at all, with a copy kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url

from image_sync.errors import LedgerError
from image_sync.ledger import counters, migrations, open_ledger, schema
from image_sync.ledger.database import FILE
from image_sync.ledger.lock import Lock
from image_sync.ledger.schema import HEAD, metadata
from support import next_schema

_TRIGGERS = {
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal",
}


def _engine(state: str | Path, file: str = FILE) -> Engine:
    if isinstance(state, Path):
        return create_engine(f"sqlite:///{state / file}")
    return create_engine(make_url(state).set(drivername="postgresql+psycopg"))


def _asked(state: str | Path, question: str, file: str = FILE) -> str:
    engine = _engine(state, file)
    with engine.begin() as tx:
        found = str(tx.execute(text(question)).scalar_one())
    engine.dispose()
    return found


def _version_at(state: str | Path, table: str = "alembic_version", file: str = FILE) -> str:
    return _asked(state, f"SELECT version_num FROM {table}", file)


def test_a_new_ledger_has_all_tables_and_triggers(state) -> None:
    """Of the newest version, and its newest migration is the one that Alembic knows."""
    open_ledger(state).close()
    engine = _engine(state)
    with engine.begin() as tx:
        assert set(inspect(tx).get_table_names()) == {*metadata.tables, "alembic_version"}
        assert tx.execute(text(_TRIGGERS[tx.dialect.name])).scalar_one() == 9
        assert counters.correct(tx)
    engine.dispose()
    assert _version_at(state) == HEAD
    assert migrations.known(HEAD)


@pytest.fixture
def old(state: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str | Path:
    """A ledger with one row in it, as this version left it; this process is the next version."""
    open_ledger(state).close()
    engine = _engine(state)
    with engine.begin() as tx:
        tx.execute(text("INSERT INTO keyvalue VALUES ('kept', 'as it was')"))
    engine.dispose()
    monkeypatch.setattr(migrations, "VERSIONS", migrations.VERSIONS)
    monkeypatch.setattr(schema, "HEAD", schema.HEAD)
    next_schema.release(tmp_path / "next")
    return state


def test_who_only_looks_leaves_an_older_ledger_as_it_is(old) -> None:
    """`status` of a newer version beside a running daemon of an older one changes nothing, and says what to do."""
    with pytest.raises(LedgerError, match=f"schema {HEAD} of an older image-sync") as caught:
        open_ledger(old)
    assert "Start the daemon of this version" in caught.value.hint
    assert _version_at(old) == HEAD


def test_the_daemon_keeps_a_copy_before_it_migrates(old) -> None:
    """Whoever holds the lock brings the ledger up to date; as it was before lies beside it."""
    with Lock(old) as lock:
        open_ledger(old, lock=lock).close()
    assert _version_at(old) == next_schema.NEXT
    assert _asked(old, "SELECT value FROM extra WHERE name = 'kept'") == "as it was"
    if isinstance(old, Path):
        assert _version_at(old, file=f"{FILE}.schema-{HEAD}") == HEAD
        assert (old / f"{FILE}.schema-{HEAD}").stat().st_mode & 0o077 == 0
    else:
        assert _version_at(old, f"image_sync_schema_{HEAD}.alembic_version") == HEAD
    open_ledger(old).close()


def test_without_room_for_the_copy_nothing_is_migrated(old, monkeypatch) -> None:
    """The error names what could not be written; the ledger is as it was."""
    if not isinstance(old, Path):
        pytest.skip("a database server keeps its own disk")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with Lock(old) as lock, pytest.raises(LedgerError, match="No space left"):
        open_ledger(old, lock=lock)
    assert _version_at(old) == HEAD


def test_a_ledger_of_an_unknown_version_is_left_alone(old) -> None:
    """With or without the lock: the message names both versions, and nothing is changed."""
    engine = _engine(old)
    with engine.begin() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with Lock(old) as lock, pytest.raises(LedgerError, match=r"newer image-sync \(schema 9999, this one knows 0002"):
        open_ledger(old, lock=lock)
    with pytest.raises(LedgerError, match="newer image-sync"):
        open_ledger(old)
    assert _version_at(old) == "9999"


def test_the_cache_of_a_ledger_is_bounded(tmp_path) -> None:
    """What SQLite keeps of the ledger in memory, all that grows under a steady trickle, ends at 16 MiB."""
    ledger = open_ledger(tmp_path)
    with ledger._context.db.reading() as tx:
        assert tx.exec_driver_sql("PRAGMA cache_size").scalar() == -16 * 1024
    ledger.close()
