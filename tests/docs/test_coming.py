"""What README and its pages say to those who come from the old script, and to those who install."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from image_sync.config import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/coming-from-image-sync-py.md").read_text(encoding="utf-8")
TEMPLATE = json.loads((ROOT / "tests/unit/config/data/predecessor_template.json").read_text(encoding="utf-8"))
NAMES = {"PIL": "pillow"}


def keys(section: dict[str, Any]) -> set[str]:
    """Every key that is written in a document of the old script."""
    free = {"categories", "strategy"}
    return set(section) | {
        key for name, value in section.items() if isinstance(value, dict) and name not in free for key in keys(value)
    }


@pytest.mark.parametrize("key", sorted(keys(TEMPLATE) - {"credentials", "threshold", "endpoint", "upload", "name"}))
def test_the_page_tells_of_each_key_of_the_old_script(key: str) -> None:
    """Whoever looks for a key of the old template finds it, with what is different."""
    assert re.search(rf"`[a-z_.]*\b{key}\b", PAGE), key


@pytest.mark.parametrize(
    "word", ["nn_arch", "port", ".mp4", "recursive", "pretrained_model", "verify_tls", "dataset.action"]
)
def test_the_page_tells_of_what_worked_by_accident(word: str) -> None:
    """What the old script took, or ignored, and this program does not."""
    assert word in PAGE


def test_installing_is_told_for_systems_that_manage_their_python() -> None:
    """A plain `pip install` fails on Debian 12 and others: each one comes after a virtual environment was made."""
    chapter = README.partition("## Five minutes to your server")[2].partition("\n## ")[0]

    assert "pipx install ." in chapter
    assert chapter.index("-m venv") < chapter.index("   pip install .")


def test_the_whole_configuration_in_readme_loads(tmp_path: Path) -> None:
    """Whoever copies it and puts the key beside it has a valid configuration."""
    (example,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "mvi-api-key").write_text("AbC1-d2E3\n")
    (tmp_path / "mvi-api-key").chmod(0o600)
    (tmp_path / "configuration.json").write_text(example)

    loaded = load(tmp_path / "configuration.json", {"HOME": str(tmp_path)})

    assert loaded.warnings == ()
    assert (loaded.dataset.name, loaded.threshold.training) == ("plates", 24)


def test_every_package_that_is_imported_is_declared() -> None:
    """What the program imports by itself stands in pyproject.toml, also where another package brings it along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {re.split(r"[\[<>=]", line)[0].lower() for line in [*project["dependencies"], *extras]}
    imported = {name for path in (ROOT / "src").rglob("*.py") for name in _imported(path)}
    modules = {"scikit-learn": "sklearn", "python-multipart": "python_multipart"}
    known = {modules.get(name, name).replace("-", "_") for name in declared}

    ours = {"image_sync", "image_sync_server", "botocore", "pydantic_core"}  # the last two are parts of others
    wanted = {NAMES.get(name, name).lower() for name in imported - set(sys.stdlib_module_names) - ours}
    assert wanted - known == set()


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found
