"""Statements for many rows at once, handed to the driver as they are: SQLAlchemy's care for each parameter of each row
would take longer than the database's work.

Many rows go into one statement. The driver then gives the interpreter up and takes it back once, not once for each
row, and PostgreSQL's triggers, which work statement by statement, run once as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Table

_MOST = 512
"""Rows in one statement. There are only statements of 1, 2, 4, ... rows, so that the driver can keep them prepared."""


class Bulk:
    """One statement for any number of rows.

    Values must be of types that both drivers take as they are: int, float, plain str, bytes, None.

    Args:
        statement: SQL with ``{rows}`` where the list of rows belongs, and ``?`` behind it for what all rows share.
        row: one row of it.
    """

    def __init__(self, statement: str, row: str) -> None:
        self._statement = statement
        self._row = row
        self._sql = cache(self._made)

    @classmethod
    def into(cls, table: Table, *columns: str, then: str = "", **others: str) -> Bulk:
        """An insertion of these columns, and behind them of others whose values are SQL.

        Args:
            then: SQL behind the rows: what to do about those that are there already, and what to return.
        """
        row = ", ".join((*("?" for _ in columns), *others.values()))
        return cls(f"INSERT INTO {table.name} ({', '.join((*columns, *others))}) VALUES {{rows}} {then}", f"({row})")

    @classmethod
    def update(cls, table: Table, values: str, where: str, *columns: str) -> Bulk:
        """A change of rows by what is ``given``: a table of these columns."""
        given = f"WITH given ({', '.join(columns)}) AS (VALUES {{rows}})"
        row = ", ".join("?" for _ in columns)
        return cls(f"{given} UPDATE {table.name} SET {values} FROM given WHERE {where}", f"({row})")

    def __call__(self, tx: Connection, rows: Sequence[Sequence[Any]], *common: Any) -> list[Any]:
        """Carry it out for these rows, each with its values in order; ``common`` is what they share.

        Returns the rows that a statement which returns any gave back.
        """
        mark = "?" if tx.dialect.paramstyle == "qmark" else "%s"
        at, given = 0, list[Any]()
        while at < len(rows):
            size = min(_MOST, 1 << (len(rows) - at).bit_length() - 1)
            result = tx.exec_driver_sql(self._sql(size, mark), (*chain.from_iterable(rows[at : at + size]), *common))
            if result.returns_rows:
                given += result.all()
            at += size
        return given

    def _made(self, size: int, mark: str) -> str:
        return self._statement.format(rows=", ".join([self._row] * size)).replace("?", mark)
