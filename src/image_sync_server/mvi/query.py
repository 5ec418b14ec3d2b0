"""What files may be searched and sorted by: MVI's grammar for ``query`` and ``sortby``, as SQL."""

from __future__ import annotations

import re
from typing import Any

from image_sync_server.mvi.request import Failure, sort_keys

FILE_FIELDS = {
    "_id": "f.id",
    "original_file_name": "f.original_file_name",
    "name": "f.original_file_name",
    "file_name": "f.file_name",
    "category_id": "IFNULL(f.category_id, '')",
    "category_name": "IFNULL(c.name, '')",
    "content_type": "f.content_type",
    "owner": "f.owner",
    "size": "f.size",
    "created_at": "f.created_at",
    "uploaded_at": "f.uploaded_at",
    "meta_data.width": "f.width",
    "meta_data.height": "f.height",
    "file_type": "CASE f.content_type WHEN 'video/mp4' THEN 'video' ELSE 'image' END",
    "upload_type": "'file_upload'",
    "dataset_id": "f.dataset_id",
}
"""What files may be searched and sorted by, and the column that holds it."""

_NUMBERS = frozenset({"size", "created_at", "uploaded_at", "meta_data.width", "meta_data.height"})

_TERM = re.compile(
    r"""\s*(?P<field>[^\s=!<>,"']+)\s*(?P<op>==|!=|>=|<=|>|<)\s*
        (?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|-?\d+(?:\.\d+)?)\s*(?:,|$)""",
    re.VERBOSE | re.DOTALL,
)
_SQL = {"==": "IS", "!=": "IS NOT", ">": ">", "<": "<", ">=": ">=", "<=": "<="}
_METADATA = "user_metadata."


def _column(field: str) -> tuple[str, list[Any]]:
    if field.startswith(_METADATA) and len(field) > len(_METADATA):
        key = field.removeprefix(_METADATA)
        # The key is looked up as a value: a path expression would give meaning to dots and quotes in it.
        return "(SELECT m.value FROM json_each(f.user_metadata) m WHERE m.key = ?)", [key]
    try:
        return FILE_FIELDS[field], []
    except KeyError:
        known = ", ".join(sorted(FILE_FIELDS))
        raise Failure(400, f"Files have no field {field!r} to search by. Known: {known}, user_metadata.<key>") from None


def _kind_of(field: str) -> str:
    """What a column holds: metadata holds anything."""
    if field.startswith(_METADATA):
        return "ANY"
    return "NUMERIC" if field in _NUMBERS else "TEXT"


def file_filter(text: str) -> tuple[str, list[Any]]:
    """The SQL condition and its values for a query such as ``original_file_name == "a.jpg", size > 100``.

    A quoted value is compared as text, a bare number as a number.

    Raises:
        Failure: 400 when the text does not follow the grammar, or names a field that files do not have.
    """
    conditions, values, at = [], [], 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None:
            raise Failure(
                400, f'The query is not understood from {text[at : at + 40]!r} on. Write: field == "value", field > 3'
            )
        column, keys = _column(term["field"])
        value = term["value"]
        if value[0] in "\"'":
            kind, bound = "TEXT", re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
        else:
            kind, bound = "NUMERIC", value
        if kind != _kind_of(term["field"]):  # a cast keeps the index on names from being used
            column = f"CAST({column} AS {kind})"
        conditions.append(f"{column} {_SQL[term['op']]} CAST(? AS {kind})")
        values += [*keys, bound]
        at = term.end()
    return " AND ".join(conditions) or "1", values


def file_order(sortby: str) -> str:
    """The SQL order for a ``sortby``; newest first without one, fields that files do not have are passed over."""
    keys = [(FILE_FIELDS[name], down) for name, down in sort_keys(sortby) if name in FILE_FIELDS]
    if not keys:
        return "f.seq DESC"
    words = [f"{column} {'DESC' if down else 'ASC'}" for column, down in keys]
    return ", ".join([*words, f"f.seq {'DESC' if keys[0][1] else 'ASC'}"])
