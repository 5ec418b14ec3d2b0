"""The back-off by itself with a clock passed in, then around platforms whose server is dead for real."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from image_sync.backoff import Backoff
from image_sync.domain import Batch
from image_sync.errors import Ambiguous, Changed, ImageSyncError, NotFound, Refused, Resting, Transient, Unanswered
from image_sync.platforms.http import Timeouts
from image_sync.platforms.mvi.platform import MviPlatform
from image_sync.platforms.retry import Retrying
from image_sync_contract import held, read_held
from support.fake_http import FakeHttp, Reply, closed_port, ok
from support.memory import MemoryPlatform

SILENCE = Unanswered("Listing: nothing listens at mvi:443", hint="Check credentials.endpoint")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log lines go nowhere: commands that other tests call leave a stream behind that is closed by now."""
    with capture_logs():
        yield


class Bench:
    """A back-off with a clock that is set by hand, and a count of the calls that got through."""

    def __init__(self, **options: float) -> None:
        self.now = 1000.0
        self.chance = 0.0
        self.made = 0
        self.backoff = Backoff(clock=lambda: self.now, chance=lambda: self.chance, **options)  # type: ignore[arg-type]

    def call(self, error: BaseException | None = None) -> BaseException | None:
        """One call that ends so; what the caller got to see."""
        try:
            with self.backoff.attempt("MVI at mvi:443"):
                self.made += 1
                if error is not None:
                    raise error  # noqa: TRY301 - as a call does
        except BaseException as seen:  # noqa: BLE001 - this is what is looked at
            return seen
        return None

    def silence(self, times: int = 5) -> None:
        """So many calls that nobody answers."""
        for _ in range(times):
            assert self.call(SILENCE) is SILENCE

    def left(self) -> float:
        """Seconds until the next try, as a caller is told."""
        seen = self.call()
        assert isinstance(seen, Resting)
        assert seen.retry_after is not None
        return seen.retry_after


def test_opens_after_five_in_a_row_and_says_so() -> None:
    """Four silent calls change nothing; after the fifth no call is made, and the error tells count, pause and cause."""
    bench = Bench()
    bench.silence(4)
    assert bench.call() is None
    bench.silence(5)

    seen = bench.call()

    assert isinstance(seen, Resting)
    assert bench.made == 10
    assert seen.what == "MVI at mvi:443 has not answered 5 times in a row; the next try is in 5 s"
    assert seen.hint == "Listing: nothing listens at mvi:443. Check credentials.endpoint"
    assert seen.retry_after == 5


@pytest.mark.parametrize("error", [None, Transient("429"), NotFound("404"), Refused("no")])
def test_any_answer_begins_the_count_anew(error: ImageSyncError | None) -> None:
    """Whoever answers is there, whatever the answer: busy, not found and refused count like success."""
    bench = Bench()
    for _ in range(5):
        bench.silence(4)
        bench.call(error)

    assert bench.call() is None


@pytest.mark.parametrize("error", [Ambiguous("lost"), Changed("a.jpg"), ValueError("bug"), KeyboardInterrupt()])
def test_other_endings_neither_count_nor_clear(error: BaseException) -> None:
    """A doubtful upload and trouble of our own say nothing about whether the platform answers."""
    bench = Bench()
    bench.silence(4)
    for _ in range(10):
        assert bench.call(error) is error
    assert bench.call(SILENCE) is SILENCE

    assert isinstance(bench.call(), Resting)


def test_pauses_double_up_to_five_minutes() -> None:
    """5, 10, 20 ... 300 seconds, and one call after each."""
    bench = Bench()
    bench.silence()
    pauses = []
    for _ in range(9):
        pauses.append(bench.left())
        bench.now += pauses[-1] - 0.01
        assert isinstance(bench.call(), Resting)
        bench.now += 0.02
        bench.silence(1)

    assert [round(pause) for pause in pauses] == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert bench.made == 5 + 9


def test_pauses_differ_by_chance() -> None:
    """A pause is up to a quarter shorter, never longer."""
    bench = Bench()
    bench.chance = 1.0
    bench.silence()
    assert bench.left() == 3.75
    bench.chance = 0.5
    bench.now += 3.75
    bench.silence(1)
    assert bench.left() == 8.75


def test_answer_closes_it_and_is_logged() -> None:
    """When the one call is answered, all calls are made again, and the next silence begins with a short pause."""
    bench = Bench()
    with capture_logs() as lines:
        bench.silence()
        bench.now += 5
        bench.silence(1)
        bench.now += 10
        assert bench.call() is None
        for _ in range(20):
            assert bench.call() is None
        bench.silence()

    assert bench.left() == 5
    assert [line["event"] for line in lines] == [
        "platform.silent",
        "platform.silent",
        "platform.answers_again",
        "platform.silent",
    ]


def test_wait_that_a_router_asks_for_is_kept() -> None:
    """A 503 with Retry-After is not called again earlier than it asked."""
    bench = Bench()
    bench.silence(4)
    bench.call(Unanswered("status 503", retry_after=120))

    assert bench.left() == 120


def test_one_call_at_a_time_when_the_pause_is_over() -> None:
    """While the one call is under way, others are told to wait; one that hangs holds up the next for a pause only."""
    bench = Bench()
    bench.silence()
    bench.now += 5
    with bench.backoff.attempt("it"):
        assert bench.left() == 5
        bench.now += 4.9
        assert isinstance(bench.call(), Resting)
        bench.now += 0.2
        bench.silence(1)
        assert bench.left() == 10

    assert bench.call() is None  # the hanging one was answered after all


def test_calls_that_set_out_together_count_as_one_try() -> None:
    """Calls that were under way when it opened do not make the pause longer."""
    bench = Bench()
    under_way = [bench.backoff.attempt("it") for _ in range(3)]
    for one in under_way:
        one.__enter__()
    bench.silence()
    for one in under_way:
        assert not one.__exit__(Unanswered, SILENCE, None)

    assert bench.left() == 5


def test_doubtful_try_is_no_sign_of_life() -> None:
    """When the one call ends in doubt, the pause grows; when it ended by our own fault, another may try at once."""
    bench = Bench()
    bench.silence()
    bench.now += 5
    bench.call(Ambiguous("lost"))
    assert bench.left() == 10
    bench.now += 10
    bench.call(Changed("a.jpg"))

    assert bench.call() is None


def test_threads_get_one_call_between_them() -> None:
    """Of many threads that come when the pause is over, exactly one gets through."""
    bench = Bench()
    bench.silence()
    bench.now += 5
    barrier, passed, stay = threading.Barrier(16), [], threading.Event()

    def work() -> None:
        barrier.wait()
        with contextlib.suppress(Resting), bench.backoff.attempt("it"):
            passed.append(1)
            stay.wait(5)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + 5
    while sum(thread.is_alive() for thread in threads) > 1:
        assert time.monotonic() < give_up
        stay.wait(0.01)
    stay.set()
    for thread in threads:
        thread.join(5)

    assert passed == [1]


def test_a_rest_ends_the_repeats_of_a_call() -> None:
    """The wrapper repeats a silent call until the platform rests, then stops at once and tells when it tries next."""
    memory = MemoryPlatform()
    memory.fail_next("sign_in", SILENCE, times=99)
    patient = Retrying(memory, threading.Event(), first=0.001, attempts=9)

    with pytest.raises(Resting, match="The platform memory has not answered 5 times in a row"):
        patient.sign_in()
    with pytest.raises(Resting):
        patient.pictures.find_dataset("d")

    assert memory.calls["sign_in"] == 5
    assert memory.calls["find_dataset"] == 0


def test_given_back_off_is_shared() -> None:
    """Wrappers that are given one back-off leave the platform alone together."""
    memory = MemoryPlatform()
    memory.fail_next("sign_in", SILENCE, times=5)
    backoff = Backoff()
    one, other = (Retrying(memory, threading.Event(), backoff=backoff, attempts=1) for _ in range(2))
    for platform in (one, other, one, other, one):
        with pytest.raises(Unanswered):
            platform.sign_in()

    with pytest.raises(Resting):
        other.sign_in()


class Dead:
    """Something that listens, takes each connection and drops it at once."""

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.connections = 0


@contextmanager
def dead() -> Iterator[Dead]:
    """A dead server, which counts."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        found = Dead(listener)

        def drop() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    found.connections += 1
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()

        thread = threading.Thread(target=drop, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@contextmanager
def wrapped(url: str, backoff: Backoff) -> Iterator[Retrying]:
    """A platform at that address with hardly any waits of its own."""
    mvi = MviPlatform(url, stop=threading.Event(), timeouts=Timeouts(2, 2, 4))
    yield Retrying(mvi, threading.Event(), backoff=backoff, first=0.001)
    mvi.close()


def hammer(platform: Retrying, seconds: float) -> list[ImageSyncError]:
    """Four threads call all sorts of things as fast as they can; the errors they got."""
    errors: list[ImageSyncError] = []
    give_up = time.monotonic() + seconds

    def work(number: int) -> None:
        calls = [
            platform.sign_in,
            lambda: platform.pictures.find_dataset("d"),
            lambda: platform.trainings.progress("t"),
            platform.sign_in,
        ]
        while time.monotonic() < give_up:
            try:
                calls[number]()
            except ImageSyncError as error:
                errors.append(error)
                threading.Event().wait(0.001)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return errors


def test_dead_server_is_hardly_bothered() -> None:
    """Four threads that hammer for two seconds make few connections: those before it opens, then one for each pause."""
    backoff = Backoff(first=0.2, chance=lambda: 0.0)
    with dead() as server, wrapped(f"http://127.0.0.1:{server.port}", backoff) as platform:
        errors = hammer(platform, 2.0)

        pauses = 4  # tries after 0.2, 0.6, 1.4 seconds, and one to spare
        assert 5 <= server.connections <= 5 + 3 + pauses
        assert len(errors) > 100
        assert all(type(error) in {Resting, Unanswered} for error in errors)


def test_server_that_comes_back_is_used_again() -> None:
    """A router that says 503 for a while is left alone likewise; when the server is back, every thread works again."""
    up = threading.Event()
    with FakeHttp(script=lambda _request: ok([]) if up.is_set() else Reply(503, b"<html>")) as server:
        backoff = Backoff(first=0.1, chance=lambda: 0.0)
        with wrapped(server.url, backoff) as platform:
            hammer(platform, 0.5)
            before = len(server.requests)
            assert before <= 5 + 3 + 4
            up.set()
            give_up = time.monotonic() + 5
            while True:
                assert time.monotonic() < give_up
                with contextlib.suppress(Transient):
                    platform.sign_in()
                    break
            for error in hammer(platform, 0.1):
                assert "unexpected shape" in error.what  # a training's status is not a list
            assert len(server.requests) > before + 10


def test_uploads_that_cannot_be_sent_count_too() -> None:
    """A closed port is noticed whatever is called; an upload then fails without being tried."""
    backoff = Backoff()
    with wrapped(f"http://127.0.0.1:{closed_port()}", backoff) as platform:
        dataset = MemoryPlatform().ensure_dataset("d")
        sent = Batch("b" * 32, dataset, "c", (held("a.jpg", 1, "0" * 64, lambda: b"x"),))
        for _ in range(2):
            with pytest.raises(Transient):
                platform.pictures.upload(sent, read_held)

        with pytest.raises(Resting, match="has not answered 5 times in a row"):
            platform.pictures.upload(sent, read_held)
