"""The adapter against the embedded server's own faults, which hit real requests."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from image_sync.domain import DatasetRef
from image_sync.errors import Ambiguous, ImageSyncError, Permanent, Refused, Transient, Unauthorised
from image_sync.mvi_server.auth import Credentials
from image_sync.mvi_server.faults import Action, Fault
from image_sync.mvi_server.limits import Limits
from image_sync.mvi_server.server import MviServer
from image_sync.platforms.base import Item, Phase, Shipment, TrainingPlan
from image_sync.platforms.http import Timeouts
from image_sync.platforms.mvi.platform import MviPlatform

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
    made = mvi.ensure_dataset(request.node.name)
    mvi.ensure_category(made, "grey")
    return made


def shipment(dataset: DatasetRef, count: int = 3, *, broken: int | None = None) -> Shipment:
    """So many grey pictures; one of them may be none."""
    items = []
    for number in range(count):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (number * 9, number * 9, number * 9)).save(file, "PNG")
        content = b"this is no picture" if number == broken else file.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        items.append(Item(f"g{number}.{sha256[:16]}.png", len(content), sha256, lambda content=content: content))  # type: ignore[misc]
    return Shipment(f"{time.time_ns():032x}", dataset, "grey", tuple(items), time.time())


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
        (upload_fault(Action.SOFT_FAILURE), Ambiguous, 0),
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
    sent = shipment(dataset)
    server.faults.add(fault)

    with pytest.raises(kind) as caught:
        mvi.upload(sent)

    assert type(caught.value) is kind
    give_up = time.monotonic() + 5
    while len(mvi.find(sent)) != stored:
        assert time.monotonic() < give_up
        threading.Event().wait(0.05)


def test_empty_answer_is_looked_up(server: MviServer, mvi: MviPlatform, dataset: DatasetRef) -> None:
    """An upload that is carried out and answered with nothing is confirmed from the listing."""
    server.faults.add(upload_fault(Action.EMPTY))

    assert all(outcome.remote_id for outcome in mvi.upload(shipment(dataset)))


def test_broken_picture_is_refused_alone(mvi: MviPlatform, dataset: DatasetRef) -> None:
    """A file that is no picture is refused with the server's reason; the others of its request are stored."""
    outcomes = mvi.upload(shipment(dataset, broken=1))

    assert [bool(outcome.refused) for outcome in outcomes] == [False, True, False]
    assert [bool(outcome.remote_id) for outcome in outcomes] == [True, False, True]


def test_too_large_a_request_is_refused(mvi: MviPlatform, dataset: DatasetRef) -> None:
    """A request above the server's limit is refused with a hint at the setting, not taken for a broken line."""
    content = b"x" * 3_000_000
    item = Item("big.jpg", len(content), hashlib.sha256(content).hexdigest(), lambda: content)

    with pytest.raises(Refused) as caught:
        mvi.upload(Shipment("b" * 32, dataset, "grey", (item,)))

    assert "upload.batch_bytes" in caught.value.hint


def test_expired_token_in_the_middle(server: MviServer, mvi: MviPlatform, dataset: DatasetRef) -> None:
    """A token that runs out just before an upload costs a login, not a picture."""
    mvi.sign_in()
    before = len(server.requests.matching("POST", "/tokens"))
    server.faults.add(upload_fault(Action.EXPIRE_TOKENS))

    assert len(mvi.upload(shipment(dataset))) == 3
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
    mvi.upload(shipment(dataset))

    with pytest.raises(Permanent):
        mvi.start_training(TrainingPlan("m", dataset, nn_arch="frcnn"))


def test_status_call_that_fails_at_the_end_of_a_training(
    server: MviServer, mvi: MviPlatform, dataset: DatasetRef
) -> None:
    """The known quirk: status answers 500 around the end of a training; the training still counts as trained."""
    for category in ("grey", "other"):
        sent = shipment(dataset, 6)
        mvi.upload(Shipment(sent.batch_id, dataset, category, sent.items, sent.claimed_at))
    task = mvi.start_training(TrainingPlan("quirky", dataset, strategy={"max_iter": 100}))
    server.faults.add(Fault(Action.STATUS, path="/status$", status=500, count=None))

    phases = [mvi.progress(task).phase]
    give_up = time.monotonic() + 60
    while phases[-1] is not Phase.TRAINED:
        assert time.monotonic() < give_up
        assert phases[-1] is not Phase.FAILED
        threading.Event().wait(0.05)
        phases.append(mvi.progress(task).phase)

    assert mvi.progress(task).accuracy is not None
