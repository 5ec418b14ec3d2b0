"""Pictures with objects drawn in: looked at pixel by pixel where it matters."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from image_sync.cli.draw_boxes import draw, save
from image_sync.domain import Box
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
