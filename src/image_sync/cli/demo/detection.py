"""The demo of boxes: plates are drawn, and a model learns to find what lies on them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from image_sync.cli.demo.scene import Scene
from image_sync.cli.demo.score import OVERLAP, Score, count
from image_sync.cli.demo.story import UPLOAD, Ask, Wave
from image_sync.cli.draw_boxes import draw
from image_sync.domain import Box
from image_sync.errors import ImageSyncError, UsageError
from image_sync.platforms.base import Prediction

_PLATES, _SEED = 40, 1
_LATE = 4
"""So many plates of the first wave come without their boxes."""
_UNSEEN, _OTHER_SEED = 12, 2
_SURE = 0.6
"""The embedded server's detector is this sure of most of what it finds, and of little that is not there."""
_SHOWN, _ENLARGED = 2, 4
# Smaller steps than MVI documents, and more of them: they take seconds that can be watched.
_GENTLE = {"max_iter": 20_000, "learning_rate": 0.0002}


class Detection:
    """Plates with Pascal VOC files beside them, some of which come late; others are kept back.

    Raises:
        UsageError: what draws the plates is not installed.
    """

    name = "demo-detection"
    model: Mapping[str, object] = {"nn_arch": "frcnn", "strategy": _GENTLE}
    measure = "held-out mean average precision"

    def __init__(self) -> None:
        try:
            from image_sync.cli import plates  # late: NumPy is an extra
        except ImportError as error:
            raise UsageError(
                "drawing plates needs NumPy, which is not installed",
                hint="Install it: pip install 'image-sync[server]'",
            ) from error
        self._plates = plates

    def waves(self, stock: Path) -> list[Wave]:
        """As many as the upload threshold, some without boxes; the boxes they lack; the rest."""
        pictures = self._plates.make(stock, _PLATES, _SEED)
        prompt, late, rest = pictures[: UPLOAD - _LATE], pictures[UPLOAD - _LATE : UPLOAD], pictures[UPLOAD:]
        return [
            Wave(
                f"{UPLOAD} plates, {_LATE} of them without a file of boxes beside them",
                [*_with_boxes(prompt), *_alone(late)],
                UPLOAD,
                waiting=_LATE,
                uploads=False,
            ),
            Wave(f"the {_LATE} files of boxes that were missing", _alone(map(_boxes, late)), UPLOAD),
            Wave(f"{_PLATES} plates, each with its boxes", _with_boxes(rest), _PLATES),
        ]

    def judge(self, ask: Ask, scene: Scene) -> str:
        """What is marked, found and right on other plates; two of them stay as pictures with the boxes found."""
        plates = [
            (picture, [Box(*one) for one in marks]) for picture, marks in self._plates.drawn(_UNSEEN, _OTHER_SEED)
        ]
        found = [[one for one in ask(picture) if one.confidence >= _SURE] for picture, _ in plates]
        scores = {kind: Score() for kind in self._plates.KINDS}
        for (_, truth), answers in zip(plates, found, strict=True):
            count(scores, truth, answers)
        scene.say(f"never seen before {_UNSEEN} plates: what the model is at least {_SURE:.0%} sure of")
        scene.scores(scores, f"right at IoU {OVERLAP}")
        fullest = sorted(range(_UNSEEN), key=lambda number: -len(plates[number][1]))[:_SHOWN]
        for number, at in enumerate(fullest, 1):
            scene.file("boxes found", _draw(plates[at][0], found[at], Path(f"{self.name}-{number}.png")))
        total = sum(scores.values(), Score())
        return (
            f"{total.right} of {total.marked} objects on unseen plates found, {total.found - total.right} false alarms"
        )


def _alone(files: Iterable[Path]) -> list[tuple[Path, Path]]:
    return [(path, Path(path.name)) for path in files]


def _with_boxes(pictures: Iterable[Path]) -> list[tuple[Path, Path]]:
    """The boxes first: whoever watches the folder finds them when the picture comes."""
    return _alone(file for picture in pictures for file in (_boxes(picture), picture))


def _boxes(picture: Path) -> Path:
    return picture.with_suffix(".xml")


def _draw(picture: bytes, found: list[Prediction], target: Path) -> Path:
    """The plate several times as large, so that what is written at the boxes leaves them to be seen."""
    with Image.open(io.BytesIO(picture)) as opened:
        size = (opened.width * _ENLARGED, opened.height * _ENLARGED)
        large = io.BytesIO()
        opened.resize(size, Image.Resampling.LANCZOS).save(large, "PNG")
    drawn = draw(large.getvalue(), [_enlarged(one) for one in found])
    try:
        drawn.save(target)
    except OSError as error:
        raise ImageSyncError(
            f"{target} cannot be written: {error.strerror or error}", hint="Run the demo in a folder of your own."
        ) from error
    return target


def _enlarged(one: Prediction) -> Prediction:
    if one.box is None:
        return one
    sides = {side: getattr(one.box, side) * _ENLARGED for side in ("left", "top", "right", "bottom")}
    return replace(one, box=replace(one.box, **sides, polygon=()))
