"""Whatever happens to files, process and platform, the newest model is deployed, alone, and only once.

The whole system again, with models that are deployed and tidied up, and a platform that fails those calls too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from image_sync.domain import ModelOutcome, NextStep, Tally, TrainingState
from image_sync.errors import Refused
from property.test_whole_system import DEEP, OFFLINE, SEARCH, WholeSystem, afterwards
from support.model import World

CALLS = ("deploy", "undeploy", "delete_model", "models_of", "model_of")
SHALLOW = settings(SEARCH, max_examples=2000 if DEEP else 25)


class LivingWorld(World):
    """A world in which each model is deployed, and only the newest is kept."""

    training: Mapping[str, Any] = MappingProxyType({"deploy": "always", "keep": 1})

    def _check_trainings(self, tally: Tally) -> None:
        super()._check_trainings(tally)
        rows = [row for row in self.runs() if row["state"] == TrainingState.TRAINED]
        assert {row["owed"] for row in rows} <= {NextStep.NOTHING}, "something is still owed"
        served = [row["task_id"] for row in rows if row["fate"] == ModelOutcome.DEPLOYED]
        assert set(served) == self.remote._deployed, "the ledger and the platform disagree on what is deployed"
        assert len(served) <= 1, "two models are deployed"
        refused = {row["task_id"] for row in rows if row["fate"] == ModelOutcome.REFUSED}
        assert not rows or rows[-1]["task_id"] in {*served, *refused}, "the newest model is not deployed"
        there = {model.id for model in self.remote.models.of_dataset(self.remote.ensure_dataset("parts"))}
        kept = {rows[-1]["task_id"], *served} if rows else set()
        assert kept <= there, "a model that is to be kept is gone"
        gone = {row["task_id"] for row in rows if row["fate"] == ModelOutcome.DELETED}
        assert not gone & there, "a model that was deleted is there"


class ModelsLife(WholeSystem):
    """Files, crashes, faults and time in any order, and models that come and go."""

    @initialize(training=st.sampled_from((2, 3)), first=st.integers(2, 6), then=st.sampled_from(("", "work")))
    def begin(self, training: int, first: int, then: str) -> None:
        self.world = LivingWorld(upload=1, training=training)
        for number in range(first):
            self.world.put(f"{('cat', 'dog')[number % 2]}/a{number}.jpg", number)
        self.then(then)

    @rule(method=st.sampled_from(CALLS), after=st.booleans(), times=st.sampled_from((1, 1, 3)), then=afterwards)
    def fail_models(self, method: str, after: bool, times: int, then: str) -> None:
        self.world.remote.fail_next(method, OFFLINE, after=after, times=times)
        self.then(then)

    @rule(method=st.sampled_from(("deploy", "delete_model")), then=afterwards)
    def refuse_models(self, method: str, then: str) -> None:
        self.world.remote.fail_next(method, Refused("not now"))
        self.then(then)


TestModelsLife: Any = ModelsLife.TestCase
TestModelsLife.settings = SHALLOW
TestModelsLife = pytest.mark.timeout(14_400 if DEEP else 120)(TestModelsLife)
