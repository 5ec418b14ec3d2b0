"""A new ledger is made at one stroke, an old one brought up to date by migrations: they must come to the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url

from image_sync.errors import LedgerError
from image_sync.ledger import counts, migrations, open_ledger
from image_sync.ledger.database import FILE
from image_sync.ledger.lock import Lock
from image_sync.ledger.schema import HEAD, metadata
from support.postgres import a_database

_TRIGGERS = {
    "sqlite": "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": "SELECT t.tgname, c.relname, pg_get_functiondef(t.tgfoid), pg_get_triggerdef(t.oid) FROM pg_trigger t"
    " JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def two(request, tmp_path) -> Iterator[tuple[Engine, Engine]]:
    """A database in which a ledger was made, and one that went through all migrations."""
    if request.param == "sqlite":
        open_ledger(tmp_path).close()
        urls = [f"sqlite:///{tmp_path / FILE}", f"sqlite:///{tmp_path / 'migrated'}"]
        yield from _engines(urls)
        return
    for made in a_database():
        open_ledger(made).close()
        for migrated in a_database():
            yield from _engines([str(made), str(migrated)])


def _engines(urls: list[str]) -> Iterator[tuple[Engine, Engine]]:
    drivers = {"postgresql": "postgresql+psycopg"}
    made, migrated = (
        create_engine(make_url(url).set(drivername=drivers.get(make_url(url).drivername, "sqlite"))) for url in urls
    )
    if migrated.dialect.name == "sqlite":
        event.listen(migrated, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
    with migrated.begin() as tx:
        migrations.upgrade(tx)
    yield made, migrated
    made.dispose()
    migrated.dispose()


def _shape(engine: Engine) -> dict[str, Any]:
    """Everything that the database enforces, told apart by its meaning and not by its order."""
    found = inspect(engine)
    shape: dict[str, Any] = {}
    for table in sorted(found.get_table_names()):
        columns = found.get_columns(table)
        shape[table] = {
            "columns": sorted((c["name"], str(c["type"]), c["nullable"], str(c["default"])) for c in columns),
            "key": found.get_pk_constraint(table)["constrained_columns"],
            "foreign": sorted(
                (f["constrained_columns"], f["referred_table"], f["referred_columns"], sorted(f["options"].items()))
                for f in found.get_foreign_keys(table)
            ),
            "unique": sorted(sorted(u["column_names"]) for u in found.get_unique_constraints(table)),
            "indexes": sorted(
                (
                    i["name"],
                    i["column_names"],
                    bool(i["unique"]),
                    sorted(map(str, i.get("dialect_options", {}).values())),
                )
                for i in found.get_indexes(table)
            ),
        }
    with engine.begin() as tx:
        shape["triggers"] = sorted(map(tuple, tx.execute(text(_TRIGGERS[engine.dialect.name]))))
        shape["version"] = tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        assert counts.correct(tx)
    return shape


def test_a_new_ledger_is_what_the_migrations_make(two: tuple[Engine, Engine]) -> None:
    """Columns, keys, indexes, triggers and version are the same, whichever way a ledger came to be."""
    made, migrated = map(_shape, two)

    assert made == migrated
    assert made["version"] == HEAD
    assert made.keys() >= metadata.tables.keys()
    assert made["triggers"]


@pytest.fixture
def old(state: str | Path) -> str | Path:
    """A ledger as an earlier version left it, with one row in it."""
    if isinstance(state, Path):
        state.mkdir()
    engine = _engine(state)
    with engine.begin() as tx:
        config = migrations._config()
        config.attributes["connection"] = tx
        command.upgrade(config, "0004")
        tx.execute(text("INSERT INTO note VALUES ('kept', 'as it was')"))
    engine.dispose()
    return state


def _engine(state: str | Path, file: str = FILE) -> Engine:
    if isinstance(state, Path):
        return create_engine(f"sqlite:///{state / file}")
    return create_engine(make_url(state).set(drivername="postgresql+psycopg"))


def _version_at(state: str | Path, table: str = "alembic_version", file: str = FILE) -> str:
    engine = _engine(state, file)
    with engine.begin() as tx:
        found = str(tx.execute(text(f"SELECT version_num FROM {table}")).scalar_one())
    engine.dispose()
    return found


def test_who_only_looks_leaves_an_older_ledger_as_it_is(old) -> None:
    """`status` of a newer version beside a running daemon of an older one changes nothing, and says what to do."""
    with pytest.raises(LedgerError, match="schema 0004 of an older image-sync") as caught:
        open_ledger(old)
    assert "Start the daemon of this version" in caught.value.hint
    assert _version_at(old) == "0004"


def test_the_daemon_keeps_a_copy_before_it_migrates(old) -> None:
    """Whoever holds the lock brings the ledger up to date; as it was before lies beside it."""
    with Lock(old) as lock:
        open_ledger(old, lock=lock).close()
    assert _version_at(old) == HEAD
    if isinstance(old, Path):
        assert _version_at(old, file=f"{FILE}.schema-0004") == "0004"
        assert (old / f"{FILE}.schema-0004").stat().st_mode & 0o077 == 0
    else:
        assert _version_at(old, "image_sync_schema_0004.alembic_version") == "0004"
    open_ledger(old).close()


def test_without_room_for_the_copy_nothing_is_migrated(old, monkeypatch) -> None:
    """The error names what could not be written; the ledger is as it was."""
    if not isinstance(old, Path):
        pytest.skip("a database server keeps its own disk")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with Lock(old) as lock, pytest.raises(LedgerError, match="No space left"):
        open_ledger(old, lock=lock)
    assert _version_at(old) == "0004"


def test_the_cache_of_a_ledger_is_bounded(tmp_path) -> None:
    """What SQLite keeps of the ledger in memory, all that grows under a steady trickle, ends at 16 MiB."""
    ledger = open_ledger(tmp_path)
    with ledger._context.db.reading() as tx:
        assert tx.exec_driver_sql("PRAGMA cache_size").scalar() == -16 * 1024
    ledger.close()
