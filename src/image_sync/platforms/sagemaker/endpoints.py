"""The endpoint of a dataset: one, which serves one model, and goes on serving it until the next one is ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from image_sync.config.sagemaker import SageMaker
from image_sync.errors import NotFound, PlatformError, Refused, Transient
from image_sync.log import get_logger
from image_sync.platforms.sagemaker.api import Api, Endpoint, TrainingJob
from image_sync.platforms.sagemaker.datasets import Place
from image_sync.platforms.sagemaker.keys import digest_of, endpoint_of
from image_sync.platforms.sagemaker.outcomes import Taken, sanitize
from image_sync.platforms.sagemaker.request import Snapshot, image_of, tags, vpc

_log = get_logger(__name__)

_SERVING = {"InService", "Updating", "SystemUpdating", "RollingBack"}
_BROKEN = {"Failed", "OutOfService", "UpdateRollbackFailed"}
_VARIANT = "AllTraffic"
_LONGEST_POLL = 15.0
_TIMEOUT = 3600.0
"""Seconds after which a change is no longer waited for."""
_SETTINGS = 6
_LOOKS = 5


class Endpoints:
    """Makes, changes and removes them.

    Args:
        stop: ends every wait.
    """

    def __init__(self, api: Api, setup: SageMaker, stop: threading.Event) -> None:
        self._api = api
        self._setup = setup
        self._stop = stop
        self.poll = 0.25
        """Seconds until the second look; then twice as long each time, up to a quarter of a minute."""

    def name(self, place: Place) -> str:
        """The endpoint's name."""
        return self._setup.endpoint or endpoint_of(place.ref.id, place.mark)

    def serving(self, place: Place) -> str:
        """The id of the model that answers now; empty when none does."""
        found = self._find(self.name(place))
        return _model_in(found.config) if found is not None and found.status in _SERVING else ""

    def deploy(self, place: Place, root: str, job: TrainingJob, snapshot: Snapshot) -> None:
        """Let this model answer, and wait until it does. Another one answers until then.

        Raises:
            Refused: AWS could not bring it into service. Transient: not yet, or the wait was ended.
        """
        name, config = self.name(place), self._make_entries(root, job, snapshot)
        give_up = time.monotonic() + _TIMEOUT
        asked = seen = False
        waiting = self._waiting()
        while True:
            found = self._find(name)
            status = "" if found is None else found.status
            if found is not None and (status, found.config) == ("InService", config):
                break
            # An old state may still be told just after the change was asked for: only after another one it is the end.
            if found is not None and asked and (status in _BROKEN or (seen and status == "InService")):
                why = sanitize(found.failure) or f"the endpoint is {status}"
                raise Refused(f"The model {snapshot.name} could not be brought into service: {why}")
            if found is None:
                labels = tags(self._setup, snapshot.dataset, snapshot.name)
                what = f"Making the endpoint {name}"
                self._make("create_endpoint", what, EndpointName=name, EndpointConfigName=config, Tags=labels)
                asked = True
                _log.info("endpoint.made", endpoint=name, model=snapshot.name)
            elif status in _BROKEN:
                self._remove(name)
                continue
            elif status == "InService" and not asked:
                # The old model answers until the new one can.
                what = f"Updating the endpoint {name}"
                self._make("update_endpoint", what, EndpointName=name, EndpointConfigName=config)
                asked = True
                _log.info("endpoint.updating", endpoint=name, model=snapshot.name, until_then=_model_in(found.config))
            seen = seen or status not in {"", "InService"}
            still = f"The endpoint {name} is not in service with the model {snapshot.name} yet"
            self._wait(give_up, still, next(waiting))
        self._tidy(place, config)

    def undeploy(self, place: Place, root: str) -> None:
        """Take the model from service, and remove the endpoint with everything that was made for it."""
        name = self.name(place)
        found = self._find(name)
        if found is not None and _model_in(found.config) == root:
            give_up, waiting = time.monotonic() + _TIMEOUT, self._waiting()
            while found is not None and found.status in {"Creating", "Updating", "SystemUpdating"}:
                self._wait(give_up, f"The endpoint {name} is being changed and cannot be deleted yet", next(waiting))
                found = self._find(name)
            self._remove(name)
            _log.info("endpoint.removed", endpoint=name, model=root)
        self.sweep(root)

    def sweep(self, root: str) -> None:
        """Remove SageMaker's model and endpoint configurations of a model that does not answer."""
        for config in self._configs(root):
            if _model_in(config) == root:
                self._remove_config(config)
        self._remove_model(root)

    def _make_entries(self, root: str, job: TrainingJob, snapshot: Snapshot) -> str:
        """SageMaker's model and endpoint configuration of a training; the configuration's name."""
        setup = self._setup
        labels = tags(setup, snapshot.dataset, snapshot.name)
        image = setup.image_uri or image_of(setup.region, detection=snapshot.detection)
        model = {
            "ModelName": root,
            "PrimaryContainer": {"Image": image, "ModelDataUrl": job.artifact},
            "ExecutionRoleArn": setup.role,
            "Tags": labels,
            **vpc(setup),
        }
        self._make("create_model", f"Making the model {root}", **model)
        settings = (setup.endpoint_instance_type, str(setup.endpoint_instance_count), setup.volume_kms_key or "")
        name = f"{root}-{digest_of(*settings, digits=_SETTINGS)}"
        variant = {
            "VariantName": _VARIANT,
            "ModelName": root,
            "InstanceType": setup.endpoint_instance_type,
            "InitialInstanceCount": setup.endpoint_instance_count,
        }
        config: dict[str, Any] = {"EndpointConfigName": name, "ProductionVariants": [variant], "Tags": labels}
        if setup.volume_kms_key:
            config["KmsKeyId"] = setup.volume_kms_key
        self._make("create_endpoint_config", f"Making the endpoint configuration {name}", **config)
        return name

    def _make(self, operation: str, what: str, **body: Any) -> None:
        """Make it, unless it is there: its name says what it is.

        What it refers to was made a moment ago, and may not be seen everywhere yet.
        """
        for left in reversed(range(_LOOKS)):
            try:
                self._api.call("sagemaker", operation, what, **body)
            except Taken:
                return
            except NotFound:
                if not left or self._stop.wait(4 * self.poll):
                    raise
            else:
                return

    def _find(self, name: str) -> Endpoint | None:
        try:
            return self._api.endpoint(name)
        except NotFound:
            return None

    def _configs(self, contains: str) -> list[str]:
        what, field = "Listing the endpoint configurations", "EndpointConfigs"
        entries = self._api.entries("sagemaker", "list_endpoint_configs", what, field, NameContains=contains)
        return [str(entry["EndpointConfigName"]) for entry in entries]

    def _remove(self, name: str) -> None:
        """Delete the endpoint and wait until it is."""
        give_up, waiting = time.monotonic() + _TIMEOUT, self._waiting()
        with suppress(NotFound):
            self._api.call("sagemaker", "delete_endpoint", f"Deleting the endpoint {name}", EndpointName=name)
        while self._find(name) is not None:
            self._wait(give_up, f"The endpoint {name} is not deleted yet", next(waiting))

    def _remove_config(self, name: str) -> None:
        what = f"Deleting the endpoint configuration {name}"
        with suppress(NotFound):
            self._api.call("sagemaker", "delete_endpoint_config", what, EndpointConfigName=name)

    def _remove_model(self, name: str) -> None:
        with suppress(NotFound):
            self._api.call("sagemaker", "delete_model", f"Deleting the model {name}", ModelName=name)

    def _tidy(self, place: Place, config: str) -> None:
        """Remove what earlier models of the dataset left; nothing depends on it, so that no failure matters."""
        try:
            for other in self._configs(f"-{place.mark}-"):
                if other != config:
                    self._remove_config(other)
                    if _model_in(other) != _model_in(config):
                        self._remove_model(_model_in(other))
        except PlatformError as error:
            _log.warning("endpoint.not_tidied", endpoint=self.name(place), error=error.what)

    def _waiting(self) -> Iterator[float]:
        """Seconds until the next look, again and again."""
        pause = self.poll
        while True:
            yield pause
            pause = min(2 * pause, _LONGEST_POLL)

    def _wait(self, give_up: float, still: str, pause: float) -> None:
        if time.monotonic() > give_up:
            raise Transient(f"{still} after {_TIMEOUT:g} s", hint="Look at it in SageMaker's console")
        if self._stop.wait(pause):
            raise Transient(f"{still}; it goes on at AWS")


def _model_in(config: str) -> str:
    return config[: -_SETTINGS - 1]
