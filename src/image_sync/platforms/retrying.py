"""Patience, written once: a platform around a platform, which calls again when nothing was done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import tenacity

from image_sync.domain import Annotation, DatasetRef
from image_sync.errors import PlatformError, Transient, Unauthorised
from image_sync.log import get_logger
from image_sync.platforms.base import (
    Model,
    Outcome,
    Platform,
    Prediction,
    Progress,
    RemotePicture,
    Shipment,
    TrainingPlan,
    Traits,
)
from image_sync.platforms.circuit import Circuit, Resting

T = TypeVar("T")

_log = get_logger(__name__)

_FIRST_WAIT = 1.0
_CHUNK = 1000


class Retrying:
    """Repeats a call of the wrapped platform that ended with ``Transient`` or ``Unauthorised``, and no other.

    Both say that nothing was done, so every call may be repeated then, ``upload`` and ``start_training`` too. Who is
    turned away at the door may be let in a second later: the server restarts, its clock was set, a key is replaced.
    ``Ambiguous`` from those two is never repeated here: whoever called must ask first. For the other calls adapters
    turn a lost answer into ``Transient``, because doing them twice is the same as doing them once.

    A wait that the platform asks for is kept to; one that is longer than ``ceiling`` is left to the caller, who
    finds it in the error. A platform that does not answer at all is left alone by the circuit, which ends the
    repeats of all callers. ``describe`` and ``close`` need no patience.

    Args:
        circuit: through which every attempt goes; one for each platform.
        stop: ends a wait at once, and no attempt begins after it; the last error is raised.
        attempts: most calls before the error is passed on.
        first: seconds before the second one, about; then twice as long each time.
        ceiling: longest wait in seconds.
        notice: told the error before each repeat, and None once nothing is repeated any more.
        alive: called for each attempt: waits between them may be long.
    """

    def __init__(
        self,
        platform: Platform,
        stop: threading.Event,
        *,
        circuit: Circuit | None = None,
        attempts: int = 4,
        first: float = _FIRST_WAIT,
        ceiling: float = 300.0,
        notice: Callable[[PlatformError | None], None] = lambda _error: None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._platform = platform
        self._stop = stop
        self._circuit = circuit or Circuit(f"The platform {platform.describe().name}")
        self._attempts = attempts
        self._ceiling = ceiling
        self._notice = notice
        self._alive = alive
        self._backoff = tenacity.wait_exponential(multiplier=first, max=ceiling) + tenacity.wait_random(0, first)

    def describe(self) -> Traits:
        """The wrapped platform's."""
        return self._platform.describe()

    def sign_in(self) -> None:
        """Repeated."""
        self._call("sign_in", self._platform.sign_in)

    def find_dataset(self, name: str) -> DatasetRef | None:
        """Repeated."""
        return self._call("find_dataset", partial(self._platform.find_dataset, name))

    def ensure_dataset(self, name: str) -> DatasetRef:
        """Repeated: each try looks first."""
        return self._call("ensure_dataset", partial(self._platform.ensure_dataset, name))

    def ensure_category(self, dataset: DatasetRef, name: str) -> str:
        """Repeated: each try looks first."""
        return self._call("ensure_category", partial(self._platform.ensure_category, dataset, name))

    def upload(self, shipment: Shipment) -> list[Outcome]:
        """Repeated only when nothing was sent or it was turned away; the pictures are then read again."""
        return self._call("upload", partial(self._platform.upload, shipment))

    def find(self, shipment: Shipment) -> dict[str, str]:
        """Repeated."""
        return self._call("find", partial(self._platform.find, shipment))

    def copies(self, shipment: Shipment) -> dict[str, list[RemotePicture]]:
        """Repeated."""
        return self._call("copies", partial(self._platform.copies, shipment))

    def count(self, dataset: DatasetRef) -> int | None:
        """Repeated."""
        return self._call("count", partial(self._platform.count, dataset))

    def relabel(self, dataset: DatasetRef, remote_id: str, category: str) -> None:
        """Repeated: setting twice is setting once."""
        self._call("relabel", partial(self._platform.relabel, dataset, remote_id, category))

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:
        """Repeated: all marks are replaced each time."""
        self._call("annotate", partial(self._platform.annotate, dataset, remote_id, annotation))

    def remove(self, dataset: DatasetRef, remote_id: str) -> None:
        """Repeated: what is gone is no error."""
        self._call("remove", partial(self._platform.remove, dataset, remote_id))

    def listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:
        """Begun again after an error, without repeating pictures that were given out already."""
        seen: set[str] = set()
        rows = self._platform.listing(dataset)

        def chunk() -> list[RemotePicture]:
            nonlocal rows
            try:
                return list(islice((row for row in rows if row.remote_id not in seen), _CHUNK))
            except Transient:
                rows = self._platform.listing(dataset)
                raise

        while found := self._call("listing", chunk):
            seen.update(row.remote_id for row in found)
            yield from found

    def start_training(self, plan: TrainingPlan) -> str:
        """Repeated only when the request was not sent or was turned away."""
        return self._call("start_training", partial(self._platform.start_training, plan))

    def find_trainings(self, dataset: DatasetRef, name: str) -> list[str]:
        """Repeated."""
        return self._call("find_trainings", partial(self._platform.find_trainings, dataset, name))

    def progress(self, task_id: str) -> Progress:
        """Repeated."""
        return self._call("progress", partial(self._platform.progress, task_id))

    def stop_training(self, task_id: str) -> None:
        """Repeated: stopping twice is stopping once."""
        self._call("stop_training", partial(self._platform.stop_training, task_id))

    def training_log(self, task_id: str) -> Iterator[str]:
        """Repeated up to the first line; one that breaks off later is passed on."""
        lines = self._platform.training_log(task_id)
        yield from self._call("training_log", lambda: list(islice(lines, 1)))
        yield from lines

    def models(self, dataset: DatasetRef) -> list[Model]:
        """Repeated."""
        return self._call("models", partial(self._platform.models, dataset))

    def model_of(self, task_id: str) -> Model | None:
        """Repeated."""
        return self._call("model_of", partial(self._platform.model_of, task_id))

    def deploy(self, model: Model) -> None:
        """Repeated: each try looks first."""
        self._call("deploy", partial(self._platform.deploy, model))

    def undeploy(self, model: Model) -> None:
        """Repeated: what is not deployed is no error."""
        self._call("undeploy", partial(self._platform.undeploy, model))

    def predict(self, model: Model, picture: bytes) -> list[Prediction]:
        """Repeated."""
        return self._call("predict", partial(self._platform.predict, model, picture))

    def export(self, model: Model, to: Path) -> Path:
        """Repeated from the beginning: a half file is thrown away."""
        return self._call("export", partial(self._platform.export, model, to))

    def import_model(self, source: Path) -> Model:
        """Repeated only when nothing was sent or it was turned away."""
        return self._call("import_model", partial(self._platform.import_model, source))

    def delete_model(self, model: Model) -> None:
        """Repeated: what is gone is no error."""
        self._call("delete_model", partial(self._platform.delete_model, model))

    def close(self) -> None:
        """The wrapped platform's."""
        self._platform.close()

    def _call(self, name: str, call: Callable[[], T]) -> T:
        last: list[BaseException] = []

        def stopped(_state: tenacity.RetryCallState) -> None:
            # The stop event has ended the wait: the attempt that would follow must not begin.
            if last and self._stop.is_set():
                raise last[-1]

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if error is not None:
                last.append(error)
            if isinstance(error, Transient | Unauthorised):
                self._notice(error)
            _log.warning(
                "platform.retry",
                call=name,
                attempt=state.attempt_number,
                of=self._attempts,
                wait=round(state.upcoming_sleep, 1),
                error=getattr(error, "what", ""),
            )

        calls = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._worth_it),
            stop=tenacity.stop_after_attempt(self._attempts) | tenacity.stop_when_event_set(self._stop),
            wait=self._wait,
            sleep=tenacity.sleep_using_event(self._stop),
            before=stopped,
            before_sleep=tell,
            reraise=True,
        )
        try:
            done: T = calls(self._attempt, call)
            return done
        finally:
            if last:
                self._notice(None)

    def _attempt(self, call: Callable[[], T]) -> T:
        self._alive()
        try:
            with self._circuit.call():
                return call()
        finally:
            self._alive()

    def _worth_it(self, error: BaseException) -> bool:
        if isinstance(error, Resting):
            return False
        if isinstance(error, Unauthorised):
            return True
        return isinstance(error, Transient) and (error.retry_after or 0.0) <= self._ceiling

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, Transient) else None
        return max(self._backoff(state), asked or 0.0)
