"""The names of jobs, models and endpoints: made from what is known before the call, so that a lost answer is no matter.

SageMaker takes letters, digits and single hyphens between them, at most 63.
"""

from __future__ import annotations

import re

from image_sync.platforms.sagemaker.keys import digest_of, slug_of

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_ATTEMPT = re.compile(r"-r([0-9]{1,2})$")
LONGEST = 63


def is_name(text: str) -> bool:
    """Whether SageMaker would take it as the name of a job, model or endpoint."""
    return len(text) <= LONGEST and _NAME.fullmatch(text) is not None


def mark_of(uri: str, dataset: str) -> str:
    """What the names of all jobs of a dataset hold: other datasets and buckets in the account have other marks."""
    return digest_of(uri, dataset, digits=6)


def job_of(model: str, mark: str) -> str:
    """The training job for a model of this name. At most 56 characters, so that attempts and settings can be added."""
    return f"{slug_of(model) or 'model'}-{mark}-{digest_of(mark, model)}"


def attempt_of(job: str, number: int) -> str:
    """The job for the n-th attempt at a training, from 0."""
    return f"{job}-r{number + 1}" if number else job


def root_of(job: str) -> str:
    """The job of the first attempt, by which the training and its model are known."""
    return _ATTEMPT.sub("", job)


def endpoint_of(dataset: str, mark: str) -> str:
    """The endpoint of a dataset."""
    return f"{dataset[: LONGEST - 7].rstrip('-')}-{mark}"
