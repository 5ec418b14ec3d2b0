"""What tests of a contract start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from image_sync_server.mvi.server import MviServer
from support.mvi_server import serving
from support.postgres import a_database


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MviServer]:
    """An embedded server for all tests of a file."""
    with serving(tmp_path_factory.mktemp("mvi")) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    """Where a ledger is kept: a folder, or the URL of a database."""
    if request.param == "sqlite":
        yield tmp_path / "state"
    else:
        yield from a_database()


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    yield from a_database()
