"""Whatever bytes a configuration file holds, the outcome is settings or a ConfigError, and quickly."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_sync.config import Settings, json_schema, parse
from image_sync.errors import ConfigError

SECRET = "S3CRET-canary-4711"
VALID = f"""\ufeff{{
  // everything at once
  "$schema": "x", _comment: 'x',
  "credentials": {{"endpoint": "https://mvi.example.com/api", "port": "8000",
    "username": "ann", "password": "{SECRET}"}},
  "threshold": {{"upload": 3, "train": 10}}, "skip_duplicates": 1, "recursive": true, "time": 10.5,
  "dataset": {{"name": "Prüfung", "action": "append"}},
  "model": {{"name": "m", "action": null, "nn_arch": "frcnn", "pretrained_model": "latest",
            "strategy": {{"max_iter": 1500, "learning_rate": 1e-3}}, "max_per_day": 4}},
  "folders": ["/data/pictures", "pictures/\\u00fc",], "categories": {{"crk": "crack"}},
  "watch": {{"mode": "auto", "validate": "full"}}, "upload": {{"parallel": 4}}, "state": "/data/state",
}}
""".encode()


def assert_harmless(data: bytes) -> Settings | ConfigError:
    """What the bytes mean; anything but settings and a ConfigError fails the test."""
    try:
        return parse(data, Path("/nowhere/configuration.json"), {"HOME": "/home/ann"})
    except ConfigError as error:
        found = error
    assert found.what
    assert all(line.isprintable() for line in found.what.split("\n"))
    return found


def test_the_file_that_is_broken_here_is_whole() -> None:
    """The tests below begin from a file that can be used."""
    found = assert_harmless(VALID)

    assert isinstance(found, Settings)
    assert found.model.strategy == {"max_iter": 1500, "learning_rate": 0.001}


def test_every_prefix_is_refused() -> None:
    """A file that was cut short anywhere is no configuration, and its message shows no secret."""
    end = VALID.rindex(b"}")

    for length in range(end + 1):
        found = assert_harmless(VALID[:length])
        assert isinstance(found, ConfigError)
        assert SECRET not in found.what


def test_single_changed_bytes_do_no_harm() -> None:
    """3,000 files with one byte changed, added or left out: each is used or refused."""
    dice = random.Random(4711)

    for _ in range(3000):
        at = dice.randrange(len(VALID))
        byte = bytes([dice.randrange(256)])
        data = VALID[:at] + dice.choice([byte, b"", byte + VALID[at : at + 1]]) + VALID[at + 1 :]
        found = assert_harmless(data)
        assert SECRET not in (found.what if isinstance(found, ConfigError) else repr(found) + "".join(found.warnings))


@given(st.binary(max_size=400))
def test_random_bytes_do_no_harm(data: bytes) -> None:
    """Random bytes are used or refused."""
    assert_harmless(data)


@given(st.text(alphabet="{}[]:,\"'\\/*# \n0123456789.eE+-xaNtrufls\u00fc\ud800", max_size=200))
def test_random_json_does_no_harm(text: str) -> None:
    """Random texts made of what JSON is made of are used or refused."""
    assert_harmless(text.encode("utf-8", "surrogatepass"))


def keys() -> list[tuple[str, ...]]:
    """Every key of a configuration, sections and what is in them."""
    schema = json_schema()
    found: list[tuple[str, ...]] = []
    for name, described in schema["properties"].items():
        found.append((name,))
        section = described.get("$ref", "").rpartition("/")[2]
        found += [(name, inner) for inner in schema["$defs"].get(section, {}).get("properties", {})]
    return found


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("key", keys(), ids=".".join)
@given(value=ANYTHING)
def test_any_value_under_any_key_does_no_harm(key: tuple[str, ...], value: object) -> None:
    """Under each key any JSON value is used or refused."""
    document: dict[str, object] = {
        "credentials": {"endpoint": "https://mvi.example.com"},
        "dataset": {"name": "d"},
        "folders": ["/data"],
    }
    if len(key) == 1:
        document[key[0]] = value
    else:
        section = document.get(key[0])
        document[key[0]] = {**(section if isinstance(section, dict) else {}), key[1]: value}
    assert_harmless(json.dumps(document).encode())
