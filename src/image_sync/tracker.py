"""Counts in, verdicts out: whether to upload or to train now, or what is missing. Pure: no clock, disk or network.

The same verdict is logged, shown by ``status`` and obeyed by the stages, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from image_sync.config import Settings
from image_sync.config.model import Hours, covers
from image_sync.domain import Tally, Training, TrainingState, Verdict
from image_sync.platforms.base import Traits

_DAY = 86_400.0
REFUSAL_WAIT = 300.0
"""Seconds after which a training that the platform refused to start is tried again."""
FAILURE_WAIT = 3600.0
"""Seconds from the end of a training that failed to the next one, if new pictures come."""
RETRY_WAIT = 300.0
"""Seconds after which a training that failed for a cause that passes is started once more."""
_MINUTE, _MINUTES_A_DAY = 60, 1440
_NAMED = 10  # labels that a sentence names


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When to act. Times in seconds."""

    upload: int = 1
    training: int = 10
    quiet: float = 10.0
    """Pictures stop arriving for so long before an upload begins ..."""
    max_wait: float = 300.0
    """... but an upload waits no longer than this once the threshold is reached."""
    trains: bool = True
    """False: ``model.action`` is ``none``."""
    cooldown: float = 0.0
    max_per_day: int | None = None
    min_categories: int = 2
    min_pictures: int = 5
    """So many categories with so many pictures each: the platform's minimum, or a higher one of ours."""
    leaves_out: bool = False
    """A category with fewer pictures than that is left out; else it holds training back."""
    min_labelled: int | None = None
    """So many pictures must show a label for it to be learned, where objects are detected; one such label is enough
    for a training, and categories do not matter then."""
    labels_ignore_case: bool = False
    """Labels that differ in upper and lower case only are one to the platform, and are counted as one."""
    quiet_hours: Hours = ()
    """Times of day, local, between which no training is started."""
    max_ratio: float | None = None
    """So many times the pictures of another category may one have without a warning."""


def thresholds_of(settings: Settings, traits: Traits) -> Thresholds:
    """When to act, by configuration and by what the platform needs."""
    detection = settings.model.is_detection
    least_labelled = max(traits.min_labelled or 0, settings.threshold.per_category or 0)
    labelled = detection and settings.annotations.mode != "none"
    return Thresholds(
        upload=settings.threshold.upload,
        training=settings.threshold.training,
        quiet=settings.time,
        max_wait=settings.upload.max_wait,
        trains=settings.model.action != "none",
        cooldown=settings.model.cooldown,
        max_per_day=settings.model.max_per_day,
        min_categories=1 if detection else traits.min_categories,
        # Without annotations nobody here knows labels: the platform itself demands enough of each.
        min_pictures=max(1 if detection else traits.min_pictures, settings.threshold.per_category or 0),
        min_labelled=settings.annotations.minimum or least_labelled if labelled else None,
        labels_ignore_case=traits.labels_ignore_case,
        leaves_out=traits.leaves_out and not detection and not settings.threshold.wait_for_all,
        quiet_hours=settings.model.quiet,
        max_ratio=None if detection else settings.threshold.max_ratio,
    )


class Quiet:
    """How long no new picture came, on the clock of whoever asks."""

    def __init__(self) -> None:
        self._newest = 0
        self._changed_at: float | None = None
        self._reached_at: float | None = None

    def observe(self, tally: Tally, threshold: int, now: float) -> tuple[float, float]:
        """Seconds since the last picture became ready, and since the threshold was reached."""
        if self._changed_at is None or tally.newest_ready_id != self._newest:
            self._newest, self._changed_at = tally.newest_ready_id, now
        if tally.ready < threshold:
            self._reached_at = None
        elif self._reached_at is None:
            self._reached_at = now
        return now - self._changed_at, 0.0 if self._reached_at is None else now - self._reached_at


def upload_verdict(tally: Tally, thresholds: Thresholds, *, quiet_for: float, reached_for: float = 0.0) -> Verdict:
    """Whether everything that is ready should be sent now.

    Args:
        tally: the counts.
        thresholds: what they are held against.
        quiet_for: seconds since the last picture became ready.
        reached_for: seconds since the threshold was reached.
    """
    have, need = tally.ready, thresholds.upload
    if tally.cleared:
        return Verdict(
            True, have, need, f"{_pictures(tally.cleared)} passed the threshold and {_are(tally.cleared)} being sent"
        )
    if have < need:
        missing = need - have
        reason = f"waits for {missing} more {_noun(missing)}" if have or need > 1 else "no new pictures"
        if tally.sending:
            going = f"{_pictures(tally.sending)} {_are(tally.sending)} being sent"
            reason = f"{going}; {reason}" if have else going
        return Verdict(False, have, need, reason)
    wait = min(thresholds.quiet - quiet_for, thresholds.max_wait - reached_for)
    if wait > 0:
        return Verdict(False, have, need, f"threshold reached; waits {wait:.0f} s in case more pictures come", wait)
    return Verdict(True, have, need, "threshold reached")


def training_verdict(tally: Tally, thresholds: Thresholds, *, now: float) -> Verdict:
    """Whether a training should be started now.

    Args:
        tally: the counts.
        thresholds: what they are held against.
        now: Unix time in seconds, for the pauses between trainings.
    """
    have, need = tally.untrained, thresholds.training

    def no(reason: str, wait: float | None = None) -> Verdict:
        return Verdict(False, have, need, reason, wait)

    if not thresholds.trains:
        return no('model.action is "none": pictures are only uploaded')
    if tally.active is not None:
        return no(_running(tally.active))
    on_way = tally.cleared + tally.sending
    if have + on_way < need and not tally.train_requested and tally.retry is None:
        short = need - have
        sending = f", of which {on_way} {_are(on_way)} being sent" if on_way else ""
        return no(f"waits for {short} more uploaded {_noun(short)}{sending}")
    if owed := _owed(tally):
        return no(owed)
    missing = _minimum(tally, thresholds)
    if missing:
        if thresholds.min_labelled is not None:  # then it is not uploads that are counted
            have, need = max(_labelled(tally, thresholds).values(), default=0), thresholds.min_labelled
            return no(missing)
        return no(f"due, {missing}")
    if _fails_again(tally, thresholds):
        last = tally.last.name if tally.last else ""
        return no(f"due, but {last} failed; new pictures or `image-sync train` start the next one")
    pause, why = _pause(tally, thresholds, now)
    if pause > 0:
        return no(f"due, but {why}", pause)
    without = ", ".join(
        f"'{name}' ({count} of {thresholds.min_pictures})"
        for name, count in left_out(tally.trainable, thresholds).items()
    )
    occasion = _occasion(tally, thresholds)
    return Verdict(True, have, need, f"{occasion}; leaves out {without}" if without else occasion)


def _owed(tally: Tally) -> str:
    """What the platform must be told before a training contains what the folders say; empty when it knows."""
    debts = {
        "sent": tally.cleared + tally.sending,
        "annotated at the platform": tally.unmarked,
        "moved to another category at the platform": tally.moving,
    }
    return next((f"waits until {_pictures(n)} {_are(n)} {done}" for done, n in debts.items() if n), "")


def imbalance(trainable: Mapping[str, int], max_ratio: float | None) -> str:
    """The sentence that warns of one category with far more pictures than another; empty when there is no need."""
    counts = {name: count for name, count in trainable.items() if name and count}
    if max_ratio is None or len(counts) < 2:  # noqa: PLR2004 - one category is in balance with itself
        return ""
    (few, least), *_, (many, most) = sorted(counts.items(), key=lambda one: (one[1], one[0]))
    if most <= max_ratio * least:
        return ""
    return (
        f"category '{many}' has {_pictures(most)}, '{few}' {least}: more than {max_ratio:g} times as many "
        "(threshold.max_ratio); the model may overlook the rare one"
    )


def _occasion(tally: Tally, thresholds: Thresholds) -> str:
    if tally.train_requested:
        return "asked for"
    if tally.retry is not None and not _many_new(tally, tally.retry, thresholds):
        return f"tries {tally.retry.name} once more, which failed: {tally.retry.reason}"
    return "threshold reached"


def _running(run: Training) -> str:
    if not run.state.active or run.started_at is None:
        return f"training {run.name} is being started"
    done = f", iteration {run.iteration} of {run.iterations}" if run.iterations else ""
    return f"training {run.name} is running{done}"


def _minimum(tally: Tally, thresholds: Thresholds) -> str:
    if thresholds.min_labelled is not None:
        return _labels(_labelled(tally, thresholds), thresholds.min_labelled)
    categories = {name: count for name, count in tally.trainable.items() if name}
    few = scarce(tally.trainable, thresholds)
    enough = len(categories) - len(few) if thresholds.leaves_out else len(categories)
    if thresholds.leaves_out and enough >= thresholds.min_categories:
        return ""
    short = [f"category '{name}': {count} of {thresholds.min_pictures}" for name, count in few.items()]
    absent = thresholds.min_categories - len(categories)
    if absent > 0:
        noun = "category" if absent == 1 else "categories"
        short.append(f"{absent} more {noun}")
    if not short:
        return ""
    # In a dataset that is just being filled nobody wants to take anything out.
    full = len(categories) - len(few) >= thresholds.min_categories
    remedy = ": add pictures, or take it out of the dataset (image-sync forget --category NAME)" if full else ""
    return f"waits for {', '.join(short)}{remedy}"


def scarce(trainable: Mapping[str, int], thresholds: Thresholds) -> dict[str, int]:
    """Categories with too few pictures to be trained, and how many they have."""
    least = thresholds.min_pictures
    return {name: count for name, count in trainable.items() if name and count < least}


def left_out(trainable: Mapping[str, int], thresholds: Thresholds) -> dict[str, int]:
    """Categories that a training started now leaves out, and how many pictures they have."""
    return scarce(trainable, thresholds) if thresholds.leaves_out else {}


def rare_labels(tally: Tally, thresholds: Thresholds) -> dict[str, int]:
    """Labels that too few pictures show to be learned, and how many do."""
    need = thresholds.min_labelled or 0
    return {label: count for label, count in _labelled(tally, thresholds).items() if count < need}


def rare_labels_told(tally: Tally, thresholds: Thresholds) -> str:
    """The sentence that warns of them; empty when there is no need."""
    rare = sorted(rare_labels(tally, thresholds).items(), key=lambda one: (-one[1], one[0]))
    if not rare:
        return ""
    named = ", ".join(f"'{label}' {count}" for label, count in rare[:_NAMED])
    more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
    return (
        f"too few pictures to be found by a model ({thresholds.min_labelled} are needed): {named}{more}; "
        "add pictures, or leave them out with annotations.ignore_labels"
    )


def _labelled(tally: Tally, thresholds: Thresholds) -> Mapping[str, int]:
    return _alike(tally.labelled) if thresholds.labels_ignore_case else tally.labelled


def _alike(labelled: Mapping[str, int]) -> dict[str, int]:
    """Spellings of one label counted together, under the first of them. A picture with two of them counts twice."""
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    for label, count in labelled.items():
        name = names.setdefault(label.casefold(), label)
        counts[name] = counts.get(name, 0) + count
    return counts


def _labels(labelled: Mapping[str, int], need: int) -> str:
    if not labelled:
        return "waits for pictures in which something is marked"
    label, most = max(labelled.items(), key=lambda one: one[1])
    return f"waits for a label in {need} pictures; the most frequent, '{label}', is in {most}" if most < need else ""


def _pause(tally: Tally, thresholds: Thresholds, now: float) -> tuple[float, str]:
    """Seconds to wait for reasons of time, and the reason; 0 if there is none."""
    last = tally.last
    if not tally.train_requested and (after := _pause_after_failure(tally, thresholds, now)) is not None:
        return after
    wait = _quiet_left(thresholds.quiet_hours, now)
    if wait > 0:
        end = datetime.fromtimestamp(now + wait).astimezone()
        return wait, f"model.quiet_hours allow the next training at {end:%H:%M}"
    if last is not None and last.started_at is not None and thresholds.cooldown:
        wait = last.started_at + thresholds.cooldown - now
        if wait > 0:
            return wait, f"model.cooldown allows the next training in {wait:.0f} s"
    if thresholds.max_per_day is not None and len(tally.starts) >= thresholds.max_per_day:
        wait = tally.starts[-thresholds.max_per_day] + _DAY - now
        if wait > 0:
            return wait, f"model.max_per_day ({thresholds.max_per_day}) is reached; the next may start in {wait:.0f} s"
    return 0.0, ""


def _more_than(failed: Training, tally: Tally, thresholds: Thresholds) -> int:
    """How many pictures more the next training would contain than one that failed."""
    contained = sum(tally.trainable.values()) - sum(left_out(tally.trainable, thresholds).values())
    return contained - failed.pictures


def _many_new(tally: Tally, failed: Training, thresholds: Thresholds) -> bool:
    """Whether a training is due by the pictures alone that came after one that failed."""
    return _more_than(failed, tally, thresholds) >= thresholds.training


def _pause_after_failure(tally: Tally, thresholds: Thresholds, now: float) -> tuple[float, str] | None:
    refusal, last, retry = tally.refusal, tally.last, tally.retry
    if refusal is not None and refusal.ended_at is not None and (last is None or refusal.id > last.id):
        wait = refusal.ended_at + REFUSAL_WAIT - now
        if wait > 0:
            return wait, f"the platform refused to start it ({refusal.reason}); tries again in {wait:.0f} s"
    failed, pause, then = last, FAILURE_WAIT, "the next one starts"
    if retry is not None:
        failed, pause, then = retry, RETRY_WAIT, "it is tried once more"
    if failed is None or failed.state is not TrainingState.FAILED or failed.ended_at is None:
        return None
    if _many_new(tally, failed, thresholds):
        return None
    wait = failed.ended_at + pause - now
    return (wait, f"{failed.name} failed ({failed.reason}); {then} in {wait:.0f} s") if wait > 0 else None


def _quiet_left(hours: Hours, now: float) -> float:
    """Seconds until the quiet hours are over; 0 outside them."""
    local = datetime.fromtimestamp(now).astimezone()
    minute = local.hour * _MINUTE + local.minute
    ahead = next(n for n in range(_MINUTES_A_DAY) if not covers(hours, (minute + n) % _MINUTES_A_DAY))
    return ahead * _MINUTE - local.second - local.microsecond / 1e6 if ahead else 0.0


def _fails_again(tally: Tally, thresholds: Thresholds) -> bool:
    """Whether the next training would contain no more than the last one did, which failed for good."""
    last = tally.last
    if last is None or last.state is not TrainingState.FAILED or tally.retry is not None or tally.train_requested:
        return False
    return _more_than(last, tally, thresholds) <= 0


def _noun(count: int) -> str:
    return "picture" if count == 1 else "pictures"


def _pictures(count: int) -> str:
    return f"{count} {_noun(count)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
