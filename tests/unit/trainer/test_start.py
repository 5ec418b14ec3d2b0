"""The training stage, stepped by hand on a real ledger, with a platform in memory."""

from __future__ import annotations

from collections import Counter

import pytest
from structlog.testing import capture_logs

from image_sync.backoff import Backoff
from image_sync.config.model import Model as TrainingSettings
from image_sync.domain import Sighting, Stamp, TrainingState
from image_sync.errors import Ambiguous, NotFound, Refused, Transient
from image_sync.platforms.base import Model, Phase, Progress, TrainingPlan
from image_sync.tracker import REFUSAL_WAIT, RETRY_WAIT, Thresholds
from image_sync.trainer.follow import is_temporary_failure
from image_sync.trainer.lifecycle import of_name
from image_sync.trainer.start import Trainer
from support.training import ENOUGH, World


@pytest.fixture
def world():
    made = World()
    yield made
    made.ledger.close()


def test_a_training_is_started_once_and_followed_to_its_end(world: World) -> None:
    """At the threshold one training starts, named by UTC time; its end and its counts are written down."""
    world.upload(*ENOUGH)
    world.work()

    (run,) = world.ledger.trainings.history()
    assert (run.state, run.name, run.pictures) == (TrainingState.TRAINED, "plates-20260101-000000", 10)
    assert (run.iteration, run.iterations) == (3, 3)
    assert world.platform.calls["start_training"] == 1
    assert world.ledger.tally().untrained == 0


def test_below_the_threshold_nothing_is_trained(world: World) -> None:
    """Nine of ten wait."""
    world.upload(*ENOUGH[:9])
    world.work()

    assert world.runs == []
    assert world.trainer.verdict().short_by == 1


def test_pictures_that_arrive_during_a_training_count_towards_the_next(world: World) -> None:
    """The next training starts when enough came after the start of the first, and not while that one runs."""
    world.upload(*ENOUGH)
    world.work(1)
    world.upload(*ENOUGH)
    assert world.trainer.verdict().reason.startswith("training plates-20260101-000000 is running")
    world.work(300)

    first, second = reversed(world.ledger.trainings.history())
    assert (first.pictures, second.pictures) == (10, 20)
    assert first.ended_at is not None
    assert second.started_at is not None
    assert second.started_at >= first.ended_at


def test_changes_of_category_are_waited_for(world: World) -> None:
    """Two files were moved and moved back: no training before the platform was told of the last place of both."""
    world.upload(*("good",) * 5, *("scratch",) * 4)
    move(world, "good", "scratch", b"0.jpg", b"1.jpg")
    first, second = world.ledger.changes.relabels(10)
    world.ledger.changes.relabelling([first.picture_id, second.picture_id])
    world.ledger.changes.relabelled([first])
    move(world, "scratch", "good", b"0.jpg", b"1.jpg")
    world.upload("scratch")  # now there are enough
    world.work()
    assert world.trainer.verdict().reason == "waits until 2 pictures are moved to another category at the platform"
    assert world.ledger.trainings.begin("too-early", "") is None
    assert world.platform.calls["start_training"] == 0
    world.ledger.changes.relabelled(world.ledger.changes.relabels(10))
    world.work()

    assert world.platform.calls["start_training"] == 1


def move(world: World, old: str, new: str, *names: bytes) -> None:
    """Move files as the watcher sees it."""
    for name in names:
        sighting = Sighting(f"/p/{new}".encode(), name, Stamp(3, 1, 1, 1), new, name.hex().ljust(64, "0"), "jpg")
        world.ledger.files.record(b"/p", [sighting])
    world.ledger.files.gone(f"/p/{old}".encode(), names)


def test_the_platforms_minimum_is_waited_for(world: World) -> None:
    """Ten pictures in one category cannot be trained; the reason is told, nothing is asked of the platform."""
    world.upload(*("good",) * 10)
    world.work()

    assert world.platform.calls["start_training"] == 0
    assert "waits for 1 more category" in world.trainer.verdict().reason


def test_train_begins_from_the_beginning(world: World) -> None:
    """With `model.action: "train"` no base model is asked for."""
    world.upload(*ENOUGH)
    world.work()
    world.upload(*ENOUGH)
    world.work()

    assert [run.base for run in world.ledger.trainings.history()] == ["", ""]


def test_retrain_continues_from_the_newest_trained_model(world: World) -> None:
    """The first time there is none; then it is the one before, found at the platform."""
    world.stage(action="retrain")
    world.upload(*ENOUGH)
    world.work()
    world.upload(*ENOUGH)
    world.work()

    second, first = world.ledger.trainings.history()
    assert (first.base, first.base_name) == ("", "")
    assert (second.base, second.base_name) == (first.task_id, first.name)


def test_retrain_on_a_new_machine_continues_from_what_the_platform_has(world: World) -> None:
    """The newest trained model of this name counts, never one that failed, still runs, or has another name."""
    world.upload(*ENOUGH)
    world.work()
    old = world.ledger.trainings.history()[0]
    world.train_elsewhere("plates-20991231-000000", finished=False)
    world.train_elsewhere("plates-xl-20991231-000000")
    world.forget()
    world.stage(action="retrain")
    world.upload(*ENOUGH)
    world.work()

    (run,) = world.ledger.trainings.history()
    assert (run.base, run.base_name) == (old.task_id, old.name)


@pytest.mark.parametrize(
    ("pretrained", "continues", "expected"),
    [("model-77", False, "model-77"), ("none", True, ""), ("latest", False, ""), (None, False, "")],
)
def test_pretrained_model_overrides_the_action(
    world: World, pretrained: str | None, continues: bool, expected: str
) -> None:
    """An id, `latest` or `none` is obeyed whatever `action` says."""
    world.stage(action="retrain" if continues else "train", pretrained_model=pretrained)
    world.platform.fail_next("start_training", Refused("unknown model"))
    world.upload(*ENOUGH)
    world.work(10)

    assert [run.base for run in world.ledger.trainings.history()] == [expected]


def test_strategy_and_architecture_are_passed_on_whole(world: World) -> None:
    """The platform gets what the configuration says, and the pictures of each category."""
    world.stage(strategy={"max_iter": 100, "own_key": "x"}, nn_arch="frcnn")
    plans = []
    start = world.platform.start_training

    def noted(plan):
        plans.append(plan)
        return start(plan)

    world.platform.start_training = noted  # type: ignore[method-assign]
    world.upload(*ENOUGH)
    world.work(10)

    assert dict(plans[0].strategy) == {"max_iter": 100, "own_key": "x"}
    assert plans[0].nn_arch == "frcnn"
    assert Counter(one.category for one in plans[0].contents()) == {"good": 5, "scratch": 5}


def test_a_refused_start_is_told_and_tried_again_later(world: World) -> None:
    """The counter keeps its pictures, and after five minutes it is tried once more."""
    world.platform.fail_next("start_training", Refused("no GPU is free"))
    world.upload(*ENOUGH)
    world.work(REFUSAL_WAIT - 60)
    assert world.runs == [TrainingState.REFUSED]
    assert "no GPU is free" in world.trainer.verdict().reason
    world.work(300)

    assert world.runs == [TrainingState.TRAINED, TrainingState.REFUSED]


def test_a_server_that_cannot_be_reached_leaves_no_trace(world: World) -> None:
    """Nothing was started: the same training is begun again when the server is back."""
    world.platform.fail_next("start_training", Transient("no answer"))
    world.upload(*ENOUGH)
    world.trainer.step(world.now)
    assert world.runs == []
    assert world.ledger.troubles()[0].stage == "training"
    world.work()

    assert world.runs == [TrainingState.TRAINED]
    assert world.ledger.troubles() == []


def test_a_start_whose_answer_was_lost_is_found_by_name(world: World) -> None:
    """It is adopted, not started a second time."""
    world.platform.fail_next("start_training", Ambiguous("the connection broke"), after=True)
    world.upload(*ENOUGH)
    world.work()

    assert world.platform.calls["start_training"] == 1
    assert world.runs == [TrainingState.TRAINED]


def test_a_start_that_never_arrived_is_repeated_after_the_grace_time(world: World) -> None:
    """Absence is believed after `model.grace` seconds, not before."""
    world.stage(grace=600)
    world.platform.fail_next("start_training", Ambiguous("the connection broke"))
    world.upload(*ENOUGH)
    world.work(590)
    assert world.platform.calls["start_training"] == 1
    world.work(120)

    assert world.platform.calls["start_training"] == 2
    assert world.runs == [TrainingState.TRAINED]


def test_after_a_crash_between_writing_down_and_starting_the_platform_is_asked(world: World) -> None:
    """A run that was being started when the process died is adopted if it is there."""
    world.upload(*ENOUGH)
    run = world.ledger.trainings.begin("plates-20260101-000000", "")
    assert run is not None
    assert world.ledger.trainings.doubt_all(not_before=world.unix + 600) == 1
    world.work(700)

    assert world.platform.calls["start_training"] == 1
    assert world.runs == [TrainingState.TRAINED]


def test_a_failed_training_is_told_with_the_platforms_reason(world: World) -> None:
    """What a second try would not change is not repeated by itself."""
    world.upload(*ENOUGH)
    world.platform.progress = lambda task_id: Progress(Phase.FAILED, reason="stopped on request")  # type: ignore[method-assign]
    world.work(2 * RETRY_WAIT)

    (run,) = world.ledger.trainings.history()
    assert (run.state, run.reason) == (TrainingState.FAILED, "stopped on request")
    assert world.platform.calls["start_training"] == 1


@pytest.mark.parametrize(
    ("reason", "repeat", "starts"),
    [("ClientError: out of memory", False, 1), ("the picture p.jpg cannot be decoded", True, 2), ("no GPU", None, 2)],
)
def test_a_platform_that_knows_decides_about_a_repeat(
    world: World, reason: str, repeat: bool | None, starts: int
) -> None:
    """What the platform says of a repeat counts; its words are only read when it says nothing."""
    world.upload(*ENOUGH)
    world.platform.progress = lambda task_id: Progress(Phase.FAILED, reason=reason, repeat=repeat)  # type: ignore[method-assign]
    world.work(4 * RETRY_WAIT)

    assert world.platform.calls["start_training"] == starts


def test_what_was_not_continued_is_not_said_to_be(world: World) -> None:
    """A model whose training began anew at the platform continues from nothing, in the ledger, too."""
    world.upload(*ENOUGH)
    run = world.ledger.trainings.begin("plates-20260101-000000", "m-0", "older")
    assert run is not None
    world.ledger.trainings.started(run.id, "t-1")
    world.platform.progress = lambda task_id: Progress(Phase.RUNNING, iteration=7, anew="a new class")  # type: ignore[method-assign]
    with capture_logs() as logs:
        world.work(60)

    (kept,) = world.ledger.trainings.history()
    assert (kept.base, kept.base_name) == ("", "")
    assert [one["reason"] for one in logs if one["event"] == "training.not_continued"] == ["a new class"]


@pytest.mark.parametrize("second", ["trained", "fails again"])
def test_a_failure_that_passes_is_tried_once_more(world: World, second: str) -> None:
    """After a while one more training starts, of the same pictures and without a threshold; never a third."""
    world.upload(*ENOUGH)
    world.work(1)
    progress = world.platform.progress
    world.platform.progress = lambda task_id: Progress(Phase.FAILED, reason="No GPU is free")  # type: ignore[method-assign]
    world.work(RETRY_WAIT - 100)
    assert world.runs == [TrainingState.FAILED]
    assert "tried once more" in world.trainer.verdict().reason
    if second == "trained":
        world.platform.progress = progress  # type: ignore[method-assign]
    world.work(5 * RETRY_WAIT)

    again, first = world.ledger.trainings.history()
    assert (again.retry_of, again.pictures) == (first.id, 10)
    assert again.state is (TrainingState.TRAINED if second == "trained" else TrainingState.FAILED)
    assert world.platform.calls["start_training"] == 2
    assert world.ledger.tally().untrained == (0 if second == "trained" else 10)


@pytest.mark.parametrize("error", [Transient("nobody is there"), Refused("no GPU is free")])
def test_a_second_try_that_cannot_start_is_not_forgotten(world: World, error: Transient | Refused) -> None:
    """Whatever keeps it from starting: once that has passed, the failed training is tried again, once."""
    world.upload(*ENOUGH)
    world.work(1)
    progress = world.platform.progress
    world.platform.progress = lambda task_id: Progress(Phase.FAILED, reason="No GPU is free")  # type: ignore[method-assign]
    world.work(60)
    world.platform.progress = progress  # type: ignore[method-assign]
    world.platform.fail_next("start_training", error, times=2)
    world.work(10 * RETRY_WAIT)

    started = [run for run in world.ledger.trainings.history() if run.state is not TrainingState.REFUSED]
    assert [run.state for run in started] == [TrainingState.TRAINED, TrainingState.FAILED]
    assert started[0].retry_of == started[1].id
    assert world.ledger.tally().retry is None


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("CUDA out of memory", True),
        ("No free GPU", True),
        ("The server ended while this training was under way. Start it again.", True),
        ("The server was stopped while this training was under way.", True),
        ("Timed out waiting for a worker", True),
        ("It was stopped on request.", False),
        ("the platform says aborted", False),
        ("the platform says failed", False),
        ("Each category needs 5 images", False),
        ("the platform gave no reason", False),
        ("", False),
    ],
)
def test_failures_that_pass(reason: str, expected: bool) -> None:
    """Resources, time and restarts pass; a person's wish, the data and silence do not."""
    assert is_temporary_failure(reason) is expected


def test_a_training_that_hangs_is_reported_after_the_deadline(world: World) -> None:
    """It is no longer waited for, the reason is told, and the next crossing starts the next one."""
    world.stage(deadline=3600)
    world.upload(*ENOUGH)
    world.work(1)
    world.platform.progress = lambda task_id: Progress(Phase.RUNNING, iteration=7)  # type: ignore[method-assign]
    world.work(3500)
    assert world.runs == [TrainingState.RUNNING]
    world.work(200)

    (run,) = world.ledger.trainings.history()
    assert run.state is TrainingState.FAILED
    assert "model.deadline" in run.reason
    world.upload(*ENOUGH)
    world.work(10)
    assert world.runs == [TrainingState.RUNNING, TrainingState.FAILED]


def test_a_jump_of_the_clock_is_no_deadline(world: World) -> None:
    """While the process lives, the deadline is measured on a clock that nobody sets."""
    world.stage(deadline=3600)
    world.upload(*ENOUGH)
    world.work(1)
    world.platform.progress = lambda task_id: Progress(Phase.RUNNING, iteration=7)  # type: ignore[method-assign]
    world.work(60)
    world.unix += 10**8
    world.work(600)

    assert world.runs == [TrainingState.RUNNING]


def test_the_series_is_written_down_while_following(world: World) -> None:
    """Each look adds a point."""
    world.upload(*ENOUGH)
    world.work()

    (run,) = world.ledger.trainings.history()
    assert [point.iteration for point in world.ledger.trainings.series(run.id)] == [1, 2, 3]


def test_an_unbalanced_training_is_warned_of(world: World) -> None:
    """One line names both categories and their counts; the training starts all the same."""
    world.stage(training=10, max_ratio=3)
    world.upload(*("good",) * 16, *("scratch",) * 5)
    with capture_logs() as lines:
        world.work(10)

    (warning,) = [line["reason"] for line in lines if line["event"] == "training.unbalanced"]
    assert "'good' has 16 pictures, 'scratch' 5" in warning
    assert world.platform.calls["start_training"] == 1


def test_a_training_that_somebody_deleted_is_told(world: World) -> None:
    """It ends as failed instead of being waited for without end."""
    world.upload(*ENOUGH)
    world.work(1)
    world.platform._trainings.clear()
    world.work()

    (run,) = world.ledger.trainings.history()
    assert run.state is TrainingState.FAILED
    assert "no longer knows" in run.reason


def test_a_training_that_cannot_be_read_for_a_moment_goes_on(world: World) -> None:
    """Not found is believed only when the list of trainings does not have it either."""
    world.upload(*ENOUGH)
    world.platform.fail_next("progress", NotFound("there is no such task"), times=2)
    world.work()

    assert world.runs == [TrainingState.TRAINED]


def test_trouble_while_following_ends_nothing(world: World) -> None:
    """A platform that does not answer for a while is asked again."""
    world.upload(*ENOUGH)
    world.platform.fail_next("progress", Transient("no answer"), times=3)
    world.work()

    assert world.runs == [TrainingState.TRAINED]


def test_a_training_asked_for_by_a_person_starts_at_once(world: World) -> None:
    """`image-sync train` needs no threshold."""
    world.stage(training=10**6)
    world.upload(*ENOUGH)
    world.ledger.trainings.request()
    world.work()

    assert world.runs == [TrainingState.TRAINED]


def test_two_trainings_never_share_a_name(world: World) -> None:
    """Within one second the stamp moves on."""
    world.upload(*ENOUGH)
    run = world.ledger.trainings.begin("plates-20260101-000000", "")
    assert run is not None
    world.ledger.trainings.refused(run.id, "no")
    world.ledger.trainings.request()
    world.trainer.step(world.now)

    assert world.ledger.trainings.history(1)[0].name == "plates-20260101-000001"


def test_after_stop_no_training_is_begun(world: World) -> None:
    """A stage that is told to stop starts nothing."""
    world.upload(*ENOUGH)
    world.stop.set()
    world.work()

    assert world.platform.calls["start_training"] == 0


def test_the_newest_model_of_a_name_is_chosen_by_time() -> None:
    """Models of other names, even longer ones, do not count."""
    models = [
        Model("1", "plates-20260101-000000", "d", created_at=1.0),
        Model("2", "plates-20260102-000000", "d", created_at=2.0),
        Model("3", "other-20260103-000000", "d", created_at=3.0),
        Model("4", "platesxl-20260104-000000", "d", created_at=4.0),
        Model("5", "plates-xl-20260105-000000", "d", created_at=5.0),
    ]

    chosen = of_name("plates", models)[0]

    assert chosen is not None
    assert chosen.id == "2"
    assert of_name("none", models) == []


def test_a_scarce_category_is_left_out_of_the_training_where_the_platform_can(world: World) -> None:
    """Its pictures are counted, so that they start nothing by themselves, and no model is said to contain them."""
    thresholds = Thresholds(training=10, leaves_out=True)
    world.trainer = Trainer(
        world.ledger,
        world.platform,
        thresholds,
        TrainingSettings(name="plates"),
        world.stop,
        Backoff(world.ledger.trouble),
    )
    world.upload(*["good", "bad"] * 6, "typo")
    plans: list[set[str]] = []
    start = world.platform.start_training

    def started(plan: TrainingPlan) -> str:
        plans.append({picture.category for picture in plan.contents()})
        return start(plan)

    world.platform.start_training = started  # type: ignore[method-assign]
    world.trainer.step(0.0)

    assert plans == [{"good", "bad"}]
    (run,) = world.ledger.trainings.history()
    assert run.pictures == 12
    assert world.ledger.tally().untrained == 0
