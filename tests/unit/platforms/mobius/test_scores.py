"""Scores are found in every shape that the vendor's calls are known or may be guessed to have."""

from __future__ import annotations

from typing import Any

import pytest

from image_sync.platforms.mobius.scores import scores

TWO = {"crack": 0.9, "rust": 0.1}
ONE_PICTURE: dict[str, Any] = {
    "map": {"status": "success", "result": TWO},
    "bare map": {"status": "success", **TWO},
    "objects": {"status": "success", "predictions": [{"name": tag, "score": one} for tag, one in TWO.items()]},
    "other names": {"tags": {"custom": [{"tag": tag, "confidence": one, "hit": True} for tag, one in TWO.items()]}},
    "version 3": {
        "status": "success",
        "tags": {"custom_concepts": [{"custom_concept_id": tag, "score": one} for tag, one in TWO.items()]},
    },
    "pairs": {"status": "success", "custom": [["crack", 0.9], ["rust", 0.1]]},
    "nested pairs": {"result": ["custom", [["crack", 0.9], ["rust", 0.1]]], "message": "ok"},
    "objects by tag": {"result": {tag: {"score": one, "positive": one > 0.5} for tag, one in TWO.items()}},
    "a list": [{"id": "crack", "probability": 0.9}, {"id": "rust", "value": 0.1}],
    "percent": {"result": {"crack": 90, "rust": 10}},
    "noise": {"status": "success", "time": 0.031, "task_id": "7", "result": TWO, "traceback": {"x": 1}},
}


@pytest.mark.parametrize("shape", ONE_PICTURE)
def test_shapes_of_one_picture(shape: str) -> None:
    """Every shape gives the same two scores, whether or not the tags are known beforehand."""
    for tags in ((), ("crack", "rust")):
        found = {score.tag: score.value for score in scores(ONE_PICTURE[shape], tags=tags)}

        assert found == pytest.approx(TWO), (shape, tags)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "success", "result": 0.9},
        {"status": "success", "score": 0.9},
        {"status": "success", "result": {"confidence": 0.9, "positive": True}},
        {"prediction": {"crack": 0.9}},
    ],
)
def test_a_score_without_a_name_is_that_of_the_only_tag(body: dict[str, Any]) -> None:
    """Whoever asks one tag gets one number."""
    assert [(score.tag, score.value) for score in scores(body, tags=["crack"])] == [("crack", 0.9)]


@pytest.mark.parametrize(
    "body",
    [
        {"status": "success", "result": {"a1": {"crack": 0.9}, "b2": {"crack": 0.1}}},
        {"result": [{"image_id": "a1", "crack": 0.9}, {"image_id": "b2", "tags": [{"name": "crack", "score": 0.1}]}]},
        {"crack": {"a1": 0.9, "b2": 0.1}},
        {"result": {"crack": [["a1", 0.9], ["b2", 0.1]]}},
        {"result": [{"id": "a1", "name": "crack", "score": 0.9}, {"id": "b2", "name": "crack", "score": 0.1}]},
        {"a1": 0.9, "b2": 0.1},
    ],
)
def test_shapes_of_several_pictures(body: dict[str, Any]) -> None:
    """Pictures within tags or tags within pictures."""
    found = {score.image: (score.tag, score.value) for score in scores(body, tags=["crack"], images=["a1", "b2"])}

    assert found == {"a1": ("crack", 0.9), "b2": ("crack", 0.1)}


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {"status": "success"},
        {"result": {"crack": "high"}},
        {"result": {"crack": True, "rust": float("nan")}},
        {"result": [0.1, 0.2]},
    ],
)
def test_what_holds_no_scores(body: Any) -> None:
    """Nothing is made up."""
    assert scores(body, tags=["crack", "rust"]) == []


def test_a_body_without_end_is_left() -> None:
    """A body nested deeper than any sensible one ends the search, not the program."""
    body: Any = {"crack": 0.5}
    for _ in range(900):
        body = {"result": body}

    assert scores(body, tags=["crack"]) == []


def test_other_tags_are_left_out() -> None:
    """Somebody else's tags on the same server are none of ours."""
    assert [one.tag for one in scores({"result": {**TWO, "theirs": 1.0}}, tags=["crack", "rust"])] == ["crack", "rust"]
