"""From settings to a platform."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from image_sync.platforms import registry
from image_sync.platforms.base import Adapter
from image_sync.platforms.mvi.platform import MviPlatform
from image_sync.platforms.retry import Retrying
from support.configuration import mistakes, settings
from support.fake_http import FakeHttp, ok
from support.memory import Memory, MemoryPlatform


def test_mvi_gets_what_the_settings_say(tmp_path: Path) -> None:
    """Address, key and limits of the file reach the server and the traits."""
    with FakeHttp(script=lambda _request: ok([])) as server:
        credentials = {"endpoint": f"{server.url}/visual-inspection/api", "api_key": "AbC1-d2E3-fG4h-5IjK"}
        upload = {"batch_files": 7, "batch_bytes": 12345, "timeout": 3}
        platform = registry.make(settings(tmp_path, credentials=credentials, upload=upload), threading.Event())
        platform.sign_in()
        platform.close()

    assert isinstance(platform, Retrying)
    assert isinstance(platform._platform, MviPlatform)
    assert (platform.traits.batch_files, platform.traits.batch_bytes) == (7, 12345)
    assert server.paths() == ["GET /visual-inspection/api/datasets"]
    assert server.requests[0].headers["x-auth-token"] == "AbC1-d2E3-fG4h-5IjK"


def test_user_and_password_log_in(tmp_path: Path) -> None:
    """A user name and password of the file, with the port beside the address, become a login."""
    with FakeHttp(script=lambda request: ok({"token": "t0ken"} if request.method == "POST" else [])) as server:
        credentials = {
            "endpoint": "http://127.0.0.1",
            "port": server.port,
            "username": "ann",
            "password": {"env": "MVI_PASSWORD"},
        }
        made = settings(tmp_path, {"MVI_PASSWORD": "s3cret!"}, credentials=credentials)
        platform = registry.make(made, threading.Event())
        platform.sign_in()
        platform.close()

    assert server.paths() == ["POST /api/tokens", "GET /api/datasets"]
    assert server.requests[0].json()["password"] == "s3cret!"


def test_a_platform_of_another_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """It gets its own section, checked, and what every platform gets; it needs no server of ours."""
    made = settings(tmp_path, platform="memory", credentials=..., memory={"steps": 7}, upload={"batch_files": 3})
    platform = registry.make(made, threading.Event())

    assert isinstance(platform, Retrying)
    assert isinstance(platform._platform, MemoryPlatform)
    assert platform._platform._steps == 7
    assert platform.traits.batch_files == 3


def test_its_section_may_be_left_out_and_names_its_address(tmp_path: Path) -> None:
    """What a ledger is tied to comes from the section; defaults hold."""
    assert settings(tmp_path, platform="memory", credentials=...).section == Memory()
    assert settings(tmp_path, platform="memory", credentials=..., memory={"address": "m://1"}).address == "m://1"


def test_mistakes_in_its_section_are_told_like_all_others(tmp_path: Path) -> None:
    """The key and what is wrong; a section beside another platform is no known key."""
    assert mistakes(tmp_path, platform="memory", memory={"steps": "x", "step": 1}) == [
        'memory.steps: "x" is not a whole number; write one without quotation marks, such as 3',
        'memory.step: is not a known key; did you mean "steps"?',
    ]
    assert "is not a known key" in mistakes(tmp_path, memory={"steps": 1})[0]


def test_a_package_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its import said is in the message."""
    folder = tmp_path / "site" / "acme-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[image_sync.platforms]\nacme = acme_platform:ADAPTER\n")
    monkeypatch.syspath_prepend(str(folder.parent))

    (told,) = mistakes(tmp_path, platform="acme")

    assert "names a package that cannot be loaded from acme_platform:ADAPTER: No module named" in told


def test_the_example_on_the_page_is_an_adapter() -> None:
    """It can be loaded as it stands there, and its section is one."""
    page = (Path(__file__).parents[3] / "docs" / "platforms.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(example, names)

    assert names["Acme"]().region == "eu"
    assert isinstance(names["ADAPTER"], Adapter)
    assert names["ADAPTER"].section is names["Acme"]


@pytest.mark.parametrize("module", ["registry", "base"])
def test_vendors_are_loaded_late(module: str) -> None:
    """Looking at the registry loads no HTTP library and no vendor's code."""
    code = f"import sys, image_sync.platforms.{module}; print([m for m in ('requests', 'urllib3') if m in sys.modules])"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "[]"
