"""The page on the Mobius SDK names what the program has."""

from __future__ import annotations

import json
import re
from pathlib import Path

from image_sync.cli.mobius import app
from image_sync_server.mobius.fault_presets import KINDS
from support.configuration import settings

PAGE = (Path(__file__).parents[2] / "docs/mobius.md").read_text(encoding="utf-8")


def test_every_fault_of_the_emulator_is_named() -> None:
    """Those of `--fault` with `--api mobius`, and no others."""
    told = PAGE.partition("takes other kinds than with")[2]

    assert set(re.findall(r"`([a-z0-9-]+)`[, \n]", told.partition("as in")[0])) == set(KINDS)


def test_the_example_loads(tmp_path: Path) -> None:
    """The two lines that change are enough."""
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)

    assert settings(tmp_path, **json.loads(example)).platform == "mobius"


def test_commands_of_the_page_exist() -> None:
    """Each `image-sync mobius ...` is a command."""
    named = set(re.findall(r"image-sync mobius ([a-z-]+)", PAGE))

    assert named == {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
