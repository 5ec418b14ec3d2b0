"""The embedded server's detector and its learner, on the plates that the detection demo draws."""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from image_sync_server.learn.detector import Detector, train
from image_sync_server.learn.learner import Point, StopTraining, model_file, read_model_file
from image_sync_server.learn.windows import (
    LENGTH,
    SMALLEST,
    Mark,
    Marked,
    Picture,
    PictureSet,
    View,
    grid,
    held_out,
    precisions,
    shapes_for,
)
from image_sync_server.mvi.models import read_model
from support import plates

FEW: dict[str, object] = {"max_iter": 40}


@pytest.fixture(autouse=True)
def _one_thread():
    """As in the server: threads that share one small matrix wait for each other."""
    with threadpool_limits(limits=1):
        yield


def drawn(folder: Path, count: int, seed: int) -> list[Marked]:
    found = []
    folder.mkdir(exist_ok=True)
    for number in range(count):
        picture, marks = plates.draw(np.random.default_rng([seed, number]))
        path = folder / f"{number}.jpg"
        path.write_bytes(picture)
        found.append(Marked(path, tuple(Mark(*mark) for mark in marks)))
    return found


def learn(
    pictures: list[Marked], strategy: Mapping[str, object] | None = None, base: Detector | None = None
) -> tuple[Detector, list[Point]]:
    points: list[Point] = []
    model = train(pictures, strategy or {}, base=base, report=points.append, stop=threading.Event())
    return model, points


def precision(model: Detector, pictures: list[Marked]) -> float:
    found = [model.predict(one.path.read_bytes()) for one in pictures]
    return float(np.mean(list(precisions(found, [one.marks for one in pictures]).values())))


def block(folder: Path, name: str, size: tuple[int, int], box: tuple[int, int, int, int], shade: int) -> Marked:
    """A grey picture with one reddish block in it."""
    image = Image.new("RGB", size, (shade, shade, shade))
    image.paste((255, shade // 2, 0), box)
    image.save(folder / f"{name}.png")
    return Marked(folder / f"{name}.png", (Mark("block", *box),))


@pytest.fixture(name="some", scope="module")
def _some(tmp_path_factory) -> list[Marked]:
    return drawn(tmp_path_factory.mktemp("some"), 6, 5)


@pytest.fixture(name="few", scope="module")
def _few(some) -> tuple[Detector, list[Point]]:
    """A short training on a few plates."""
    with threadpool_limits(limits=1):
        return learn(some, FEW)


@pytest.fixture(name="unseen", scope="module")
def _unseen(tmp_path_factory) -> list[Marked]:
    return drawn(tmp_path_factory.mktemp("unseen"), 40, 4711)


@pytest.fixture(name="trained", scope="module")
def _trained(tmp_path_factory) -> tuple[Detector, list[Point]]:
    """A default training on forty plates."""
    with threadpool_limits(limits=1):
        return learn(drawn(tmp_path_factory.mktemp("drawn"), 40, 1))


# What is learnt


def test_learns_from_forty_plates_what_it_has_not_seen(trained, unseen):
    """The mean average precision on plates of another seed is at least 0.8, and the model's own figure says so too."""
    model, _ = trained
    assert precision(model, unseen) >= 0.8
    assert model.accuracy >= 0.8
    assert model.labels == plates.KINDS


def test_boxes_are_whole_pixels_inside_the_picture_best_first(trained, unseen):
    """Finds are sorted by confidence, between 0 and 1, with whole pixels, and never beyond the border."""
    model, _ = trained
    for one in unseen[:10]:
        finds = model.predict(one.path.read_bytes())
        assert [find.confidence for find in finds] == sorted((find.confidence for find in finds), reverse=True)
        for find in finds:
            assert 0 < find.confidence <= 1
            assert 0 <= find.left < find.right <= 200
            assert 0 <= find.top < find.bottom <= 150
            assert all(float(edge).is_integer() for edge in (find.left, find.top, find.right, find.bottom))


def test_finds_are_in_the_pixels_of_the_picture_whatever_its_size(trained, unseen):
    """The same plate three times as large gives boxes three times as large."""
    model, _ = trained
    right = 0
    for one in unseen[:8]:
        with Image.open(one.path) as image:
            file = io.BytesIO()
            image.resize((600, 450), Image.Resampling.BICUBIC).save(file, "PNG")
        large = [
            Mark(mark.label, *(3 * edge for edge in (mark.left, mark.top, mark.right, mark.bottom)))
            for mark in one.marks
        ]
        found = precisions([model.predict(file.getvalue())], [large])
        right += int(np.mean(list(found.values())) > 0.6)
    assert right >= 6


def test_exif_rotation_is_left_alone(trained, unseen):
    """Boxes are in the pixels that the file has: a note to turn the picture changes nothing."""
    model, _ = trained
    with Image.open(unseen[0].path) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        plain, noted = io.BytesIO(), io.BytesIO()
        image.save(plain, "PNG")
        image.save(noted, "PNG", exif=exif)
    assert model.predict(noted.getvalue()) == model.predict(plain.getvalue()) != []


def test_wrong_boxes_are_not_learnt_as_right(tmp_path):
    """With boxes put anywhere, the held-out precision is next to nothing: it is measured, not made up."""
    rng = np.random.default_rng(2)
    pictures = []
    for one in drawn(tmp_path, 20, 9):
        marks = []
        for mark in one.marks:
            left, top = rng.uniform(0, 160), rng.uniform(0, 110)
            marks.append(Mark(mark.label, left, top, left + 35, top + 35))
        pictures.append(replace(one, marks=tuple(marks)))
    model, _ = learn(pictures, {"max_iter": 500, "ratio": 0.5})
    assert model.accuracy < 0.2


def test_loss_falls_and_the_last_test_is_the_accuracy(trained):
    """The loss starts at that of guessing and falls; eight tests come, and the last one agrees with the model."""
    model, points = trained
    assert points[0].loss == pytest.approx(math.log(4), abs=1e-4)
    assert points[-1].loss < 0.1
    tests = [point for point in points if point.accuracy is not None]
    assert [point.iteration for point in tests] == list(range(500, 4001, 500))
    assert tests[-1].accuracy == model.accuracy
    assert all(point.test_loss is not None for point in tests)
    assert points[-1].remaining == 0


def test_same_input_gives_the_same_model_in_any_order(some, few):
    """Training twice, the second time with pictures and marks in reverse, gives the same bytes."""
    first, _ = few
    second, _ = learn([replace(one, marks=one.marks[::-1]) for one in reversed(some)], FEW)
    assert first.to_bytes() == second.to_bytes()


def test_pictures_that_do_not_fit_into_memory_are_read_again(some):
    """A set of pictures without room gives the same windows as one that keeps them."""
    pictures = [Picture.of(one) for one in some[:2]]
    sizes = shapes_for(pictures, np.empty((0, 2), dtype=np.float32), 4)
    roomy, tight = (PictureSet(pictures, sizes, threading.Event(), room) for room in (10**9, 0))
    for at in range(2):
        assert roomy.open(at) is roomy.open(at)
        assert tight.open(at) is not tight.open(at)
        for one, other in zip(roomy.open(at)[1], tight.open(at)[1], strict=True):
            assert (one.cells == other.cells).all()
            assert (one.boxes == other.boxes).all()


# Strategy


def test_max_iter_is_honoured_and_the_reports_are_even(some):
    """The last iteration is max_iter, reports rise and are at least twenty, few iterations included."""
    for total in (20, 100):
        _, points = learn(some, {"max_iter": total, "test_iter": 7, "test_interval": 3})
        assert points[-1].iteration == points[-1].total == total
        assert points[-1].accuracy is not None
        assert [point.iteration for point in points] == sorted({point.iteration for point in points})
        assert len(points) >= 20


@pytest.mark.parametrize(
    ("key", "other"), [("learning_rate", 0.005), ("momentum", 0.5), ("weight_decay", 0.3), ("ratio", 0.3)]
)
def test_every_number_changes_the_model(some, few, key, other):
    """Learning rate, momentum, weight decay and ratio each make another model."""
    assert few[0].to_bytes() != learn(some, FEW | {key: other})[0].to_bytes()


@pytest.mark.parametrize("key", ["max_iter", "learning_rate", "ratio", "weight_decay", "momentum"])
def test_nonsense_in_the_strategy_is_refused(some, key):
    """A value out of range is named with key and range, before a picture is read."""
    missing = [Marked(Path("none.jpg"), ())]
    with pytest.raises(ValueError, match=f"strategy's {key} is -1, but must be .*(from|above)"):
        learn(missing, {key: -1})


@pytest.mark.filterwarnings("error")
def test_a_training_that_diverges_says_so(some):
    """Numbers that run away end the training with the remedy, not with a model of nonsense or a warning."""
    with pytest.raises(ValueError, match=r"diverged\. Lower the strategy's learning_rate"):
        learn(some, {"max_iter": 500, "learning_rate": 0.99, "momentum": 1})


# Going on from a model


def test_a_warm_start_knows_already(trained, some, few):
    """Continuing from a trained model, the first loss on new plates is a fraction of a fresh start's."""
    base, _ = trained
    _, fresh = few
    model, warm = learn(some, FEW, base)
    assert warm[0].loss < fresh[0].loss / 5
    assert (model.mixing == base.mixing).all()
    assert [tuple(shape) for shape in base.shapes] == [tuple(shape) for shape in model.shapes[: len(base.shapes)]]


def test_a_warm_start_keeps_what_is_known_and_adds_what_is_new(some):
    """Weights of labels in common and of nothing stay, a new label starts at 0, a missing one goes."""
    first = [replace(one, marks=tuple(mark for mark in one.marks if mark.label != "screw")) for one in some]
    second = [replace(one, marks=tuple(mark for mark in one.marks if mark.label != "dent")) for one in some]
    base, _ = learn([one for one in first if one.marks], FEW)
    still = {"max_iter": 1, "learning_rate": 1e-12, "momentum": 0}
    model, _ = learn([one for one in second if one.marks], still, base)
    assert (base.labels, model.labels) == (("dent", "hole"), ("hole", "screw"))
    assert np.allclose(model.weights[:, 0], base.weights[:, 1], atol=1e-7)
    assert np.allclose(model.weights[:, 2], base.weights[:, 2], atol=1e-7)
    assert np.allclose(model.weights[:, 1], 0, atol=1e-7)


# Who is held out


def pictures(rng: np.random.Generator, labels: list[str]) -> list[Picture]:
    return [
        Picture(Marked(Path("x"), tuple(Mark(label, 0, 0, 1, 1) for label in word.split())), rng.bytes(32).hex(), 100)
        for word in labels
    ]


def test_a_picture_never_changes_sides():
    """Pictures held out of 200 are held out of 400 too, at the share that the ratio says."""
    found = pictures(np.random.default_rng(5), ["a b", "a", "b", "c a"] * 100)
    half, whole = held_out(found[:200], 0.8), held_out(found, 0.8)
    assert (half == whole[:200]).all()
    assert 0.12 < whole.mean() < 0.28


@pytest.mark.parametrize("ratio", [0.001, 0.5, 0.8, 1.0])
def test_every_label_is_learnt_and_tested(ratio):
    """Whatever the ratio, each of four labels with five pictures of its own has one at least on each side."""
    for seed in range(20):
        found = pictures(np.random.default_rng(seed), [label for label in "abcd" for _ in range(5)])
        held = held_out(found, ratio)
        for label in range(4):
            assert 1 <= held[5 * label : 5 * label + 5].sum() <= 4


def test_a_label_is_always_learnt():
    """Where labels share few pictures and not all can be on both sides, each still has one to learn from."""
    for seed in range(50):
        found = pictures(np.random.default_rng(seed), ["a", "a b", "b c", "c", "d a"])
        held = held_out(found, 0.5)
        learnt = {mark.label for one, out in zip(found, held, strict=True) if not out for mark in one.marked.marks}
        assert learnt == set("abcd")


def test_copies_of_one_picture_are_not_enough(some, tmp_path):
    """Nothing, one picture, or copies of one leave nothing to hold out, and that is said."""
    copies = []
    for number in range(6):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(some[0].path.read_bytes())
        copies.append(Marked(path, some[0].marks))
    for few in ([], copies[:1], copies):
        with pytest.raises(ValueError, match="two different pictures"):
            learn(few, FEW)


# Odd pictures and boxes


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((60, 40), (0, 0, 60, 40)),
        ((1, 1), (0, 0, 1, 1)),
        ((300, 20), (100, 2, 130, 18)),
        ((20, 300), (2, 100, 18, 130)),
        ((300, 200), (10, 20, 290, 24)),
        ((640, 480), (100, 50, 104, 54)),
    ],
    ids=["whole", "one pixel", "wide", "tall", "thin", "tiny"],
)
def test_extreme_boxes_train_without_a_warning(tmp_path, size, box):
    """A thing that fills the picture, one pixel, strips, lines and specks: a finite figure, and no crash."""
    pictures = [block(tmp_path, str(shade), size, box, shade) for shade in range(40, 160, 20)]
    model, _ = learn(pictures, FEW)
    assert 0 <= model.accuracy <= 1
    assert all(np.isfinite(find.confidence) for find in model.predict(pictures[0].path.read_bytes()))


def test_plain_blocks_are_found_exactly(tmp_path):
    """What any eye finds at once is found with a precision of 1, in pictures of different sizes."""
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(16):
        width, height = (240, 160) if number % 2 else (480, 320)
        left, top = rng.integers(0, width * 3 // 4), rng.integers(0, height * 3 // 4)
        box = (int(left), int(top), int(left) + width // 6, int(top) + height // 5)
        pictures.append(block(tmp_path, str(number), (width, height), box, 60 + 5 * number))
    model, _ = learn(pictures, {"max_iter": 500})
    assert model.accuracy == 1
    for one in pictures:
        best = model.predict(one.path.read_bytes())[0]
        assert abs(best.left - one.marks[0].left) <= (one.marks[0].right - one.marks[0].left) / 4


def test_a_picture_that_cannot_be_used_is_named(some, few, tmp_path):
    """Damaged and missing pictures are named; predicting refuses damaged ones too."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"The picture bad\.jpg cannot be used: it cannot be decoded"):
        learn([*some, Marked(bad, some[0].marks)], FEW)
    with pytest.raises(ValueError, match=r"gone\.jpg cannot be used: No such file"):
        learn([*some, Marked(tmp_path / "gone.jpg", some[0].marks)], FEW)
    model, _ = few
    with pytest.raises(ValueError, match="The picture cannot be used: it cannot be decoded"):
        model.predict(b"junk")


# Stopping


def test_stop_before_the_start_reads_nothing(tmp_path):
    """With stop set, not even a missing picture is noticed."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(StopTraining):
        train([Marked(tmp_path / "none.jpg", ())], {}, base=None, report=lambda _: None, stop=stop)


def test_stop_ends_a_training_at_once(some):
    """Stop set at any moment, from the first picture on, ends the training within a second."""
    for moment in (0.05, 0.3, 0.8):
        stop = threading.Event()
        timer = threading.Timer(moment, stop.set)
        begun = time.monotonic()
        timer.start()
        with pytest.raises(StopTraining):
            train(some * 40, {"max_iter": 100_000}, base=None, report=lambda _: None, stop=stop)
        timer.join()
        assert time.monotonic() - begun < moment + 1


# Windows


def test_windows_cover_the_picture(some):
    """Any box of a shape has a window that overlaps it well, at the borders too, in a picture of odd size."""
    image = Image.new("RGB", (203, 97))
    file = io.BytesIO()
    image.save(file, "PNG")
    found = grid(View.of(file.getvalue()), (0.2, 0.15))
    width, height = 0.2 * 203, 0.15 * 203
    assert np.allclose(found.boxes[:, 2] - found.boxes[:, 0], width, rtol=0.06)
    assert np.allclose(found.boxes[:, 3] - found.boxes[:, 1], height, rtol=0.06)
    assert found.boxes[:, 0].min() <= 0
    assert found.boxes[:, 2].max() >= 203
    assert found.boxes[:, 3].max() >= 97
    assert sum(len(some) for some in found.blocks()) == len(found)
    assert found.figures(np.array([0, len(found) - 1])).shape == (2, LENGTH)


def test_shapes_serve_every_box():
    """Boxes of three sizes get three shapes; specks get the smallest that there is; the number is limited."""
    marks = tuple(Mark("a", 0, 0, *size) for size in [(30, 30)] * 5 + [(31, 29)] * 5 + [(60, 20)] * 3 + [(1, 1)])
    one = Picture(Marked(Path("x"), marks), "0" * 64, 100)
    none = np.empty((0, 2), dtype=np.float32)
    found = shapes_for([one], none, 8)
    assert np.allclose(found, [(0.3, 0.3), (0.6, 0.2), (SMALLEST, SMALLEST)], atol=0.011)
    assert len(shapes_for([one], none, 2)) == 2
    known = np.array([(0.3, 0.3)], dtype=np.float32)
    assert np.allclose(shapes_for([one], known, 8), [(0.3, 0.3), (0.6, 0.2), (SMALLEST, SMALLEST)])


# Stored models


def test_a_stored_detector_answers_the_same(trained, unseen):
    """What was read back finds the same; the reader tells it from a classification model by its first bytes."""
    model, _ = trained
    read = read_model(model.to_bytes())
    assert isinstance(read, Detector)
    picture = unseen[3].path.read_bytes()
    assert read.predict(picture) == model.predict(picture)
    assert (read.labels, read.accuracy) == (model.labels, model.accuracy)
    assert read.evaluation == {"metric": "mAP@0.5", "value": f"{model.accuracy:.4f}"}


def test_a_damaged_detector_is_refused(trained):
    """Cut, empty, or changed in a single byte: always ValueError."""
    raw = trained[0].to_bytes()
    flips = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in (0, 5, 30, 60, 150, len(raw) // 2, len(raw) - 1)]
    for damaged in (b"", raw[:-1], raw + b"\0", raw[:40], *flips):
        with pytest.raises(ValueError, match="Train it anew"):
            read_model(damaged)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": 3},
        {"labels": [1, 2, 3]},
        {"labels": ["a"]},
        {"accuracy": "much"},
        {"accuracy": 7},
        {"figures": -1},
        {"shapes": 10**9},
        {"hidden": None},
        {},
    ],
    ids=str,
)
def test_a_forged_detector_is_refused(trained, change):
    """Facts of another type or size, and windows too small to scan, are refused though the checksum is right."""
    model, _ = trained
    magic = model.to_bytes().split(b"\n")[0] + b"\n"
    facts, numbers = read_model_file(magic, model.to_bytes())
    if not change:
        numbers = numbers.copy()
        numbers[0] = 1e-9
    with pytest.raises(ValueError, match="Train it anew"):
        read_model(model_file(magic, facts | change, [numbers]))
