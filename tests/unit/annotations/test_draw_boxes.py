"""Pictures with objects drawn in, and charts: looked at pixel by pixel where it matters."""

from __future__ import annotations

import builtins
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from image_sync.cli.draw_boxes import draw, save
from image_sync.cli.present import Measure
from image_sync.config import parse
from image_sync.domain import Box, DatasetRef, Metric, ModelOutcome, Training, TrainingState
from image_sync.errors import ImageSyncError, UsageError
from image_sync.platforms.base import Prediction


def content(size: tuple[int, int] = (200, 160), kind: str = "PNG") -> bytes:
    raw = io.BytesIO()
    Image.new("RGB", size, "white").save(raw, kind)
    return raw.getvalue()


def found(label: str, left: float, top: float, right: float, bottom: float) -> Prediction:
    return Prediction(label, 0.9, Box(label, left, top, right, bottom))


def coloured(picture: Image.Image) -> tuple[int, int, int, int] | None:
    """What lies around everything that is not white."""
    return picture.convert("L").point(lambda value: 255 if value < 250 else 0).getbbox()


def test_a_box_is_drawn_where_it_is() -> None:
    """Its outline lies on the box's own pixels; the inside stays as it was; each label has its colour."""
    picture = draw(content(), [found("hole", 50, 60, 90, 100), found("screw", 120, 60, 150, 90)])

    hole, screw = picture.getpixel((50, 80)), picture.getpixel((120, 80))
    assert hole == picture.getpixel((89, 80)) == picture.getpixel((70, 99))
    assert hole != screw
    assert picture.getpixel((70, 80)) == (255, 255, 255)
    assert picture.getpixel((91, 95)) == (255, 255, 255)
    box = coloured(picture)
    assert box is not None
    assert (box[0], box[3]) == (50, 100)


def test_a_label_has_the_same_colour_in_every_picture() -> None:
    """Whatever else was found there."""
    hole = found("hole", 50, 60, 90, 100)
    pictures = [draw(content(), [hole, found(name, 120, 60, 150, 90)]) for name in ("dent", "screw", "\ud800")]

    assert len({picture.getpixel((50, 80)) for picture in pictures}) == 1
    assert len({picture.getpixel((120, 80)) for picture in pictures}) == 3


@pytest.mark.parametrize(
    "corners", [(0, 0, 200, 160), (190, 150, 400, 400), (-20, -20, 5, 5), (10, 10, 10.2, 10.2), (199, 159, 200, 160)]
)
def test_boxes_at_the_edge(corners: tuple[float, float, float, float]) -> None:
    """A box that touches, crosses or hardly fills a pixel of the picture is drawn as far as it can be."""
    picture = draw(content(), [found("a label that is longer than the picture is wide" * 3, *corners)])

    assert picture.size == (200, 160)
    assert coloured(picture) is not None


def test_outlines_and_odd_labels() -> None:
    """A polygon is drawn beside its box; labels with control characters and other scripts do no harm."""
    corners = ((20.0, 20.0), (60.0, 20.0), (40.0, 60.0))
    one = Prediction("x\x1b[31m点\n", 0.5, Box("x", 20, 20, 61, 61, polygon=corners))
    picture = draw(content(kind="JPEG"), [one, Prediction("no place", 0.9)])

    assert picture.getpixel((40, 60)) != (255, 255, 255)


def test_what_is_no_picture_is_told() -> None:
    """A clear error instead of a traceback."""
    with pytest.raises(UsageError, match="cannot be opened"):
        draw(b"no picture", [])


def test_names_of_marked_pictures(tmp_path: Path) -> None:
    """Same names from different folders get numbers; the folder is made; a source is never written over."""
    taken: set[Path] = set()
    picture = Image.new("RGB", (5, 5))
    written = [save(picture, Path(name), tmp_path / "out", taken) for name in ("a/x.jpg", "b/x.png", "c/y.jpg")]

    assert [path.name for path in written] == ["x-boxes.png", "x-boxes-2.png", "y-boxes.png"]
    assert all(path.exists() for path in written)
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageSyncError, match="cannot be written"):
        save(picture, Path("x.jpg"), tmp_path / "file", set())


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
