"""What each failure of a request proves, over real HTTP: the error, and how many requests the server got to see.

Rows are ways in which one request goes wrong, columns are the calls whose request it is. All run through the wrapper
that repeats, so a number above one is a repeat by us.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest
from structlog.testing import capture_logs

from image_sync.backoff import Backoff
from image_sync.domain import Batch, DatasetRef
from image_sync.errors import (
    Ambiguous,
    ImageSyncError,
    NotFound,
    Permanent,
    Refused,
    Transient,
    Unanswered,
    Unauthorised,
    Unfit,
)
from image_sync.platforms.base import Model, Outcome, TrainingPlan
from image_sync.platforms.http import Denied, Timeouts
from image_sync.platforms.mvi import api
from image_sync.platforms.mvi.platform import MviPlatform
from image_sync.platforms.retry import Retrying
from image_sync_contract import held, read_held
from support.fake_http import FakeHttp, Reply, Request, answer, ok

ATTEMPTS = 3
KEY = "AbC1-d2E3-fG4h-5IjK"
DATASET = DatasetRef("ds-1", "parts")
JSON = (("Content-Type", "application/json"),)
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"
BIG = 300_000
"""Bytes of a picture: more than the sockets between us take at once, so that a break in the body is one."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log lines go nowhere: commands that other tests call leave a stream behind that is closed by now."""
    with capture_logs():
        yield


@dataclass
class World:
    """A server with one dataset; a request that is told to go wrong is carried out or not, as told.

    ``wrong`` is a method and path, and the answer that is given to it; ``early`` trouble comes before the body is read.
    """

    wrong: tuple[str, str] = ("", "")
    reply: Reply | None = None
    early: str = ""
    carried_out: bool = False
    datasets: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    webapis: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def strikes(self, method: str, path: str) -> str:
        """The early trouble of this request."""
        return self.early if (method, path) == self.wrong else ""

    def __call__(self, request: Request) -> Reply:
        if (request.method, request.path) != self.wrong or self.reply is None:
            return self._answer(request)
        self.times.append(time.monotonic())
        if self.carried_out:
            self._answer(request)
        return self.reply

    def _answer(self, request: Request) -> Reply:
        match request.method, request.path.removeprefix("/api").rstrip("/"):
            case "GET", "/datasets":
                return ok([{"_id": "ds-1", "name": name} for name in self.datasets])
            case "POST", "/datasets":
                self.datasets.append(request.json()["name"])
                return ok({"dataset_id": "ds-1"})
            case "GET", "/datasets/ds-1/categories":
                return ok([{"_id": "c-1", "name": name} for name in self.categories])
            case "POST", "/datasets/ds-1/categories":
                self.categories.append(request.json()["name"])
                return ok({"dataset_category_id": "c-1"})
            case "GET", "/trained-models/m-1":
                return ok({"_id": "m-1", "name": "model", "usage": "cic"})
            case "POST", "/webapis":
                self.webapis.append(request.json()["trained_model_id"])
                return ok({"webapi_id": "m-1"})
            case "GET", "/webapis/m-1" if self.webapis:
                return ok({"_id": "m-1", "status": "ready"})
            case "GET", "/datasets/ds-1/files" | "/dltasks" | "/trained-models":
                return ok([])
            case _:
                return answer(404, {"result": "fail", "fault": "there is no such thing"})


def batch_of(count: int = 2) -> Batch:
    """A batch of so many large pictures."""
    content = b"x" * BIG
    items = tuple(held(f"p{n}.{'0' * 16}.jpg", BIG, "0" * 64, lambda: content) for n in range(count))
    return Batch("b" * 32, DATASET, "good", items, claimed_at=time.time())


@dataclass(frozen=True)
class Call:
    """One call of the protocol, and the request of it that goes wrong."""

    method: str
    path: str
    make: Callable[[Retrying], object]


def ensure_category(platform: Retrying, dataset: DatasetRef, name: str) -> object:
    """What an upload does first, with the patience that it has there."""
    pictures: Any = platform._platform.pictures
    return platform._call("category", lambda: pictures.ensure_category(dataset, name))


UPLOAD = Call("POST", "/api/datasets/ds-1/files", lambda platform: platform.pictures.upload(batch_of(), read_held))
START = Call("POST", "/api/dltasks", lambda platform: platform.trainings.start(TrainingPlan("m", DATASET)))
MAKE_DATASET = Call("POST", "/api/datasets", lambda platform: platform.pictures.ensure_dataset("parts"))
MAKE_CATEGORY = Call(
    "POST", "/api/datasets/ds-1/categories", lambda platform: ensure_category(platform, DATASET, "new")
)
DEPLOY = Call("POST", "/api/webapis", lambda platform: platform.models.deploy(Model("m-1", "model", "ds-1")))
READS = {
    "datasets": Call("GET", "/api/datasets", lambda platform: platform.pictures.find_dataset("parts")),
    "files": Call("GET", "/api/datasets/ds-1/files", lambda platform: list(platform.pictures.listing(DATASET))),
    "status": Call("GET", "/api/dltasks/t-1/status", lambda platform: platform.trainings.progress("t-1")),
    "models": Call("GET", "/api/trained-models/", lambda platform: platform.models.of_dataset(DATASET)),
    "dataset": Call("GET", "/api/datasets/ds-1", lambda platform: platform.pictures.count(DATASET)),
}
MAKERS = {"dataset": MAKE_DATASET, "category": MAKE_CATEGORY, "deploy": DEPLOY}


@dataclass
class Rig:
    """The server, its world, and a platform towards it."""

    world: World
    server: FakeHttp
    mvi: MviPlatform
    platform: Retrying

    def breaks(self, call: Call, how: Reply | str, *, carried_out: bool = False) -> None:
        """Let the call's request go wrong like this, every time."""
        self.world.wrong = (call.method, call.path)
        self.world.carried_out = carried_out
        if how in {"reset_headers", "reset_in_body"}:
            self.world.early = str(how)
        elif isinstance(how, str):
            self.world.reply = Reply(body=b'{"result": "success"}', headers=JSON, trouble=how)
        else:
            self.world.reply = how

    def error(self, call: Call) -> ImageSyncError:
        """What the call ends with."""
        with pytest.raises(ImageSyncError) as caught:
            call.make(self.platform)
        return caught.value

    def sent(self, call: Call) -> int:
        """How often the request arrived, whole or in part."""
        return self.server.paths().count(f"{call.method} {call.path}")


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A rig in a hurry; the category of the uploads is known already."""
    monkeypatch.setattr(api, "_LISTING_TIMEOUTS", Timeouts(1, 0.25, 0.4))
    monkeypatch.setattr(api, "_SLOWEST_LINE", 1e9)
    world = World(categories=["good"])
    with FakeHttp(script=world, early=world.strikes) as server:
        mvi = MviPlatform(server.url, stop=threading.Event(), api_key=KEY, timeouts=Timeouts(1, 0.25, 0.4))
        mvi._api.patience, mvi._api.poll, mvi.models.poll = 0.05, 0.01, 0.01
        mvi.pictures.ensure_category(DATASET, "good")
        server.requests.clear()
        backoff = Backoff(limit=99)
        yield Rig(world, server, mvi, Retrying(mvi, threading.Event(), backoff=backoff, first=0.001, attempts=ATTEMPTS))
        mvi.close()


def said(status: int, body: Any, *headers: tuple[str, str]) -> Reply:
    """A JSON answer with more headers."""
    return Reply(status, json.dumps(body).encode(), (*JSON, *headers))


FAIL = {"result": "fail", "fault": "Fehler"}
REDIRECTS = (301, 302, 303, 308)

# How it goes wrong: (upload and start of a training), (reading). Each: the error, and how many requests arrived.
TABLE: dict[str, tuple[Reply | str, tuple[type[ImageSyncError], int], tuple[type[ImageSyncError], int]]] = {
    "reset after headers": ("reset_headers", (Ambiguous, 1), (Unanswered, 3)),
    "reset in body": ("reset_in_body", (Ambiguous, 1), (Unanswered, 3)),
    "reset after body": ("reset", (Ambiguous, 1), (Unanswered, 3)),
    "closed after body": ("close", (Ambiguous, 1), (Unanswered, 3)),
    "no answer in time": ("hang", (Ambiguous, 1), (Unanswered, 3)),
    "answer cut in its headers": ("cut_headers", (Ambiguous, 1), (Transient, 3)),
    "answer cut in its body": ("cut", (Ambiguous, 1), (Transient, 3)),
    "answer byte by byte": (Reply(body=b" " * 400, headers=JSON, drip=0.02), (Ambiguous, 1), (Unanswered, 3)),
    "empty answer": (Reply(200, b""), (Ambiguous, 1), (Transient, 3)),
    "no content": (Reply(204, b""), (Ambiguous, 1), (Transient, 3)),
    "half a JSON": (Reply(200, b'{"result": "success", "task', JSON), (Ambiguous, 1), (Transient, 3)),
    "HTML page": (Reply(200, HTML), (Ambiguous, 1), (Transient, 3)),
    "a number": (said(200, 7), (Ambiguous, 1), (Transient, 3)),
    "a list of numbers": (said(200, [1, 2]), (Ambiguous, 1), (Transient, 3)),
    "wrong types within": (
        said(200, {"task_id": [7], "resultList": {"a": 1}, "_id": {}, "data": 3, "status": {"a": "b"}}),
        (Ambiguous, 1),
        (Transient, 3),
    ),
    "too deep": (Reply(200, b"[" * 100_000, JSON), (Ambiguous, 1), (Transient, 3)),
    "packed garbage": (Reply(200, b"no gzip", (("Content-Encoding", "gzip"),)), (Ambiguous, 1), (Transient, 3)),
    "success that failed": (said(200, FAIL), (Denied, 1), (Refused, 1)),
    "500": (said(500, FAIL), (Ambiguous, 1), (Transient, 3)),
    "501": (said(501, FAIL), (Ambiguous, 1), (Transient, 3)),
    "502 with a page": (Reply(502, HTML), (Ambiguous, 1), (Unanswered, 3)),
    "503": (said(503, FAIL), (Ambiguous, 1), (Unanswered, 3)),
    "504": (Reply(504, b""), (Ambiguous, 1), (Unanswered, 3)),
    "408": (said(408, FAIL), (Ambiguous, 1), (Transient, 3)),
    "409": (said(409, FAIL), (Ambiguous, 1), (Transient, 3)),
    "423": (said(423, FAIL), (Transient, 3), (Transient, 3)),
    "429": (said(429, FAIL), (Transient, 3), (Transient, 3)),
    "429 for garbage": (said(429, FAIL, ("Retry-After", "tomorrow")), (Transient, 3), (Transient, 3)),
    "429 for ten years": (said(429, FAIL, ("Retry-After", "315360000")), (Transient, 1), (Transient, 1)),
    "503 for ten years": (said(503, FAIL, ("Retry-After", "315360000")), (Ambiguous, 1), (Unanswered, 1)),
    "400": (said(400, FAIL), (Refused, 1), (Refused, 1)),
    "401": (said(401, FAIL), (Unauthorised, 3), (Unauthorised, 3)),
    "403": (said(403, FAIL), (Unauthorised, 3), (Unauthorised, 3)),
    "404": (said(404, FAIL), (NotFound, 1), (NotFound, 1)),
    "405": (said(405, FAIL), (Permanent, 1), (Permanent, 1)),
    "413": (Reply(413, HTML), (Unfit, 1), (Unfit, 1)),
    "415": (said(415, FAIL), (Unfit, 1), (Unfit, 1)),
    "redirect to itself": (Reply(307, b"", (("Location", "/api/dltasks"),)), (Permanent, 1), (Permanent, 1)),
}
SLOW = {"no answer in time", "answer byte by byte"}
FEW = ["reset after body", "answer cut in its body", "half a JSON", "HTML page", "success that failed", "503", "404"]


@pytest.mark.parametrize("row", TABLE)
@pytest.mark.parametrize("call", [UPLOAD, START], ids=["upload", "start"])
def test_what_must_not_be_done_twice(rig: Rig, call: Call, row: str) -> None:
    """An upload or a start of which a byte was sent is repeated only when the server proves that it was turned away."""
    how, (kind, requests), _ = TABLE[row]
    rig.breaks(call, how)

    error = rig.error(call)

    assert type(error) is kind or (kind, row) == (Denied, "success that failed")
    assert isinstance(error, kind)
    assert rig.sent(call) == requests
    assert KEY not in str(error)


@pytest.mark.parametrize(
    ("name", "row"),
    [("datasets", row) for row in TABLE]
    + [("status", row) for row in TABLE if row not in SLOW]
    + [(name, row) for name in ("files", "models", "dataset") for row in FEW],
)
def test_what_may_be_asked_again(rig: Rig, name: str, row: str) -> None:
    """A question is asked again when it was not answered, and not when the answer was no."""
    how, _, (kind, requests) = TABLE[row]
    call = READS[name]
    rig.breaks(call, how)

    error = rig.error(call)

    assert isinstance(error, kind)
    assert rig.sent(call) == requests


NEVER_SENT = {"reset_headers", "reset_in_body"}
LOST = ["reset", "close", "cut", "cut_headers"]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "row", [row for row, (how, (kind, _), _) in TABLE.items() if issubclass(kind, Ambiguous) and how not in NEVER_SENT]
)
def test_what_was_made_is_found(rig: Rig, name: str, row: str) -> None:
    """A dataset, category or deployment that was made under an answer that got lost is found, and made once."""
    call = MAKERS[name]
    rig.world.categories.clear()
    rig.breaks(call, TABLE[row][0], carried_out=True)

    call.make(rig.platform)

    if not (name == "deploy" and row in {"empty answer", "no content"}):  # that is how some releases answer
        assert rig.sent(call) == 1
    made = {"dataset": rig.world.datasets, "category": rig.world.categories, "deploy": rig.world.webapis}[name]
    assert len(made) == 1


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("how", ["reset_headers", "reset_in_body", *LOST])
def test_what_was_not_made_is_looked_for_before_each_try(rig: Rig, name: str, how: str) -> None:
    """Where nothing was made, each further request comes only after a look that found nothing."""
    call = MAKERS[name]
    look = {"dataset": "GET /api/datasets", "category": f"GET {MAKE_CATEGORY.path}", "deploy": "GET /api/webapis/m-1"}
    rig.world.categories.clear()
    rig.breaks(call, how)

    assert type(rig.error(call)) is Transient
    paths = [path for path in rig.server.paths() if path in {look[name], f"POST {call.path}"}]
    assert paths.count(f"POST {call.path}") == ATTEMPTS
    for before, path in zip(["", *paths], paths, strict=False):
        assert path == look[name] or before == look[name]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("row", "kind", "requests"),
    [("400", Refused, 1), ("success that failed", Refused, 1), ("429", Transient, 3), ("401", Unauthorised, 3)],
)
def test_what_the_server_does_not_want_to_make(
    rig: Rig, name: str, row: str, kind: type[ImageSyncError], requests: int
) -> None:
    """A refusal is told in the server's words, also one under status 200, once a look has shown that it is true."""
    call = MAKERS[name]
    rig.world.categories.clear()
    rig.breaks(call, TABLE[row][0])

    error = rig.error(call)

    assert type(error) is kind
    assert rig.sent(call) == requests


ALL = {"upload": UPLOAD, "start": START, **{f"make {name}": call for name, call in MAKERS.items()}, **READS}


@pytest.mark.parametrize("name", ALL)
def test_reset_on_connecting(rig: Rig, name: str) -> None:
    """A connection that is taken and dropped at once leaves an upload or a start in doubt; others ask three times.

    A reset that is faster than the end of connecting proves even of those that nothing was sent.
    """
    call = ALL[name]
    rig.mvi.close()
    rig.server.dropping = True
    before = rig.server._connections

    error = rig.error(call)

    made = rig.server._connections - before
    if type(error) is Ambiguous:
        assert call in {UPLOAD, START}
        assert 1 <= made <= ATTEMPTS
    else:
        assert type(error) is Unanswered
        assert made == ATTEMPTS
    assert rig.server.requests == []


@pytest.mark.parametrize("name", ALL)
def test_nobody_listens(rig: Rig, name: str) -> None:
    """A connection that never stood proves that nothing was done, whatever the call."""
    rig.mvi.close()
    rig.server.__exit__()

    assert type(rig.error(ALL[name])) is Unanswered


@pytest.mark.parametrize(
    ("name", "status"),
    [*((name, 307) for name in ALL), *((name, status) for name in ("upload", "datasets") for status in REDIRECTS)],
)
def test_redirects_go_nowhere(rig: Rig, name: str, status: int) -> None:
    """No request, no key and no picture ever reaches the host that a redirect names."""
    call = ALL[name]
    with FakeHttp() as other:
        rig.breaks(call, Reply(status, b"moved", (("Location", f"{other.url}/api/login"),)))

        error = rig.error(call)

        assert type(error) is Permanent
        assert other.url in error.what
        assert other._connections == 0
    assert rig.sent(call) == 1


@pytest.mark.parametrize("name", ALL)
def test_proxies_of_the_environment_get_nothing(rig: Rig, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy the environment names, and whatever goes wrong, it sees no connection."""
    with FakeHttp() as proxy:
        for variable in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url)
        rig.breaks(ALL[name], said(503, FAIL))
        rig.error(ALL[name])

        assert proxy._connections == 0
    assert rig.sent(ALL[name]) >= 1


@pytest.mark.parametrize("call", [UPLOAD, READS["dataset"]], ids=["upload", "dataset"])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept_to(rig: Rig, call: Call, form: str) -> None:
    """No request arrives earlier than the server asked, in seconds or as a date."""
    asked_at = time.time()
    value = "1" if form == "seconds" else formatdate(asked_at + 2, usegmt=True)
    rig.breaks(call, said(429, FAIL, ("Retry-After", value)))
    rig.platform._attempts = 2

    error = rig.error(call)

    assert isinstance(error, Transient)
    first, second = rig.world.times
    # A date has whole seconds: what it asks for may be up to one second less than two.
    assert second - first >= (1.0 if form == "seconds" else int(asked_at + 2) - asked_at - 0.1)


def test_retry_after_of_ten_years_is_an_hour(rig: Rig) -> None:
    """A mistaken server stops us for an hour at most, and no thread waits for that long inside a call."""
    rig.breaks(UPLOAD, TABLE["429 for ten years"][0])

    error = rig.error(UPLOAD)

    assert isinstance(error, Transient)
    assert error.retry_after == 3600


@pytest.mark.parametrize("call", [UPLOAD, START, READS["status"]], ids=["upload", "start", "status"])
@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b" " * 2**20, JSON, repeat_body=100),
        Reply(200, gzip.compress(b" " * (200 * 2**20)), (("Content-Encoding", "gzip"),)),
        Reply(500, b"x" * 2**20, repeat_body=100),
    ],
    ids=["100 MB", "gzip bomb", "100 MB error"],
)
def test_huge_answers_are_not_swallowed(rig: Rig, call: Call, reply: Reply) -> None:
    """An answer of 100 MB, or one that unpacks to 200, is given up at 16 MB; the call ends as if it were unreadable."""
    rig.breaks(call, reply)
    rig.mvi._api._timeouts = rig.mvi._api._client._timeouts = Timeouts(2, 5, 10)
    rig.platform._attempts = 1
    tracemalloc.start()

    error = rig.error(call)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert type(error) is (Transient if call is READS["status"] else Ambiguous)
    assert peak < 50 * 2**20
    assert rig.sent(call) == 1


@pytest.mark.parametrize("status", [200, 201, 400, 422])
def test_mixed_results_are_told_apart(rig: Rig, status: int) -> None:
    """A list of results says of each picture what became of it, under any of the statuses that it comes with."""
    a, b = (item.key for item in batch_of().pictures)
    entries = [{"result": "success", "id": "f-1", "name": a}, {"result": "fail", "name": b, "fault": "broken"}]
    rig.breaks(UPLOAD, said(status, {"result": "fail", "resultList": entries}))

    assert rig.platform.pictures.upload(batch_of(), read_held) == [Outcome(a, "f-1"), Outcome(b, refused="broken")]
    assert rig.sent(UPLOAD) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"resultList": [{"result": "success", "id": "f-1", "name": f"p0.{'0' * 16}.jpg"}]},
        {"resultList": []},
        {"resultList": [{"result": "success", "name": "other.jpg"}, {"result": "success", "name": "other2.jpg"}]},
        FAIL,
    ],
    ids=["one missing", "none", "strangers", "no list"],
)
def test_results_that_name_too_few_are_in_doubt(rig: Rig, body: object) -> None:
    """A picture that the list of results leaves out, and that the dataset does not show, is in doubt."""
    rig.breaks(UPLOAD, said(422, body))

    assert isinstance(rig.error(UPLOAD), Ambiguous)
    assert rig.sent(UPLOAD) == 1


def test_revoked_token_costs_one_login(rig: Rig) -> None:
    """A 401 proves that nothing was done: with a password there is one new login and one repeat, not more."""
    logins = []

    def script(request: Request) -> Reply:
        if request.path == "/api/tokens":
            logins.append(request)
            return ok({"token": f"token {len(logins)}"})
        if request.path == UPLOAD.path and request.headers["x-auth-token"] == "token 1":
            return answer(401, FAIL)
        return said(503, FAIL) if request.path == UPLOAD.path else rig.world(request)

    rig.server.script = script
    mvi = MviPlatform(
        rig.server.url, stop=threading.Event(), username="ann", password="passw0rd", timeouts=Timeouts(1, 1, 2)
    )
    mvi.sign_in()
    platform = Retrying(mvi, threading.Event(), first=0.001, attempts=ATTEMPTS)

    with pytest.raises(Ambiguous):
        platform.pictures.upload(batch_of(), read_held)
    mvi.close()

    assert len(logins) == 2
    assert rig.sent(UPLOAD) == 2


def test_stages_many_times(rig: Rig) -> None:
    """A hundred breaks at changing stages, twenty at a time: one request for each upload, always in doubt."""
    stages = ["reset_headers", "reset_in_body", "reset", "close", "cut"]
    errors: list[BaseException] = []

    def work() -> None:
        for _ in range(5):
            try:
                rig.platform.pictures.upload(batch_of(1), read_held)
            except Exception as error:  # noqa: BLE001 - looked at below
                errors.append(error)

    for stage in stages:
        rig.world.early, rig.world.reply = "", None
        rig.breaks(UPLOAD, stage)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    assert [type(error) for error in errors] == [Ambiguous] * 100
    assert rig.sent(UPLOAD) == 100
