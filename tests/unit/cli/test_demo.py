"""What the demos show, part by part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from image_sync.cli import demo
from image_sync.cli.app import app
from image_sync.cli.demo import TRAINING, UPLOAD, Detection, Score, Show, Sorting, count, overlap
from image_sync.cli.present import Measure
from image_sync.domain import Box
from image_sync.errors import UsageError
from image_sync.platforms.base import Prediction


def box(left: float, top: float, right: float, bottom: float, label: str = "hole") -> Box:
    return Box(label, left, top, right, bottom)


def answer(confidence: float, where: Box | None) -> Prediction:
    return Prediction("hole" if where is None else where.label, confidence, where)


def shelf(folder: Path, *pictures: int) -> Path:
    """A folder with so many pictures in each of its folders; nobody opens them."""
    for name, count_of in enumerate(pictures):
        (folder / f"kind{name}").mkdir()
        for number in range(count_of):
            (folder / f"kind{name}" / f"{number:02}.jpg").touch()
    return folder


def test_overlap_is_the_shared_part_of_both() -> None:
    """1 for the same box, 0 for boxes apart or touching, a third for halves that overlap, 0 without a box."""
    whole = box(0, 0, 10, 10)

    assert overlap(whole, whole) == 1
    assert overlap(whole, box(10, 0, 20, 10)) == 0
    assert overlap(whole, box(20, 20, 30, 30)) == 0
    assert overlap(whole, box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap(whole, None) == 0
    assert overlap(box(1, 1, 1, 1), box(1, 1, 1, 1)) == 0


def test_a_marked_object_is_found_once() -> None:
    """Two answers for one object are one right and one false; the surer answer has the first choice."""
    scores = {"hole": Score()}
    count(scores, [box(0, 0, 10, 10)], [answer(0.7, box(0, 0, 10, 10)), answer(0.9, box(0, 0, 10, 9))])

    assert scores == {"hole": Score(marked=1, found=2, right=1)}


def test_another_label_or_place_is_not_right() -> None:
    """The label must be the same and the overlap at least one half; a label that nobody marked counts, too."""
    scores = {"hole": Score(), "screw": Score()}
    truth = [box(0, 0, 10, 10), box(50, 0, 60, 10, "screw")]
    count(
        scores,
        truth,
        [answer(0.9, box(0, 0, 10, 10, "screw")), answer(0.8, box(6, 0, 16, 10)), answer(0.8, box(0, 0, 1, 1, "rust"))],
    )

    assert scores == {"hole": Score(1, 1, 0), "screw": Score(1, 1, 0), "rust": Score(0, 1, 0)}


@pytest.mark.parametrize("kinds", [2, 3, 4, 5, 7])
def test_waves_of_sorted_pictures_meet_the_thresholds(tmp_path: Path, kinds: int) -> None:
    """Short of the upload threshold, at it, and then enough for both thresholds; the last ones are kept back."""
    waves = Sorting(shelf(tmp_path, *[14] * kinds)).waves()
    counts = [wave.pictures for wave in waves]

    assert counts[0] < UPLOAD <= counts[1] < UPLOAD + kinds
    assert counts[2] == 13 * kinds >= TRAINING
    assert counts[2] - counts[1] >= UPLOAD
    assert [wave.uploads for wave in waves] == [False, True, True]
    copied = [place for wave in waves for _, place in wave.files]
    assert len(set(copied)) == counts[2]
    assert not any(place.name == "13.jpg" for place in copied)


def test_too_few_pictures_are_told_at_once(tmp_path: Path) -> None:
    """Folders that could never reach the thresholds again are refused, with the figure that would do."""
    with pytest.raises(UsageError) as raised:
        Sorting(shelf(tmp_path, 12, 13))
    assert "holds 25 pictures, too few" in raised.value.what
    assert "Give 26 or more" in raised.value.hint
    (tmp_path / "kind0/more.png").touch()
    waves = Sorting(tmp_path).waves()
    assert waves[2].pictures - waves[1].pictures == UPLOAD


def test_waves_of_plates_bring_some_boxes_late() -> None:
    """Every plate comes once with one file of boxes; some of the first wave lack theirs until the second one."""
    first, second, third = Detection().waves()
    files = [source for wave in (first, second, third) for source, _ in wave.files]

    assert first.pictures - first.waiting < UPLOAD == first.pictures
    assert first.waiting == len(second.files)
    assert all(source.suffix == ".xml" for source, _ in second.files)
    assert len(set(files)) == len(files) == 2 * third.pictures
    assert {file.stem for file in files if file.suffix == ".xml"} == {file.stem for file in files}
    assert all(file.exists() for file in files)
    assert third.pictures >= TRAINING


def test_without_the_drawing_library_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No plot, no failure: the extra to install is named."""
    from rich.console import Console

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "image_sync.cli.charts", raising=False)
    monkeypatch.delattr("image_sync.cli.charts", raising=False)
    monkeypatch.chdir(tmp_path)
    demo._plot(Detection(), None, None, Measure("accuracy", None), Show(Console()))  # type: ignore[arg-type]

    assert "pip install 'image-sync[plot]'" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_without_its_plates_the_detection_demo_says_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for pictures that never come."""
    monkeypatch.setattr(demo, "_PLATES", ())
    with pytest.raises(UsageError) as raised:
        Detection()

    assert "checkout" in raised.value.hint


def test_the_detection_demo_takes_no_pictures() -> None:
    """`--detection --images` is refused: it brings its own."""
    done = CliRunner().invoke(app, ["demo", "--detection", "--images", "images"])

    assert isinstance(done.exception, UsageError)
    assert "brings its own pictures" in done.exception.what
