"""The plates of the detection demo."""

from __future__ import annotations

import io
from xml.etree import ElementTree as ET

import numpy as np
from PIL import Image

from support import plates


def test_plates_come_with_an_annotation_each(tmp_path):
    """Every picture is a small colour JPEG; the XML beside it has its name, its size and one to four boxes."""
    paths = plates.make(tmp_path / "new" / "folder", 12, 7)
    assert [path.name for path in paths] == [f"plate-{number:04d}.jpg" for number in range(1, 13)]
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 24
    kinds = set()
    for path in paths:
        assert 1000 < path.stat().st_size <= plates.LARGEST
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", plates.SIZE)
        root = ET.fromstring(path.with_suffix(".xml").read_bytes())
        assert root.findtext("filename") == path.name
        assert (root.findtext("size/width"), root.findtext("size/height")) == ("200", "150")
        things = root.findall("object")
        assert 1 <= len(things) <= 4
        for thing in things:
            left, top, right, bottom = (
                int(thing.findtext(f"bndbox/{key}") or -1) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            assert 0 <= left < right <= 200
            assert 0 <= top < bottom <= 150
            assert 10 <= right - left <= 70
            kinds.add(thing.findtext("name"))
    assert kinds == set(plates.KINDS)


def test_the_same_seed_draws_the_same_plates(tmp_path):
    """Twice the same bytes; another seed gives other pictures."""
    one, two, other = (plates.make(tmp_path / str(at), 3, seed) for at, seed in enumerate((1, 1, 2)))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert not {path.read_bytes() for path in one} & {path.read_bytes() for path in other}


def test_things_lie_apart_and_can_be_seen():
    """No two boxes of a plate touch, and inside each box there is more to see than beside it."""
    inside, outside = [], []
    for number in range(40):
        picture, marks = plates.draw(np.random.default_rng([3, number]))
        with Image.open(io.BytesIO(picture)) as image:
            grey = np.asarray(image.convert("L"), dtype=float)
        free = np.ones_like(grey, dtype=bool)
        for mark in marks:
            assert free[mark.top : mark.bottom, mark.left : mark.right].all()
            free[mark.top : mark.bottom, mark.left : mark.right] = False
            inside.append(grey[mark.top : mark.bottom, mark.left : mark.right].std())
        outside.append(grey[free].std())
    assert np.median(inside) > 2 * np.median(outside)
