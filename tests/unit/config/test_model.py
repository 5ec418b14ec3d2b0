"""The settings for the life of trainings and models: what is taken, refused and warned of, and what it leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from image_sync.config import difference
from image_sync.config.model import covers, hours_of
from image_sync.daemon.assemble import watch_rules
from image_sync.tracker import thresholds_of
from support.configuration import mistakes, settings, warnings
from support.memory import MemoryPlatform


def test_defaults_do_nothing_by_themselves(tmp_path: Path) -> None:
    """Nothing is deployed, deleted or held back unless a person wants it; a hanging training is told after a week."""
    loaded = settings(tmp_path)
    model, thresholds = loaded.model, thresholds_of(loaded, MemoryPlatform().traits)

    assert (model.deploy, model.keep, model.min_accuracy, model.deadline) == ("never", None, None, 7 * 86_400)
    assert (thresholds.quiet_hours, thresholds.min_pictures, thresholds.max_ratio) == ((), 5, 10)
    assert loaded.warnings == ()


def test_every_setting_reaches_its_stage(tmp_path: Path) -> None:
    """What the file says is what trainer and tracker go by."""
    given = {
        "deploy": "better", "min_gain": 0.02, "min_accuracy": 0.8, "keep": 3, "deadline": 3600,
        "quiet_hours": "22:00-06:00,12:00-12:30", "nn_arch": None,
    }  # fmt: skip
    loaded = settings(tmp_path, model=given, threshold={"per_category": 12, "max_ratio": 4.5})
    model, thresholds = loaded.model, thresholds_of(loaded, MemoryPlatform().traits)

    assert (model.deploy, model.min_gain, model.min_accuracy, model.keep) == ("better", 0.02, 0.8, 3)
    assert (model.deadline, model.is_detection) == (3600, False)
    assert thresholds.quiet_hours == ((1320, 360), (720, 750))
    assert (thresholds.min_pictures, thresholds.max_ratio) == (12, 4.5)


def test_less_than_the_platform_asks_for_is_no_less(tmp_path: Path) -> None:
    """`threshold.per_category` can only raise the platform's minimum."""
    loaded = settings(tmp_path, threshold={"per_category": 2, "max_ratio": None})
    thresholds = thresholds_of(loaded, MemoryPlatform().traits)

    assert (thresholds.min_pictures, thresholds.max_ratio) == (5, None)


def test_a_detector_is_trained_as_one(tmp_path: Path) -> None:
    """A detection architecture decides what is trained; categories and their balance do not matter then."""
    loaded = settings(tmp_path, model={"nn_arch": "frcnn"})
    thresholds = thresholds_of(loaded, MemoryPlatform().traits)

    assert loaded.model.is_detection
    assert (thresholds.min_categories, thresholds.min_pictures, thresholds.max_ratio) == (1, 1, None)


@pytest.mark.parametrize(
    ("changes", "mode", "labelled"),
    [
        ({}, "none", None),
        ({"model": {"nn_arch": "frcnn"}}, "required", 5),
        ({"model": {"nn_arch": "frcnn"}, "annotations": None}, "required", 5),
        ({"model": {"nn_arch": "frcnn"}, "annotations": "optional", "threshold": {"per_category": 9}}, "optional", 9),
        ({"model": {"nn_arch": "frcnn"}, "annotations": "none"}, "none", None),
        ({"annotations": "optional", "annotation_format": "voc"}, "optional", None),
        ({"model": {"nn_arch": "frcnn"}, "annotations": {}}, "required", 5),
        ({"model": {"nn_arch": "frcnn"}, "annotations": {"mode": "optional", "minimum": 2}}, "optional", 2),
        ({"annotations": {"mode": "none"}}, "none", None),
    ],
    ids=str,
)
def test_what_is_trained_decides_whether_annotations_are_needed(
    tmp_path: Path, changes: dict[str, Any], mode: str, labelled: int | None
) -> None:
    """Unless the file says it: a detection needs them, a classification does not; labels then count for the former."""
    loaded = settings(tmp_path, **changes)
    traits = MemoryPlatform().traits

    assert loaded.annotations.mode == mode
    assert thresholds_of(loaded, traits).min_labelled == labelled
    rules = watch_rules(loaded, traits)
    assert (rules.annotations, rules.annotation_format) == (mode, changes.get("annotation_format", "auto"))


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": "yes"},
        {"annotations": True},
        {"annotations": {"mode": "yes"}},
        {"annotation_format": "xml"},
    ],
    ids=str,
)
def test_other_words_about_annotations_are_mistakes(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The message names what is possible."""
    (mistake,) = mistakes(tmp_path, **changes)

    assert next(iter(changes)) in mistake
    assert '"none"' in mistake or '"voc"' in mistake


def test_labels_can_be_left_out_by_name(tmp_path: Path) -> None:
    """The watcher learns them in one spelling; a text in place of a list is a mistake at its line."""
    loaded = settings(tmp_path, annotations={"mode": "optional", "ignore_labels": ["Ünclear", "ünclear", "x"]})

    assert watch_rules(loaded, MemoryPlatform().traits).ignored_labels == {"ünclear", "x"}
    (mistake,) = mistakes(tmp_path, annotations={"ignore_labels": "x"})
    assert "annotations.ignore_labels" in mistake
    assert 'write, for example, ["unclear"]' in mistake


def test_a_change_is_taken_over_and_told(tmp_path: Path) -> None:
    """Each new key shows in the difference that a reload logs."""
    before = settings(tmp_path)
    after = settings(
        tmp_path,
        model={"deploy": "always", "keep": 2, "quiet_hours": "22:00-06:00"},
        threshold={"per_category": 9, "max_ratio": None},
    )

    assert difference(before, after) == [
        "threshold.per_category: none -> 9",
        "threshold.max_ratio: 10 -> none",
        'model.quiet_hours: none -> "22:00-06:00"',
        'model.deploy: "never" -> "always"',
        "model.keep: none -> 2",
    ]


WRONG: list[tuple[str, Any]] = [
    ("model.deploy", "sometimes"),
    ("model.deploy", None),
    ("model.min_gain", -0.1),
    ("model.min_gain", 1.1),
    ("model.min_gain", "0.1"),
    ("model.min_accuracy", 95),
    ("model.keep", 0),
    ("model.keep", 1.5),
    ("model.deadline", 0),
    ("threshold.per_category", 0),
    ("threshold.max_ratio", 0.5),
    ("model.quiet_hours", 22),
    ("model.quiet_hours", ""),
    ("model.quiet_hours", "22-6"),
    ("model.quiet_hours", "22:00"),
    ("model.quiet_hours", "24:00-06:00"),
    ("model.quiet_hours", "22:60-06:00"),
    ("model.quiet_hours", "22:00-24:01"),
    ("model.quiet_hours", "06:00-06:00"),
    ("model.quiet_hours", "22:00-06:00,"),
    ("model.quiet_hours", "00:00-24:00"),
    ("model.quiet_hours", "00:00-12:00, 12:00-00:00"),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_values_are_told_with_what_to_write(tmp_path: Path, key: str, value: Any) -> None:
    """One line, the key, and the remedy."""
    section, _, name = key.partition(".")

    (mistake,) = mistakes(tmp_path, **{section: {name: value}})

    assert mistake.startswith(f"{key}: ")
    assert any(word in mistake for word in ("write", "leave some time"))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"min_gain": 0.1, "deploy": "always"}, ['model.min_gain: has no effect unless model.deploy is "better"']),
        ({"min_accuracy": 0.9}, ['model.min_accuracy: has no effect while model.deploy is "never"']),
        ({"min_gain": 0.1, "min_accuracy": 0.9, "deploy": "better"}, []),
    ],
)
def test_rules_without_effect_are_warned_of(tmp_path: Path, model: dict[str, Any], expected: list[str]) -> None:
    """A rule that nothing obeys is most likely a misunderstanding."""
    assert warnings(tmp_path, model=model) == expected


def test_times_of_day() -> None:
    """A stretch covers its first minute and not its last; one that ends earlier than it begins goes over midnight."""
    night = hours_of(" 22:00 - 06:00 ")

    assert [covers(night, minute) for minute in (1319, 1320, 1439, 0, 359, 360)] == [
        False, True, True, True, True, False,
    ]  # fmt: skip
    assert [covers(hours_of("9:05-24:00"), minute) for minute in (544, 545, 1439, 0)] == [False, True, True, False]


def test_a_misspelt_training_parameter_gets_a_note(tmp_path: Path) -> None:
    """It is passed on, and the nearest documented one is named; what is only unknown is passed on without a word."""
    (note,) = warnings(tmp_path, model={"strategy": {"max_iters": 200, "gamma": 2}})

    assert "model.strategy.max_iters" in note
    assert 'did you mean "max_iter"?' in note
