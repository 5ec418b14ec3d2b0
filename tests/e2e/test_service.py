"""docs/service.md: what `init` wrote is installed by its commands, and every command works beside the service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_sync.cli.init import Answers
from image_sync.errors import EXIT_CONFIG, EXIT_LEDGER
from image_sync_server.mvi.auth import Credentials
from image_sync_server.mvi.server import MviServer
from support.mvi_server import picture, serving

CHECKOUT = Path(__file__).parents[2]
KEY = "AbC1-d2E3-fG4h-5IjK"
SERVICE, OTHER = 64999, 64998  # users that need not exist, as systemd's dynamic ones

# Everything is imported before the process becomes another user: that one may not read where the tests' Python lies.
_AS = """
import importlib, os, pkgutil, sys
import alembic.command, encodings.idna, encodings.utf_8_sig, sqlalchemy.dialects.sqlite.pysqlite, image_sync
import rich._unicode_data, rich.cells, rich.table
for module in pkgutil.walk_packages(image_sync.__path__, "image_sync."):
    if not {"versions", "env", "__main__"} & set(module.name.split(".")):
        importlib.import_module(module.name)
from image_sync.cli import main
os.setgroups([])
os.setresgid(*[int(sys.argv[1])] * 3)
os.setresuid(*[int(sys.argv[1])] * 3)
sys.argv[:] = ["image-sync", *sys.argv[2:]]
main.run()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users may enter, unlike those of pytest."""
    made = Path(tempfile.mkdtemp(prefix="image-sync-service-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def server(place: Path) -> Iterator[MviServer]:
    with serving(place / "server", credentials=Credentials(api_key=KEY)) as running:
        yield running


class Site:
    """A machine on which the page's commands were carried out."""

    def __init__(self, place: Path, endpoint: str) -> None:
        self.place, self.home = place, place / "home"
        for folder in ("home", "units", "state", "handed-over", "pictures/dark", "pictures/light"):
            (place / folder).mkdir(parents=True)
        for kind in ("dark", "light"):
            for number in range(6):
                (place / "pictures" / kind / f"{number}.jpg").write_bytes(picture(kind, number))
        answers = Answers(
            endpoint=endpoint,
            credentials={"api_key": KEY},
            apart={"api_key": self.home / "mvi-api-key"},
            folders=[str(place / "pictures")],
            dataset="plates",
            threshold={"upload": 1, "training": 1000},
            model={"action": "train"},
        )
        answers.write(self.home / "configuration.json", force=False)
        (self.home / "service-files").symlink_to(CHECKOUT / "service-files")
        self._install()
        self.config = place / "etc" / "configuration.json"
        shutil.copy(place / "etc" / "mvi-api-key", place / "handed-over")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("VAPI_", "NOTIFY_"))}
        self.environ |= {"XDG_STATE_HOME": str(place / "state"), "HOME": str(self.home)}

    def _install(self) -> None:
        """The page's block, without what concerns pip and systemd, in folders of this site."""
        page = (CHECKOUT / "docs/service.md").read_text("utf-8")
        (block,) = re.findall(r"```sh\n(sudo .*?)```", page, re.DOTALL)
        lines = re.findall(r"\bsudo (install .*?)(?: && |$)", block, re.MULTILINE)
        assert len(lines) == 3
        script = "\n".join(["set -e", *lines])
        script = script.replace("/etc/image-sync", str(self.place / "etc"))
        script = script.replace("/etc/systemd/system", str(self.place / "units"))
        subprocess.run(["sh", "-c", script], cwd=self.home, check=True)

    def call(self, *words: str, service: bool = False, user: int | None = None) -> subprocess.CompletedProcess[str]:
        """A command; ``service``: as systemd starts it, with the credential handed over."""
        environ = self.environ | ({"CREDENTIALS_DIRECTORY": str(self.place / "handed-over")} if service else {})
        start = ["-m", "image_sync"] if user is None else ["-c", _AS, str(user)]
        command = [sys.executable, *start, *words, "-c", str(self.config)]
        return subprocess.run(
            command, env=environ, cwd="/", capture_output=True, text=True, timeout=90, check=False, stdin=-3
        )

    def give(self, user: int) -> None:
        """Ledger and credential belong to this user alone, as systemd gives them to the service."""
        for top in ("state", "handed-over"):
            for folder, _, files in os.walk(self.place / top):
                for path in (folder, *(os.path.join(folder, name) for name in files)):
                    os.chown(path, user, user)
                    os.chmod(path, 0o700 if path == folder else 0o600)


@pytest.fixture
def site(place: Path, server: MviServer) -> Site:
    return Site(place, server.url)


def test_what_init_wrote_is_installed_and_every_command_works_beside_the_service(site: Site) -> None:
    """The service has its key from systemd, who may read the key's file has it from there: nobody exits with 78."""
    asked = json.loads(site.config.read_text())["credentials"]["api_key"]
    assert asked == {"credential": "mvi-api-key"}
    assert (site.config.stat().st_mode & 0o777, (site.config.parent / "mvi-api-key").stat().st_mode & 0o777) == (
        0o644,
        0o600,
    )
    ran = site.call("run", "--once", service=True)
    assert ran.returncode == 0, ran.stderr
    for command in ("status", "check", "models", "retry", "train"):
        done = site.call(command)
        assert done.returncode == 0, done.stderr
    done = site.call("show", str(site.place / "pictures/dark/1.jpg"))
    assert done.returncode == 0, done.stderr
    assert "confirmed" in done.stdout


@pytest.mark.root
def test_other_users_are_told_what_they_may_not_read(site: Site) -> None:
    """The service's user looks without the key; without right to the ledger, the message names who has it."""
    assert site.call("run", "--once", service=True).returncode == 0
    site.give(SERVICE)
    assert site.call("status", service=True, user=SERVICE).returncode == 0
    looked = site.call("status", user=SERVICE)
    assert (looked.returncode, looked.stderr) == (0, "")
    called = site.call("models", user=SERVICE)
    assert called.returncode == EXIT_CONFIG
    assert "Permission denied" in called.stderr
    assert "or root (sudo)" in called.stderr
    checked = site.call("check", user=SERVICE)
    assert checked.returncode == EXIT_CONFIG
    assert "credentials.api_key" in checked.stdout
    refused = site.call("status", user=OTHER)
    assert refused.returncode == EXIT_LEDGER
    assert "or as root (sudo)" in refused.stderr
    assert "Traceback" not in refused.stderr
