"""What a tag should hold: its negatives, whether it changed, and whether it must be reset; all without a server."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_sync.domain import DatasetRef
from image_sync.errors import Refused
from image_sync.platforms.base import MemoryState
from image_sync.platforms.mobius.records import Attempt, Records, Start, Sum, Tag, short
from image_sync.platforms.mobius.tags import Rule, TagPlan, choose, tag_of

DATASET = DatasetRef("d", "parts")


def ids(category: str, count: int, first: int = 0) -> list[str]:
    return [hashlib.sha256(f"{category}{n}".encode()).hexdigest()[:32] for n in range(first, first + count)]


def plan(negatives: str = "others", most: int = 200, **categories: list[str]) -> TagPlan:
    contents = [(one, name.replace("__", "/")) for name, images in categories.items() for one in images]
    return TagPlan(DATASET, contents, "category", Rule(negatives, most))


def trained(seen: TagPlan, name: str) -> Tag:
    """The tag after a training of everything."""
    tag = Tag(name, "d", name)
    total = Sum.of(seen.positives(name))
    return replace(tag, assigned=total, trained=total, negatives=tuple(seen.negatives(tag)))


def standing(seen: TagPlan, tag: Tag, attempts: dict[str, Attempt]) -> tuple[str, str]:
    """Why it has to be trained again, and why it has to be reset before."""
    return seen.why_changed(tag), seen.why_reset(tag, attempts)


# -- negatives


def test_negatives_come_from_the_other_categories_up_to_the_cap() -> None:
    """Sampled over all others, no more than allowed, never a picture of the tag itself."""
    a, b, c = ids("a", 50), ids("b", 50), ids("c", 50)
    seen = plan(most=40, a=a, b=b, c=[*c, a[0]])

    chosen = seen.negatives(Tag("a", "d", "a"))

    assert len(chosen) == len(set(chosen)) == 40
    assert set(chosen) <= {*b, *c}
    assert set(chosen) & set(b)
    assert set(chosen) & set(c)
    assert chosen != plan(most=40, b=[*a, *b], c=c).negatives(Tag("b", "d", "b"))


def test_the_sample_is_stable() -> None:
    """The order of the pictures does not matter, and a new picture replaces one other at most."""
    a, b = ids("a", 3), ids("b", 300)
    before = set(plan(most=20, a=a, b=b).negatives(Tag("a", "d", "a")))

    assert set(plan(most=20, a=a, b=b[::-1]).negatives(Tag("a", "d", "a"))) == before
    more = set(plan(most=20, a=a, b=[*b, *ids("new", 1)]).negatives(Tag("a", "d", "a")))
    assert len(before - more) <= 1


def test_what_is_assigned_stays() -> None:
    """Without a reset nothing is taken back: earlier negatives fill the places first."""
    a, b = ids("a", 3), ids("b", 300)
    kept = tuple(b[:15])

    chosen = plan(most=20, a=a, b=b).negatives(Tag("a", "d", "a", negatives=kept))

    assert set(kept) <= set(chosen)
    assert len(chosen) == 20


def test_folders_for_negatives_are_taken_whole() -> None:
    """`_negative_` and the tag's own folder come first, beyond the cap too; "folders" takes no others, "none" none."""
    general, own, a, b = ids("g", 4), ids("o", 5), ids("a", 3), ids("b", 30)
    pictures: Any = {"_negative_": general, "a__negative": own, "a": a, "b": b}
    tag = Tag("a", "d", "a")

    assert set(plan(most=6, **pictures).negatives(tag)) == {*general, *own}
    assert set(plan(most=10, **pictures).negatives(tag)) > {*general, *own}
    assert set(plan("folders", **pictures).negatives(tag)) == {*general, *own}
    assert set(plan("folders", **pictures).negatives(Tag("b", "d", "b"))) == set(general)
    assert plan("none", **pictures).negatives(tag) == []
    assert set(plan(**pictures).categories) == {"a", "b"}


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.integers(1, 40))
def test_choosing(own: set[int], others: set[int], kept: set[int], most: int) -> None:
    """Own ones are all in, kept ones stay, nothing comes twice, and the cap holds for what is added."""
    text = [{f"{n:032x}" for n in numbers} for numbers in (own, others, kept)]

    chosen = choose("t", text[0], text[1], kept=text[2], most=most)

    assert len(chosen) == len(set(chosen))
    assert text[0] | (text[1] & text[2]) <= set(chosen) <= text[0] | text[1]
    assert len(chosen) <= max(most, len(text[0] | (text[1] & text[2])))


# -- changed, and to be reset


def test_a_new_tag_has_changed() -> None:
    """It was never trained, and nobody knows what lies on the server under its name."""
    changed, reset = standing(plan(a=ids("a", 2), b=ids("b", 2)), Tag("a", "d", "a"), {})

    assert changed
    assert reset


def test_nothing_new_means_nothing_to_do() -> None:
    """Pictures of other categories that come do not change a tag that has negatives."""
    a, b = ids("a", 5), ids("b", 5)
    tag = trained(plan(a=a, b=b), "a")

    changed, reset = standing(plan(a=a, b=[*b, *ids("b", 50, 5)]), tag, {})

    assert (changed, reset) == ("", "")


def test_new_pictures_change_a_tag_without_a_reset() -> None:
    """They were assigned when they came, which is written down."""
    a, b = ids("a", 5), ids("b", 5)
    tag = trained(plan(a=a, b=b), "a")
    new = ids("a", 2, 5)

    changed, reset = standing(plan(a=[*a, *new], b=b), tag, {"x": Attempt(tuple(new))})

    assert "other pictures" in changed
    assert reset == ""


@pytest.mark.parametrize("also_new", [False, True])
def test_a_picture_that_was_moved_away_asks_for_a_reset(also_new: bool) -> None:
    """Even if as many new ones came: nothing takes its assignment back."""
    a, b = ids("a", 5), ids("b", 5)
    tag = trained(plan(a=a, b=b), "a")
    new = ids("a", 1, 5) if also_new else []

    changed, reset = standing(plan(a=[*a[1:], *new], b=[*b, a[0]]), tag, {"x": Attempt(tuple(new))} if new else {})

    assert "moved away" in reset
    assert changed


def test_an_attempt_that_came_to_nothing_asks_for_a_reset() -> None:
    """Perhaps assigned, then sent under another category: unless the tag was reset since."""
    a, b = ids("a", 5), ids("b", 5)
    tag = trained(plan(a=a, b=b), "a")
    stray = Attempt(tuple(ids("stray", 1)))

    assert "moved away" in plan(a=a, b=b).why_reset(tag, {"x": stray})
    assert plan(a=a, b=b).why_reset(tag, {"x": replace(stray, void=True)}) == ""


def test_a_negative_that_becomes_a_positive_asks_for_a_reset() -> None:
    """What assigning it again as the other kind would do is not documented."""
    a, b = ids("a", 5), ids("b", 5)
    tag = trained(plan(a=a, b=b), "a")

    _, reset = standing(plan(a=[*a, b[0]], b=b[1:]), tag, {"x": Attempt((b[0],))})

    assert "negatives" in reset


def test_negatives_that_are_gone_or_new_count() -> None:
    """A deleted negative asks for a reset at the next training; new ones in a folder change the tag."""
    a, b = ids("a", 5), ids("b", 5)
    tag = trained(plan(a=a, b=b), "a")

    assert plan(a=a, b=b[1:]).why_reset(tag, {})
    assert "new negatives" in plan(a=a, b=b, a__negative=ids("n", 1)).why_changed(tag)
    assert "without negatives" in plan(a=a, b=b).why_changed(replace(tag, negatives=()))


def test_a_tag_without_pictures() -> None:
    """Unknown: nothing to do. Trained earlier: changed, to be reset."""
    a, b = ids("a", 5), ids("b", 5)
    tag = trained(plan(a=a, b=b), "a")

    assert plan(b=b).why_changed(Tag("a", "d", "a")) == ""
    assert plan(b=b).why_changed(tag)
    assert plan(b=b).why_reset(tag, {})


# -- names and records


@pytest.mark.parametrize("category", ["a,b", "a/b", ".", "..", "a\nb"])
def test_categories_that_cannot_be_tags(category: str) -> None:
    """Tags stand in paths and in comma lists."""
    with pytest.raises(Refused, match="cannot be a tag"):
        tag_of(DATASET, category, "category")


def test_tags_may_carry_the_name_of_the_dataset() -> None:
    """For servers that several datasets share."""
    assert tag_of(DATASET, "crack", "category") == "crack"
    assert tag_of(DATASET, "crack", "dataset") == "parts-crack"


def test_what_is_written_down_is_read_again() -> None:
    """A tag in the middle of a start, an attempt, a training: nothing of them is lost."""
    notes = MemoryState()
    records = Records(notes)
    start = Start("m-1", "asking", "t-1", Sum.of(ids("a", 3)), tuple(ids("a", 2)), '{"x": 1}')
    tag = Tag("Größe", "d", "Größe", Sum.of(ids("a", 2)), tuple(ids("b", 2)), Sum.of(ids("c", 1)), "m-0", start)
    records.save(tag)
    name = records.attempt("Größe", "0" * 32, ids("a", 2))

    assert Records(notes).tags("d") == [tag]
    assert Records(notes).tags("other") == []
    assert Records(notes).attempts() == {short("Größe"): {name: Attempt(tuple(ids("a", 2)))}}
    assert max(map(len, notes.under(""))) <= 52


def test_a_sum_tells_sets_apart() -> None:
    """By content, not by order."""
    some = ids("a", 20)

    assert Sum.of(some) == Sum.of(some[::-1])
    assert Sum.of(some) != Sum.of([*some[1:], *ids("b", 1)])
