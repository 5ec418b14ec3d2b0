"""What every ledger keeps of trainings and their models: how they went, what they contain, what is owed for them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import pytest

from image_sync.domain import DatasetRef, Metric, ModelOutcome, NextStep, Sighting, Stamp, Training, TrainingState
from image_sync.ledger import Ledger, open_ledger, trainings
from image_sync.ledger.context import IllegalTransition

ROOT = b"/pictures"
DATASET = DatasetRef("d-1", "parts")


@pytest.fixture
def ledger(state) -> Iterator[Ledger]:
    ticks = itertools.count(1_000_000)
    made = open_ledger(state, clock=lambda: float(next(ticks)))
    made.use_target("mvi", "http://server", "parts", "append", "parts")
    made.dataset(DATASET)
    yield made
    made.close()


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def put(ledger: Ledger, *places: str) -> None:
    """Record ``category/content.jpg`` and confirm it."""
    for place in places:
        category, _, name = place.partition("/")
        stamp = Stamp(3, 1, 1, 1)
        sighting = Sighting(ROOT + b"/" + category.encode(), name.encode(), stamp, category, digest(name), "jpg")
        ledger.files.record(ROOT, [sighting])
    ledger.batches.clear()
    while batch := ledger.batches.claim(DATASET, 100, 1 << 20):
        ledger.batches.confirm(batch.id, {one.picture_id: f"r-{one.key}" for one in batch.pictures}, {})


def begun(ledger: Ledger, name: str) -> Training:
    run = ledger.trainings.begin(name, "")
    assert run is not None
    return run


def trained(ledger: Ledger, name: str, accuracy: float | None = 0.9) -> Training:
    """A training that has ended, about which nothing is owed."""
    run = begun(ledger, name)
    ledger.trainings.started(run.id, f"t-{name}")
    ledger.trainings.trained(run.id, accuracy)
    ledger.lifecycle.decided(run.id, deploy=False, reason="no")
    ledger.lifecycle.tidied(run.id)
    return run


def models_of(ledger: Ledger, place: str) -> list[tuple[str, str]]:
    found = ledger.history.of(ROOT + b"/" + place.encode())
    assert found is not None
    return [(one.model, one.category) for one in found.models]


def move(ledger: Ledger, name: str, old: str, new: str) -> None:
    """The file lies in another category now, and the platform has been told."""
    stamp = Stamp(3, 1, 1, 1)
    ledger.files.record(ROOT, [Sighting(ROOT + b"/" + new.encode(), name.encode(), stamp, new, digest(name), "jpg")])
    ledger.files.gone(ROOT + b"/" + old.encode(), [name.encode()])
    for relabel in ledger.changes.relabels(10):
        ledger.changes.relabelled([relabel])


def test_the_series_of_a_training(ledger: Ledger) -> None:
    """Each look that finds something new is a point; one that finds nothing new is none."""
    put(ledger, "good/1", "bad/2")
    run = begun(ledger, "m-1")
    ledger.trainings.started(run.id, "t-1")
    ledger.trainings.progress(run.id, iteration=20, iterations=100, loss=0.5, accuracy=None)
    ledger.trainings.progress(run.id, iteration=20, iterations=100, loss=0.5, accuracy=None, remaining=7.0)
    ledger.trainings.progress(run.id, iteration=20, loss=None, accuracy=0.75)
    ledger.trainings.progress(run.id, iteration=40, loss=0.25)

    found = ledger.trainings.series(run.id)

    assert [(one.iteration, one.loss, one.accuracy) for one in found] == [(20, 0.5, 0.75), (40, 0.25, 0.75)]
    assert isinstance(found[0], Metric)
    assert found[0].at < found[1].at
    assert ledger.trainings.series(run.id + 1) == []


def test_what_went_before_a_look_is_kept_too(ledger: Ledger) -> None:
    """A platform that tells the whole curve makes a short training's series complete; nothing is kept twice."""
    put(ledger, "good/1", "bad/2")
    run = begun(ledger, "m-1")
    ledger.trainings.started(run.id, "t-1")
    ledger.trainings.progress(run.id, iteration=30, loss=0.7, curve=[(10, 0.9, None), (20, 0.8, 0.5), (30, 0.7, None)])
    ledger.trainings.progress(run.id, iteration=40, loss=0.6, curve=[(10, 0.9, None), (30, 0.7, None), (40, 0.6, None)])

    found = ledger.trainings.series(run.id)
    assert [(point.iteration, point.loss) for point in found] == [(10, 0.9), (20, 0.8), (30, 0.7), (40, 0.6)]
    assert found[1].accuracy == 0.5


def test_a_curve_of_many_thousand_points_is_thinned_when_it_comes(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that ran for days before the first look does not fill the ledger."""
    monkeypatch.setattr(trainings, "MOST", 20)
    put(ledger, "good/1", "bad/2")
    run = begun(ledger, "m-1")
    ledger.trainings.started(run.id, "t-1")
    ledger.trainings.progress(run.id, iteration=5000, curve=[(number, 1.0, None) for number in range(5000)])

    held = [point.iteration for point in ledger.trainings.series(run.id)]
    assert 10 <= len(held) <= 21
    assert held[0] == 0
    assert held[-1] == 5000


def test_a_long_series_is_thinned_out(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never holds more points than it may, keeps its ends, and stays in order."""
    monkeypatch.setattr(trainings, "MOST", 20)
    put(ledger, "good/1", "bad/2")
    run = begun(ledger, "m-1")
    ledger.trainings.started(run.id, "t-1")
    for iteration in range(1, 101):
        ledger.trainings.progress(run.id, iteration=iteration, loss=1 / iteration)
        assert len(ledger.trainings.series(run.id)) <= 20

    held = [point.iteration for point in ledger.trainings.series(run.id)]

    assert (held[0], held[-1]) == (1, 100)
    assert held == sorted(held)
    assert len(held) > 8


def test_what_a_training_contains_is_written_down(ledger: Ledger) -> None:
    """Per category the count, and a fingerprint that anybody can make from the files."""
    put(ledger, "good/1", "good/2", "bad/3")
    first = begun(ledger, "m-1")
    ledger.trainings.started(first.id, "t-1")
    put(ledger, "good/4")

    bad, good = ledger.trainings.contained(first.id)

    assert (bad.category, bad.pictures, good.category, good.pictures) == ("bad", 1, "good", 2)
    lines = "".join(f"{one}\n" for one in sorted([digest("1"), digest("2")]))
    assert good.fingerprint == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("doubtful", [True, False])
def test_a_training_that_was_not_started_contains_nothing(ledger: Ledger, doubtful: bool) -> None:
    """Refused or abandoned, it leaves neither content nor membership."""
    put(ledger, "good/1", "bad/2")
    run = begun(ledger, "m-1")
    if doubtful:
        ledger.trainings.abandon(run.id)
    else:
        ledger.trainings.refused(run.id, "no")

    assert ledger.trainings.contained(run.id) == []
    assert models_of(ledger, "good/1") == []


def test_a_picture_is_in_every_model_from_its_first_on(ledger: Ledger) -> None:
    """Models before it do not contain it, failed ones are no models, the one being trained is named."""
    put(ledger, "good/1", "bad/2")
    trained(ledger, "m-1")
    put(ledger, "good/3")
    trained(ledger, "m-2")
    failed = begun(ledger, "m-3")
    ledger.trainings.started(failed.id, "t-3")
    ledger.trainings.failed(failed.id, "no GPU")
    running = begun(ledger, "m-4")
    ledger.trainings.started(running.id, "t-4")
    put(ledger, "good/5")

    assert models_of(ledger, "good/1") == [("m-4", "good"), ("m-2", "good"), ("m-1", "good")]
    assert models_of(ledger, "good/3") == [("m-4", "good"), ("m-2", "good")]
    assert models_of(ledger, "good/5") == []


def test_a_relabelled_picture_is_told_with_the_category_of_each_model(ledger: Ledger) -> None:
    """There and back again: each model saw it in the category of its time."""
    put(ledger, "good/1", "bad/2")
    trained(ledger, "m-1")
    trained(ledger, "m-2")
    move(ledger, "1", "good", "bad")
    trained(ledger, "m-3")
    move(ledger, "1", "bad", "odd")
    move(ledger, "1", "odd", "good")
    trained(ledger, "m-4")

    assert models_of(ledger, "good/1") == [("m-4", "good"), ("m-3", "bad"), ("m-2", "good"), ("m-1", "good")]


def test_a_removed_picture_that_comes_back(ledger: Ledger) -> None:
    """The models of its first stay contain it, those of its absence do not."""
    put(ledger, "good/1", "bad/2", "bad/3")
    trained(ledger, "m-1")
    ledger.files.gone(ROOT + b"/good", [b"1"])
    (orphan,) = ledger.changes.orphans(before=1e12, limit=9).pictures
    ledger.changes.forget(orphan.picture_id, ["r-1"])
    trained(ledger, "m-2")
    put(ledger, "good/1")
    assert models_of(ledger, "good/1") == [("m-1", "good")]
    trained(ledger, "m-3")

    assert models_of(ledger, "good/1") == [("m-3", "good"), ("m-1", "good")]
    assert models_of(ledger, "bad/2") == [("m-3", "bad"), ("m-2", "bad"), ("m-1", "bad")]


def test_what_is_owed_after_a_training(ledger: Ledger) -> None:
    """Judge, deploy, retire, tidy: in this order, each once, and it survives whoever does it."""
    put(ledger, "good/1", "bad/2")
    run = begun(ledger, "m-1")
    ledger.trainings.started(run.id, "t-1")
    assert ledger.lifecycle.owing() is None
    ledger.trainings.trained(run.id, 0.9)
    steps = []

    def owed() -> NextStep:
        found = ledger.lifecycle.owing()
        assert found is not None
        steps.append((found.owed, found.fate))
        return found.owed

    assert owed() is NextStep.JUDGE
    with pytest.raises(IllegalTransition):
        ledger.lifecycle.is_deployed(run.id)
    ledger.lifecycle.decided(run.id, deploy=True, reason="it is better")
    assert owed() is NextStep.DEPLOY
    assert ledger.lifecycle.deployed() == []
    ledger.lifecycle.is_deployed(run.id)
    assert owed() is NextStep.RETIRE
    ledger.lifecycle.alone(run.id)
    assert owed() is NextStep.TIDY
    ledger.lifecycle.tidied(run.id)

    assert ledger.lifecycle.owing() is None
    assert [fate for _, fate in steps] == [
        ModelOutcome.UNDECIDED,
        ModelOutcome.CHOSEN,
        ModelOutcome.DEPLOYED,
        ModelOutcome.DEPLOYED,
    ]
    (deployed,) = ledger.lifecycle.deployed()
    assert (deployed.name, deployed.fate_reason) == ("m-1", "it is better")


def test_the_oldest_debt_comes_first(ledger: Ledger) -> None:
    """Models are seen to in the order of their trainings."""
    put(ledger, "good/1", "bad/2")
    for name in ("m-1", "m-2"):
        run = begun(ledger, name)
        ledger.trainings.started(run.id, f"t-{name}")
        ledger.trainings.trained(run.id, None)

    owing = ledger.lifecycle.owing()

    assert owing is not None
    assert owing.name == "m-1"


def test_a_failed_training_is_owed_a_second_try_until_one_begins(ledger: Ledger) -> None:
    """The next one knows which it repeats, and is not repeated for the same debt."""
    put(ledger, "good/1", "bad/2")
    run = begun(ledger, "m-1")
    ledger.trainings.started(run.id, "t-1")
    ledger.trainings.failed(run.id, "no GPU", retry=True)
    retry = ledger.tally().retry
    assert retry is not None
    assert (retry.name, retry.owed) == ("m-1", NextStep.RETRY)
    assert ledger.lifecycle.owing() is None

    again = begun(ledger, "m-2")

    assert again.retry_of == run.id
    assert ledger.tally().retry is None


def test_trainings_are_found_by_name_and_by_task(ledger: Ledger) -> None:
    """As a person, or the platform, names them."""
    put(ledger, "good/1", "bad/2")
    trained(ledger, "m-1")

    assert [getattr(ledger.trainings.named(name), "name", None) for name in ("m-1", "t-m-1", "x", "")] == [
        "m-1", "m-1", None, None,
    ]  # fmt: skip


def test_words_of_fates_and_debts_are_part_of_the_format(ledger: Ledger) -> None:
    """The persisted words: changing one needs a migration."""
    assert [str(fate) for fate in ModelOutcome] == [
        "", "declined", "chosen", "deployed", "refused", "retired", "deleted", "gone",
    ]  # fmt: skip
    assert [str(owed) for owed in NextStep] == ["", "judge", "deploy", "retire", "tidy", "retry"]
    assert [str(state) for state in TrainingState][-1] == "refused"
