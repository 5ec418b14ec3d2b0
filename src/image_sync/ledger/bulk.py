"""Statements for many rows at once, handed to the driver as they are: SQLAlchemy's care for each parameter of each row
would take longer than the database's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, bindparam, insert
from sqlalchemy.sql import Executable
from sqlalchemy.sql.compiler import SQLCompiler


class Bulk:
    """One statement whose values are all named parameters.

    Values must be of types that both drivers take as they are: int, float, plain str, bytes, None.
    """

    def __init__(self, statement: Any) -> None:
        self._statement: Executable = statement
        self._compiled: dict[str, tuple[str, itemgetter[Any] | None]] = {}

    @classmethod
    def into(cls, table: Any, *columns: str) -> Bulk:
        """An insertion of these columns."""
        return cls(insert(table).values({column: bindparam(column) for column in columns}))

    def __call__(self, tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Carry it out for each row."""
        if not rows:
            return
        sql, in_order = self._for(tx.dialect)
        tx.exec_driver_sql(sql, list(rows) if in_order is None else list(map(in_order, rows)))

    def _for(self, dialect: Dialect) -> tuple[str, itemgetter[Any] | None]:
        found = self._compiled.get(dialect.name)
        if found is None:
            compiled: SQLCompiler = self._statement.compile(dialect=dialect)  # type: ignore[attr-defined]
            order = compiled.positiontup
            found = (str(compiled), itemgetter(*order) if order else None)
            self._compiled[dialect.name] = found
        return found
