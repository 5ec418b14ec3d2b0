"""The tracker: counts in, verdicts out."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_sync.domain import DatasetRef, Tally, Training, TrainingState
from image_sync.tracker import (
    REFUSAL_WAIT,
    RETRY_WAIT,
    Quiet,
    Thresholds,
    imbalance,
    rare_labels,
    rare_labels_told,
    training_verdict,
    upload_verdict,
)

NOW = 1_000_000.0
RULES = Thresholds(upload=12, training=24, quiet=10, max_wait=300)
ENOUGH = {"good": 20, "scratch": 20}


def run(state: TrainingState, **values) -> Training:
    return Training(id=1, name="m-1", state=state, dataset=DatasetRef("d", "d"), **values)


def test_below_the_upload_threshold_it_says_how_many_are_missing() -> None:
    """Nine of twelve pictures are short by three."""
    verdict = upload_verdict(Tally(ready=9), RULES, quiet_for=99)

    assert (verdict.due, verdict.have, verdict.need, verdict.short_by) == (False, 9, 12, 3)
    assert verdict.reason == "waits for 3 more pictures"


def test_spellings_of_a_label_are_counted_together_where_they_are_one() -> None:
    """Three of Dent and two of dent are five; elsewhere they are two rare labels."""
    tally = Tally(untrained=24, trainable=ENOUGH, labelled={"Dent": 3, "dent": 2, "hole": 4})
    apart = replace(RULES, min_labelled=5)
    together = replace(apart, labels_ignore_case=True)

    assert training_verdict(tally, together, now=NOW).due
    assert training_verdict(tally, apart, now=NOW).reason.startswith("waits for a label in 5 pictures")
    assert rare_labels(tally, together) == {"hole": 4}
    assert rare_labels(tally, apart) == {"Dent": 3, "dent": 2, "hole": 4}
    more = training_verdict(tally, replace(together, min_labelled=6), now=NOW)
    assert more.reason == "waits for a label in 6 pictures; the most frequent, 'Dent', is in 5"


@pytest.mark.parametrize(
    ("labelled", "have", "why"),
    [
        ({}, 0, "waits for pictures in which something is marked"),
        ({"dent": 2, "hole": 3}, 3, "waits for a label in 5 pictures; the most frequent, 'hole', is in 3"),
    ],
)
def test_a_detection_counts_pictures_with_boxes_once_enough_are_uploaded(
    labelled: dict[str, int], have: int, why: str
) -> None:
    """Thirty uploads without boxes are nothing to learn from: what is missing is counted, not what was uploaded."""
    tally = Tally(confirmed=30, untrained=30, trainable={"a": 30}, labelled=labelled)
    verdict = training_verdict(tally, replace(RULES, training=24, min_labelled=5), now=NOW)

    assert (verdict.due, verdict.have, verdict.need, verdict.short_by) == (False, have, 5, 5 - have)
    assert verdict.reason == why


def test_rare_labels_are_told_most_frequent_first_and_no_more_than_ten() -> None:
    """57 labels below five are ten names and a number."""
    tally = Tally(labelled={"many": 9, "a": 4, **{f"rare{number:02}": 1 for number in range(56)}})
    told = rare_labels_told(tally, replace(RULES, min_labelled=5))

    assert "(5 are needed): 'a' 4, 'rare00' 1, " in told
    assert "'rare08' 1 and 47 more; " in told
    assert "annotations.ignore_labels" in told
    assert rare_labels_told(tally, RULES) == ""


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


def test_pictures_on_their_way_are_told() -> None:
    """While thirteen are being sent nobody waits for twelve more; what else is missing is told beside them."""
    rules = replace(RULES, upload=12, training=12)
    sending = Tally(sending=13)
    assert upload_verdict(sending, rules, quiet_for=0).reason == "13 pictures are being sent"
    assert training_verdict(sending, rules, now=NOW).reason == "waits until 13 pictures are sent"
    some = Tally(sending=3, ready=5)
    assert upload_verdict(some, rules, quiet_for=0).reason == "3 pictures are being sent; waits for 7 more pictures"
    expected = "waits for 12 more uploaded pictures, of which 3 are being sent"
    assert training_verdict(some, rules, now=NOW).reason == expected


def test_what_is_due_is_not_short_of_anything() -> None:
    """A training that is asked for, or an upload that goes on, lacks no pictures."""
    asked = training_verdict(Tally(untrained=12, trainable=ENOUGH, train_requested=True), RULES, now=NOW)
    going_on = upload_verdict(Tally(cleared=5), RULES, quiet_for=0)

    assert (asked.due, asked.short_by) == (True, 0)
    assert (going_on.due, going_on.short_by) == (True, 0)


def test_a_failed_training_is_followed_by_another_only_with_new_pictures() -> None:
    """Its pictures count again; without new ones nothing is paid twice, with them an hour is waited; asked, at once."""
    failed = run(TrainingState.FAILED, pictures=40, started_at=NOW - 100, ended_at=NOW, reason="bad labels")
    same = Tally(untrained=24, trainable=ENOUGH, last=failed)
    more = replace(same, untrained=25, trainable={"good": 21, "scratch": 20})

    told = "due, but m-1 failed; new pictures or `image-sync train` start the next one"
    assert training_verdict(same, RULES, now=NOW + 10**6).reason == told
    assert training_verdict(more, RULES, now=NOW + 600).wait == 3000
    assert training_verdict(more, RULES, now=NOW + 3600).due
    assert training_verdict(replace(same, train_requested=True), RULES, now=NOW).due


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
        ({"good": 20}, "waits for 1 more category"),
        ({}, "waits for 2 more categories"),
        ({"good": 20, "scratch": 3}, "due, waits for category 'scratch': 3 of 5"),
    ],
)
def test_a_training_waits_for_the_platforms_minimum(trainable: dict[str, int], expected: str) -> None:
    """What the platform would refuse is not asked for, and the missing part is named."""
    verdict = training_verdict(Tally(untrained=99, trainable=trainable), RULES, now=NOW)

    assert not verdict.due
    assert expected in verdict.reason


def test_a_scarce_category_is_left_out_where_the_platform_can_and_told() -> None:
    """Elsewhere it holds training back, and the remedy is named, once the others are enough."""
    tally = Tally(untrained=24, trainable={"good": 20, "dent": 9, "typo": 1})
    without = replace(RULES, leaves_out=True)

    assert training_verdict(tally, without, now=NOW).due
    assert training_verdict(tally, without, now=NOW).reason == "threshold reached; leaves out 'typo' (1 of 5)"
    waits = training_verdict(tally, RULES, now=NOW)
    assert not waits.due
    assert waits.reason == (
        "due, waits for category 'typo': 1 of 5: add pictures, or take it out of the dataset "
        "(image-sync forget --category NAME)"
    )
    assert not training_verdict(replace(tally, trainable={"good": 20, "typo": 1}), without, now=NOW).due


def test_one_training_at_a_time() -> None:
    """While one runs, the next waits, and says how far the first is."""
    active = run(TrainingState.RUNNING, started_at=NOW, iteration=40, iterations=1500)

    verdict = training_verdict(Tally(untrained=99, trainable=ENOUGH, active=active), RULES, now=NOW)

    assert not verdict.due
    assert verdict.reason == "training m-1 is running, iteration 40 of 1500"


def test_a_training_whose_start_is_unknown_blocks_the_next() -> None:
    """A start that was not confirmed may have worked."""
    active = run(TrainingState.DOUBTFUL)

    verdict = training_verdict(Tally(untrained=99, trainable=ENOUGH, active=active), RULES, now=NOW)

    assert not verdict.due
    assert verdict.reason == "training m-1 is being started"


def test_cooldown_keeps_trainings_apart() -> None:
    """The next training waits until `model.cooldown` seconds after the start of the last."""
    last = run(TrainingState.TRAINED, started_at=NOW - 100)
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
    refusal = run(TrainingState.REFUSED, ended_at=NOW - 60, reason="no GPU is free")
    tally = Tally(untrained=24, trainable=ENOUGH, refusal=refusal)

    verdict = training_verdict(tally, RULES, now=NOW)

    assert (verdict.due, verdict.wait) == (False, REFUSAL_WAIT - 60)
    assert "no GPU is free" in verdict.reason
    assert training_verdict(tally, RULES, now=NOW + REFUSAL_WAIT).due


def test_a_training_that_a_person_asks_for_needs_no_threshold() -> None:
    """`image-sync train` starts one below the threshold, but not below the platform's minimum."""
    assert training_verdict(Tally(untrained=0, trainable=ENOUGH, train_requested=True), RULES, now=NOW).due
    assert not training_verdict(Tally(trainable={"good": 1}, train_requested=True), RULES, now=NOW).due


def test_more_than_the_platforms_minimum_may_be_asked_for() -> None:
    """`threshold.per_category` names each category that is short, with its count."""
    verdict = training_verdict(
        Tally(untrained=99, trainable={"good": 40, "scratch": 7, "dent": 8}), replace(RULES, min_pictures=12), now=NOW
    )

    assert verdict.reason == "due, waits for category 'scratch': 7 of 12, category 'dent': 8 of 12"


def local(text: str) -> float:
    """Unix time of a local time."""
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize(
    ("now", "hours", "wait"),
    [
        ("2026-01-05 07:59:59", ((480, 1050),), None),
        ("2026-01-05 08:00:00", ((480, 1050),), 9.5 * 3600),
        ("2026-01-05 17:29:30", ((480, 1050),), 30),
        ("2026-01-05 17:30:00", ((480, 1050),), None),
        ("2026-01-05 23:00:00", ((1320, 360),), 7 * 3600),
        ("2026-01-05 05:00:00", ((1320, 360),), 3600),
        ("2026-01-05 12:00:00", ((1320, 360),), None),
        ("2026-01-05 12:00:00", ((700, 730), (730, 780)), 3600),
        ("2026-01-05 23:30:00", ((1380, 1440),), 1800),
    ],
)
def test_no_training_starts_in_quiet_hours(
    monkeypatch: pytest.MonkeyPatch, zone: str, now: str, hours: tuple[tuple[int, int], ...], wait: float | None
) -> None:
    """On this machine's clock, up to the minute in which they end, over midnight, and one after the other."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        rules = replace(RULES, quiet_hours=hours)
        verdict = training_verdict(Tally(untrained=99, trainable=ENOUGH), rules, now=local(now))
    finally:
        monkeypatch.undo()
        time.tzset()

    assert verdict.due is (wait is None)
    assert verdict.wait == wait
    assert wait is None or "model.quiet_hours allow the next training at" in verdict.reason


def test_quiet_hours_hold_for_a_training_that_a_person_asks_for() -> None:
    """Like the other pauses they stand until somebody changes the setting."""
    rules = replace(RULES, quiet_hours=((0, 1439),))
    at_noon = local("2026-01-05 12:00:00")

    assert not training_verdict(Tally(trainable=ENOUGH, train_requested=True), rules, now=at_noon).due


def test_a_failure_that_passes_is_due_again_after_a_while() -> None:
    """No threshold is needed; the pauses between trainings hold; the reason names the failure."""
    failed = run(TrainingState.FAILED, pictures=40, ended_at=NOW - 60, started_at=NOW - 90, reason="no GPU is free")
    tally = Tally(untrained=3, trainable=ENOUGH, retry=failed, last=failed)

    soon = training_verdict(tally, RULES, now=NOW)
    later = training_verdict(tally, RULES, now=NOW + RETRY_WAIT)
    paused = training_verdict(tally, replace(RULES, cooldown=86_400), now=NOW + RETRY_WAIT)
    short = training_verdict(replace(tally, trainable={"good": 1}), RULES, now=NOW + RETRY_WAIT)

    assert (soon.due, soon.wait) == (False, RETRY_WAIT - 60)
    assert "no GPU is free" in soon.reason
    assert later.due
    assert "no GPU is free" in later.reason
    assert not paused.due
    assert not short.due


def test_new_pictures_do_not_wait_for_the_second_try() -> None:
    """At the threshold a training is due in any case: it is the second try."""
    failed = run(TrainingState.FAILED, ended_at=NOW - 60, reason="no GPU is free")

    verdict = training_verdict(Tally(untrained=24, confirmed=24, trainable=ENOUGH, retry=failed), RULES, now=NOW)

    assert (verdict.due, verdict.reason) == (True, "threshold reached")


@pytest.mark.parametrize(
    ("counts", "ratio", "expected"),
    [
        ({"good": 30, "scratch": 10}, 3, ""),
        ({"good": 31, "scratch": 10}, 3, "category 'good' has 31 pictures, 'scratch' 10: more than 3 times as many"),
        ({"good": 500, "dent": 60, "scratch": 10}, 10, "'good' has 500 pictures, 'scratch' 10"),
        ({"good": 500, "scratch": 10}, None, ""),
        ({"good": 500}, 1, ""),
        ({"good": 500, "scratch": 0}, 1, ""),
        ({}, 1, ""),
    ],
)
def test_imbalance(counts: dict[str, int], ratio: float | None, expected: str) -> None:
    """One category with far more pictures than another is named, with the other; empty ones do not count."""
    told = imbalance(counts, ratio)

    assert expected in told
    assert bool(told) is bool(expected)


COUNTS = st.integers(min_value=0, max_value=2000)


@given(COUNTS, COUNTS, st.integers(1, 500), st.floats(0, 400), st.floats(0, 400))
def test_upload_verdicts_agree_with_their_own_figures(
    ready: int, cleared: int, need: int, quiet_for: float, reached_for: float
) -> None:
    """Whatever the counts: due only with something to send, short by what is missing, never without a reason."""
    rules = Thresholds(upload=need, quiet=10, max_wait=300)

    verdict = upload_verdict(Tally(ready=ready, cleared=cleared), rules, quiet_for=quiet_for, reached_for=reached_for)

    assert verdict.reason
    assert verdict.short_by == (0 if verdict.due else max(0, need - ready))
    assert not verdict.due or ready >= need or cleared
    assert verdict.wait is None or (verdict.wait > 0 and not verdict.due)
