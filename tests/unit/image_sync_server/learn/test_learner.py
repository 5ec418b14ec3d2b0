"""The embedded server's learner, on the pictures that images/make_images.py draws."""

from __future__ import annotations

import importlib.util
import io
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from image_sync_server.learn import features
from image_sync_server.learn.learner import BATCH, Model, Point, Sample, StopTraining, _held_out, train

IMAGES = Path(__file__).parents[4] / "images"
CATEGORIES = ("good", "scratch", "spot")
FEW: dict[str, object] = {"max_iter": 30}


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_images", IMAGES / "make_images.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _samples(root: Path, most: int = 1000, categories: tuple[str, ...] = CATEGORIES) -> list[Sample]:
    return [Sample(path, name) for name in categories for path in sorted((root / name).glob("*.jpg"))[:most]]


def _train(
    samples: list[Sample], strategy: Mapping[str, object] | None = None, base: Model | None = None
) -> tuple[Model, list[Point]]:
    points: list[Point] = []
    model = train(samples, strategy or {}, base=base, report=points.append, stop=threading.Event())
    return model, points


def _right(model: Model, samples: list[Sample]) -> float:
    hits = [model.predict(sample.path.read_bytes())[0][0] == sample.category for sample in samples]
    return sum(hits) / len(hits)


def _unexpected(point: Point) -> None:
    pytest.fail(f"{point} was reported")


def _encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.fixture(autouse=True, scope="module")
def _looked_at_once() -> Iterator[None]:
    """The figures of a picture are taken once for all tests of this file."""
    extract = features.extract
    features.extract = lru_cache(maxsize=2000)(extract)
    yield
    features.extract = extract


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Forty new plates of each category, of another seed than images/."""
    root: Path = tmp_path_factory.mktemp("drawn")
    _script().make(root, 40, 4711)
    return root


@pytest.fixture(scope="module")
def trained() -> tuple[Model, list[Point]]:
    """A default training on images/."""
    return _train(_samples(IMAGES))


# What is learnt


def test_learns_from_images_what_it_has_not_seen(trained, drawn):
    """The default training on images/ tells over 0.9 of newly drawn plates right, and its own figure says so too."""
    model, _ = trained
    assert _right(model, _samples(drawn)) > 0.9
    assert model.accuracy > 0.9


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_eighteen_pictures_a_category_are_enough(seed, drawn, tmp_path):
    """Eighteen training pictures a category (a nineteenth is held out) of any seed reach over 0.9 on other plates."""
    _script().make(tmp_path, 19, seed)
    model, _ = _train(_samples(tmp_path), {"ratio": 1})
    assert _right(model, _samples(drawn)) > 0.9


def test_brightness_alone_does_not_tell_the_categories_apart(drawn):
    """Guessing by the nearest mean brightness is little better than chance: the task is not trivial."""
    light = {s: float(np.asarray(Image.open(s.path).convert("L")).mean()) for s in _samples(drawn)}
    means = {c: np.mean([v for s, v in light.items() if s.category == c]) for c in CATEGORIES}
    right = 0
    for sample, value in light.items():
        distance = {category: abs(mean - value) for category, mean in means.items()}
        right += min(distance, key=distance.__getitem__) == sample.category
    assert right / len(light) < 0.55


def test_a_wrong_label_is_not_learnt_as_right(tmp_path):
    """With labels that mean nothing, held-out accuracy is near chance: it is measured, not made up."""
    samples = [Sample(s.path, CATEGORIES[i % 3]) for i, s in enumerate(_samples(IMAGES))]
    model, _ = _train(samples, {"ratio": 0.5})
    assert model.accuracy < 0.65


def test_loss_falls_and_tests_agree_with_the_model(trained):
    """The reported loss starts at that of guessing and falls; the last test is the model's accuracy."""
    model, points = trained
    assert points[0].loss == pytest.approx(math.log(3), abs=1e-4)
    assert points[-1].loss < 0.1
    assert points[-1].accuracy == model.accuracy


def test_predictions_are_probabilities_best_first(trained):
    """A prediction names every category once, best first, and adds up to 1."""
    model, _ = trained
    answer = model.predict(_samples(IMAGES)[0].path.read_bytes())
    assert {name for name, _ in answer} == set(CATEGORIES)
    assert [share for _, share in answer] == sorted((share for _, share in answer), reverse=True)
    assert sum(share for _, share in answer) == pytest.approx(1, abs=1e-9)


def test_same_input_gives_the_same_model_in_any_order():
    """Training twice, the second time with the pictures in reverse, gives the same bytes."""
    samples = _samples(IMAGES)
    first, _ = _train(samples, FEW)
    second, _ = _train(samples[::-1], FEW)
    assert first.to_bytes() == second.to_bytes()


# Strategy


def test_defaults_are_those_of_the_vendor(trained):
    """Without a strategy: 1500 iterations with a test at every twentieth."""
    _, points = trained
    assert {point.total for point in points} == {1500}
    assert [point.iteration for point in points if point.accuracy is not None] == list(range(20, 1501, 20))


def test_max_iter_and_test_interval_are_honoured():
    """They decide the last iteration and the iterations of the tests; the last one is always a test."""
    _, points = _train(_samples(IMAGES, 6), {"max_iter": 50, "test_interval": 15})
    tests = [point for point in points if point.test_loss is not None]
    assert [point.iteration for point in tests] == [15, 30, 45, 50]
    assert points[-1].iteration == points[-1].total == 50


def test_test_iter_limits_a_test(drawn):
    """With test_iter 1 a test looks at one mini-batch; the model's accuracy is of the whole held-out part."""
    samples = _samples(drawn)
    few, all_ = ({"max_iter": 1, "ratio": 0.5, "test_iter": n} for n in (1, 100))
    limited, points = _train(samples, few)
    whole, more = _train(samples, all_)
    assert points[-1].test_loss != more[-1].test_loss
    assert points[-1].accuracy is not None
    assert (points[-1].accuracy * BATCH).is_integer()
    assert limited.accuracy == whole.accuracy == more[-1].accuracy


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.95])
def test_ratio_decides_how_many_are_held_out(ratio):
    """Of many pictures, the share that is held out is 1 - ratio, give or take chance."""
    rng = np.random.default_rng(7)
    held = _held_out([rng.bytes(32).hex() for _ in range(4000)], np.arange(4000) % 3, ratio)
    assert held.mean() == pytest.approx(1 - ratio, abs=0.03)


@pytest.mark.parametrize(
    ("key", "other"), [("learning_rate", 0.005), ("momentum", 0.5), ("weight_decay", 0.3), ("ratio", 0.6)]
)
def test_every_number_changes_the_model(key, other):
    """Learning rate, momentum, weight decay and ratio each make another model."""
    samples = _samples(IMAGES, 8)
    assert _train(samples, FEW)[0].to_bytes() != _train(samples, FEW | {key: other})[0].to_bytes()


def test_numerals_count_as_numbers_and_unknown_keys_are_ignored():
    """Strings as MVI's command sends them give the same model as numbers; other keys change nothing."""
    samples = _samples(IMAGES, 6)
    numbers, _ = _train(samples, {"max_iter": 30, "learning_rate": 0.002, "ratio": 0.7})
    numerals, _ = _train(samples, {"max_iter": "30", "learning_rate": "0.002", "ratio": "0.7", "gpu": "yes"})
    assert numbers.to_bytes() == numerals.to_bytes()


@pytest.mark.parametrize("key", ["max_iter", "test_iter", "test_interval", "learning_rate", "ratio", "weight_decay"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "many", "", True, None, [], 10**400, "1_0"])
def test_nonsense_in_the_strategy_is_refused(key, value):
    """Zero, negative, not-a-number, text and truth values are refused, naming key, value and range."""
    with pytest.raises(ValueError, match=f"strategy's {key} is .*, but must be .*(from|above)") as caught:
        _train(_samples(IMAGES, 2), {key: value})
    assert ascii(value)[:60] in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("max_iter", 1.5), ("momentum", -0.1), ("momentum", 1.1), ("ratio", 1.01), ("weight_decay", 0.5)]
)
def test_values_out_of_range_are_refused(key, value):
    """A broken count and values just beyond a range are refused."""
    with pytest.raises(ValueError, match=key):
        _train(_samples(IMAGES, 2), {key: value})


def test_no_momentum_is_allowed():
    """Momentum 0 lies in the documented range and trains."""
    assert _train(_samples(IMAGES, 6), FEW | {"momentum": 0})[0].categories == CATEGORIES


# Going on from a model


def test_a_warm_start_begins_with_a_lower_loss(drawn, trained):
    """Continuing from a trained model, the first loss on new plates is far below that of a fresh start."""
    base, _ = trained
    samples = _samples(drawn)
    _, fresh = _train(samples, FEW)
    model, warm = _train(samples, FEW, base)
    assert warm[0].loss < fresh[0].loss / 3
    assert model.accuracy > 0.9


def test_a_warm_start_keeps_what_is_known_and_adds_what_is_new(drawn):
    """Weights of categories in common and the standard stay, a new category starts at 0, a missing one goes."""
    base, _ = _train(_samples(drawn, categories=("good", "scratch")), FEW)
    samples = _samples(drawn, categories=("scratch", "spot"))
    model, _ = _train(samples, {"max_iter": 1, "learning_rate": 1e-12, "momentum": 0}, base)
    assert model.categories == ("scratch", "spot")
    assert np.allclose(model.weights[:, 0], base.weights[:, 1], atol=1e-7)
    assert np.allclose(model.weights[:, 1], 0, atol=1e-7)
    assert model.standard is base.standard


# Who is held out


def test_a_picture_never_changes_sides():
    """Pictures held out of 200 are held out of 400 too, and none that was learnt from becomes a test."""
    rng = np.random.default_rng(5)
    digests = [rng.bytes(32).hex() for _ in range(400)]
    labels = np.arange(400) % 4
    half = _held_out(digests[:200], labels[:200], 0.8)
    whole = _held_out(digests, labels, 0.8)
    assert (half == whole[:200]).all()
    assert 0.12 < whole.mean() < 0.28


@pytest.mark.parametrize("ratio", [0.001, 0.5, 0.8, 1.0])
def test_every_category_is_learnt_and_tested(ratio):
    """Whatever the ratio, each category with two pictures has at least one on each side."""
    rng = np.random.default_rng(6)
    for count in (2, 3, 5):
        held = _held_out([rng.bytes(32).hex() for _ in range(count * 4)], np.repeat(range(4), count), ratio)
        assert (held.reshape(4, count).sum(axis=1) >= 1).all()
        assert (held.reshape(4, count).sum(axis=1) < count).all()


def test_a_category_of_one_picture_is_learnt_but_not_tested():
    """It is among the answers, and the accuracy is of the others."""
    samples = [*_samples(IMAGES, 6, ("good", "scratch")), *_samples(IMAGES, 1, ("spot",))]
    model, _ = _train(samples)
    assert model.categories == CATEGORIES
    assert model.predict(samples[-1].path.read_bytes())[0][0] == "spot"
    assert 0 <= model.accuracy <= 1


def test_copies_of_a_picture_stay_on_one_side(tmp_path):
    """Two categories of one picture each, copied, leave nothing to hold out, and that is said."""
    samples = []
    for sample in (*_samples(IMAGES, 1, ("good",)), *_samples(IMAGES, 1, ("spot",))):
        for number in range(4):
            path = tmp_path / f"{sample.category}-{number}.jpg"
            path.write_bytes(sample.path.read_bytes())
            samples.append(Sample(path, sample.category))
    with pytest.raises(ValueError, match="two different pictures"):
        _train(samples)


@pytest.mark.parametrize("categories", [(), ("good",)])
def test_fewer_than_two_categories_are_refused(categories):
    """There is nothing to tell apart, and the message says how many there are."""
    with pytest.raises(ValueError, match=f"at least two categories, but there are {len(categories)}"):
        _train(_samples(IMAGES, categories=categories))


def test_the_smallest_training_works():
    """Two categories of two pictures train without warnings: one of each is learnt from, one tested."""
    model, _ = _train(_samples(IMAGES, 2, ("good", "spot")))
    assert model.accuracy in {0.0, 0.5, 1.0}


# Reports and stopping


@pytest.mark.parametrize("strategy", [{}, {"max_iter": 100, "test_interval": 1000}, {"max_iter": 20}])
def test_reports_come_often_and_in_order(strategy):
    """At least twenty reports, iterations rising, remaining seconds finite and 0 at the end."""
    _, points = _train(_samples(IMAGES, 6), strategy)
    assert len(points) >= 20
    assert [point.iteration for point in points] == sorted({point.iteration for point in points})
    assert all(math.isfinite(point.remaining) and point.remaining >= 0 for point in points)
    assert points[-1].remaining == 0


def test_remaining_is_about_the_time_that_remains():
    """A tenth of the way, the estimate is within a factor of five of what the rest then took."""
    seen: dict[int, tuple[float, float]] = {}
    samples = _samples(IMAGES, 6)
    train(
        samples,
        {"max_iter": 4000},
        base=None,
        report=lambda point: seen.update({point.iteration: (time.monotonic(), point.remaining)}),
        stop=threading.Event(),
    )
    then, estimate = seen[400]
    took = seen[4000][0] - then
    assert took / 5 < estimate < took * 5


def test_stop_before_the_start_reads_nothing(tmp_path):
    """With stop set, not even a missing picture is noticed."""
    stop = threading.Event()
    stop.set()
    samples = [Sample(tmp_path / "none.jpg", name) for name in CATEGORIES]
    with pytest.raises(StopTraining):
        train(samples, {}, base=None, report=_unexpected, stop=stop)


def test_stop_ends_the_iterations_at_once():
    """Stop set by a report: no further report comes."""
    stop = threading.Event()
    points: list[Point] = []

    def report(point: Point) -> None:
        points.append(point)
        if point.iteration >= 40:
            stop.set()

    with pytest.raises(StopTraining):
        train(_samples(IMAGES, 6), {"max_iter": 100_000}, base=None, report=report, stop=stop)
    assert points[-1].iteration == 40


def test_stop_ends_the_reading_at_once(monkeypatch):
    """Stop set while six thousand pictures are read (half a minute's work) ends it at once, before any report."""
    monkeypatch.setattr(features, "extract", features.extract.__wrapped__)  # type: ignore[attr-defined]
    stop = threading.Event()
    samples = _samples(IMAGES) * 100
    begun = time.monotonic()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    with pytest.raises(StopTraining):
        train(samples, {}, base=None, report=_unexpected, stop=stop)
    timer.join()
    assert time.monotonic() - begun < 2


# Stored models


def test_a_stored_model_answers_the_same(trained):
    """What from_bytes reads predicts as the model did, and can be continued from."""
    model, _ = trained
    read = Model.from_bytes(model.to_bytes())
    picture = _samples(IMAGES)[30].path.read_bytes()
    assert read.predict(picture) == model.predict(picture)
    assert (read.categories, read.accuracy) == (model.categories, model.accuracy)
    _, points = _train(_samples(IMAGES), {"max_iter": 1}, read)
    assert points[0].loss < 0.1


def test_names_of_categories_survive_storing(tmp_path):
    """A category may have any name: spaces, line breaks, other scripts."""
    names = {"good": "gut\n\u00e4", "spot": "\u6c61\u70b9 \U0001f50d"}
    samples = [Sample(s.path, names[s.category]) for s in _samples(IMAGES, 4, ("good", "spot"))]
    model, _ = _train(samples, FEW)
    assert set(Model.from_bytes(model.to_bytes()).categories) == set(names.values())


def test_a_damaged_model_is_refused(trained):
    """Cut, empty, foreign or changed in a single byte: always ValueError."""
    raw = trained[0].to_bytes()
    cuts = [b"", b"{}", b"PK\x03\x04" + raw, raw[:-1], raw + b"\0", raw[:20], raw[: len(raw) // 2]]
    flips = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in (0, 5, 30, 60, 150, len(raw) // 2, len(raw) - 1)]
    for damaged in (*cuts, *flips):
        with pytest.raises(ValueError, match="Train it anew"):
            Model.from_bytes(damaged)


# Pictures of all kinds


def _spot() -> Image.Image:
    return Image.open(_samples(IMAGES, categories=("spot",))[7].path).convert("RGB")


def _sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)


@pytest.mark.parametrize(
    "make",
    [
        _encoded,
        lambda i: _encoded(i.quantize(256)),
        lambda i: _encoded(i.convert("RGBA")),
        lambda i: _encoded(i, "JPEG", quality=97, progressive=True),
        lambda i: _encoded(i.convert("CMYK"), "JPEG", quality=97),
    ],
    ids=["png", "palette", "alpha", "progressive", "cmyk"],
)
def test_every_colour_mode_is_the_same_picture(make: Callable[[Image.Image], bytes]):
    """Palette, alpha, CMYK and progressive pictures have nearly the pixels of the plain one."""
    plain, other = (features._decoded(raw) for raw in (_encoded(_spot()), make(_spot())))
    assert np.abs(plain - other).mean() < 0.02


@pytest.mark.parametrize("make", [lambda i: _encoded(i.convert("LA")), lambda i: _encoded(_sixteen_bits(i))])
def test_every_grey_mode_is_the_same_picture(make: Callable[[Image.Image], bytes]):
    """Grey with alpha and 16 bits of grey have the pixels of plain grey."""
    plain, other = (features._decoded(raw) for raw in (_encoded(_spot().convert("L")), make(_spot())))
    assert np.abs(plain - other).mean() < 0.01


def test_black_and_white_is_read():
    """A picture of one bit per pixel gives finite figures."""
    assert np.isfinite(features.extract(_encoded(_spot().convert("1")))).all()


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (12, 200, 99)])
def test_a_plain_colour_has_finite_figures(colour):
    """A lens cap does not divide by zero, and a single pixel is enough."""
    for size in ((1, 1), (300, 20)):
        assert np.isfinite(features.extract(_encoded(Image.new("RGB", size, colour)))).all()


def test_exif_orientation_is_respected():
    """A picture stored lying, with the note that it must be turned, equals the upright one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = _encoded(_spot().transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert np.allclose(features._decoded(lying), features._decoded(_encoded(_spot())), atol=1e-6)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not a picture",
        _encoded(Image.new("RGB", (64, 64)))[:-30],
        _encoded(Image.new("RGB", (64, 64)), "JPEG")[:300],
        _encoded(Image.new("RGB", (64, 64)), "GIF"),
        _encoded(Image.new("1", (9000, 9000))),
    ],
    ids=["empty", "text", "cut png", "cut jpeg", "gif", "bomb"],
)
def test_a_picture_that_cannot_be_used_is_named(raw, tmp_path):
    """Training refuses it with its file name, escaped; predicting refuses it too."""
    bad = tmp_path / "bad\n1.jpg"
    bad.write_bytes(raw)
    samples = [*_samples(IMAGES, 3), Sample(bad, "good")]
    with pytest.raises(ValueError, match=r"The picture bad\\n1\.jpg cannot be used: it cannot be decoded"):
        _train(samples, FEW)
    model, _ = _train(_samples(IMAGES, 3), {"max_iter": 1})
    with pytest.raises(ValueError, match="The picture cannot be used: it cannot be decoded"):
        model.predict(raw)


def test_a_missing_picture_is_named(tmp_path):
    """A file that is gone is named, with the system's reason."""
    samples = [*_samples(IMAGES, 3), Sample(tmp_path / "gone.jpg", "good")]
    with pytest.raises(ValueError, match=r"gone\.jpg cannot be used: No such file"):
        _train(samples, FEW)


def test_damaged_bytes_never_break_out():
    """A thousand mutations of a picture give figures or ValueError, nothing else."""
    rng = np.random.default_rng(0)
    raw = np.frombuffer(_encoded(_spot().resize((40, 30)), "JPEG"), dtype=np.uint8)
    for _ in range(1000):
        mutant = raw.copy()
        mutant[rng.integers(0, rng.choice([64, len(raw)]), 4)] = rng.integers(0, 256, 4)
        try:
            assert np.isfinite(features.extract(mutant.tobytes())).all()
        except ValueError as error:
            assert "cannot be decoded" in str(error)  # noqa: PT017 - most mutants are fine, both ends are right


# The pictures in images/


def test_images_hold_what_the_script_draws(tmp_path):
    """Same names and count in each folder, and nearly the same pixels (another Pillow may encode otherwise)."""
    _script().make(tmp_path, 20, 2)
    for category in CATEGORIES:
        kept, drawn_now = (sorted((root / category).iterdir()) for root in (IMAGES, tmp_path))
        assert [path.name for path in kept] == [path.name for path in drawn_now]
        assert len(kept) == 20
        for one, other in zip(kept, drawn_now, strict=True):
            with Image.open(one) as image, Image.open(other) as again:
                assert image.size == again.size
                difference = np.asarray(image, dtype=float) - np.asarray(again, dtype=float)
            assert np.abs(difference).mean() < 6, one.name


def test_images_are_small_and_distinct():
    """Each is a colour JPEG of at most 6 KB, its number stands for one plate, and no content comes twice."""
    paths = [sample.path for sample in _samples(IMAGES)]
    assert len({path.name for path in paths}) == len({path.read_bytes() for path in paths}) == 60
    for path in paths:
        assert path.stat().st_size <= 6 * 1024
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (160, 120))


def test_the_script_keeps_plates_of_another_run(tmp_path):
    """Where its folders hold other plates it draws nothing and says what to do."""
    script = _script()
    script.make(tmp_path, 2, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jpg")}
    with pytest.raises(FileExistsError, match="Delete the old plates"):
        script.make(tmp_path, 1, 1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jpg")} == before
