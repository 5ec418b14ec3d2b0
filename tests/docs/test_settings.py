"""The table in docs/settings.md, README's ten rows, the template and the JSON Schema all say what the program does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_sync.cli.schema import schema
from image_sync.config import json_schema, load, settings_table
from image_sync.errors import ConfigError

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "configuration.json.template"
TABLE = re.compile(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", re.DOTALL)
FILLED = {
    "<https://address-of-the-server>": "https://mvi.example.com",
    "<username>": "ann",
    "<password>": "secret-of-ann",
    "<path to root image folder>": "pictures",
}
KEYS_OF_THE_PREDECESSOR = {
    "credentials": ["endpoint", "port", "username", "password"],
    "threshold": ["upload", "training"],
    "dataset": ["name", "action"],
    "model": ["name", "action", "nn_arch", "pretrained_model", "strategy"],
    "": ["skip_duplicates", "recursive", "time", "folders", "categories"],
}


def keys(document: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of the document that is no comment, sections before what is in them."""
    for key, value in document.items():
        if not key.startswith(("_", "$")):
            yield prefix + key
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{key}.")


def table_keys() -> list[str]:
    """The keys of the table, in its order."""
    return re.findall(r"^\| `([^`]+)` \|", settings_table(), re.MULTILINE)


def test_the_page_has_the_table_of_settings() -> None:
    """docs/settings.md shows exactly the keys, defaults and meanings that the program has."""
    block = TABLE.search((ROOT / "docs/settings.md").read_text(encoding="utf-8"))

    assert block, "docs/settings.md has no <!-- settings --> ... <!-- /settings --> block"
    assert block[1].strip() == settings_table()


def test_readme_names_ten_settings_with_their_defaults() -> None:
    """Key and default of each of README's ten rows are those of the whole table."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = text.partition("<!-- ten settings -->")[2].partition("<!-- /ten settings -->")[0].strip().splitlines()[2:]
    known = {row.rpartition("|")[0].rpartition("|")[0] for row in settings_table().splitlines()}

    assert len(rows) == 10
    assert [row for row in rows if row.rpartition("|")[0].rpartition("|")[0] not in known] == []


def test_the_table_is_one() -> None:
    """Every row has three cells, every key a meaning, none comes twice."""
    rows = settings_table().splitlines()

    assert all(re.fullmatch(r"\| `[^`|]+` \| [^|]* \| [A-Z`][^|\n]+\. \|", row) for row in rows[2:])
    assert len(set(table_keys())) == len(rows) - 2 > 40


def test_every_key_of_the_template_is_known() -> None:
    """The template names no key that the program does not have, and all that the predecessor had."""
    found = list(keys(json.loads(TEMPLATE.read_text(encoding="utf-8"))))
    sections = {key.partition(".")[0] for key in table_keys()}
    free = ("model.strategy.", "categories.")

    assert [key for key in found if key not in {*table_keys(), *sections} and not key.startswith(free)] == []
    for section, names in KEYS_OF_THE_PREDECESSOR.items():
        assert {f"{section}.{name}".removeprefix(".") for name in names} <= set(found)


def test_the_template_loads_once_it_is_filled_in(tmp_path: Path) -> None:
    """Filling in the placeholders is all that a person has to do."""
    text = TEMPLATE.read_text(encoding="utf-8")
    for placeholder, value in FILLED.items():
        assert placeholder in text
        text = text.replace(placeholder, value)
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "configuration.json"
    path.write_text(text)
    path.chmod(0o600)

    loaded = load(path, {"HOME": str(tmp_path / "home")})

    assert loaded.warnings == ()
    assert loaded.folders == (tmp_path / "pictures",)


def test_the_template_does_not_load_before(tmp_path: Path) -> None:
    """Each placeholder that is left is told, line by line."""
    path = tmp_path / "configuration.json"
    path.write_bytes(TEMPLATE.read_bytes())

    with pytest.raises(ConfigError) as raised:
        load(path, {})

    assert len(raised.value.what.splitlines()) == len(FILLED)


def fits(value: Any, rule: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    """Where the value breaks the schema's rule, as far as our schema uses the language."""
    if reference := rule.get("$ref"):
        rule = whole["$defs"][reference.rpartition("/")[2]]
    if choices := rule.get("anyOf"):
        return [] if any(not fits(value, choice, whole) for choice in choices) else [f"{value!r} fits no choice"]
    types: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    wanted = rule.get("type", [])
    allowed = [types[name] for name in ([wanted] if isinstance(wanted, str) else wanted)]
    if allowed and not any(
        isinstance(value, kind) and (not isinstance(value, bool) or kind is bool) for kind in allowed
    ):
        return [f"{value!r} is no {wanted}"]
    if "enum" in rule and value not in rule["enum"]:
        return [f"{value!r} is none of {rule['enum']}"]
    if "pattern" in rule and isinstance(value, str) and not re.search(rule["pattern"], value):
        return [f"{value!r} does not match"]
    if isinstance(value, int | float) and not rule.get("minimum", value) <= value <= rule.get("maximum", value):
        return [f"{value!r} is out of range"]
    if isinstance(value, list):
        return [fault for item in value for fault in fits(item, rule.get("items", {}), whole)]
    return _members(value, rule, whole) if isinstance(value, dict) else []


def _members(value: dict[str, Any], rule: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    faults = [f"{key} is missing" for key in rule.get("required", ()) if key not in value]
    for key, item in value.items():
        if any(re.search(pattern, key) for pattern in rule.get("patternProperties", {})):
            continue
        further = rule.get("additionalProperties", True)
        described = rule.get("properties", {}).get(key, further)
        if described is False:
            faults.append(f"{key} is unknown")
        elif isinstance(described, dict):
            faults += [f"{key}: {fault}" for fault in fits(item, described, whole)]
    return faults


def test_the_schema_takes_the_template(capsys: pytest.CaptureFixture[str]) -> None:
    """An editor that uses `image-sync schema` marks nothing in the template, and marks what is wrong."""
    schema()
    printed = json.loads(capsys.readouterr().out)
    template = json.loads(TEMPLATE.read_text(encoding="utf-8"))

    assert fits(template, printed, printed) == []
    assert fits({**template, "annotations": "yes"}, printed, printed)
    for section, key, value in (
        ("threshold", "upload", "3"),
        ("threshold", "upload", 0),
        ("dataset", "action", "x"),
        ("model", "unknown", 1),
        ("model", "strategy", {"x": []}),
        ("credentials", "api_key", {"wrong": "x"}),
    ):
        assert fits({**template, section: {**template[section], key: value}}, printed, printed), (section, key)
    assert fits({"dataset": {"name": "d"}}, printed, printed) == ["folders is missing"]


def test_the_schema_takes_what_the_program_takes() -> None:
    """Every way to give a key that the loader knows fits the schema too."""
    described = json_schema()
    base = {"dataset": {"name": "d"}, "folders": ["x"]}
    changes: list[dict[str, Any]] = [
        {"credentials": {"port": 8000, "api_key": {"env": "K"}, "password": None, "proxy": {"file": "p"}}},
        {"credentials": {"port": "8000", "username": {"credential": "u"}, "ca_bundle": "ca.pem", "verify_tls": False}},
        {"threshold": {"train": 3}, "skip_duplicates": 0, "recursive": True, "time": 0.5, "$schema": "x", "_x": 1},
        {"model": {"action": None, "max_per_day": None, "strategy": {"a": 1, "b": "x", "c": True, "_c": []}}},
        {"annotations": "required"},
        {"annotations": None},
        {"annotations": {"mode": None, "ignore_labels": ["x"], "minimum": 2, "_why": "x"}},
        {"model": {"action": "nothing"}, "watch": {"validate": "full"}, "state": None, "status": {}, "notify": []},
    ]
    for change in changes:
        assert fits({**base, **change}, described, described) == []


def test_every_setting_is_in_the_schema() -> None:
    """The schema describes each key of the table with a title, a description and its default."""
    described = json_schema()
    for key in table_keys():
        section, _, name = key.rpartition(".")
        properties = described["properties"]
        if section:
            properties = described["$defs"][properties[section]["$ref"].rpartition("/")[2]]["properties"]
        assert properties[name]["title"]
        assert properties[name]["description"].endswith((".", ")."))
