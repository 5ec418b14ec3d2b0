"""Configuration files for tests: a small valid one, changed where a test wants it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from image_sync.config import Settings, load
from image_sync.errors import ConfigError


def document(folder: Path, /, **changes: Any) -> dict[str, Any]:
    """A valid configuration as an object: top-level keys replaced by the changes, those set to ``...`` left out."""
    base: dict[str, Any] = {
        "credentials": {"endpoint": "https://mvi.example.com", "api_key": "AbC1-d2E3-fG4h-5IjK"},
        "dataset": {"name": "classifier"},
        "folders": [str(folder / "pictures")],
        "state": str(folder / "state"),
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def write(folder: Path, content: str | bytes | dict[str, Any], *, mode: int = 0o600) -> Path:
    """The content as a configuration file in the folder, with a folder of pictures beside it."""
    (folder / "pictures").mkdir(exist_ok=True)
    path = folder / "configuration.json"
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def settings(folder: Path, environ: dict[str, str] | None = None, /, **changes: Any) -> Settings:
    """The settings of a small valid configuration with these changes."""
    path = write(folder, document(folder, **changes))
    return load(path, {"HOME": str(folder / "home"), **(environ or {})})


def mistakes(folder: Path, environ: dict[str, str] | None = None, /, **changes: Any) -> list[str]:
    """What is wrong with that configuration, without the name of the file and the line."""
    with pytest.raises(ConfigError) as raised:
        settings(folder, environ, **changes)
    return [line.split(": ", 1)[1] for line in raised.value.what.splitlines()]


def warnings(folder: Path, environ: dict[str, str] | None = None, /, **changes: Any) -> list[str]:
    """What a person should know of that configuration, without the name of the file and the line."""
    return [line.split(": ", 1)[1] for line in settings(folder, environ, **changes).warnings]
