"""Everything that is said about speed, measured side by side in one session: ``make bench``, or with ``--help``.

Prints one table. Not part of the test run: nothing there depends on how long something takes.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(_TESTS))

from benchmarks.machine import machine  # noqa: E402 - found through the path set above
from benchmarks.process import Spoiled  # noqa: E402
from benchmarks.session import Session  # noqa: E402
from benchmarks.table import Row, load, save, table  # noqa: E402

FIGURES = (
    *("commands", "ledger", "backlog", "large", "latency", "burst"),
    *("growth", "startup", "idle", "polling", "embedded"),
)


def main() -> int:
    """One session; 0 when everything could be measured, whatever came out."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # what was started and made is cleared away
    old_machine, base = load(arguments.base) if arguments.base else ({}, [])
    work = Path(tempfile.mkdtemp(prefix="image-sync-bench-", dir=arguments.work))
    named = {**machine(work), "sizes": "a tenth" if arguments.quick else "full"}
    rows: list[Row] = []
    session, spoiled = Session(work, arguments.quick, _say), 0
    try:
        with session.stack:
            for name in arguments.only:
                try:
                    rows.extend(importlib.import_module(f"benchmarks.{name}").measure(session))
                except Spoiled as error:
                    spoiled += 1
                    _say(f"{name}: {error}")
    finally:  # what was measured until somebody lost patience is shown all the same
        shutil.rmtree(work, ignore_errors=True)
        print(", ".join(f"{key} {value}" for key, value in named.items()), end="\n\n")
        if base and _place(old_machine) != _place(named):
            print(
                "The base is of another machine: " + ", ".join(f"{k} {v}" for k, v in old_machine.items()), end="\n\n"
            )
        print(table(rows, base))
        if arguments.json:
            save(arguments.json, named, rows)
    return 1 if spoiled else 0


def _place(named: Mapping[str, object]) -> dict[str, object]:
    """What makes two sessions comparable."""
    return {key: value for key, value in named.items() if key not in {"date", "commit"}}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _figures(text: str) -> list[str]:
    wanted = text.split(",")
    if unknown := set(wanted) - set(FIGURES):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    return [name for name in FIGURES if name in wanted]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=_figures, default=list(FIGURES), metavar="NAMES", help=f"of {','.join(FIGURES)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to try")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures down")
    parser.add_argument("--base", type=Path, metavar="FILE", help="compare with what an earlier session wrote down")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where pictures are made, and removed at the end")
    arguments = parser.parse_args()
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
