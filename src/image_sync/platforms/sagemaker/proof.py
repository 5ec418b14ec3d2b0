"""Proves access step by step, without changing anything, and says what cannot be proved."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from image_sync.config.sagemaker import SageMaker
from image_sync.errors import (
    EXIT_CONFIG,
    EXIT_DONE,
    EXIT_UNAUTHORISED,
    NotFound,
    PlatformError,
    Refused,
    Unauthorised,
)
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.containers import image_of
from image_sync.platforms.sagemaker.outcomes import sanitize

_SERVICE = "sagemaker.amazonaws.com"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at. ``code`` is the exit code it would cause; 0 when nothing is wrong with it."""

    subject: str
    text: str
    hint: str = ""
    code: int = EXIT_DONE
    warning: bool = False


def steps(setup: SageMaker, api: Api, *, detection: bool = False) -> Iterator[Step]:
    """Who we are, the bucket, SageMaker, the role, the quotas; stops where nothing further makes sense."""
    for proof in (_machines, _identity, _bucket, _trainings, partial(_container, detection=detection)):
        for step in proof(setup, api):
            yield step
            if step.code:
                return
    yield from _role(setup, api)
    yield from _quotas(setup, api)


def _machines(setup: SageMaker, api: Api) -> Iterator[Step]:
    """Whether this boto3 knows the machines; a newer one may know more."""
    for key, names in (
        ("instance_types", setup.instance_types),
        ("endpoint_instance_type", (setup.endpoint_instance_type,)),
    ):
        known = api.machines(training=key == "instance_types")
        for name in names:
            if known and name not in known:
                near = difflib.get_close_matches(name, known, 3)
                hint = f"Did you mean {', '.join(near)}? A newer boto3 may know more machines" if near else ""
                yield Step("machine", f"sagemaker.{key} has {name}, which AWS does not have", hint, EXIT_CONFIG)


def _identity(setup: SageMaker, api: Api) -> Iterator[Step]:
    try:
        arn = api.identity()
    except Unauthorised as error:
        yield _failed("aws", error)
        return
    except PlatformError as error:  # a closed network may have no way to STS; the others will tell
        yield Step("aws", f"cannot tell who we are: {error.what}", error.hint, warning=True)
        return
    yield Step("aws", f"we are {sanitize(arn)}")
    ours, theirs = arn.split(":")[4:5], setup.role.split(":")[4:5]
    if ours != theirs:
        hint = f"Name a role of the account {sanitize(''.join(ours))}, or be somebody of {''.join(theirs)}"
        yield Step("aws", "sagemaker.role is of another account: SageMaker will not take it", hint, EXIT_CONFIG)


def _bucket(setup: SageMaker, api: Api) -> Iterator[Step]:
    try:
        region = api.bucket_region()
        if region and region != setup.region:
            hint = "SageMaker reads only buckets of its own region: correct one of the two"
            text = f"{setup.bucket} lies in {region}, but sagemaker.region is {setup.region}"
            yield Step("bucket", text, hint, EXIT_CONFIG)
            return
        api.some(f"{setup.prefix}/", 1)
    except NotFound as error:
        hint = f"Make it: aws s3 mb s3://{setup.bucket} --region {setup.region}"
        yield Step("bucket", f"there is no bucket {setup.bucket}", hint, error.exit_code)
    except PlatformError as error:
        yield _failed("bucket", error)
    else:
        yield Step("bucket", f"{setup.uri} is there and may be listed, in {setup.region}")


def _trainings(_setup: SageMaker, api: Api) -> Iterator[Step]:
    try:
        next(api.training_jobs(contains="image-sync"), None)
    except PlatformError as error:
        yield _failed("sagemaker", error)
    else:
        yield Step("sagemaker", "answers and lets us list training jobs")


def _container(setup: SageMaker, _api: Api, *, detection: bool) -> Iterator[Step]:
    try:
        image = setup.image_uri or image_of(setup.region, detection=detection)
    except Refused as error:
        yield Step("container", error.what, error.hint, EXIT_CONFIG)
    else:
        yield Step("container", sanitize(image))


def _role(setup: SageMaker, api: Api) -> Iterator[Step]:
    name = setup.role.rpartition("/")[2]
    try:
        trust = api.trust_of(setup.role)
    except NotFound:
        hint = "Make it with the policies that `image-sync check --policy` prints"
        yield Step("role", f"there is no role {name}", hint, EXIT_UNAUTHORISED)
    except PlatformError as error:
        yield Step("role", f"{name} cannot be looked at: {error.what}", "This alone does no harm.", warning=True)
    else:
        if _trusts(trust):
            yield Step("role", f"{name} may be taken by SageMaker; what it may do shows at the first training")
        else:
            hint = "Add the trust policy that `image-sync check --policy` prints"
            yield Step("role", f"{name} may not be taken by SageMaker", hint, EXIT_UNAUTHORISED)


def _trusts(document: str) -> bool:
    content = json.loads(document)
    if isinstance(content, str):
        content = json.loads(content)
    return _SERVICE in json.dumps(content)


def _quotas(setup: SageMaker, api: Api) -> Iterator[Step]:
    kind = "spot training job" if setup.spot else "training job"
    wanted = {f"{name} for {kind} usage": setup.instance_count for name in setup.instance_types}
    wanted[f"{setup.endpoint_instance_type} for endpoint usage"] = setup.endpoint_instance_count
    try:
        found = {name: value for name, value in api.quotas() if name in wanted}
    except PlatformError as error:
        hint = "A training that exceeds a quota is tried again later."
        yield Step("quota", f"cannot be told: {error.what}", hint, warning=True)
        return
    for name, need in wanted.items():
        if name not in found:
            yield Step("quota", f"{name}: AWS tells none", warning=True)
        elif found[name] < need:
            hint = "Ask for more at Service Quotas, Amazon SageMaker; until then nothing can run on it."
            yield Step("quota", f"{name}: {found[name]:g}, but {need} needed", hint, warning=True)
        else:
            yield Step("quota", f"{name}: {found[name]:g}")


def _failed(subject: str, error: PlatformError) -> Step:
    return Step(subject, error.what, error.hint, error.exit_code)
