"""SQL for many rows at once, handed to the driver as it is: SQLAlchemy's care for each value would take longer than the
database's work.

Many rows go into one statement. The driver then gives the interpreter up and takes it back once, not once for each
row, and PostgreSQL's triggers, which work statement by statement, run once as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection

_MOST = 512
"""Rows in one statement. There are only statements of 1, 2, 4, ... rows, so that the driver can keep them prepared."""


def rows(tx: Connection, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What the statement finds, in plain tuples. Each ``?`` in it stands for one of the values."""
    found: Any = tx.exec_driver_sql(_marked(statement, tx.dialect.paramstyle), values).cursor
    return found.fetchall()  # type: ignore[no-any-return]


def execute(tx: Connection, statement: str, *values: Any) -> int:
    """Carry the statement out. Returns how many rows it changed."""
    return tx.exec_driver_sql(_marked(statement, tx.dialect.paramstyle), values).rowcount


def execute_rows(tx: Connection, statement: str, given: Sequence[Sequence[Any]], *shared: Any) -> int:
    """Carry one statement out for any number of rows. Returns how many rows it changed.

    Values must be of types that both drivers take as they are: int, float, plain str, bytes, None.

    Args:
        statement: SQL with one row in braces, ``{(?, ?, 'sound')}``, where the list of rows belongs.
        given: the values of each row.
        shared: what all rows share: the values of each ``?`` behind them.
    """
    changed = at = 0
    while at < len(given):
        size = min(_MOST, 1 << (len(given) - at).bit_length() - 1)
        values = (*chain.from_iterable(given[at : at + size]), *shared)
        changed += tx.exec_driver_sql(_repeated(statement, size, tx.dialect.paramstyle), values).rowcount
        at += size
    return changed


def rows_of(tx: Connection, statement: str, given: Sequence[Any], *shared: Any) -> list[tuple[Any, ...]]:
    """What the statement finds for single values, as many as there are: SQL with ``{?}`` where their list belongs."""
    found: list[tuple[Any, ...]] = []
    at = 0
    while at < len(given):
        size = min(_MOST, 1 << (len(given) - at).bit_length() - 1)
        sql = _repeated(statement, size, tx.dialect.paramstyle)
        cursor: Any = tx.exec_driver_sql(sql, (*given[at : at + size], *shared)).cursor
        found += cursor.fetchall()
        at += size
    return found


@cache
def _marked(statement: str, style: str) -> str:
    return statement if style == "qmark" else statement.replace("?", "%s")


@cache
def _repeated(statement: str, size: int, style: str) -> str:
    head, _, rest = statement.partition("{")
    row, _, tail = rest.partition("}")
    return _marked(f"{head}{', '.join([row] * size)}{tail}", style)
