"""What the platform writes down for itself, for each target apart."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import delete, select

from image_sync.ledger.context import LedgerContext
from image_sync.ledger.schema import keyvalue


class Notes:
    """Small texts under names of at most 52 ASCII characters; see ``platforms/base.py``."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context

    def get(self, name: str) -> str | None:
        """The text under this name, or None."""
        with self._context.db.reading() as tx:
            found = tx.execute(select(keyvalue.c.value).where(keyvalue.c.name == self._full(name))).scalar()
        return None if found is None else str(found)

    def under(self, prefix: str) -> dict[str, str]:
        """Every name that begins so, with its text, in the order of the names."""
        begins = keyvalue.c.name.startswith(self._full(prefix), autoescape=True)
        before = len(self._full(""))
        with self._context.db.reading() as tx:
            rows = tx.execute(select(keyvalue.c.name, keyvalue.c.value).where(begins).order_by(keyvalue.c.name)).all()
        # SQLite's LIKE takes capitals for small letters.
        return {row.name[before:]: row.value for row in rows if row.name.startswith(self._full(prefix))}

    def write(self, changes: Mapping[str, str | None]) -> None:
        """Set these texts, and remove those that are None, in one transaction."""
        with self._context.db.writing() as tx:
            for name, text in changes.items():
                if text is None:
                    tx.execute(delete(keyvalue).where(keyvalue.c.name == self._full(name)))
                else:
                    statement = self._context.db.insert(keyvalue).values(name=self._full(name), value=text)
                    tx.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": text}))

    def _full(self, name: str) -> str:
        return f"of-{self._context.target.id}/{name}"
