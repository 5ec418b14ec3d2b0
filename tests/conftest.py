"""What every test starts from."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from support import temporary

if TYPE_CHECKING:
    from image_sync_server.mvi.server import MviServer

pytest.register_assert_rewrite("image_sync_contract")
# One thread for each test process: several that compute with several each get in each other's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

WORKER = "PYTEST_XDIST_WORKER" in os.environ
"""Whether this process runs tests for another one, whose folders it uses."""
FOLDER = None if WORKER else temporary.begin()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give tests folders within the session's, unless the command line names another place."""
    if FOLDER is not None and config.option.basetemp is None:
        config.option.basetemp = str(FOLDER / "t")


@pytest.fixture(autouse=True)
def _privilege(request: pytest.FixtureRequest) -> None:
    """A test that mounts something or becomes another user is marked, and skipped for those who may not."""
    if request.node.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command run in this process sets up logging for a stream that is closed afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MviServer]:
    """An embedded server of the test's own."""
    from support.mvi_server import serving  # late: most tests need none

    with serving(tmp_path / "server") as running:
        yield running
