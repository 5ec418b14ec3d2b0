"""Trainings: started once by name, followed through their attempts, judged by how AWS says that they ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from image_sync.config import hyperparameters
from image_sync.config.sagemaker import SageMaker
from image_sync.config.strategy import is_detection
from image_sync.domain import DatasetRef
from image_sync.errors import Ambiguous, NotFound, PlatformError, Refused
from image_sync.log import get_logger
from image_sync.platforms.base import Phase, Progress, TrainingPlan
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.datasets import Datasets, Place
from image_sync.platforms.sagemaker.job import request
from image_sync.platforms.sagemaker.jobs import Attempt, Blame, Jobs, Origin, blame_of, retried
from image_sync.platforms.sagemaker.lists import Lists
from image_sync.platforms.sagemaker.names import attempt_of, job_of, root_of
from image_sync.platforms.sagemaker.outcomes import NoRoom, Taken, sanitize
from image_sync.platforms.sagemaker.plan import network_of
from image_sync.platforms.sagemaker.snapshot import Snapshot
from image_sync.platforms.sagemaker.spoilers import LOG_GROUP, Spoilers
from image_sync.platforms.sagemaker.wire import TrainingJob

_log = get_logger(__name__)

_WAITING = {
    "Starting",
    "Pending",
    "Interrupted",
    "Restarting",
    "LaunchingMLInstances",
    "PreparingTrainingStack",
    "DownloadingTrainingImage",
}
_PHASES = {
    "InProgress": Phase.RUNNING,
    "Stopping": Phase.RUNNING,
    "Completed": Phase.TRAINED,
    "Failed": Phase.FAILED,
    "Stopped": Phase.FAILED,
}
_STOPPED = {
    "MaxRuntimeExceeded": "it was stopped after sagemaker.max_runtime; allow more, or use a quicker machine",
    "MaxWaitTimeExceeded": "no spare machine was free within sagemaker.max_wait; allow more, or train without spot",
}
_MEANING = {
    Blame.OURS: "the pictures or the parameters are to blame: a repeat would fail again",
    Blame.ALGORITHM: "it failed inside the algorithm; the job's log at CloudWatch has more",
    Blame.CAPACITY: "AWS had no such machine free; name more in sagemaker.instance_types",
    Blame.AWS: "AWS says that it is to blame",
}
_ACCURACY = {False: ("validation:accuracy", "validation:accuracy:epoch"), True: ("validation:mAP",)}
_PROGRESS = "train:progress"
_PERCENT = 100.0
_SHOWN = 5
_ROUNDS = 3
_PAUSE = 900.0
"""Seconds until a machine that AWS did not have is asked for again, times the round."""


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
        spoilers: Spoilers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._setup = setup
        self._datasets = datasets
        self._jobs = jobs
        self._lists = lists
        self._spoilers = spoilers
        self._clock = clock

    def start(self, plan: TrainingPlan) -> str:
        """Start it, unless it was started before: the name decides. Returns the name of its first job."""
        place = self._datasets.place(plan.dataset)
        root = job_of(plan.name, place.mark)
        if self._adopted(place, root):
            return root
        chosen = self._lists.choose(place, plan, self._blank(place, plan))
        chosen = replace(chosen, snapshot=self._warmed(chosen.snapshot))
        body = request(self._setup, place, chosen.snapshot, "", root, self._setup.instance_types[0])
        self._tell_batch(chosen.snapshot, body["HyperParameters"]["mini_batch_size"])  # refused before: nothing is left
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
        if retried(job):
            return self._again(task_id, attempt)
        origin, snapshot = self._jobs.origin(job), self._jobs.snapshot(job)
        phase = _PHASES.get(job.TrainingJobStatus, Phase.RUNNING)
        if phase is Phase.RUNNING and job.SecondaryStatus in _WAITING:
            phase = Phase.WAITING
        epochs = _whole(job.HyperParameters.get("epochs", ""))
        return Progress(
            phase,
            iteration=_iteration(job, phase, epochs),
            iterations=epochs,
            loss=job.metric("train:cross_entropy", "train:loss"),
            accuracy=accuracy_of(job),
            anew="" if snapshot is None else snapshot.cold,
            billed=job.BillableTimeInSeconds,
            log=log_of(job.TrainingJobName),
            **(self._why_it_failed(job, origin) if phase is Phase.FAILED else {}),
        )

    def stop(self, task_id: str) -> None:
        """Stop its newest job; a mark in the bucket keeps every machine from making another attempt."""
        job = self._jobs.last(task_id).job
        origin = self._jobs.origin(job)
        if job.TrainingJobStatus == "Stopped":
            return
        if origin is None or (job.TrainingJobStatus in {"Completed", "Failed"} and not retried(job)):
            raise Refused(f"The training job {sanitize(task_id)} has ended already: {job.TrainingJobStatus}")
        self._api.put(origin.place.layout.stopped(task_id), b"")
        job = self._jobs.last(task_id).job  # an attempt that was made before the mark was seen
        if job.TrainingJobStatus == "InProgress":
            self._api.stop_training_job(job.TrainingJobName)

    def log(self, task_id: str) -> Iterator[str]:
        """What its newest job wrote."""
        job = self._jobs.last(task_id).job
        try:
            yield from self._api.log_lines(LOG_GROUP, f"{job.TrainingJobName}/")
        except NotFound:
            return  # the first training of an account makes the group

    def _why_it_failed(self, job: TrainingJob, origin: Origin | None) -> dict[str, Any]:
        """The reason, and whether a repeat can mend it: only when a picture was to blame, which is left out then."""
        reason = _reason(job)
        found = {} if origin is None or job.TrainingJobStatus != "Failed" else self._spoilers.find(origin.place, job)
        if found:
            names = ", ".join(sorted(found)[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" * (len(found) > _SHOWN))
            reason = f"{reason}; left out from now on: {names}"
        billed = "" if job.BillableTimeInSeconds is None else f"; {job.BillableTimeInSeconds:g} s billed"
        return {"reason": f"{reason}{billed}", "repeat": bool(found)}

    def _blank(self, place: Place, plan: TrainingPlan) -> Snapshot:
        detection = plan.detection or is_detection(plan.nn_arch)
        nn_arch = plan.nn_arch or None
        if hyperparameters.network(nn_arch) is None:
            known = ", ".join(hyperparameters.networks())
            raise Refused(f"SageMaker has no network {sanitize(plan.nn_arch)}", hint=f"model.nn_arch is one of {known}")
        reading = hyperparameters.read(plan.strategy, detection=detection, nn_arch=nn_arch)
        if reading.mistakes:
            told = "; ".join(f"{key} {text}" for key, text in reading.mistakes)
            raise Refused(f"model.strategy cannot be used: {told}")
        return Snapshot(
            name=plan.name,
            dataset=place.ref.id,
            detection=detection,
            classes=(),
            samples=0,
            validating=0,
            values=reading.values,
            max_iter=reading.max_iter,
            base=plan.base,
        )

    @staticmethod
    def _tell_batch(snapshot: Snapshot, used: str) -> None:
        asked = snapshot.values.get("mini_batch_size")
        if asked is not None and used != asked:
            _log.warning(
                "training.batch_reduced",
                model=snapshot.name,
                mini_batch_size=int(used),
                configured=int(asked),
                trained_on=snapshot.samples,
                validating=snapshot.validating,
                reason="a batch holds no more pictures than either side has, and as many for each GPU",
            )

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
            except Ambiguous as error:
                self._settle(job, error)
            return
        if refused is not None:
            raise refused

    def _settle(self, job: str, doubt: Ambiguous) -> None:
        """The answer got lost: is the job there? If not now, it may still come, and the caller has to ask later."""
        try:
            found = self._jobs.job(job)
        except PlatformError:
            raise doubt from None
        if found is None:
            raise doubt
        _log.info("training.found", job=job, reason="the answer to its start got lost")

    def _adopted(self, place: Place, root: str) -> bool:
        """Whether the job is there, and ours. Raises Refused when the name is somebody else's."""
        job = self._jobs.job(root)
        if job is None:
            return False
        origin = self._jobs.origin(job)
        if origin is None or not origin.folder.startswith(f"{place.layout.jobs}{root}/"):
            raise Refused(f"There is a training job {root} that is not of this dataset")
        return True

    def _warmed(self, snapshot: Snapshot) -> Snapshot:
        """The same with the model to continue from, or with the reason why it begins with AWS's pretrained network."""
        if not snapshot.base:
            return snapshot
        try:
            job = self._jobs.last(snapshot.base).job
        except NotFound:
            job = None
        before = None if job is None else self._jobs.snapshot(job)
        cold = "it is not there, or has no model"
        if job is not None and before is not None and job.TrainingJobStatus == "Completed":
            cold = _difference(before, snapshot)
            if not cold:
                return replace(snapshot, base_uri=job.ModelArtifacts.S3ModelArtifacts)
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
        here = machines.index(job.ResourceConfig.InstanceType) if job.ResourceConfig.InstanceType in machines else -1
        turn = here + (blame_of(job.FailureReason) is Blame.CAPACITY)
        ended = job.TrainingEndTime or job.LastModifiedTime or job.CreationTime
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
            _log.warning("training.again", job=attempt_of(root, number), machine=order[0], reason=job.FailureReason)
        return Progress(Phase.WAITING)


def log_of(job: str) -> str:
    """Where a person finds the log of a job."""
    return f"CloudWatch, {LOG_GROUP}, {job}/"


def accuracy_of(job: TrainingJob) -> float | None:
    """Its held-out accuracy; for a detection its mean average precision."""
    value = job.metric(*_ACCURACY["base_network" in job.HyperParameters])
    return None if value is None else min(1.0, max(0.0, value))


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


def _iteration(job: TrainingJob, phase: Phase, epochs: int | None) -> int | None:
    if epochs is None:
        return None
    percent = job.metric(_PROGRESS)
    if phase is Phase.TRAINED and job.HyperParameters.get("early_stopping") != "True":
        return epochs
    return None if percent is None else int(epochs * min(percent, _PERCENT) / _PERCENT)


def _reason(job: TrainingJob) -> str:
    if job.TrainingJobStatus == "Stopped":
        return _STOPPED.get(job.SecondaryStatus, "somebody stopped it")
    reason = sanitize(job.FailureReason) or "AWS gave no reason"
    return f"{reason} ({_MEANING[blame_of(job.FailureReason)]})"


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
