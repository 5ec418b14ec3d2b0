"""Whatever happens to files, annotations, process and platform, in the end every box is where its file says.

The whole system again, in a world where pictures have annotations beside them.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from image_sync.errors import Refused
from property.test_whole_system import DEEP, OFFLINE, SEARCH, WholeSystem, afterwards, places
from support.marked import MarkedWorld

SHALLOW = settings(SEARCH, max_examples=2000 if DEEP else 25)
drawings = st.integers(-1, 7)


class AnnotatedSystem(WholeSystem):
    """Files, annotations, crashes, faults and time in any order."""

    world: MarkedWorld

    @initialize(
        training=st.sampled_from((2, 5)),
        upload=st.sampled_from((1, 1, 3)),
        deletions=st.sampled_from(("keep", "keep", "remove")),
        first=st.integers(2, 6),
        drawing=drawings,
        then=st.sampled_from(("", "work")),
    )
    def begin(self, training: int, upload: int, deletions: str, first: int, drawing: int, then: str) -> None:
        self.world = MarkedWorld(upload=upload, training=training, deletions=deletions)
        for number in range(first):
            place = f"{('cat', 'dog')[number % 2]}/a{number}.jpg"
            self.world.put(place, number)
            self.world.annotate(place, drawing)
        self.then(then)

    @rule(old=st.integers(0, 9), drawing=drawings, then=afterwards)
    def annotate(self, old: int, drawing: int, then: str) -> None:
        self.world.annotate(self.world.some_file(old), drawing)
        self.then(then)

    @rule(place=places, drawing=drawings, then=afterwards)
    def annotate_anything(self, place: str, drawing: int, then: str) -> None:
        self.world.annotate(place, drawing)
        self.then(then)

    @rule(old=st.integers(0, 9), drawing=drawings)
    def annotate_meanwhile(self, old: int, drawing: int) -> None:
        self.world.meanwhile += [
            lambda: self.world.annotate(self.world.some_file(old), drawing),
            self.world.look_meanwhile,
        ]

    @rule(after=st.booleans(), times=st.sampled_from((1, 1, 4)), then=afterwards)
    def fail_annotating(self, after: bool, times: int, then: str) -> None:
        self.world.remote.fail_next("annotate", OFFLINE, after=after, times=times)
        self.then(then)

    @rule(times=st.sampled_from((1, 6)), then=afterwards)
    def refuse_annotating(self, times: int, then: str) -> None:
        self.world.remote.fail_next("annotate", Refused("not now"), times=times)
        self.then(then)


TestAnnotatedSystem: Any = AnnotatedSystem.TestCase
TestAnnotatedSystem.settings = SHALLOW
TestAnnotatedSystem = pytest.mark.timeout(14_400 if DEEP else 120)(TestAnnotatedSystem)
