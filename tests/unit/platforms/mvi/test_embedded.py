"""The adapter against the embedded server's own faults, which hit real requests."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from PIL import Image

from image_sync.domain import Batch, DatasetRef
from image_sync.errors import Ambiguous, ImageSyncError, Permanent, Refused, Transient, Unauthorised, Unfit
from image_sync.platforms.base import Model, Phase, TrainingPlan
from image_sync.platforms.http import Denied, Timeouts
from image_sync.platforms.mvi.platform import MviPlatform
from image_sync.platforms.retry import Retrying
from image_sync_contract import held, read_held
from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.auth import Credentials
from image_sync_server.mvi.fault_presets import preset
from image_sync_server.mvi.pictures import Limits
from image_sync_server.mvi.server import MviServer
from support.mvi_server import Caller, until

KEY = "AbC1-d2E3-fG4h-5IjK"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MviServer]:
    """The embedded server, with a user, a key and a small limit."""
    folder = tmp_path_factory.mktemp("mvi")
    with MviServer(folder, credentials=Credentials("ann", "correct", KEY), limits=Limits(body=100_000)) as server:
        server.start()
        yield server


@pytest.fixture
def mvi(server: MviServer) -> Iterator[MviPlatform]:
    """The platform, signed in by password."""
    platform = MviPlatform(
        server.url,
        stop=threading.Event(),
        username="ann",
        password="correct",
        timeouts=Timeouts(2, 1, 3),
    )
    yield platform
    platform.close()
    server.faults.clear()


@pytest.fixture
def dataset(mvi: MviPlatform, request: pytest.FixtureRequest) -> DatasetRef:
    """A dataset of this test's own, with a category."""
    made = mvi.pictures.ensure_dataset(request.node.name)
    mvi.pictures.ensure_category(made, "grey")
    return made


def batch_of(dataset: DatasetRef, count: int = 3, *, broken: int | None = None) -> Batch:
    """So many grey pictures; one of them may be none."""
    items = []
    for number in range(count):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (number * 9, number * 9, number * 9)).save(file, "PNG")
        content = b"this is no picture" if number == broken else file.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        items.append(held(f"g{number}.{sha256[:16]}.png", len(content), sha256, lambda content=content: content))  # type: ignore[misc]
    return Batch(f"{time.time_ns():032x}", dataset, "grey", tuple(items), time.time())


@pytest.fixture(scope="module")
def model(server: MviServer) -> Model:
    """A trained model."""
    platform = MviPlatform(server.url, stop=threading.Event(), api_key=KEY)
    made = platform.pictures.ensure_dataset("for a model")
    for category in ("grey", "other"):
        sent = batch_of(made, 6)
        platform.pictures.upload(Batch(sent.id, made, category, sent.pictures, sent.claimed_at), read_held)
    task = platform.trainings.start(TrainingPlan("a model", made, strategy={"max_iter": 60}))
    give_up = time.monotonic() + 60
    while (found := platform.models.of_task(task)) is None:
        assert time.monotonic() < give_up
        threading.Event().wait(0.05)
    platform.close()
    return found


@pytest.fixture
def patient(mvi: MviPlatform) -> Retrying:
    """The platform with the wrapper that repeats; a hurried one."""
    mvi.models.poll = mvi._api.poll = 0.05
    mvi._api._client._timeouts = Timeouts(1, 0.7, 0.7)
    return Retrying(mvi, threading.Event(), first=0.01)


def upload_fault(action: Action, **more: object) -> Fault:
    """A fault of the next upload."""
    return Fault(action, method="POST", path="/files$", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "kind", "stored"),
    [
        (upload_fault(Action.STATUS, status=503), Ambiguous, 0),
        (upload_fault(Action.STATUS, status=400), Refused, 0),
        (upload_fault(Action.STATUS, status=429, retry_after=3), Transient, 0),
        (upload_fault(Action.HTML, status=502), Ambiguous, 0),
        (upload_fault(Action.SOFT_FAILURE), Denied, 0),
        (upload_fault(Action.RESET), Ambiguous, 0),
        (upload_fault(Action.LOSE_ANSWER), Ambiguous, 3),
        (upload_fault(Action.CUT_ANSWER), Ambiguous, 3),
        (upload_fault(Action.LATE, seconds=0.2), Ambiguous, 3),
        (upload_fault(Action.SLOW, seconds=1.5), Ambiguous, 0),
    ],
)
def test_upload_faults(
    server: MviServer, mvi: MviPlatform, dataset: DatasetRef, fault: Fault, kind: type[ImageSyncError], stored: int
) -> None:
    """Each fault becomes the error that says what it proves, and find then tells the truth."""
    sent = batch_of(dataset)
    server.faults.add(fault)

    with pytest.raises(kind) as caught:
        mvi.pictures.upload(sent, read_held)

    assert type(caught.value) is kind
    give_up = time.monotonic() + 5
    while len(mvi.pictures.find(sent)) != stored:
        assert time.monotonic() < give_up
        threading.Event().wait(0.05)


def test_empty_answer_is_looked_up(server: MviServer, mvi: MviPlatform, dataset: DatasetRef) -> None:
    """An upload that is carried out and answered with nothing is confirmed from the listing."""
    server.faults.add(upload_fault(Action.EMPTY))

    assert all(outcome.remote_id for outcome in mvi.pictures.upload(batch_of(dataset), read_held))


def test_broken_picture_is_refused_alone(mvi: MviPlatform, dataset: DatasetRef) -> None:
    """A file that is no picture is refused with the server's reason; the others of its request are stored."""
    outcomes = mvi.pictures.upload(batch_of(dataset, broken=1), read_held)

    assert [bool(outcome.refused) for outcome in outcomes] == [False, True, False]
    assert [bool(outcome.remote_id) for outcome in outcomes] == [True, False, True]


def test_too_large_a_request_is_refused(mvi: MviPlatform, dataset: DatasetRef) -> None:
    """A request above the server's limit is refused with a hint at the setting, not taken for a broken line."""
    content = b"x" * 3_000_000
    item = held("big.jpg", len(content), hashlib.sha256(content).hexdigest(), lambda: content)

    with pytest.raises(Refused) as caught:
        mvi.pictures.upload(Batch("b" * 32, dataset, "grey", (item,)), read_held)

    assert "upload.batch_bytes" in caught.value.hint


def test_expired_token_in_the_middle(server: MviServer, mvi: MviPlatform, dataset: DatasetRef) -> None:
    """A token that runs out just before an upload costs a login, not a picture."""
    mvi.sign_in()
    before = len(server.requests.matching("POST", "/tokens"))
    server.faults.add(upload_fault(Action.EXPIRE_TOKENS))

    assert len(mvi.pictures.upload(batch_of(dataset), read_held)) == 3
    assert len(server.requests.matching("POST", "/tokens")) == before + 1


@pytest.mark.parametrize(("key", "welcome"), [(KEY, True), ("AbC1-d2E3-fG4h-XXXX", False)])
def test_api_key(server: MviServer, key: str, welcome: bool) -> None:
    """The right key is let in, a wrong one is told so."""
    platform = MviPlatform(server.url, stop=threading.Event(), api_key=key, timeouts=Timeouts(2, 2, 5))
    if welcome:
        platform.sign_in()
    else:
        with pytest.raises(Unauthorised, match="API key was refused"):
            platform.sign_in()
    platform.close()


def test_detection_without_labels_is_refused_at_once(mvi: MviPlatform, dataset: DatasetRef) -> None:
    """A detection architecture asks for labels, which our pictures have not."""
    mvi.pictures.upload(batch_of(dataset), read_held)

    with pytest.raises(Permanent):
        mvi.trainings.start(TrainingPlan("m", dataset, nn_arch="frcnn"))


def test_status_call_that_fails_at_the_end_of_a_training(
    server: MviServer, mvi: MviPlatform, dataset: DatasetRef
) -> None:
    """The known quirk: status answers 500 around the end of a training; the training still counts as trained."""
    for category in ("grey", "other"):
        sent = batch_of(dataset, 6)
        mvi.pictures.upload(Batch(sent.id, dataset, category, sent.pictures, sent.claimed_at), read_held)
    task = mvi.trainings.start(TrainingPlan("quirky", dataset, strategy={"max_iter": 100}))
    server.faults.add(Fault(Action.STATUS, path="/status$", status=500, count=None))

    phases = [mvi.trainings.progress(task).phase]
    give_up = time.monotonic() + 60
    while phases[-1] is not Phase.TRAINED:
        assert time.monotonic() < give_up
        assert phases[-1] is not Phase.FAILED
        threading.Event().wait(0.05)
        phases.append(mvi.trainings.progress(task).phase)

    assert mvi.trainings.progress(task).accuracy is not None


CARRIED_OUT = [
    Fault(Action.LOSE_ANSWER),
    Fault(Action.CUT_ANSWER),
    Fault(Action.TRUNCATE),
    Fault(Action.EMPTY),
    Fault(Action.TRICKLE, seconds=1.5),
    Fault(Action.STATUS_AFTER, status=500),
    Fault(Action.STATUS_AFTER, status=503),
    Fault(Action.SOFT_FAILURE_AFTER),
    Fault(Action.LATE, seconds=0.3),
]
NOT_CARRIED_OUT = [
    Fault(Action.STATUS, status=429, retry_after=0.1),
    Fault(Action.RESET),
    Fault(Action.RESET_BODY),
    Fault(Action.HTML, status=502),
    Fault(Action.STATUS, status=500),
]


def ensure_category(platform: Retrying, dataset: DatasetRef, name: str) -> object:
    """What an upload does first, with the patience that it has there."""
    pictures: Any = platform._platform.pictures
    return platform._call("category", lambda: pictures.ensure_category(dataset, name))


@dataclass(frozen=True)
class Making:
    """Something that must be there once: how it is asked for, the request that makes it, and how to count it."""

    path: str
    make: Callable[[Retrying], object]
    count: Callable[[Caller], int]
    clear: Callable[[Caller], object] = lambda _caller: None


@pytest.fixture(params=["dataset", "category", "deployment"])
def making(request: pytest.FixtureRequest, dataset: DatasetRef, model: Model) -> Making:
    """A dataset, a category and a deployment, each new."""
    name = f"new {time.time_ns()}"
    if request.param == "dataset":
        return Making(
            "/datasets",
            lambda platform: platform.pictures.ensure_dataset(name),
            lambda caller: sum(one["name"] == name for one in caller.get("/datasets")),
        )
    if request.param == "category":
        path = f"/datasets/{dataset.id}/categories"
        return Making(
            path,
            lambda platform: ensure_category(platform, dataset, name),
            lambda caller: sum(one["name"] == name for one in caller.get(path)),
        )
    return Making(
        "/webapis",
        lambda platform: platform.models.deploy(model),
        lambda caller: sum(one["_id"] == model.id for one in caller.get("/webapis")),
        lambda caller: caller.call("DELETE", f"/webapis/{model.id}"),
    )


@pytest.mark.parametrize(
    ("fault", "carried_out"), [*((one, True) for one in CARRIED_OUT), *((one, False) for one in NOT_CARRIED_OUT)]
)
def test_what_must_be_there_once_is_there_once(
    server: MviServer, mvi: MviPlatform, patient: Retrying, making: Making, fault: Fault, carried_out: bool
) -> None:
    """A lost, broken, late or false answer to making something ends with one of it; asking again makes no second."""
    caller = Caller(server.url, KEY)
    making.clear(caller)
    mvi._api.patience = 5.0 if carried_out else 0.1
    before = len(server.requests.matching("POST", making.path))
    server.faults.add(replace(fault, method="POST", path=f"{making.path}$"))

    first = making.make(patient)
    again = making.make(patient)

    assert first == again
    assert making.count(caller) == 1
    expected = before + (1 if carried_out else 2)
    until(lambda: len(server.requests.matching("POST", making.path)) >= expected)  # a slow one is noted at its end
    assert len(server.requests.matching("POST", making.path)) == expected
    caller.session.close()


def test_two_that_make_the_same_at_once(server: MviServer, making: Making) -> None:
    """Eight threads on one platform that ask for something new at once get the same one thing."""
    caller = Caller(server.url, KEY)
    making.clear(caller)
    mvi = MviPlatform(server.url, stop=threading.Event(), api_key=KEY)
    mvi.models.poll = 0.05
    patient = Retrying(mvi, threading.Event(), first=0.01)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(making.make(patient))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    mvi.close()

    assert len(found) == 8
    assert all(one == found[0] for one in found)
    assert making.count(caller) == 1
    caller.session.close()


def test_a_category_that_was_deleted_at_the_server_is_made_again_in_the_same_call(
    server: MviServer, mvi: MviPlatform, dataset: DatasetRef
) -> None:
    """Our remembered id is out of date: it is looked up anew, and the pictures are sent or moved all the same."""
    caller = Caller(server.url, KEY)

    def delete() -> None:
        stale = mvi.pictures.ensure_category(dataset, "grey")
        assert caller.call("DELETE", f"/datasets/{dataset.id}/categories/{stale}").status_code == 200

    delete()
    outcomes = mvi.pictures.upload(batch_of(dataset), read_held)
    delete()
    for outcome in outcomes:
        mvi.pictures.relabel(dataset, outcome.remote_id, "grey")

    assert not any(outcome.refused for outcome in outcomes)
    assert {picture.category for picture in mvi.pictures.listing(dataset)} == {"grey"}


def test_a_refusal_tells_whether_the_picture_is_to_blame(
    server: MviServer, mvi: MviPlatform, dataset: DatasetRef
) -> None:
    """What is no picture is unfit for good; what the server could not store may be stored later."""
    for sent in (batch_of(dataset, 1, broken=0), batch_of(dataset, 3, broken=1)):
        refused = [outcome for outcome in mvi.pictures.upload(sent, read_held) if outcome.refused]
        assert [outcome.unfit for outcome in refused] == [True]
    server.faults.add(*preset("not-stored"))
    with pytest.raises(Refused, match="could not be stored") as caught:
        mvi.pictures.upload(batch_of(dataset, 1), read_held)
    assert not isinstance(caught.value, Unfit)
    refused = [outcome for outcome in mvi.pictures.upload(batch_of(dataset, 4), read_held) if outcome.refused]
    assert refused
    assert not any(outcome.unfit for outcome in refused)
