"""What ``platforms/base.py`` promises, proved on each adapter, bare and with patience around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from image_sync.domain import Annotation, DatasetRef
from image_sync.errors import Ambiguous, Transient
from image_sync.platforms.base import MemoryState
from image_sync.platforms.http import Timeouts
from image_sync.platforms.mobius.platform import MobiusPlatform
from image_sync.platforms.mvi.platform import MviPlatform
from image_sync.platforms.retry import Retrying
from image_sync_contract import *  # noqa: F403 - every test of the suite
from image_sync_contract import Marks, Rig, marks
from image_sync_server.faults import Action, Fault
from image_sync_server.mobius.server import MobiusServer
from image_sync_server.mvi.auth import Credentials
from image_sync_server.mvi.server import MviServer
from support.memory import MemoryPlatform
from support.mobius import fault as mobius_fault
from support.sagemaker import Aws, somebody

ROUTES = {
    "upload": ("POST", r"/files$"),
    "start_training": ("POST", r"/dltasks$"),
    "annotate": ("POST", r"/labels$"),
    "undeploy": ("DELETE", r"/webapis/"),
    "import_model": ("POST", r"/trained-models/import$"),
    "ensure_dataset": ("POST", r"/datasets$"),
    "category": ("POST", r"/categories$"),
}


CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _memory() -> Rig:
    platform = MemoryPlatform()

    def lose_answer(method: str) -> None:
        if method == "category":  # made in the same breath as a picture is stored
            return
        # Only uploads and trainings may leave a caller in doubt; the others say "try again".
        doubtful = method in {"upload", "start_training", "import_model"}
        platform.fail_next(method, Ambiguous("lost") if doubtful else Transient("lost"), after=True)

    return Rig(
        platform,
        lose_answer,
        lambda method: platform.fail_next(method, Transient("busy", retry_after=1)),
        lambda _dataset, remote_id: marks(platform.annotation(remote_id) or Annotation(0, 0)),
    )


def _mvi(server: MviServer) -> Rig:
    platform = MviPlatform(
        server.url + "/visual-inspection/",
        stop=threading.Event(),
        username="ann",
        password="correct horse",
        timeouts=Timeouts(5, 20, 40),
    )

    def fault(action: Action, method: str) -> None:
        verb, path = ROUTES[method]
        server.faults.add(Fault(action, method=verb, path=path, status=429, retry_after=1))

    def marked(dataset: DatasetRef, remote_id: str) -> list[Marks]:
        path = f"/datasets/{dataset.id}/files/{remote_id}/labels"
        shown = platform._api._call(dict[str, Any], "GET", path, "Looking")
        return sorted((one["name"], *(one["bndbox"][at] for at in CORNERS)) for one in shown["labels"])

    return Rig(platform, partial(fault, Action.LOSE_ANSWER), partial(fault, Action.STATUS), marked)


S3_ROUTES = {
    "upload": "PUT .*/(train|validation)/",
    "start_training": "CreateTrainingJob",
    "ensure_dataset": "PUT .*/dataset.json",
    "category": "PUT .*/classes.json",
    "annotate": "PUT .*/annotations/",
}


def _sagemaker(aws: Aws) -> Rig:
    platform = aws.platform()
    return Rig(
        platform,
        lambda method: aws.happen("lose", S3_ROUTES[method]),
        # Each picture is a request of its own: both that the test sends are turned away.
        lambda method: aws.happen("refuse", S3_ROUTES[method], times=2),
        lambda dataset, remote_id: marks(
            platform.pictures.annotation(platform.pictures._datasets.place(dataset), remote_id) or Annotation(0, 0)
        ),
        names_are_tokens=True,
        tells_batches=False,
        sidecar=".json",
        annotates_batches=True,
        imports=False,
        detector="ssd",
    )


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    """AWS, as far as we need it, and credentials for it."""
    with somebody(), Aws() as running:
        yield running


MOBIUS_ROUTES = {"upload": "^/system/database/image/add", "start_training": "^/custom/train/"}


def _mobius(emulator: MobiusServer) -> Rig:
    platform = MobiusPlatform(
        emulator.url, stop=threading.Event(), state=MemoryState(), tags="dataset", grace=1, timeouts=Timeouts(5, 20, 40)
    )

    def fault(kind: str, method: str) -> None:
        if method in MOBIUS_ROUTES:  # datasets and categories are names of ours only
            emulator.faults.add(mobius_fault(kind, path=MOBIUS_ROUTES[method], count=1))

    return Rig(platform, partial(fault, "lost-answer"), partial(fault, "429"), lambda *_: [], imports=False)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MobiusServer]:
    """The emulator of a Mobius SDK."""
    with MobiusServer(tmp_path_factory.mktemp("mobius")) as emulator:
        emulator.start()
        yield emulator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MviServer]:
    """The embedded server, with a user."""
    with MviServer(tmp_path_factory.mktemp("mvi"), credentials=Credentials("ann", "correct horse")) as server:
        server.start()
        yield server


MAKERS: dict[str, tuple[str, Callable[[Any], Rig]]] = {
    "memory": ("", lambda _server: _memory()),
    "mvi": ("server", _mvi),
    "sagemaker": ("aws", _sagemaker),
    "mobius": ("emulator", _mobius),
}


@pytest.fixture(params=[*MAKERS, *(f"retrying {name}" for name in MAKERS)])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Each adapter in turn, bare and with patience around it."""
    name: str = request.param
    needs, make = MAKERS[name.rpartition(" ")[2]]
    server = request.getfixturevalue(needs) if needs else None
    rig = make(server)
    if name.startswith("retrying"):
        rig.platform = Retrying(rig.platform, threading.Event(), first=0.01)
    yield rig
    rig.platform.close()
    if server is not None:
        server.faults.clear()
