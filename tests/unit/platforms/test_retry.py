"""The wrapper that calls again, around the platform in memory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from image_sync.domain import Batch, DatasetRef, RemotePicture
from image_sync.errors import Ambiguous, ImageSyncError, PlatformError, Refused, Transient, Unauthorised
from image_sync.platforms.base import Models, Pictures, Platform, TrainingPlan, Trainings
from image_sync.platforms.retry import Retrying
from image_sync_contract import held, read_held
from support.memory import MemoryPlatform


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log lines go nowhere: commands that other tests call leave a stream behind that is closed by now."""
    with capture_logs():
        yield


def quick(platform: Platform, stop: threading.Event | None = None, **more: float) -> Retrying:
    """The wrapper, hardly waiting."""
    return Retrying(platform, stop or threading.Event(), first=0.001, **more)  # type: ignore[arg-type]


def batch_of(dataset: DatasetRef, count: int = 3) -> Batch:
    """A batch of so many pictures."""
    items = tuple(held(f"{n}.jpg", 1, "0" * 64, lambda n=n: bytes([n])) for n in range(count))  # type: ignore[misc]
    return Batch("b" * 32, dataset, "cat", items)


CALLS: dict[str, Callable[[Platform, DatasetRef], object]] = {
    "upload": lambda platform, dataset: platform.pictures.upload(batch_of(dataset), read_held),
    "find": lambda platform, dataset: platform.pictures.find(batch_of(dataset)),
    "start_training": lambda platform, dataset: platform.trainings.start(TrainingPlan("m", dataset)),
}


def test_transient_errors_are_retried_and_logged() -> None:
    """A call that did nothing is made again, with one structured line for each repeat."""
    memory = MemoryPlatform()
    memory.fail_next("sign_in", Transient("no connection"), times=2)
    with capture_logs() as lines:
        quick(memory).sign_in()

    assert memory.calls["sign_in"] == 3
    assert [(line["event"], line["call"], line["attempt"], line["error"]) for line in lines] == [
        ("platform.retry", "sign_in", 1, "no connection"),
        ("platform.retry", "sign_in", 2, "no connection"),
    ]


@pytest.mark.parametrize("times", [2, 9])
def test_whoever_asks_hears_of_repeats_while_they_last(times: int) -> None:
    """The error is told before each repeat, and None when the call has ended, well or not."""
    heard: list[PlatformError | None] = []
    memory = MemoryPlatform()
    memory.fail_next("sign_in", Transient("no connection"), times=times)
    wrapped = Retrying(memory, threading.Event(), first=0.001, attempts=3, notice=heard.append)
    with contextlib.suppress(Transient):
        wrapped.sign_in()

    assert [error and error.what for error in heard] == ["no connection", "no connection", None]


@pytest.mark.parametrize("error", [Ambiguous("lost"), Refused("no"), ValueError("bug")])
@pytest.mark.parametrize("method", CALLS)
def test_nothing_else_is_retried(method: str, error: Exception) -> None:
    """Doubt, refusals and mistakes are passed on at once: repeating them would do harm or no good."""
    memory = MemoryPlatform()
    dataset = memory.ensure_dataset("d")
    memory.fail_next(method, error)  # type: ignore[arg-type]
    wrapped = quick(memory)

    with pytest.raises(type(error)):
        CALLS[method](wrapped, dataset)

    assert memory.calls[method] == 1


@pytest.mark.parametrize("method", CALLS)
def test_who_is_turned_away_knocks_again(method: str) -> None:
    """Nothing was done, and a moment later the same key may be good: the call is made again, a few times."""
    memory = MemoryPlatform()
    dataset = memory.ensure_dataset("d")
    memory.fail_next(method, Unauthorised("who"), times=9)

    with pytest.raises(Unauthorised):
        CALLS[method](quick(memory), dataset)

    assert memory.calls[method] == 4


def test_attempts_are_bounded() -> None:
    """After the last attempt the platform's own error comes out."""
    memory = MemoryPlatform()
    errors = [Transient(str(number)) for number in range(9)]
    for error in errors:
        memory.fail_next("sign_in", error)

    with pytest.raises(Transient) as caught:
        quick(memory, attempts=4).sign_in()

    assert caught.value is errors[3]
    assert memory.calls["sign_in"] == 4


def test_upload_that_was_not_sent_is_sent_once() -> None:
    """A batch that did not leave is sent again, and lies there once."""
    memory = MemoryPlatform()
    dataset = memory.ensure_dataset("d")
    memory.fail_next("upload", Transient("refused"))

    outcomes = quick(memory).pictures.upload(batch_of(dataset), read_held)

    assert [outcome.key for outcome in outcomes] == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(list(memory.listing(dataset))) == 3


def test_wait_that_was_asked_for_is_kept() -> None:
    """No request goes out earlier than the server asked."""
    memory = MemoryPlatform()
    memory.fail_next("sign_in", Transient("slow down", retry_after=0.4))
    began = time.monotonic()

    quick(memory).sign_in()

    assert time.monotonic() - began >= 0.4


def test_longer_wait_than_the_ceiling_is_left_to_the_caller() -> None:
    """A server that wants to be left alone for an hour does not block a thread so long; the caller learns the time."""
    memory = MemoryPlatform()
    memory.fail_next("sign_in", Transient("maintenance", retry_after=3600))

    with pytest.raises(Transient) as caught:
        quick(memory, ceiling=300).sign_in()

    assert caught.value.retry_after == 3600
    assert memory.calls["sign_in"] == 1


def test_waits_grow_to_the_ceiling() -> None:
    """Each wait is about twice the one before, and none is longer than the ceiling."""
    memory = MemoryPlatform()
    memory.fail_next("sign_in", Transient("away"), times=9)
    with capture_logs() as lines, pytest.raises(Transient):
        Retrying(memory, threading.Event(), attempts=6, first=0.1, ceiling=0.3).sign_in()

    waits = [line["wait"] for line in lines]
    assert len(waits) == 5
    assert all(wait <= 0.4 for wait in waits)
    assert waits[-1] >= 0.3


def test_stop_ends_a_wait_at_once() -> None:
    """When the program stops, a wait ends at once with the last error, and no further attempt begins."""
    stop = threading.Event()
    memory = MemoryPlatform()
    error = Transient("away", retry_after=60)
    memory.fail_next("sign_in", error, times=9)
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()

    with pytest.raises(Transient) as caught:
        quick(memory, stop).sign_in()

    assert caught.value is error
    assert memory.calls["sign_in"] == 1
    assert time.monotonic() - began < 5


class _TornListing(MemoryPlatform):
    """Its listing breaks off where told."""

    breaks: tuple[int, ...] = ()

    def listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:
        left, self.breaks = (self.breaks or (10**9,))[0], self.breaks[1:]
        for number, row in enumerate(super().listing(dataset)):
            if number == left:
                raise Transient("page 2 got lost")
            yield row


def test_listing_goes_on_after_a_break() -> None:
    """A listing that breaks off half-way is read again, and each picture is given out once."""
    memory = _TornListing()
    dataset = memory.ensure_dataset("d")
    for _ in range(6):
        memory.upload(batch_of(dataset, 250), read_held)
    memory.breaks = (0, 1200, 7)

    rows = list(quick(memory).pictures.listing(dataset))

    assert len({row.remote_id for row in rows}) == len(rows) == 1500
    assert memory.calls["listing"] == 4


def test_listing_leaves_the_consumers_errors_alone() -> None:
    """An error of whoever reads the listing is not taken for the platform's."""
    memory = MemoryPlatform()
    dataset = memory.ensure_dataset("d")
    memory.upload(batch_of(dataset), read_held)

    def consume() -> None:
        for _row in quick(memory).pictures.listing(dataset):
            raise Transient("of the consumer")

    with pytest.raises(ImageSyncError, match="of the consumer"):
        consume()

    assert memory.calls["listing"] == 1


def test_every_method_of_a_platform_is_wrapped() -> None:
    """Nothing of the protocols is missing from the wrapper, and nothing of it is the adapter's own."""
    memory = MemoryPlatform()
    wrapped = quick(memory)

    for part, protocol in (("pictures", Pictures), ("trainings", Trainings), ("models", Models)):
        names = {name for name in vars(protocol) if not name.startswith("_")}
        assert names == set(vars(getattr(wrapped, part)))
        assert not any(getattr(getattr(wrapped, part), name) is getattr(getattr(memory, part), name) for name in names)


def test_each_attempt_says_that_the_caller_lives() -> None:
    """Three waits of minutes that a server asks for are no reason to kill a daemon."""
    beats: list[None] = []
    memory = MemoryPlatform()
    memory.fail_next("sign_in", Transient("no connection"), times=3)
    Retrying(memory, threading.Event(), first=0.001, alive=lambda: beats.append(None)).sign_in()

    assert len(beats) >= 4
