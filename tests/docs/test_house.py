"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
THREAD_MAKERS = {
    "image_sync/daemon/worker.py",
    *("image_sync_server/web.py", "image_sync_server/mvi/jobs.py", "image_sync_server/mobius/store.py"),
}


def behaviours_in(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_every_test_says_what_it_shows(path: Path) -> None:
    """Each test has a docstring: the behaviour in one sentence."""
    silent = [node.name for node in behaviours_in(path) if not ast.get_docstring(node)]

    assert silent == []


def test_nothing_sleeps() -> None:
    """Every wait in the source can be ended by an event."""
    sleepers = [path.name for path in SOURCES if re.search(r"\btime\.sleep\b|import sleep\b", path.read_text())]

    assert sleepers == []


def test_threads_are_made_in_few_places() -> None:
    """Whoever looks for a thread finds it in the worker, or in the embedded server."""
    makers = {str(path.relative_to(ROOT / "src")) for path in SOURCES if "threading.Thread(" in path.read_text()}

    assert makers <= THREAD_MAKERS


def test_nothing_is_left_to_do() -> None:
    """No stub, no note to come back later."""
    words = re.compile(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError")

    assert [path.name for path in SOURCES if words.search(path.read_text())] == []
