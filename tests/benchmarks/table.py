"""The figures of one session: as a table, as JSON, and beside those of an earlier session."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_HEADINGS = ("figure", "ours", "peer", "ratio", "goal", "met")
_SAVED = ("figure", "ours", "unit", "peer", "theirs", "ratio", "met", "note")
_THOUSAND = 1000


class Goal(NamedTuple):
    """A bound on our figure, or on its ratio to the peer's."""

    most: bool
    bound: float
    of_ratio: bool

    def met(self, ours: float, ratio: float | None) -> bool:
        """Whether it is reached."""
        value = ratio if self.of_ratio else ours
        return value is not None and (operator.le if self.most else operator.ge)(value, self.bound)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        figure: what was measured. unit: of our figure and the peer's.
        peer: what it is compared with; empty: nothing. theirs: the peer's figure.
        goal: None: there is none.
        note: how it was measured, where that says more than the figure's name.
    """

    figure: str
    ours: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        return None if self.goal is None else self.goal.met(self.ours, self.ratio)

    def cells(self) -> list[str]:
        """What stands in the table."""
        peer = f"{self.peer}: {shown(self.theirs, self.unit)}" if self.theirs is not None else self.peer
        ratio = "" if self.ratio is None else f"{_number(self.ratio)} x"
        met = "" if self.met is None else ("yes" if self.met else "NO")
        return [self.figure, shown(self.ours, self.unit), peer, ratio, self._goal(), met]

    def _goal(self) -> str:
        if self.goal is None:
            return ""
        bound = f"{_number(self.goal.bound)} x" if self.goal.of_ratio else shown(self.goal.bound, self.unit)
        return f"at {'most' if self.goal.most else 'least'} {bound}"


def at_least(ratio: float) -> Goal:
    """A ratio that is to be reached."""
    return Goal(most=False, bound=ratio, of_ratio=True)


def at_most(ratio: float) -> Goal:
    """A ratio that is not to be passed."""
    return Goal(most=True, bound=ratio, of_ratio=True)


def under(value: float) -> Goal:
    """A value, in the row's unit, that is not to be passed."""
    return Goal(most=True, bound=value, of_ratio=False)


def table(rows: Sequence[Row], base: Sequence[Mapping[str, Any]] = ()) -> str:
    """All rows as a table (Markdown), and the notes below it.

    Args:
        base: the rows of an earlier session, as read by :func:`load`: a last column then says how our figure and its
            ratio relate to those.
    """
    lines = [list(_HEADINGS), *(row.cells() for row in rows)]
    if base:
        old = {(row["figure"], row["peer"]): row for row in base}
        lines[0].append("of base (ratio)")
        for line, row in zip(lines[1:], rows, strict=True):
            line.append(_compared(row, old.get((row.figure, row.peer))))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    drawn = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    notes = [f"- {row.figure}: {row.note}" for row in rows if row.note]
    return "\n".join([*drawn, *(["", *notes] if notes else [])])


def save(path: Path, machine: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write a session down for later comparison."""
    found = [
        {name: getattr(row, name) for name in _SAVED} | {"goal": row.cells()[_HEADINGS.index("goal")]} for row in rows
    ]
    path.write_text(json.dumps({"machine": dict(machine), "rows": found}, indent=1) + "\n")


def load(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An earlier session: its machine and its rows. SystemExit if the file is none."""
    try:
        found = json.loads(path.read_text())
        return found["machine"], found["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"{path} is no result of an earlier session (make bench BENCH='--json FILE'): {error}"
        ) from None


def shown(value: float | None, unit: str) -> str:
    """A figure with its unit.

    >>> shown(12345.6, "pictures/s"), shown(0.0312, "s"), shown(None, "s")
    ('12,346 pictures/s', '0.031 s', '')
    """
    return "" if value is None else f"{_number(value)} {unit}".rstrip()


def _number(value: float) -> str:
    """Three digits that count, and no more."""
    size = abs(value)
    if size >= _THOUSAND:
        return f"{value:,.0f}"
    if size == 0:
        return "0"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _compared(row: Row, old: Mapping[str, Any] | None) -> str:
    if old is None:
        return "new"
    plain = f"{row.ours / old['ours']:.2f}" if old["ours"] else "-"
    if row.ratio is None or not old["ratio"]:
        return plain
    return f"{plain} ({row.ratio / old['ratio']:.2f})"
