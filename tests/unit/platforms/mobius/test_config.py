"""The section `mobius`, and what else of a configuration changes with that platform."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from image_sync.config import json_schema, settings_table
from image_sync.daemon.assemble import watch_rules
from image_sync.platforms import registry
from image_sync.platforms.mobius.platform import MobiusPlatform
from image_sync.platforms.retry import Retrying
from image_sync.tracker import thresholds_of
from image_sync.watcher.rules import Filter
from support.configuration import mistakes, settings, warnings
from support.memory import MemoryPlatform

HERE: dict[str, Any] = {"platform": "mobius", "credentials": {"endpoint": "http://127.0.0.1:5000"}}


def test_the_defaults(tmp_path: Path) -> None:
    """Negatives from the other categories, 200 of them, four requests at a time, tags called as their categories."""
    made = settings(tmp_path, **HERE)

    assert made.mobius.model_dump() == {"negatives": "others", "max_negatives": 200, "parallel": 4, "tags": "category"}
    assert made.warnings == ()


def test_the_section_belongs_to_the_platform(tmp_path: Path) -> None:
    """With another platform it is a mistake, told with its line."""
    (told,) = mistakes(tmp_path, mobius={"negatives": "none"})

    assert 'write "platform": "mobius", or remove it' in told


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"negatives": "some"}, '"others", "folders" or "none"'),
        ({"max_negatives": 0}, "write 1 or more"),
        ({"parallel": 100}, "write 32 or less"),
        ({"tag": "dataset"}, 'did you mean "tags"'),
    ],
)
def test_mistakes_in_the_section(tmp_path: Path, section: dict[str, Any], told: str) -> None:
    """Each is told with its key and what to write instead."""
    (line,) = mistakes(tmp_path, **HERE, mobius=section)

    assert line.startswith("mobius.")
    assert told in line


def test_what_does_not_apply_is_a_warning(tmp_path: Path) -> None:
    """Architecture, hyper-parameters, deployment, credentials, new datasets: told at load, and the daemon runs."""
    told = warnings(
        tmp_path,
        platform="mobius",
        credentials={"endpoint": "http://127.0.0.1:5000", "api_key": "AbC1-d2E3-fG4h-5IjK"},
        model={"nn_arch": "frcnn", "strategy": {"max_iter": 500}, "deploy": "better", "keep": 3},
        dataset={"name": "x", "action": "create"},
    )

    assert [line.partition(":")[0] for line in sorted(told)] == [
        "credentials.api_key",
        "dataset.action",
        "model.deploy",
        "model.keep",
        "model.nn_arch",
        "model.strategy",
    ]
    assert not warnings(tmp_path, **HERE, dataset={"name": "x", "action": "create"}, mobius={"tags": "dataset"})


def test_an_architecture_for_detection_changes_nothing(tmp_path: Path) -> None:
    """A configuration that found objects at MVI classifies here: no picture waits for boxes."""
    made = settings(tmp_path, **HERE, model={"nn_arch": "frcnn", "strategy": {"max_iter": 500}})

    assert not made.model.is_detection
    assert made.model.strategy == {}
    assert made.annotations.mode == "none"


@pytest.mark.parametrize("category", ["a/b", "a,b", ".."])
def test_categories_must_be_usable_as_tags(tmp_path: Path, category: str) -> None:
    """Those that the configuration names are checked when it is loaded."""
    (told,) = mistakes(tmp_path, **HERE, categories={"crk": category})

    assert "cannot be a tag" in told


def test_a_model_to_continue_from_cannot_be_named(tmp_path: Path) -> None:
    """There are no earlier ones; the two words are fine."""
    (told,) = mistakes(tmp_path, **HERE, model={"pretrained_model": "m-1"})

    assert 'write "latest" or "none"' in told
    assert settings(tmp_path, **HERE, model={"pretrained_model": "latest"}).model.pretrained_model == "latest"


def test_the_environment_of_mvi_is_left_alone(tmp_path: Path) -> None:
    """Neither IBM's address nor IBM's key is taken for a Mobius SDK's."""
    environ = {"VAPI_BASE_URI": "https://mvi.example.com", "VAPI_TOKEN": "AbC1-d2E3-fG4h-5IjK"}

    assert settings(tmp_path, environ, **HERE).credentials.api_key is None
    (told,) = mistakes(tmp_path, environ, platform="mobius", credentials=...)
    assert "credentials.endpoint" in told


def test_settings_reach_the_platform(tmp_path: Path) -> None:
    """Limits, minimums and the folder for negatives follow the configuration."""
    made = settings(tmp_path, **HERE, mobius={"negatives": "none", "parallel": 2}, upload={"batch_files": 3})
    platform = registry.make(made, threading.Event())
    traits = platform.traits

    assert isinstance(platform, Retrying)
    assert isinstance(platform._platform, MobiusPlatform)
    assert (traits.name, traits.batch_files, traits.min_categories, traits.min_pictures) == ("mobius", 3, 1, 1)
    assert traits.idempotent_uploads
    assert traits.idempotent_starts
    assert thresholds_of(settings(tmp_path, **HERE), traits).min_categories == 1
    assert watch_rules(made, traits).negatives == "negative"
    assert watch_rules(settings(tmp_path), MemoryPlatform().traits).negatives == ""
    platform.close()


@pytest.mark.parametrize(
    ("mode", "folder", "category"),
    [
        ("first", "crk/negative", "crack/negative"),
        ("first", "crk/negative/day1", "crack/negative"),
        ("first", "crk/day1/negative", "crack"),
        ("first", "negative", "negative"),
        ("first", "_negative_", "_negative_"),
        ("parent", "line1/crk/negative", "crack/negative"),
        ("parent", "crk/negative/day1", "day1"),
    ],
)
def test_folders_of_negatives(tmp_path: Path, mode: str, folder: str, category: str) -> None:
    """A folder `negative` in a category's folder is a category of its own, that no folder's name can be."""
    made = settings(tmp_path, **HERE, category_from=mode, categories={"crk": "crack"})
    platform = registry.make(made, threading.Event())
    there = Filter(watch_rules(made, platform.traits))
    elsewhere = Filter(watch_rules(settings(tmp_path, category_from=mode), MemoryPlatform().traits))

    assert there.category(b"/p", f"/p/{folder}".encode()).name == category
    assert "/" not in (elsewhere.category(b"/p", f"/p/{folder}".encode()).name or "")
    platform.close()


def test_the_section_is_described() -> None:
    """In the table of docs/settings.md and in the schema for editors."""
    assert '| `mobius.negatives` | `"others"` |' in settings_table()
    assert json_schema()["properties"]["platform"]["enum"] == ["mvi", "sagemaker", "mobius"]
    assert "negatives" in json_schema()["$defs"]["Mobius"]["properties"]


def test_annotations_are_of_no_use(tmp_path: Path) -> None:
    """Asking for annotations where no objects are detected is a mistake, told at load."""
    (told,) = mistakes(tmp_path, platform="mobius", annotations="required")

    assert "a Mobius SDK detects no objects; leave the key out" in told
