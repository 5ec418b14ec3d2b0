"""What becomes of trained models: judged, deployed, replaced, deleted; whatever fails in between, once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from image_sync.config.model import Model as TrainingSettings
from image_sync.domain import ModelOutcome, NextStep, TrainingState
from image_sync.errors import Refused, Transient, Unauthorised
from image_sync.platforms.base import Model
from image_sync.trainer.lifecycle import judge
from support.training import ENOUGH, World


@pytest.fixture
def world():
    made = World()
    yield made
    made.ledger.close()


class Crash(BaseException):
    """The process ends here."""


def fates(world: World) -> list[ModelOutcome]:
    """Oldest first."""
    return [run.fate for run in reversed(world.ledger.trainings.history())]


def deployed(world: World) -> list[str]:
    """Names of the deployed models."""
    return [model.name for model in world.platform.models.of_dataset(world.dataset) if model.deployed]


def model(accuracy: float | None, name: str = "old") -> Model:
    return Model("m", name, "d", accuracy, deployed=True)


@pytest.mark.parametrize(
    ("rules", "accuracy", "rivals", "deploy", "why"),
    [
        ({"deploy": "never"}, 1.0, [], False, "never"),
        ({"deploy": "always"}, 0.1, [model(0.9)], True, "always"),
        ({"deploy": "always"}, None, [], True, "always"),
        ({"deploy": "always", "min_accuracy": 0.8}, 0.79, [], False, "below model.min_accuracy 0.8"),
        ({"deploy": "always", "min_accuracy": 0.8}, 0.8, [], True, "always"),
        ({"deploy": "always", "min_accuracy": 0.8}, None, [], False, "not known"),
        ({"deploy": "better"}, 0.5, [], True, "no other model of this name was deployed"),
        ({"deploy": "better"}, None, [], True, "no other model of this name was deployed"),
        ({"deploy": "better"}, 0.9, [model(0.9)], True, "accuracy 0.900 reaches the 0.900 of old"),
        ({"deploy": "better"}, 0.89, [model(0.9)], False, "accuracy 0.890 does not reach the 0.900 of old"),
        ({"deploy": "better"}, 0.9, [model(0.9)], True, "each measured on its own held-out pictures, which differ"),
        ({"deploy": "better", "nn_arch": "frcnn"}, 0.9, [model(0.9)], True, "mAP 0.900 reaches the 0.900 of old"),
        ({"deploy": "better", "min_gain": 0.05}, 0.95, [model(0.9)], True, "model.min_gain 0.05"),
        ({"deploy": "better", "min_gain": 0.05}, 0.949, [model(0.9)], False, "model.min_gain 0.05"),
        ({"deploy": "better"}, 0.85, [model(0.8), model(0.9, "best")], False, "of best"),
        ({"deploy": "better"}, None, [model(0.9)], False, "not known"),
        ({"deploy": "better"}, 0.9, [model(None)], False, "the accuracy of old, which is deployed, is not known"),
        ({"deploy": "better", "min_accuracy": 0.8}, 0.7, [], False, "below model.min_accuracy"),
    ],
)
def test_judging(rules: dict[str, object], accuracy: float | None, rivals: list[Model], deploy: bool, why: str) -> None:
    """Every rule, at and beside its limit, with its reason."""
    decision = judge(TrainingSettings(name="m", **rules), accuracy, rivals)  # type: ignore[arg-type]

    assert decision.deploy is deploy
    assert why in decision.reason


def test_by_default_nothing_is_deployed_and_nothing_is_asked(world: World) -> None:
    """The decision and its reason are written down all the same."""
    run = world.train(0.9)

    assert (run.fate, run.fate_reason, run.owed) == (ModelOutcome.DECLINED, 'model.deploy is "never"', NextStep.NOTHING)
    assert world.platform.diary == []
    assert not {"deploy", "models_of"} & {name for name, count in world.platform.calls.items() if count}


def test_where_models_always_answer_that_is_what_is_told(world: World) -> None:
    """Whatever `model.deploy` says: the newest one answers, and the one that it replaced no longer does."""
    world.platform.traits = replace(world.platform.traits, keeps_models=False)
    world.stage()
    world.train(0.9)
    world.train(0.8)

    assert fates(world) == [ModelOutcome.RETIRED, ModelOutcome.DEPLOYED]
    assert world.ledger.trainings.history()[0].fate_reason == "it answers as soon as it is trained"


def test_the_better_model_is_deployed_and_replaces_the_old_one(world: World) -> None:
    """First the new one is deployed, then the old one is taken down; a worse one changes nothing."""
    world.stage(deploy="better", min_gain=0.01)
    first, worse, better = world.train(0.8), world.train(0.8), world.train(0.82)

    assert fates(world) == [ModelOutcome.RETIRED, ModelOutcome.DECLINED, ModelOutcome.DEPLOYED]
    assert world.platform.diary == [
        f"deploy {first.task_id}",
        f"deploy {better.task_id}",
        f"undeploy {first.task_id}",
    ]
    assert world.ledger.trainings.history()[2].fate_reason == f"replaced by {better.name}"
    assert "does not reach the 0.800" in worse.fate_reason


def test_what_a_person_deployed_stays(world: World) -> None:
    """Only what image-sync deployed by itself is taken down, and only under the same name."""
    world.stage(deploy="always", name="other")
    other = world.train()
    world.stage(deploy="always")
    by_hand = world.train_elsewhere("plates-20250101-000000")
    found = world.platform.model_of(by_hand)
    assert found is not None
    world.platform.deploy(found)
    world.train()
    last = world.train()

    assert sorted(deployed(world)) == sorted([other.name, found.name, last.name])


@pytest.mark.parametrize("call", ["deploy", "undeploy", "delete_model", "models_of", "model_of"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_platform_that_fails_in_between_is_asked_again(world: World, call: str, when: str) -> None:
    """Whichever call fails, done or not: in the end all is as if it had not."""
    world.stage(deploy="better", keep=1)
    first = world.train(0.7)
    second = world.train(0.8)
    world.platform.fail_next(call, Transient("no answer"), after=when == "after", times=2)
    third = world.train(0.9)
    world.work(600)

    assert deployed(world) == [third.name]
    assert fates(world) == [ModelOutcome.DELETED, ModelOutcome.DELETED, ModelOutcome.DEPLOYED]
    assert [found.name for found in world.platform.models.of_dataset(world.dataset)] == [third.name]
    assert world.ledger.troubles() == []
    assert {first.owed, second.owed} == {NextStep.NOTHING}


@pytest.mark.parametrize(
    "call",
    [
        "deploy",
        "undeploy",
        "delete_model",
        "models_of",
        "model_of",
        "decided",
        "is_deployed",
        "alone",
        "tidied",
        "fated",
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_in_between_is_made_good_after_the_restart(world: World, call: str, when: str) -> None:
    """The process dies before or after any step: the next one finishes what is owed, and nothing twice."""
    world.stage(deploy="better", keep=1)
    world.train(0.7)
    home = world.ledger.lifecycle if hasattr(world.ledger.lifecycle, call) else world.platform
    real = getattr(home, call)

    def dies(*args, **options):
        setattr(home, call, real)
        if when == "after":
            real(*args, **options)
        raise Crash

    setattr(home, call, dies)
    world.platform.next_accuracy = 0.9
    world.upload(*ENOUGH)
    with pytest.raises(Crash):
        world.work()
    world.stage(deploy="better", keep=1)
    world.work()

    new, old = world.ledger.trainings.history()
    assert (new.fate, new.owed, old.fate) == (ModelOutcome.DEPLOYED, NextStep.NOTHING, ModelOutcome.DELETED)
    assert deployed(world) == [new.name]
    assert [found.name for found in world.platform.models.of_dataset(world.dataset)] == [new.name]
    assert world.platform.calls["start_training"] == 2


def test_the_old_model_stays_until_the_new_one_is_ready(world: World) -> None:
    """While the new one cannot be deployed, the old one answers; trainings are not held up."""
    world.stage(deploy="always")
    old = world.train()
    world.platform.fail_next("deploy", Transient("it is still starting", retry_after=600), times=3)
    world.upload(*ENOUGH)
    world.work(60)

    run = world.ledger.trainings.history(1)[0]
    assert (run.state, run.fate, run.owed) == (TrainingState.TRAINED, ModelOutcome.CHOSEN, NextStep.DEPLOY)
    assert deployed(world) == [old.name]
    (trouble,) = world.ledger.troubles()
    assert (trouble.stage, trouble.what) == ("models", "it is still starting")
    assert not world.trainer.keeper.busy
    world.upload(*ENOUGH)
    world.work(60)
    assert world.runs == [TrainingState.TRAINED] * 3
    world.work(3000)

    assert deployed(world) == [world.ledger.trainings.history(1)[0].name]
    assert fates(world) == [ModelOutcome.RETIRED, ModelOutcome.RETIRED, ModelOutcome.DEPLOYED]


def test_a_person_who_changes_the_setting_is_obeyed(world: World) -> None:
    """What was chosen and is not deployed yet stays undeployed once `model.deploy` is "never"."""
    world.stage(deploy="always")
    world.platform.fail_next("deploy", Transient("it is still starting"), times=9)
    world.upload(*ENOUGH)
    world.work(10)
    world.stage(deploy="never")
    world.work(10)

    (run,) = world.ledger.trainings.history()
    assert (run.fate, run.owed) == (ModelOutcome.DECLINED, NextStep.NOTHING)
    assert "changed" in run.fate_reason
    assert world.ledger.troubles() == []
    assert deployed(world) == []


def test_a_platform_that_will_not_deploy_is_believed(world: World) -> None:
    """Its words are written down, the old model stays, and it is not asked again by itself."""
    world.stage(deploy="always")
    old = world.train()
    world.platform.fail_next("deploy", Refused("no GPU is free"))
    new = world.train()
    world.work(1000)

    assert (new.fate, new.fate_reason) == (ModelOutcome.REFUSED, "no GPU is free")
    assert deployed(world) == [old.name]
    assert world.platform.calls["deploy"] == 2


def test_a_platform_that_no_longer_accepts_us_has_not_refused_the_model(world: World) -> None:
    """A wrong password is told and gets over; the decision stands."""
    world.stage(deploy="always")
    world.platform.fail_next("deploy", Unauthorised("who are you"), times=5)
    world.upload(*ENOUGH)
    world.work(60)
    assert world.ledger.trainings.history(1)[0].fate is ModelOutcome.CHOSEN
    world.work(600)

    assert fates(world) == [ModelOutcome.DEPLOYED]


def test_a_model_that_appears_late_or_never(world: World) -> None:
    """It is waited for during `model.grace`; then it is gone, and said so."""
    world.stage(deploy="always", grace=600)
    model_of = world.platform.model_of
    world.platform.model_of = lambda task_id: None  # type: ignore[method-assign]
    world.upload(*ENOUGH)
    world.work(60)
    assert world.ledger.trainings.history(1)[0].fate is ModelOutcome.CHOSEN
    world.platform.model_of = model_of  # type: ignore[method-assign]
    world.work(600)
    assert fates(world) == [ModelOutcome.DEPLOYED]
    world.upload(*ENOUGH)
    world.platform.model_of = lambda task_id: None  # type: ignore[method-assign]
    world.work(3000)

    assert fates(world) == [ModelOutcome.DEPLOYED, ModelOutcome.GONE]


def test_keeping_the_newest_the_deployed_and_the_best(world: World) -> None:
    """Of six models two are new, one is deployed, one is the best; the others go, and it is said which."""
    world.stage(deploy="never", keep=2)
    best = world.train(0.99)
    served = world.train(0.5)
    found = world.platform.model_of(served.task_id)
    assert found is not None
    world.platform.deploy(found)
    with capture_logs() as lines:
        rest = [world.train(0.6) for _ in range(4)]

    there = [model.name for model in world.platform.models.of_dataset(world.dataset)]
    assert there == [rest[3].name, rest[2].name, served.name, best.name]
    assert [line["model"] for line in lines if line["event"] == "model.deleted"] == [rest[0].name, rest[1].name]
    assert fates(world)[2:4] == [ModelOutcome.DELETED, ModelOutcome.DELETED]
    assert "model.keep is 2" in world.ledger.trainings.history()[3].fate_reason


def test_only_models_of_this_ledger_are_deleted(world: World) -> None:
    """What somebody else trained under this name stays, and so does what has another name."""
    world.upload(*ENOUGH)
    strange = world.train_elsewhere("plates-20240101-000000", accuracy=0.1)
    other = world.train_elsewhere("plates-xl-20240101-000000", accuracy=0.1)
    world.stage(keep=1)
    first = world.train(0.5)
    second = world.train(0.6)

    ids = {model.id for model in world.platform.models.of_dataset(world.dataset)}
    assert ids == {strange, other, second.task_id}
    assert first.task_id not in ids


def test_what_is_continued_from_is_not_deleted(world: World) -> None:
    """A model that the settings name as the beginning of each training stays."""
    world.stage(keep=1)
    base = world.train(0.5)
    world.stage(keep=1, pretrained_model=base.task_id)
    world.train(0.6)
    last = world.train(0.7)

    assert last.base_name == base.name
    assert base.task_id in {model.id for model in world.platform.models.of_dataset(world.dataset)}


def test_a_model_that_cannot_be_deleted_is_left(world: World) -> None:
    """The platform refuses: it is told, nothing hangs, the model keeps its fate."""
    world.stage(keep=1)
    world.train(0.5)
    world.platform.fail_next("delete_model", Refused("it is in use"))
    with capture_logs() as lines:
        world.train(0.6)

    assert fates(world) == [ModelOutcome.DECLINED, ModelOutcome.DECLINED]
    assert [line["error"] for line in lines if line["event"] == "model.not_deleted"] == ["it is in use"]
    world.train(0.7)
    assert fates(world) == [ModelOutcome.DELETED, ModelOutcome.DELETED, ModelOutcome.DECLINED]


def test_after_stop_nothing_more_is_done(world: World) -> None:
    """What is owed waits for the next start."""
    world.stage(deploy="always")
    deploy = world.platform.deploy

    def stopped(model: Model) -> None:
        world.stop.set()
        raise Transient("stopped waiting")

    world.platform.deploy = stopped  # type: ignore[method-assign]
    world.upload(*ENOUGH)
    world.work(60)
    assert world.ledger.troubles() == []
    world.platform.deploy = deploy  # type: ignore[method-assign]
    world.stop.clear()
    world.stage(deploy="always")
    world.work()

    assert fates(world) == [ModelOutcome.DEPLOYED]
