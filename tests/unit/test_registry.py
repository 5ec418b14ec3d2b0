"""From settings to a platform."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from image_sync.platforms import registry
from image_sync.platforms.memory import MemoryPlatform
from image_sync.platforms.mvi.platform import MviPlatform
from image_sync.platforms.retry import Retrying
from support.configuration import settings
from support.fake_http import FakeHttp, ok


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


def test_memory(tmp_path: Path) -> None:
    """The platform in memory needs no server."""
    made = settings(tmp_path, platform="memory", credentials=..., upload={"batch_files": 3})
    platform = registry.make(made, threading.Event())

    assert isinstance(platform, Retrying)
    assert isinstance(platform._platform, MemoryPlatform)
    assert platform.traits.batch_files == 3


@pytest.mark.parametrize("module", ["registry", "base"])
def test_vendors_are_loaded_late(module: str) -> None:
    """Looking at the registry loads no HTTP library and no vendor's code."""
    code = f"import sys, image_sync.platforms.{module}; print([m for m in ('requests', 'urllib3') if m in sys.modules])"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "[]"
