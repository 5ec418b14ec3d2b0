"""Models at MVI: listed, deployed, asked, exported and deleted."""

from __future__ import annotations

import os
import re
import tempfile
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from image_sync.domain import Box, DatasetRef
from image_sync.errors import ImageSyncError, NotFound, PlatformError, Refused, Transient, Unanswered
from image_sync.log import show_path
from image_sync.platforms.base import Model, Prediction
from image_sync.platforms.http import Part, sanitize
from image_sync.platforms.mvi import wire
from image_sync.platforms.mvi.api import Api

_READY = "ready"
_BROKEN = {"failed", "error", "aborted"}
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_ZIP = b"PK\x03\x04"
_PIECE = 2**20
_PNG = b"\x89PNG\r\n\x1a\n"


class Models:
    """The model part of the platform."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.poll = 1.0
        """Seconds between two looks at a deployment."""
        self.deploy_timeout = 600.0
        """Seconds for which a deployment is waited for in one go."""

    def of_dataset(self, dataset: DatasetRef) -> list[Model]:
        """Those of one dataset, newest first."""
        found = [_model(model) for model in self._api.trained_models() if model.dataset_id == dataset.id]
        return sorted(found, key=lambda model: -(model.created_at or 0.0))

    def of_task(self, task_id: str) -> Model | None:
        """The model that a training made: it has the training's id, and in any case its name."""
        wire.checked(task_id, "training")
        try:
            return _model(self._api.trained_model(task_id))
        except Unanswered:
            raise
        except (NotFound, Refused, Transient):
            # Some releases answer an unknown id with an internal error: the lists decide.
            models = self._api.trained_models()
        names = {task.name for task in self._api.tasks() if task.id == task_id} - {""}
        return next((_model(model) for model in models if model.id == task_id or model.name in names), None)

    def deploy(self, model: Model) -> None:
        """Deploy it, unless it is deployed or becoming so, and wait until it is ready."""
        if self._webapi(model) is None:
            self._api.create_once(lambda: self._deployed(model), lambda: self._webapi(model) is not None or None)
        give_up = time.monotonic() + self.deploy_timeout
        while not self._is_deployed(model):
            if time.monotonic() > give_up:
                raise Transient(
                    f"The model {model.name} is not ready {self.deploy_timeout:g} s after it was deployed",
                    hint="Look at it in MVI: it may be waiting for a free GPU",
                    retry_after=self.deploy_timeout,
                )
            if self._api.stop.wait(self.poll):
                raise Transient(f"Stopped waiting for the model {model.name}; its deployment goes on")

    def undeploy(self, model: Model) -> None:
        """Take it from service; one that is not in service is no error."""
        try:
            self._api.delete_webapi(wire.checked(model.id, "model"))
        except NotFound:
            return

    def predict(self, model: Model, picture: bytes) -> list[Prediction]:
        """What it says; MVI's pseudo class for "none of them" is passed on under its own name."""
        suffix = "png" if picture.startswith(_PNG) else "jpg"
        inference = self._api.infer(wire.checked(model.id, "model"), picture, suffix)
        return [Prediction(found.name, confidence, _box(found)) for found, confidence in inference.scores]

    def export(self, model: Model, to: Path) -> Path:
        """Write its archive beside the place, then move it there: a file of that name is always a whole one."""
        target = to / f"{_UNSAFE.sub('_', model.name).strip('.') or model.id}.zip" if to.is_dir() else to
        try:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        except OSError as error:
            raise _unwritable(target, error) from error
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                self._api.export_trained_model(wire.checked(model.id, "model"), _Sink(file, target))
            if _is_torn(part):
                raise Transient(f"The archive of the model {model.name} broke off on its way")
            part.replace(target)
        except OSError as error:
            raise _unwritable(target, error) from error
        finally:
            part.unlink(missing_ok=True)
        return target

    def import_model(self, source: Path) -> Model:
        """Send an exported archive. What is no archive at all is not even sent.

        Once the server has named the new model it is there: that it cannot be shown yet is no failure.
        """
        try:
            archive = Part("files", partial(_pieces, source), source.name, "application/zip", source.stat().st_size)
            whole = zipfile.is_zipfile(source)
        except OSError as error:
            raise _unreadable(source, error) from error
        if not whole:
            shown = show_path(str(source))
            raise Refused(
                f"{shown} is not an exported model", hint="Take a .zip file that `models export` or MVI wrote"
            )
        model_id = self._api.import_trained_model(archive).trained_model_id
        try:
            return _model(self._api.trained_model(model_id))
        except PlatformError:
            return Model(model_id, source.stem, "")

    def delete(self, model: Model) -> None:
        """Delete it; one that is gone already is no error.

        Asked beforehand whether it is deployed: releases refuse that with statuses that mean other things elsewhere.
        """
        if self._webapi(model) is not None:
            raise Refused(f"The model {model.name} is deployed", hint="Undeploy it first: image-sync models undeploy")
        try:
            self._api.delete_trained_model(wire.checked(model.id, "model"))
        except NotFound:
            return

    def _deployed(self, model: Model) -> bool:
        usage = self._api.trained_model(wire.checked(model.id, "model")).usage
        self._api.create_webapi(model.id, model.name, usage or "cic")
        return True

    def _webapi(self, model: Model) -> wire.WebApi | None:
        try:
            return self._api.webapi(wire.checked(model.id, "model"))
        except NotFound:
            return None

    def _is_deployed(self, model: Model) -> bool:
        webapi = self._webapi(model)
        if webapi is not None and webapi.status.lower() in _BROKEN:
            raise Refused(
                f"The deployment of the model {model.name} has failed ({sanitize(webapi.status)})",
                hint="Undeploy it in MVI, then deploy it again",
            )
        return webapi is not None and webapi.status.lower() == _READY


def _pieces(source: Path) -> Iterator[bytes]:
    with source.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _box(found: wire.Found) -> Box | None:
    corners = found.corners
    return None if corners is None else Box(found.name, *corners, polygon=found.outline)


def _is_torn(archive: Path) -> bool:
    """Whether it is a zip archive without its end: some servers do not say how long it will be."""
    with archive.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP and not zipfile.is_zipfile(archive)


class _Sink:
    """Writes to a local file; what goes wrong here must not pass for trouble with the network."""

    def __init__(self, file: BinaryIO, target: Path) -> None:
        self._file = file
        self._target = target

    def __call__(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
        except OSError as error:
            raise _unwritable(self._target, error) from error


def _unreadable(source: Path, error: OSError) -> ImageSyncError:
    return ImageSyncError(
        f"{show_path(str(source))} cannot be read: {error.strerror or error}", hint="Is the path right?"
    )


def _unwritable(target: Path, error: OSError) -> ImageSyncError:
    return ImageSyncError(
        f"The model cannot be written to {show_path(str(target))}: {error.strerror or error}",
        hint="Choose another place, or make room and rights there",
    )


def _model(model: wire.TrainedModel) -> Model:
    return Model(
        id=model.id,
        name=model.name,
        dataset_id=model.dataset_id,
        accuracy=model.accuracy,
        categories=tuple(category.category_name for category in model.categories if category.category_name),
        created_at=wire.seconds(model.created_at),
        deployed=bool(model.deployed),
    )
