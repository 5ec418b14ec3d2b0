"""The tracker: counts in, verdicts out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_sync.domain import DatasetRef, Run, RunState, Tally
from image_sync.tracker import REFUSAL_WAIT, Quiet, Thresholds, training_verdict, upload_verdict

NOW = 1_000_000.0
RULES = Thresholds(upload=12, training=24, quiet=10, max_wait=300)
ENOUGH = {"good": 20, "scratch": 20}


def run(state: RunState, **values) -> Run:
    return Run(id=1, name="m-1", state=state, dataset=DatasetRef("d", "d"), **values)


def test_below_the_upload_threshold_it_says_how_many_are_missing() -> None:
    """Nine of twelve pictures are short by three."""
    verdict = upload_verdict(Tally(ready=9), RULES, quiet_for=99)

    assert (verdict.due, verdict.have, verdict.need, verdict.short_by) == (False, 9, 12, 3)
    assert verdict.reason == "waits for 3 more pictures"


def test_one_missing_picture_is_told_in_the_singular() -> None:
    """Eleven of twelve wait for 1 more picture."""
    assert upload_verdict(Tally(ready=11), RULES, quiet_for=99).reason == "waits for 1 more picture"


def test_the_upload_threshold_is_reached_with_equality() -> None:
    """Twelve of twelve are enough, and so are thirteen: a count that jumps past the threshold still fires."""
    assert upload_verdict(Tally(ready=12), RULES, quiet_for=10).due
    assert upload_verdict(Tally(ready=500), RULES, quiet_for=10).due


def test_an_upload_waits_for_quiet() -> None:
    """Three seconds after the last picture, seven more are waited."""
    verdict = upload_verdict(Tally(ready=12), RULES, quiet_for=3, reached_for=3)

    assert not verdict.due
    assert verdict.wait == 7
    assert "waits 7 s" in verdict.reason


def test_pictures_that_never_stop_coming_are_sent_after_max_wait() -> None:
    """Quiet is waited for, but not for ever."""
    assert upload_verdict(Tally(ready=12), RULES, quiet_for=0, reached_for=300).due
    assert upload_verdict(Tally(ready=12), RULES, quiet_for=0, reached_for=299).wait == 1


def test_what_passed_the_threshold_is_due_whatever_came_later() -> None:
    """Cleared pictures are sent although fewer than the threshold wait beside them."""
    verdict = upload_verdict(Tally(ready=1, cleared=5), RULES, quiet_for=0)

    assert verdict.due
    assert verdict.reason == "5 pictures passed the threshold and are being sent"


def test_quiet_is_counted_from_the_last_picture_on_the_callers_clock() -> None:
    """A new picture starts the quiet time again; the time since the threshold was reached goes on."""
    quiet = Quiet()

    assert quiet.observe(Tally(ready=12, newest_ready_id=12), 12, 100.0) == (0.0, 0.0)
    assert quiet.observe(Tally(ready=12, newest_ready_id=12), 12, 104.0) == (4.0, 4.0)
    assert quiet.observe(Tally(ready=13, newest_ready_id=13), 12, 106.0) == (0.0, 6.0)
    assert quiet.observe(Tally(ready=0, newest_ready_id=0), 12, 109.0) == (0.0, 0.0)


def test_a_training_is_due_at_its_threshold() -> None:
    """Twenty-four uploaded pictures since the last training start one."""
    assert training_verdict(Tally(untrained=24, trainable=ENOUGH), RULES, now=NOW).due
    assert training_verdict(Tally(untrained=9_999, trainable=ENOUGH), RULES, now=NOW).due
    assert training_verdict(Tally(untrained=23, trainable=ENOUGH), RULES, now=NOW).short_by == 1


def test_no_training_with_action_none() -> None:
    """`model.action: "none"` only uploads."""
    verdict = training_verdict(Tally(untrained=99, trainable=ENOUGH), replace(RULES, trains=False), now=NOW)

    assert not verdict.due
    assert "none" in verdict.reason


@pytest.mark.parametrize("busy", [Tally(sending=3), Tally(cleared=3)])
def test_a_training_waits_until_everything_is_sent(busy: Tally) -> None:
    """While pictures are on their way, a training would miss them."""
    verdict = training_verdict(replace(busy, untrained=24, trainable=ENOUGH), RULES, now=NOW)

    assert not verdict.due
    assert verdict.reason == "waits until 3 pictures are sent"


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ({"good": 20}, "1 more category needed"),
        ({}, "2 more categories needed"),
        ({"good": 20, "scratch": 3}, "category 'scratch' has 3 of 5"),
    ],
)
def test_a_training_waits_for_the_platforms_minimum(trainable: dict[str, int], expected: str) -> None:
    """What the platform would refuse is not asked for, and the missing part is named."""
    verdict = training_verdict(Tally(untrained=99, trainable=trainable), RULES, now=NOW)

    assert not verdict.due
    assert expected in verdict.reason


def test_one_training_at_a_time() -> None:
    """While one runs, the next waits, and says how far the first is."""
    active = run(RunState.RUNNING, started_at=NOW, iteration=40, iterations=1500)

    verdict = training_verdict(Tally(untrained=99, trainable=ENOUGH, active=active), RULES, now=NOW)

    assert not verdict.due
    assert verdict.reason == "training m-1 is running, iteration 40 of 1500"


def test_a_training_whose_start_is_unknown_blocks_the_next() -> None:
    """A start that was not confirmed may have worked."""
    active = run(RunState.DOUBTFUL)

    verdict = training_verdict(Tally(untrained=99, trainable=ENOUGH, active=active), RULES, now=NOW)

    assert not verdict.due
    assert verdict.reason == "training m-1 is being started"


def test_cooldown_keeps_trainings_apart() -> None:
    """The next training waits until `model.cooldown` seconds after the start of the last."""
    last = run(RunState.TRAINED, started_at=NOW - 100)
    rules = replace(RULES, cooldown=3600)

    verdict = training_verdict(Tally(untrained=99, trainable=ENOUGH, last=last), rules, now=NOW)

    assert (verdict.due, verdict.wait) == (False, 3500)
    assert training_verdict(Tally(untrained=99, trainable=ENOUGH, last=last), rules, now=NOW + 3500).due


def test_max_per_day_limits_the_starts_of_24_hours() -> None:
    """With two a day, the third waits until the first of the last two is a day old."""
    rules = replace(RULES, max_per_day=2)
    tally = Tally(untrained=99, trainable=ENOUGH, starts=(NOW - 80_000, NOW - 10_000))

    verdict = training_verdict(tally, rules, now=NOW)

    assert (verdict.due, verdict.wait) == (False, 6_400)
    assert training_verdict(replace(tally, starts=(NOW - 10_000,)), rules, now=NOW).due


def test_a_refused_training_is_not_asked_for_again_at_once() -> None:
    """After a refusal it waits, tells the platform's words, and then tries again."""
    refusal = run(RunState.REFUSED, ended_at=NOW - 60, reason="no GPU is free")
    tally = Tally(untrained=24, trainable=ENOUGH, refusal=refusal)

    verdict = training_verdict(tally, RULES, now=NOW)

    assert (verdict.due, verdict.wait) == (False, REFUSAL_WAIT - 60)
    assert "no GPU is free" in verdict.reason
    assert training_verdict(tally, RULES, now=NOW + REFUSAL_WAIT).due


def test_a_training_that_a_person_asks_for_needs_no_threshold() -> None:
    """`image-sync train` starts one below the threshold, but not below the platform's minimum."""
    assert training_verdict(Tally(untrained=0, trainable=ENOUGH, train_requested=True), RULES, now=NOW).due
    assert not training_verdict(Tally(trainable={"good": 1}, train_requested=True), RULES, now=NOW).due


COUNTS = st.integers(min_value=0, max_value=2000)


@given(COUNTS, COUNTS, st.integers(1, 500), st.floats(0, 400), st.floats(0, 400))
def test_upload_verdicts_agree_with_their_own_figures(
    ready: int, cleared: int, need: int, quiet_for: float, reached_for: float
) -> None:
    """Whatever the counts: due only with something to send, short by what is missing, never without a reason."""
    rules = Thresholds(upload=need, quiet=10, max_wait=300)

    verdict = upload_verdict(Tally(ready=ready, cleared=cleared), rules, quiet_for=quiet_for, reached_for=reached_for)

    assert verdict.reason
    assert verdict.short_by == max(0, need - ready)
    assert not verdict.due or ready >= need or cleared
    assert verdict.wait is None or (verdict.wait > 0 and not verdict.due)
