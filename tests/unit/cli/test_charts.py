"""Charts of trainings and models, and the figures in them."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from image_sync.cli.present import Measure
from image_sync.config import parse
from image_sync.domain import DatasetRef, Metric, ModelOutcome, Training, TrainingState
from image_sync.errors import ImageSyncError, UsageError


def run(number: int, **values) -> Training:
    base: dict[str, Any] = {
        "state": TrainingState.TRAINED,
        "pictures": 50 * number,
        "accuracy": 0.7,
        "iterations": 100,
        "iteration": 100,
    }
    times = {"created_at": 1e9 + number, "started_at": 1e9 + number, "ended_at": 1e9 + number + 90}
    return Training(id=number, name=f"m$_{number}\n", dataset=DatasetRef("d", "d"), **(base | times | values))


SERIES = [Metric(1e9 + n, n * 10, 1 / n, None if n < 3 else n / 12) for n in range(1, 11)]
SORTED = Measure("accuracy", 0.2)


def test_no_curve_is_said_instead_of_drawn(tmp_path: Path) -> None:
    """Where the platform reported neither loss nor accuracy there is nothing to draw."""
    from image_sync.cli import charts

    with pytest.raises(UsageError, match="there is no curve"):
        charts.training(run(3, accuracy=None), [Metric(1e9, 0, None, None)], SORTED, tmp_path / "none.png")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "pictures", "expected"),
    [
        ({}, 20, "accuracy 0.500 on about 4 held-out pictures"),
        ({"model": {"strategy": {"ratio": 0.5}}}, 20, "accuracy 0.500 on about 10 held-out pictures"),
        ({"model": {"nn_arch": "frcnn"}}, 5, "mAP 0.500 on about 1 held-out picture"),
        ({}, None, "accuracy 0.500 on an unknown number of held-out pictures"),
    ],
)
def test_a_figure_comes_with_its_name_and_what_it_rests_on(
    tmp_path: Path, changes: dict[str, Any], pictures: int | None, expected: str
) -> None:
    """Accuracy of a classification, mAP of a detection, and about how many pictures were held out for it."""
    document = {"credentials": {"endpoint": "http://mvi"}, "folders": [str(tmp_path)], "dataset": {"name": "d"}}
    settings = parse(json.dumps(document | changes).encode(), tmp_path / "configuration.json")

    assert Measure.of(settings).text(0.5, pictures) == expected


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".jpg"])
def test_a_training_is_drawn(tmp_path: Path, suffix: str) -> None:
    """In every format that the command offers, with one point as with many, with figures missing."""
    from image_sync.cli import charts

    charts.training(run(1, base="id-7"), SERIES, SORTED, tmp_path / f"many{suffix}")
    charts.training(run(2, state=TrainingState.RUNNING, accuracy=None), SERIES[:1], SORTED, tmp_path / f"one{suffix}")
    charts.training(run(3, iterations=0), [Metric(1e9, 0, None, None)], SORTED, tmp_path / f"none{suffix}")

    for path in tmp_path.iterdir():
        assert path.stat().st_size > 2000
        if suffix in {".png", ".jpg"}:
            with Image.open(path) as picture:
                assert picture.size == (1080, 600)


def test_a_drawn_training_says_what_it_shows(tmp_path: Path) -> None:
    """Title, both axes with their units, legend and the final accuracy stand in the picture."""
    import matplotlib as mpl

    from image_sync.cli import charts

    with mpl.rc_context({"svg.fonttype": "none"}):
        charts.training(run(1, base="id-7", base_name="m-0"), SERIES, SORTED, tmp_path / "t.svg")
        charts.models(
            [run(1), run(2, fate=ModelOutcome.DEPLOYED), run(3, accuracy=None)], "plates", SORTED, tmp_path / "m.svg"
        )

    training, models = ((tmp_path / name).read_text() for name in ("t.svg", "m.svg"))
    for words in ("iteration", "loss", "accuracy on held-out pictures", "100%", "70.0%", "continues from m-0", "1e+"):
        assert (words in training) is (words != "1e+"), words
    for words in ("Models of plates", "pictures that the model contains", "deployed", "70.0%", "trained (UTC)", "2001"):
        assert words in models, words


def test_many_models_are_drawn(tmp_path: Path) -> None:
    """One, and a thousand."""
    from image_sync.cli import charts

    charts.models([run(1)], "plates", SORTED, tmp_path / "one.png")
    charts.models([run(n, pictures=0) for n in range(1, 300)], "plates", SORTED, tmp_path / "many.png")

    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ImageSyncError, match="cannot be written"):
        charts.models([run(1)], "plates", SORTED, tmp_path / "missing" / "x.png")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    real = builtins.__import__

    def without(name: str, *args, **options):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, "image_sync.cli.charts", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(UsageError) as caught:
        import image_sync.cli.charts  # noqa: F401 - importing is what is tried

    assert "image-sync[plot]" in caught.value.hint
