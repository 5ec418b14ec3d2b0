"""Named faults: how they are written, and how the lot falls."""

from __future__ import annotations

from collections import Counter

import pytest

from image_sync_server.faults import Action, Fault, Faults
from image_sync_server.mvi.fault_presets import KINDS, WHERE, from_json, parsed


@pytest.mark.parametrize(
    ("word", "rate", "seconds"),
    [
        ("late=0.1", 0.1, 1.0),
        ("late=5%:3", 0.05, 3.0),
        (" late = 100% : 0.5 ", 1.0, 0.5),
        ("late=.5", 0.5, 1.0),
        ("late=0", 0.0, 1.0),
    ],
)
def test_a_word_of_the_command_line(word, rate, seconds):
    """Rates are shares or percentages, seconds may follow."""
    (fault,) = parsed(word)
    assert (fault.kind, fault.probability, fault.seconds) == ("late", rate, seconds)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("429", "KIND=RATE"),
        ("429=", "KIND=RATE"),
        ("429=often", "KIND=RATE"),
        ("429=nan", "KIND=RATE"),
        ("429=-1", "KIND=RATE"),
        ("429=٣%", "KIND=RATE"),
        ("429=1:soon", "KIND=RATE"),
        ("429=1:", "KIND=RATE"),
        ("429=2", "between 0 and 1"),
        ("429=101%", "between 0 and 1"),
        ("all=2", "between 0 and 1"),
        ("=1", "there is no kind ''; known: 500-before"),
        ("all=1:3", "all takes no seconds"),
        ("html=1:3", "html takes no seconds"),
        ("late=1:99999999", "between 0 and 86400"),
        ("late=1:" + "9" * 400, "between 0 and 86400"),
    ],
)
def test_a_word_that_is_not_understood(word, words):
    """Each mistake is told in one sentence."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        parsed(word)
    assert words in str(caught.value)


def test_what_is_shown_can_be_switched_on_again():
    """The JSON that GET gives back is understood by POST, and means the same."""
    faults = Faults()
    faults.add(*parsed("all=5%"), Fault(Action.SLOW, "GET", "/system$", seconds=3))
    shown = faults.as_json()
    again = Faults()
    again.add(*(fault for one in shown for fault in from_json(one)))
    assert again.as_json() == shown


def test_each_kind_strikes_at_about_its_rate_whatever_else_is_on():
    """Of many kinds none is favoured by its place, and each is struck by its own rate, less the few that collide."""
    faults = Faults(seed=1)
    faults.add(*parsed("429=5%"), *parsed("html=5%"), *parsed("500-before=10%"), *parsed("401=0"))
    struck = Counter(fault.kind for _ in range(10_000) if (fault := faults.pick("GET", "/datasets")))
    assert struck == faults.counts
    assert 400 < struck["429"] < 550
    assert 400 < struck["html"] < 550
    assert 850 < struck["500-before"] < 1050


def test_luck_of_one_kind_does_not_hang_on_the_others():
    """With a seed the same requests are struck by a kind, whether or not others are looked at in between."""

    def run(other: str) -> list[bool]:
        faults = Faults(seed=4)
        faults.add(*parsed("429=20%"), *parsed(other))
        drawn = []
        for _ in range(200):
            faults.pick("POST", "/datasets/7/files", Action.PARTIAL)
            drawn.append(faults.pick("GET", "/system") is not None)
        return drawn

    assert run("partial=50%") == run("late=100%")
    assert any(run("late=1"))


def test_plain_faults_go_first_and_keep_their_order():
    """A fault without a kind strikes before every kind, the first of them first, until it is used up."""
    faults = Faults()
    faults.add(*parsed("429=1"), Fault(Action.RESET, count=2), Fault(Action.EMPTY))
    drawn = [fault.name for _ in range(5) if (fault := faults.pick("GET", "/system"))]
    assert drawn == ["reset", "reset", "empty", "429", "429"]
    assert faults.counts == {"reset": 2, "empty": 1, "429": 2}
    faults.clear()
    assert faults.counts == {"reset": 2, "empty": 1, "429": 2}
    faults.forget()
    assert faults.counts == {}


@pytest.mark.parametrize(
    ("name", "hit", "spared"),
    [
        ("500-before", ("GET", "/datasets"), None),
        ("401", ("GET", "/datasets"), ("POST", "/tokens")),
        ("trickle", ("GET", "/dltasks/7"), ("GET", "/datasets/7/export")),
        ("truncated-json", ("POST", "/tokens"), ("GET", "/uploads/ann/datasets/7/files/8.jpg")),
        ("soft-fail", ("POST", "/datasets/7/files"), ("GET", "/datasets/7/files")),
        ("duplicate", ("POST", "/datasets/7/files"), ("POST", "/dltasks")),
        ("late", ("POST", "/dltasks"), ("POST", "/datasets/7/files/8/action")),
        ("late", ("POST", "/datasets"), ("POST", "/tokens")),
        ("late", ("POST", "/datasets/7/categories"), ("DELETE", "/datasets/7")),
        ("reset-body", ("POST", "/datasets"), ("GET", "/datasets")),
    ],
)
def test_kinds_hit_the_right_calls(name, hit, spared):
    """Each preset strikes the calls that its table says and no others."""
    faults = Faults()
    faults.add(*parsed(f"{name}=1"))
    assert faults.pick(*hit) is not None
    assert spared is None or faults.pick(*spared) is None


def test_every_kind_says_what_and_where():
    """The table of kinds has words for each of them, and seconds exactly for those that take some."""
    for name, kind in KINDS.items():
        assert WHERE[kind.fault.method, kind.fault.path], name
        assert ("SECONDS" in kind.text) == (kind.seconds is not None), name
