"""Trainings: started once by name, followed through their attempts, judged by how AWS says that they ended.

A training whose machine AWS did not have goes on as another job of a related name: the next attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple

from image_sync.config.sagemaker import SageMaker
from image_sync.domain import DatasetRef
from image_sync.errors import Ambiguous, NotFound, PlatformError, Refused
from image_sync.log import get_logger
from image_sync.platforms.base import Phase, Progress, TrainingPlan
from image_sync.platforms.sagemaker.api import LOG_GROUP, Api, TrainingJob
from image_sync.platforms.sagemaker.datasets import Datasets, Documents, Place
from image_sync.platforms.sagemaker.keys import attempt_of, is_name, job_of, root_of
from image_sync.platforms.sagemaker.lists import Lists
from image_sync.platforms.sagemaker.outcomes import NoRoom, Taken, sanitize
from image_sync.platforms.sagemaker.request import FILE, Snapshot, network_of, request

_log = get_logger(__name__)

_LISTS = ("train_lst", "train_annotation")
_ENDED = {"Completed", "Failed", "Stopped"}
_WAITING = {
    "Starting",
    "Pending",
    "Interrupted",
    "Restarting",
    "LaunchingMLInstances",
    "PreparingTrainingStack",
    "DownloadingTrainingImage",
}
_PHASES = {"Completed": Phase.TRAINED, "Failed": Phase.FAILED, "Stopped": Phase.FAILED}
_STOPPED = {
    "MaxRuntimeExceeded": "it was stopped after sagemaker.max_runtime; allow more, or use a quicker machine",
    "MaxWaitTimeExceeded": "no spare machine was free within sagemaker.max_wait; allow more, or train without spot",
}
_ACCURACY = {False: ("validation:accuracy", "validation:accuracy:epoch"), True: ("validation:mAP",)}
_PROGRESS = "train:progress"
_PERCENT = 100.0
_SHOWN = 5
_ROUNDS = 3
_PAUSE = 900.0
"""Seconds until a machine that AWS did not have is asked for again, times the round."""


class Blame(StrEnum):
    """Who or what ended a training, and what that means."""

    OURS = "the pictures or the parameters are to blame: a repeat would fail again"
    ALGORITHM = "it failed inside the algorithm; the job's log at CloudWatch has more"
    CAPACITY = "AWS had no such machine free; name more in sagemaker.instance_types"
    AWS = "AWS says that it is to blame"


def blame_of(reason: str) -> Blame:
    """Whose fault it is, by how AWS begins its reasons."""
    if "CapacityError" in reason:
        return Blame.CAPACITY
    if reason.startswith("InternalServerError"):
        return Blame.AWS
    return Blame.ALGORITHM if reason.startswith("AlgorithmError") else Blame.OURS


class Attempt(NamedTuple):
    """One job of a training."""

    job: TrainingJob
    number: int
    """0 for the first."""


class Origin(NamedTuple):
    """Where what a job was started with lies."""

    place: Place
    folder: str
    """Key, ending in a slash."""


class Jobs:
    """Looks up jobs, their attempts and their snapshots."""

    def __init__(self, api: Api, datasets: Datasets, documents: Documents) -> None:
        self._api = api
        self._datasets = datasets
        self._documents = documents
        self._ended: dict[str, TrainingJob] = {}
        """What has ended does not change: it is asked for once."""

    def job(self, name: str) -> TrainingJob | None:
        """The job of this name, or None."""
        if not is_name(name) or name in self._ended:
            return self._ended.get(name)
        try:
            job = self._api.training_job(name)
        except NotFound:
            return None
        if job.status in _ENDED:
            self._ended[name] = job
        return None if job.status == "Deleting" else job

    def attempts(self, root: str) -> list[str]:
        """The names of all jobs that there were for a training."""
        found: list[str] = []
        while self.job(name := attempt_of(root, len(found))) is not None:
            found.append(name)
        return found

    def last(self, root: str) -> Attempt:
        """The newest attempt at a training. Raises NotFound without any, or when the job is none of ours."""
        job = self.job(root)
        if job is None or self.origin(job) is None:
            raise NotFound(f"There is no training job {root!r} of ours")
        number = 0
        while _repeated(job) and (following := self.job(attempt_of(root, number + 1))) is not None:
            job, number = following, number + 1
        return Attempt(job, number)

    def origin(self, job: TrainingJob) -> Origin | None:
        """Where its lists lie, if they are ours: by this a job is known to be what its name says."""
        uri = next((uri for name in _LISTS if (uri := job.channel(name))), "")
        key = uri.removeprefix(f"s3://{self._api.bucket}/")
        head, found, tail = key.partition("/jobs/")
        parts = tail.split("/")
        if key == uri or not found or len(parts) < 3:  # noqa: PLR2004 - job, fingerprint, list
            return None
        try:
            place = self._datasets.place(head.rpartition("/")[2])
        except NotFound:
            return None
        return Origin(place, f"{place.layout.jobs}{parts[0]}/{parts[1]}/") if place.layout.root == head else None

    def snapshot(self, job: TrainingJob) -> Snapshot | None:
        """What it was started with; None when its model was deleted since."""
        origin = self.origin(job)
        if origin is None:
            return None
        try:
            return Snapshot.of(self._documents.read(f"{origin.folder}{FILE}"))
        except NotFound:
            return None

    def forget(self, *names: str) -> None:
        """They are being deleted."""
        for name in names:
            self._ended.pop(name, None)


class Trainings:
    """The training part of the platform.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        api: Api,
        setup: SageMaker,
        datasets: Datasets,
        jobs: Jobs,
        lists: Lists,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._setup = setup
        self._datasets = datasets
        self._jobs = jobs
        self._lists = lists
        self._clock = clock

    def start(self, plan: TrainingPlan) -> str:
        """Start it, unless it was started before: the name decides. Returns the name of its first job."""
        place = self._datasets.place(plan.dataset)
        root = job_of(plan.name, place.mark)
        if self._adopted(place, root):
            return root
        chosen = self._lists.choose(place, plan)
        chosen = replace(chosen, snapshot=self._continued(chosen.snapshot))
        body = request(self._setup, place, chosen.snapshot, "", root, self._setup.instance_types[0])
        # The request was refused by now if it is refused at all: nothing is left behind.
        asked, used = chosen.snapshot.values.get("mini_batch_size"), body["HyperParameters"]["mini_batch_size"]
        if asked is not None and used != asked:
            _log.warning(
                "training.batch_reduced",
                model=plan.name,
                mini_batch_size=int(used),
                configured=int(asked),
                trained_on=chosen.snapshot.samples,
                validating=chosen.snapshot.validating,
                reason="a batch holds no more pictures than either side has, and as many for each GPU",
            )
        folder = self._lists.freeze(place, root, chosen)
        self._create(place, chosen.snapshot, folder, root, self._setup.instance_types)
        return root

    def find(self, dataset: DatasetRef, name: str) -> list[str]:
        """The training of this name, if there is one: SageMaker keeps names unique."""
        place = self._datasets.place(dataset)
        root = job_of(name, place.mark)
        return [root] if self._adopted(place, root) else []

    def progress(self, task_id: str) -> Progress:
        """How far it is. One that AWS had no machine for is begun again with the next one here."""
        attempt = self._jobs.last(task_id)
        job = attempt.job
        if _repeated(job):
            return self._again(task_id, attempt)
        origin, snapshot = self._jobs.origin(job), self._jobs.snapshot(job)
        phase = _PHASES.get(job.status, Phase.WAITING if job.secondary in _WAITING else Phase.RUNNING)
        text = job.hyperparameters.get("epochs", "")
        epochs = int(text) if text.isascii() and text.isdigit() else None
        return Progress(
            phase,
            iteration=None if epochs is None else _iteration(job, phase, epochs),
            iterations=epochs,
            loss=job.metric("train:cross_entropy", "train:loss"),
            accuracy=accuracy_of(job),
            anew="" if snapshot is None else snapshot.cold,
            billed=job.billed,
            log=f"CloudWatch, {LOG_GROUP}, {job.name}/",
            **(self._why_it_failed(job, origin) if phase is Phase.FAILED else {}),
        )

    def stop(self, task_id: str) -> None:
        """Stop its newest job; a mark in the bucket keeps every machine from making another attempt."""
        job = self._jobs.last(task_id).job
        origin = self._jobs.origin(job)
        if job.status == "Stopped":
            return
        if origin is None or (job.status in {"Completed", "Failed"} and not _repeated(job)):
            raise Refused(f"The training job {sanitize(task_id)} has ended already: {job.status}")
        self._api.put(origin.place.layout.stopped(task_id), b"")
        job = self._jobs.last(task_id).job  # an attempt that was made before the mark was seen
        if job.status == "InProgress":
            what = f"Stopping the training job {job.name}"
            self._api.call("sagemaker", "stop_training_job", what, TrainingJobName=job.name)

    def log(self, task_id: str) -> Iterator[str]:
        """What CloudWatch has of its newest job."""
        job = self._jobs.last(task_id).job
        try:
            yield from self._api.log_lines(job.name)
        except NotFound:
            return  # the first training of an account makes the group

    def _why_it_failed(self, job: TrainingJob, origin: Origin | None) -> dict[str, Any]:
        """The reason, and whether a repeat can mend it: only when a picture was to blame, which is left out then."""
        reason = _reason(job)
        found = {} if origin is None or job.status != "Failed" else self._lists.leave_out(origin.place, job)
        if found:
            names = ", ".join(sorted(found)[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" * (len(found) > _SHOWN))
            reason = f"{reason}; left out from now on: {names}"
        billed = "" if job.billed is None else f"; {job.billed:g} s billed"
        return {"reason": f"{reason}{billed}", "repeat": bool(found)}

    def _create(self, place: Place, snapshot: Snapshot, folder: str, job: str, machines: tuple[str, ...]) -> None:
        """Make the job on the first machine that the account may use."""
        refused: NoRoom | None = None
        for machine in machines:
            body = request(self._setup, place, snapshot, folder, job, machine)
            try:
                self._api.create_training_job(body)
            except NoRoom as error:
                refused = error
                _log.warning("training.no_quota", job=job, machine=machine, error=error.what)
                continue
            except Taken as error:
                if not self._adopted(place, root_of(job)):
                    raise Refused(f"There is a training job {job} that is not of this dataset") from error
            except Ambiguous:
                # The answer got lost. If the job is not there now, it may still come, and the caller has to ask later.
                if not self._is_there(job):
                    raise
                _log.info("training.found", job=job, reason="the answer to its start got lost")
            return
        if refused is not None:
            raise refused

    def _is_there(self, job: str) -> bool:
        try:
            return self._jobs.job(job) is not None
        except PlatformError:
            return False

    def _adopted(self, place: Place, root: str) -> bool:
        """Whether the job is there, and ours. Raises Refused when the name is somebody else's."""
        job = self._jobs.job(root)
        if job is None:
            return False
        origin = self._jobs.origin(job)
        if origin is None or not origin.folder.startswith(f"{place.layout.jobs}{root}/"):
            raise Refused(f"There is a training job {root} that is not of this dataset")
        return True

    def _continued(self, snapshot: Snapshot) -> Snapshot:
        """The same with the model to continue from, or with the reason why it begins with AWS's pretrained network."""
        if not snapshot.base:
            return snapshot
        try:
            job = self._jobs.last(snapshot.base).job
        except NotFound:
            job = None
        before = None if job is None else self._jobs.snapshot(job)
        cold = "it is not there, or has no model"
        if job is not None and before is not None and job.status == "Completed":
            cold = _difference(before, snapshot)
            if not cold:
                return replace(snapshot, base_uri=job.artifact)
        _log.warning("training.not_continued", model=snapshot.name, base=snapshot.base, reason=cold)
        return replace(snapshot, base="", cold=f"{snapshot.base}: {cold}")

    def _again(self, root: str, failed: Attempt) -> Progress:
        """Another attempt, if it is time for it, on the next machine."""
        job, machines = failed.job, self._setup.instance_types
        number = failed.number + 1
        origin = self._jobs.origin(job)
        if origin is not None and self._api.some(origin.place.layout.stopped(root), 1):
            return Progress(Phase.FAILED, reason="somebody stopped it", repeat=False)
        if number >= _ROUNDS * len(machines):
            return Progress(Phase.FAILED, reason=_reason(job), repeat=False)
        here = machines.index(job.machine) if job.machine in machines else -1
        turn = here + (blame_of(job.failure) is Blame.CAPACITY)
        ended = job.ended_at or job.modified_at or job.created_at
        pause = _PAUSE * (number // len(machines))
        if ended is None or self._clock() - ended.timestamp() >= pause:
            snapshot = self._jobs.snapshot(job)
            if origin is None or snapshot is None:
                raise NotFound(f"What the training {root} was started with is no longer there")
            order = tuple(machines[(turn + step) % len(machines)] for step in range(len(machines)))
            try:
                self._create(origin.place, snapshot, origin.folder, attempt_of(root, number), order)
            except Ambiguous:
                return Progress(Phase.WAITING)  # the next look finds it, or makes it: its name is the same
            _log.warning("training.again", job=attempt_of(root, number), machine=order[0], reason=job.failure)
        return Progress(Phase.WAITING)


def accuracy_of(job: TrainingJob) -> float | None:
    """Its held-out accuracy; for a detection its mean average precision."""
    value = job.metric(*_ACCURACY["base_network" in job.hyperparameters])
    return None if value is None else min(1.0, max(0.0, value))


def _repeated(job: TrainingJob) -> bool:
    """Whether another attempt makes sense: AWS was to blame, not we."""
    return job.status == "Failed" and blame_of(job.failure) in {Blame.CAPACITY, Blame.AWS}


def _difference(before: Snapshot, now: Snapshot) -> str:
    """Why a model cannot be continued from; empty when it can."""
    if before.detection != now.detection:
        return "one detects objects, the other tells pictures apart"
    if before.classes != now.classes:
        new, gone = (sorted(set(a) - set(b)) for a, b in ((now.classes, before.classes), (before.classes, now.classes)))
        changes = [f"new {', '.join(new)}"] * bool(new) + [f"without {', '.join(gone)}"] * bool(gone)
        return f"its classes are others ({'; '.join(changes) or 'in another order'})"
    old, new_network = network_of(before), network_of(now)
    changed = [f"{name} was {old[name]}, now {value}" for name, value in new_network.items() if old[name] != value]
    return "; ".join(changed)


def _iteration(job: TrainingJob, phase: Phase, epochs: int) -> int | None:
    if phase is Phase.TRAINED and job.hyperparameters.get("early_stopping") != "True":
        return epochs
    percent = job.metric(_PROGRESS)
    return None if percent is None else int(epochs * min(percent, _PERCENT) / _PERCENT)


def _reason(job: TrainingJob) -> str:
    if job.status == "Stopped":
        return _STOPPED.get(job.secondary, "somebody stopped it")
    return f"{sanitize(job.failure) or 'AWS gave no reason'} ({blame_of(job.failure)})"
