"""What follows a training that has ended: its model is judged, deployed, replaces others, and old ones are deleted.

Every step is owed from the moment the training ends, and written off when it is done: a restart goes on where the last
process stopped. A step may be done twice; each looks before it acts.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import update

from image_sync.domain import BY_HAND, ModelOutcome, NextStep, Training
from image_sync.ledger import moves
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.schema import run
from image_sync.ledger.trainings import Trainings


class ModelLifecycle:
    """The debts of ended trainings of the target in use."""

    def __init__(self, context: LedgerContext, trainings: Trainings) -> None:
        self._context = context
        self._trainings = trainings

    def owing(self) -> Training | None:
        """The oldest training about which something is to be done, other than starting it again."""
        due = [str(owed) for owed in NextStep if owed not in {NextStep.NOTHING, NextStep.RETRY}]
        found = self._trainings.where(run.c.owed.in_(due))
        return found[-1] if found else None

    def deployed(self) -> list[Training]:
        """The trainings whose models this ledger had deployed and has not taken down, newest first.

        What a person deployed stays until a person takes it down.
        """
        return self._trainings.where(run.c.fate == ModelOutcome.DEPLOYED, run.c.fate_reason != BY_HAND)

    def decided(self, run_id: int, *, deploy: bool, reason: str) -> None:
        """Whether the model is to be deployed, and why."""
        fate, owed = (ModelOutcome.CHOSEN, NextStep.DEPLOY) if deploy else (ModelOutcome.DECLINED, NextStep.TIDY)
        self._pay(run_id, NextStep.JUDGE, owed, fate=fate, fate_reason=reason)

    def is_deployed(self, run_id: int) -> None:
        """It answers predictions now."""
        self._pay(run_id, NextStep.DEPLOY, NextStep.RETIRE, fate=ModelOutcome.DEPLOYED)

    def not_deployed(self, run_id: int, fate: ModelOutcome, reason: str) -> None:
        """It was chosen, but cannot be deployed, or is not to be any more."""
        self._pay(run_id, NextStep.DEPLOY, NextStep.TIDY, fate=fate, fate_reason=reason)

    def alone(self, run_id: int) -> None:
        """What it replaces is no longer deployed."""
        self._pay(run_id, NextStep.RETIRE, NextStep.TIDY)

    def tidied(self, run_id: int) -> None:
        """What was not to be kept is deleted: nothing more is owed."""
        self._pay(run_id, NextStep.TIDY, NextStep.NOTHING)

    def fated(self, run_id: int, fate: ModelOutcome, reason: str) -> None:
        """The model of an earlier training has another fate now."""
        with self._context.db.writing() as tx:
            tx.execute(update(run).where(run.c.id == run_id).values(fate=fate, fate_reason=reason))
        self._context.changed()

    def _pay(self, run_id: int, was: NextStep, owed: NextStep, **values: Any) -> None:
        with self._context.db.writing() as tx:
            this = (run.c.id == run_id) & (run.c.owed == was)
            if tx.execute(update(run).where(this).values(owed=owed, **values)).rowcount != 1:
                raise moves.IllegalTransition(f"training {run_id} does not owe {was!r}")
        self._context.changed()
