"""Carries the faults out that happen inside the server: in an upload, and in asking for a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from image_sync_server.faults import Action
from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.pictures import ZIP_SIGNATURES, Received
from image_sync_server.mvi.records import files
from image_sync_server.mvi.request import Request
from image_sync_server.web import Form

_log = structlog.stdlib.get_logger(__name__)
_FEWEST = 2


def _path(dataset_id: str) -> str:
    return f"/datasets/{dataset_id}/files"


def refused(request: Request, dataset_id: str, received: list[Received]) -> list[Received]:
    """The same files, some of them refused if that is switched on."""
    good = [at for at, one in enumerate(received) if one.file is not None]
    faults, path = request.server.faults, _path(dataset_id)
    if len(good) >= _FEWEST and faults.pick("POST", path, Action.PARTIAL):
        fault = "This refusal was asked for."
    elif good and faults.pick("POST", path, Action.NOT_STORED):
        fault = "The file could not be stored. This refusal was asked for."
    else:
        return received
    chosen = {good[at] for at in faults.some_of(len(good))} if len(good) >= _FEWEST else set(good)
    files.discard(one.file.scratch for at, one in enumerate(received) if at in chosen and one.file)
    return [replace(one, file=None, fault=fault) if at in chosen else one for at, one in enumerate(received)]


def lag(request: Request, dataset_id: str, file_ids: list[str]) -> None:
    """Keep new files out of sight if that is switched on; call it in the transaction that adds them."""
    if file_ids and (fault := request.server.faults.pick("POST", _path(dataset_id), Action.LAG)):
        request.store.lag(dataset_id, file_ids, fault.seconds)


def postponed(request: Request, dataset_id: str, work: Callable[[Request], object]) -> BackgroundTask | None:
    """The task that carries an upload with an archive out later, if that is switched on; it takes the form over."""
    if not any(part.start().startswith(ZIP_SIGNATURES) for part in request.form.files):
        return None
    fault = request.server.faults.pick("POST", _path(dataset_id), Action.LATE_ZIP)
    if fault is None:
        return None
    later = replace(request, form=Form(list(request.form.files), dict(request.form.fields)))
    request.form.files.clear()

    async def task() -> None:
        try:
            if await request.server.faults.pause(fault.seconds):
                await run_in_threadpool(work, later)
        except Failure as failure:  # nobody is there to be told
            _log.info("late_zip.failed", dataset=dataset_id, fault=failure.fault)
        finally:
            later.form.discard()

    return BackgroundTask(task)


def stumble(request: Request, task_id: str) -> None:
    """Fail in the way MVI does at the end of a training, if that is switched on.

    Raises:
        Failure: 500.
    """
    if request.server.faults.stumbles(task_id):
        raise Failure(500, "The status cannot be told just now. This failure was asked for.")
