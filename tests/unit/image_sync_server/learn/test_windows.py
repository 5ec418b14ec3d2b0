"""The embedded server's boxes: overlaps, doubles, and average precision, on cases reckoned by hand."""

from __future__ import annotations

import numpy as np
import pytest

from image_sync_server.learn.detector import moved, moves_of
from image_sync_server.learn.windows import Find, Mark, distinct, edges, overlaps, precisions


def box(*corners: float) -> np.ndarray:
    return np.array([corners], dtype=float)


def find(label: str, confidence: float, *corners: float) -> Find:
    return Find(label, confidence, *corners)


@pytest.mark.parametrize(
    ("other", "share"),
    [
        ((0, 0, 10, 10), 1),
        ((10, 0, 20, 10), 0),
        ((20, 20, 30, 30), 0),
        ((5, 0, 15, 10), 1 / 3),
        ((0, 0, 5, 5), 0.25),
        ((5, 5, 15, 15), 25 / 175),
    ],
)
def test_overlap_is_intersection_over_union(other, share):
    """Equal, touching, apart, half beside, inside and at a corner."""
    assert overlaps(box(0, 0, 10, 10), box(*other))[0, 0] == pytest.approx(share)


def test_no_boxes_are_a_table_without_rows():
    """No things give no rows, and overlaps with none are none."""
    assert edges([]).shape == (0, 4)
    assert overlaps(edges([]), box(0, 0, 1, 1)).shape == (0, 1)


def test_doubles_are_dropped_and_neighbours_kept():
    """Of the finds of one thing the surest stays, also when one lies in the other; other things stay."""
    rows = [(0, 0, 10, 10), (1, 1, 11, 11), (2, 2, 6, 6), (30, 0, 40, 10), (31, 0, 41, 10), (0, 30, 90, 90)]
    labels = np.array([0, 0, 0, 0, 1, 1])
    scores = np.array([0.9, 0.95, 0.5, 0.8, 0.7, 0.2])
    assert distinct(np.array(rows, dtype=float), labels, scores, 10) == [1, 3, 5]
    assert distinct(np.array(rows, dtype=float), labels, scores, 2) == [1, 3]
    assert distinct(edges([]), labels[:0], scores[:0], 10) == []


def test_things_of_two_labels_may_lie_in_each_other():
    """A small thing inside a large one of another label is not dropped."""
    rows = np.array([(0, 0, 100, 100), (40, 40, 60, 60)], dtype=float)
    assert distinct(rows, np.array([0, 1]), np.array([0.9, 0.8]), 10) == [0, 1]


def test_average_precision_of_perfect_and_useless_finds():
    """All hit first: 1. Nothing found, or found elsewhere or as something else: 0. Pictures are kept apart."""
    marked = [[Mark("a", 0, 0, 10, 10), Mark("b", 20, 0, 30, 10)], [Mark("a", 5, 5, 9, 9)]]
    right = [[find("a", 0.9, 0, 0, 10, 10), find("b", 0.1, 20, 1, 30, 10)], [find("a", 0.8, 5, 5, 9, 9)]]
    assert precisions(right, marked) == {"a": 1.0, "b": 1.0}
    assert precisions([[], []], marked) == {"a": 0.0, "b": 0.0}
    assert precisions(right[::-1], marked) == {"a": 0.0, "b": 0.0}
    assert precisions([[find("b", 0.9, 0, 0, 10, 10)], []], marked) == {"a": 0.0, "b": 0.0}


def test_average_precision_by_hand():
    """Hit, miss, hit of three marks: (1 + 2/3) / 3. A second find of one mark is a miss; a sure miss costs most."""
    marked = [[Mark("a", 0, 0, 10, 10), Mark("a", 20, 0, 30, 10), Mark("a", 40, 0, 50, 10)]]
    hits = [find("a", 0.9, 0, 0, 10, 10), find("a", 0.7, 20, 0, 30, 10)]
    assert precisions([[*hits, find("a", 0.8, 70, 0, 80, 10)]], marked)["a"] == pytest.approx((1 + 2 / 3) / 3)
    assert precisions([[*hits, find("a", 0.8, 1, 0, 11, 10)]], marked)["a"] == pytest.approx((1 + 2 / 3) / 3)
    assert precisions([[*hits, find("a", 0.99, 70, 0, 80, 10)]], marked)["a"] == pytest.approx((2 / 3 + 2 / 3) / 3)
    assert precisions([[*hits, find("a", 0.1, 70, 0, 80, 10)]], marked)["a"] == pytest.approx(2 / 3)


def test_a_find_counts_from_one_half_on():
    """An overlap just above one half is a hit, just below is none."""
    marked = [[Mark("a", 0, 0, 100, 10)]]
    assert precisions([[find("a", 0.9, 0, 0, 51, 10)]], marked)["a"] == 1
    assert precisions([[find("a", 0.9, 0, 0, 49, 10)]], marked)["a"] == 0


def test_moves_lead_from_one_box_to_another():
    """What moves_of says brings each box to its goal; far ones are limited."""
    rng = np.random.default_rng(1)
    start = rng.uniform(0, 50, (30, 2))
    place = np.concatenate([start, start + rng.uniform(20, 40, (30, 2))], axis=1)
    wanted = place + rng.uniform(-5, 5, (30, 4))
    assert np.allclose(moved(place, moves_of(place, wanted)), wanted)
    far = moved(place, np.full((30, 4), 1e9))
    assert np.isfinite(far).all()
