"""How many files and pictures stand where, kept by the database itself: at a million pictures counting takes too long.

Triggers carry every change of ``file``, ``picture`` and ``label`` over, so that no statement can forget to.
PostgreSQL's work statement by statement. SQLite's work row by row: in a backlog they would take as long as all else
that is written. So there they leave out the three steps that every picture takes (a new file that stands for a new
picture, claimed, confirmed), and whoever takes one of these calls :func:`count` in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, case, delete, func, insert, select, text, true

from image_sync.ledger.bulk import execute_rows
from image_sync.ledger.schema import file, file_count, label, label_count, picture, picture_count


class _Counted(NamedTuple):
    table: str
    number: str
    columns: Mapping[str, str]
    """What rows are told apart by, as SQL of a row ``{}``."""
    left_out: Mapping[str, str]
    """By which statements SQLite's triggers leave to :func:`count`."""


_COUNTED = {
    "file_count": _Counted(
        "file",
        "files",
        {"folder_id": "{}.folder_id", "state": "{}.state", "role": "{}.role"},
        {"INSERT": "NEW.role = 'owner'"},
    ),
    "picture_count": _Counted(
        "picture",
        "pictures",
        {
            "target_id": "{}.target_id",
            "state": "{}.state",
            "category": "{}.category",
            "sent_category": "{}.sent_category",
            "counted": "CASE WHEN {}.training_id IS NULL THEN 0 ELSE 1 END",
        },
        {
            "INSERT": "NEW.state = 'ready'",
            "UPDATE": "OLD.state = 'ready' AND NEW.state = 'claimed'"
            " OR OLD.state = 'claimed' AND NEW.state = 'confirmed'",
        },
    ),
    "label_count": _Counted("label", "pictures", {"target_id": "{}.target_id", "label": "{}.label"}, {}),
}
_ADD_FILES = (
    "INSERT INTO file_count (folder_id, state, role, files) VALUES {(?, ?, ?, ?)}"
    " ON CONFLICT (folder_id, state, role) DO UPDATE SET files = file_count.files + excluded.files"
)
_ADD_PICTURES = (
    "INSERT INTO picture_count (target_id, state, category, sent_category, counted, pictures)"
    " VALUES {(?, ?, ?, ?, ?, ?)}"
    " ON CONFLICT (target_id, state, category, sent_category, counted)"
    " DO UPDATE SET pictures = picture_count.pictures + excluded.pictures"
)


def count(tx: Connection, *, files: Sequence[tuple[Any, ...]] = (), pictures: Sequence[tuple[Any, ...]] = ()) -> None:
    """Carry over what SQLite's triggers leave out: rows of the counting tables, each with the number to add."""
    if tx.dialect.name == "sqlite":
        execute_rows(tx, _ADD_FILES, files)
        execute_rows(tx, _ADD_PICTURES, pictures)


def install(tx: Connection) -> None:
    """Make the triggers, and count what is there."""
    for name, counted in _COUNTED.items():
        for statement in (_sqlite if tx.dialect.name == "sqlite" else _postgresql)(name, counted):
            tx.execute(text(statement))
    for table, counting in _counted():
        tx.execute(delete(table))
        tx.execute(insert(table).from_select(list(table.c), counting))


def correct(tx: Connection) -> bool:
    """Whether the counts agree with what they count."""
    for table, counting in _counted():
        kept = tx.execute(select(table).where(list(table.c)[-1] > 0))
        if sorted(map(tuple, kept)) != sorted(map(tuple, tx.execute(counting))):
            return False
    return True


def _counted() -> Iterator[tuple[Table, Any]]:
    counted = case((picture.c.training_id.is_(None), 0), else_=1)
    told_apart = {
        file_count: (file.c.folder_id, file.c.state, file.c.role),
        picture_count: (picture.c.target_id, picture.c.state, picture.c.category, picture.c.sent_category, counted),
        label_count: (label.c.target_id, label.c.label),
    }
    for table, columns in told_apart.items():
        yield table, select(*columns, func.count()).where(true()).group_by(*columns)


def _sqlite(name: str, counted: _Counted) -> Iterator[str]:
    columns = ", ".join(counted.columns)
    old, new = (", ".join(value.format(row) for value in counted.columns.values()) for row in ("OLD", "NEW"))
    more = (
        f"INSERT INTO {name} ({columns}, {counted.number}) VALUES ({new}, 1)"
        f" ON CONFLICT ({columns}) DO UPDATE SET {counted.number} = {counted.number} + 1;"
    )
    less = f"UPDATE {name} SET {counted.number} = {counted.number} - 1 WHERE ({columns}) = ({old});"
    for action, changes in (("INSERT", more), ("DELETE", less), ("UPDATE", f"{less} {more}")):
        when = [f"NOT ({which})"] if (which := counted.left_out.get(action)) else []
        when += [f"({old}) IS NOT ({new})"] if action == "UPDATE" else []
        yield (
            f"CREATE TRIGGER {name}_{action.lower()} AFTER {action} ON {counted.table}"
            f"{' WHEN ' if when else ''}{' AND '.join(when)} BEGIN {changes} END"
        )


def _postgresql(name: str, counted: _Counted) -> Iterator[str]:
    columns, values = ", ".join(counted.columns), ", ".join(value.format("r") for value in counted.columns.values())
    signs = {"INSERT": {"new_rows": "1"}, "DELETE": {"old_rows": "-1"}}
    signs["UPDATE"] = signs["INSERT"] | signs["DELETE"]
    for action, tables in signs.items():
        changed = " UNION ALL ".join(f"SELECT {values}, {sign} FROM {rows} r" for rows, sign in tables.items())
        named = " ".join(f"{rows.removesuffix('_rows').upper()} TABLE AS {rows}" for rows in tables)
        function = f"{name}_{action.lower()}"
        yield (
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" INSERT INTO {name} ({columns}, {counted.number})"
            f" SELECT {columns}, sum(change) FROM ({changed}) AS changes ({columns}, change)"
            f" GROUP BY {columns} HAVING sum(change) <> 0"
            f" ON CONFLICT ({columns}) DO UPDATE SET {counted.number} = {name}.{counted.number}"
            f" + EXCLUDED.{counted.number}; RETURN NULL; END $$"
        )
        yield (
            f"CREATE TRIGGER {function} AFTER {action} ON {counted.table} REFERENCING {named}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
        )
