"""What a person waits for at a terminal: ``--version``, ``--help``, and ``status`` on a million pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ledger import filled
from benchmarks.process import spend
from benchmarks.session import Session, median, program
from benchmarks.table import Row, at_most, under
from benchmarks.trees import Tree
from image_sync.cli.session import settings_of
from image_sync.ledger import open_ledger

_COUNT = 1_000_000
_ROUNDS = 15
_PORTION = 5000


def measure(session: Session) -> Iterator[Row]:
    """Each beside a Python that does nothing, in turns."""
    tool = program("image-sync")
    commands: list[list[str | Path]] = [[sys.executable, "-c", "pass"], [tool, "--version"], [tool, "--help"]]
    rounds = [[spend(command) for command in commands] for _ in range(_ROUNDS)]
    python, version, text = (1000 * median(spent.seconds for spent in spents) for spents in zip(*rounds, strict=True))
    yield Row("image-sync --version", version, "ms", "python -c pass", python, at_most(4))
    yield Row("image-sync --help", text, "ms", "python -c pass", python, at_most(8))
    yield _status(session, tool, python)


def _status(session: Session, tool: Path, python: float) -> Row:
    count = session.scaled(_COUNT)
    session.say(f"commands: a ledger of {count:,} pictures")
    root = session.work / "commands" / "pictures"
    root.mkdir(parents=True)
    plant = session.plant(Tree(root, count, 0))
    settings = settings_of(plant.config)
    ledger = open_ledger(settings.state)
    ledger.use_target(
        settings.platform, settings.credentials.endpoint, settings.dataset.name, settings.dataset.action, "bench"
    )
    filled(ledger, root, count, seen=_PORTION, batch=_PORTION)
    ledger.close()
    spents = [spend([tool, "status", "-c", plant.config], plant.environ) for _ in range(5)]
    note = f"{count:,} pictures; the ledger was filled through its own interface, there are no files"
    return Row(
        "image-sync status", 1000 * median(spent.seconds for spent in spents), "ms", "python -c pass", python,
        under(1000), note,
    )  # fmt: skip
