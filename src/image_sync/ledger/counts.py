"""How many files and pictures stand where, kept by the database itself: at a million pictures counting takes too long.

Triggers carry every change of ``place``, ``picture`` and ``label`` over, so no statement can forget to. On SQLite they
work row by row, on PostgreSQL statement by statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Table, case, delete, func, insert, select, text, true

from image_sync.ledger.schema import label, label_count, picture, picture_count, place, place_count

# Counting table -> the table that is counted, the column that holds the count, and what rows are told apart by.
_COUNTED: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "place_count": ("place", "files", {"folder_id": "{}.folder_id", "state": "{}.state", "role": "{}.role"}),
    "picture_count": (
        "picture",
        "pictures",
        {
            "target_id": "{}.target_id",
            "state": "{}.state",
            "category": "{}.category",
            "sent_category": "{}.sent_category",
            "counted": "CASE WHEN {}.run_id IS NULL THEN 0 ELSE 1 END",
        },
    ),
    "label_count": ("label", "pictures", {"target_id": "{}.target_id", "label": "{}.label"}),
}


def install(tx: Connection, *counts: str) -> None:
    """Make the triggers of these counting tables (all, if none is named), and count what is there."""
    counts = counts or tuple(_COUNTED)
    for count in counts:
        for statement in _sqlite(count) if tx.dialect.name == "sqlite" else _postgresql(count):
            tx.execute(text(statement))
    for table, counted in _counted():
        if table.name in counts:
            tx.execute(delete(table))
            tx.execute(insert(table).from_select(list(table.c), counted))


def correct(tx: Connection) -> bool:
    """Whether the counts agree with what they count."""
    for table, counted in _counted():
        kept = tx.execute(select(table).where(list(table.c)[-1] > 0))
        if sorted(map(tuple, kept)) != sorted(map(tuple, tx.execute(counted))):
            return False
    return True


def _counted() -> Iterator[tuple[Table, Any]]:
    yield place_count, _places()
    yield picture_count, _pictures()
    yield label_count, _labels()


def _places() -> Any:
    which = (place.c.folder_id, place.c.state, place.c.role)
    return select(*which, func.count()).where(true()).group_by(*which)


def _pictures() -> Any:
    counted = case((picture.c.run_id.is_(None), 0), else_=1)
    which = (picture.c.target_id, picture.c.state, picture.c.category, picture.c.sent_category, counted)
    return select(*which, func.count()).where(true()).group_by(*which)


def _labels() -> Any:
    which = (label.c.target_id, label.c.label)
    return select(*which, func.count()).where(true()).group_by(*which)


def _sqlite(count: str) -> Iterator[str]:
    table, number, told_apart = _COUNTED[count]
    columns = ", ".join(told_apart)
    old, new = ([value.format(row) for value in told_apart.values()] for row in ("OLD", "NEW"))
    more = (
        f"INSERT INTO {count} ({columns}, {number}) VALUES ({', '.join(new)}, 1)"
        f" ON CONFLICT ({columns}) DO UPDATE SET {number} = {number} + 1;"
    )
    less = f"UPDATE {count} SET {number} = {number} - 1 WHERE ({columns}) = ({', '.join(old)});"
    yield f"CREATE TRIGGER {count}_insert AFTER INSERT ON {table} BEGIN {more} END"
    yield f"CREATE TRIGGER {count}_delete AFTER DELETE ON {table} BEGIN {less} END"
    yield (
        f"CREATE TRIGGER {count}_update AFTER UPDATE ON {table}"
        f" WHEN ({', '.join(old)}) IS NOT ({', '.join(new)}) BEGIN {less} {more} END"
    )


def _postgresql(count: str) -> Iterator[str]:
    table, number, told_apart = _COUNTED[count]
    columns, values = ", ".join(told_apart), ", ".join(value.format("r") for value in told_apart.values())
    signs = {"INSERT": {"new_rows": "1"}, "DELETE": {"old_rows": "-1"}}
    signs["UPDATE"] = signs["INSERT"] | signs["DELETE"]
    for action, tables in signs.items():
        rows = " UNION ALL ".join(f"SELECT {values}, {sign} FROM {name} r" for name, sign in tables.items())
        named = " ".join(f"{name.removesuffix('_rows').upper()} TABLE AS {name}" for name in tables)
        function = f"{count}_{action.lower()}"
        yield (
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" INSERT INTO {count} ({columns}, {number})"
            f" SELECT {columns}, sum(change) FROM ({rows}) AS changes ({columns}, change)"
            f" GROUP BY {columns} HAVING sum(change) <> 0"
            f" ON CONFLICT ({columns}) DO UPDATE SET {number} = {count}.{number} + EXCLUDED.{number};"
            " RETURN NULL; END $$"
        )
        yield (
            f"CREATE TRIGGER {function} AFTER {action} ON {table} REFERENCING {named}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
        )
