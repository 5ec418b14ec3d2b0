"""Every call of the vendor's "Customized Training" on the wire, and what is made of every kind of answer."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Match

from image_sync.errors import (
    Ambiguous,
    ImageSyncError,
    NotFound,
    Permanent,
    Refused,
    Transient,
    Unanswered,
    Unauthorised,
)
from image_sync.platforms.base import MemoryState
from image_sync.platforms.http import Client, Part, Timeouts
from image_sync.platforms.mobius.api import Api, Reply
from image_sync.platforms.mobius.platform import MobiusPlatform
from support.fake_http import FakeHttp, answer, ok
from support.fake_http import Reply as Answer
from support.mobius import serving_mobius
from support.pictures import jpeg, png

TAG = 'Größe 10% & "mehr" ?#+'
QUOTED = "Gr%C3%B6%C3%9Fe%2010%25%20%26%20%22mehr%22%20%3F%23%2B"
GOOD = {"status": "success"}
PICTURE = jpeg()


@pytest.fixture
def server() -> Iterator[FakeHttp]:
    with FakeHttp(script=lambda _request: ok(GOOD)) as running:
        yield running


@pytest.fixture
def api(server: FakeHttp) -> Iterator[Api]:
    timeouts = Timeouts(2, 5, 10)
    made = Api(Client(server.url, timeouts=timeouts), timeouts, 4)
    yield made
    made.close()


def part(content: bytes = PICTURE, name: str = "a.jpg") -> Part:
    return Part("data", lambda: content, filename=name, content_type="image/jpeg", size=len(content))


CALLS: list[tuple[str, Callable[[Api], Any], str, bytes | None]] = [
    # the line of the vendor's page in its order, what we call, what must go out, and what its part `data` holds
    (
        "/system/database/image/add?image_id=<unique_id> -X POST -F data",
        lambda api: api.add("a1", part()),
        "POST /system/database/image/add?image_id=a1",
        PICTURE,
    ),
    (
        "/custom/assign/<image_id>/positive/<tag>",
        lambda api: api.assign("a1", "positive", TAG),
        f"GET /custom/assign/a1/positive/{QUOTED}",
        None,
    ),
    (
        "/custom/assign/<image_id>/negative/<tag>",
        lambda api: api.assign("a1", "negative", "x"),
        "GET /custom/assign/a1/negative/x",
        None,
    ),
    ("/custom/train/<tag>", lambda api: api.train(TAG), f"GET /custom/train/{QUOTED}", None),
    ("/status/<task_id>", lambda api: api.status("t-1"), "GET /status/t-1", None),
    ("/custom/delete/<tag>", lambda api: api.delete(TAG), f"GET /custom/delete/{QUOTED}", None),
    (
        "/predict/custom/<tag> -X POST -F data",
        lambda api: api.predict(PICTURE, tag=TAG),
        f"POST /predict/custom/{QUOTED}",
        PICTURE,
    ),
    ("/predict/custom -X POST -F data", lambda api: api.predict(PICTURE), "POST /predict/custom", PICTURE),
    ("/predict -X POST -F data", lambda api: api.predict(png(), base=True), "POST /predict", png()),
    ("/custom/predict/<image_id>", lambda api: api.predict_added("a1"), "GET /custom/predict/a1", None),
    (
        "/custom/predict/<tag>/<image_id>",
        lambda api: api.predict_added("a1", TAG),
        f"GET /custom/predict/{QUOTED}/a1",
        None,
    ),
    (
        "/custom/predict_batch?image_id=<list_of_image_ids>&tags=<list_of_tags>",
        lambda api: api.predict_batch(["a1", "b2"], ["x", TAG]),
        f"GET /custom/predict_batch?image_id=a1,b2&tags=x,{QUOTED}",
        None,
    ),
    (
        "/set_state -X POST -F data",
        lambda api: api.set_state(io.BytesIO(b"tar" * 9), "s.tar", 27),
        "POST /set_state",
        b"tar" * 9,
    ),
]


@pytest.mark.parametrize(("call", "line", "data"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
def test_every_call_on_the_wire(
    api: Api, server: FakeHttp, call: Callable[[Api], Any], line: str, data: bytes | None
) -> None:
    """Method, path, query and the one part `data` are the vendor's, letter for letter."""
    if "train" in line:
        server.answers(ok({"task_id": "t-1", "status": "ongoing", "message": "training"}))

    call(api)

    (request,) = server.requests
    assert f"{request.method} {request.target}" == line
    if data is None:
        assert request.body == b""
    else:
        (sent,) = request.parts()
        assert (sent.name, sent.content) == ("data", data)
        assert sent.filename


def test_the_emulator_takes_every_call_and_no_other(tmp_path: Path) -> None:
    """Each line above finds its way; beyond them there is `get_state` alone, which older pages have."""
    with serving_mobius(tmp_path) as emulator:
        found = set()
        for _, _, line, _ in CALLS:
            method, _, target = line.partition(" ")
            scope = {"type": "http", "method": method, "path": target.partition("?")[0]}
            found.add(next(route.path for route in emulator.routes if route.matches(scope)[0] is Match.FULL))

        assert {route.path for route in emulator.routes} - found == {"/get_state"}


def test_train_gives_the_task(api: Api, server: FakeHttp) -> None:
    """The id of the task, also as a number, is what the status is asked with."""
    server.answers(ok({"task_id": "5-a", "status": "in_queue"}), ok({"task_id": 7, "status": "ok"}))

    assert api.train("x") == "5-a"
    assert api.train("x") == "7"


@pytest.mark.parametrize("body", [{}, {"task_id": ""}, {"task_id": "../evil"}, {"task_id": ["a"]}])
def test_a_start_without_a_task_is_in_doubt(api: Api, server: FakeHttp, body: dict[str, Any]) -> None:
    """Accepted, but which task it is cannot be told: it is not repeated."""
    server.answers(ok({"status": "ongoing", **body}))

    with pytest.raises(Ambiguous):
        api.train("x")
    assert len(server.requests) == 1


def test_an_answer_of_an_id_alone_counts(api: Api, server: FakeHttp) -> None:
    """`{"task_id": ...}` and `{"image_id": ...}` are all that the vendor's page tells of."""
    server.answers(ok({"task_id": "5-a"}), ok({"image_id": "a1"}), ok({"image_id": "a1"}), ok({}))

    assert api.train("x") == "5-a"
    assert api.add("a1", part()).id_of("image_id") == "a1"
    api.assign("a1", "positive", "x")
    api.assign("a1", "positive", "x")


@pytest.mark.parametrize("body", [{"task_id": "", "x": 1}, {"error": "no"}, {"status": "odd", "task_id": "5-a"}])
def test_an_odd_answer_to_a_start_is_in_doubt(api: Api, server: FakeHttp, body: dict[str, Any]) -> None:
    """No id, or a status that nobody knows beside it."""
    server.answers(ok(body))

    with pytest.raises(Ambiguous):
        api.train("x")


def test_known_statuses(api: Api, server: FakeHttp) -> None:
    """Both words for success, both for not yet, in any case; an error of a task comes back as it is."""
    words = ["success", "ok", "in_queue", "Ongoing", "error"]
    server.answers(*(ok({"status": word, "message": "m"}) for word in words))

    replies = [api.status("t") for _ in words]

    assert [reply.status for reply in replies] == [word.lower() for word in words]
    assert [reply.failed for reply in replies] == [False] * 4 + [True]


OUTCOMES: list[tuple[Answer, type[ImageSyncError], type[ImageSyncError]]] = [
    # what is answered, for a call that may be repeated, and for one that must not
    (ok({"status": "error", "message": "features_loading_error"}), Transient, Ambiguous),
    (ok({"status": "error", "message": "file_saving_error"}), Transient, Ambiguous),
    (ok({"status": "error", "message": "unknown_error"}), Transient, Ambiguous),
    (ok({"status": "error", "message": "token_server_connection_error"}), Transient, Ambiguous),
    (answer(500, {"status": "error", "message": "unknown_custom_model"}), NotFound, NotFound),
    (ok({"status": "error", "message": "image_id_not_found"}), NotFound, NotFound),
    (ok({"status": "error", "message": "expired_token"}), Unauthorised, Unauthorised),
    (ok({"status": "error", "message": "exceeds_test_limit"}), Permanent, Permanent),
    (ok({"status": "error", "message": "positive_samples_required"}), Refused, Refused),
    (ok({"status": "error", "message": "what nobody knows"}), Refused, Refused),
    (ok({"status": "error"}), Refused, Refused),
    (ok({"status": "who knows"}), Transient, Ambiguous),
    (ok({"hello": "world"}), Transient, Ambiguous),
    (ok([]), Transient, Ambiguous),
    (Answer(200, b"<html>"), Transient, Ambiguous),
    (Answer(200, b""), Transient, Ambiguous),
    (Answer(200, b'{"status": "succ', (("Content-Length", "40"),), trouble="cut"), Transient, Ambiguous),
    (Answer(500, b"oops"), Transient, Ambiguous),
    (Answer(502, b"<html>"), Unanswered, Ambiguous),
    (answer(500, {"status": "error", "message": "what nobody knows"}), Transient, Ambiguous),
    (answer(502, {"status": 502, "error": "Bad Gateway"}), Unanswered, Ambiguous),
    (Answer(404, b"nothing here"), NotFound, NotFound),
    (Answer(403, b""), Unauthorised, Unauthorised),
    (Answer(429, b"", (("Retry-After", "7"),)), Transient, Transient),
    (Answer(301, b"", (("Location", "http://elsewhere"),)), Permanent, Permanent),
    (Answer(trouble="reset"), Unanswered, Ambiguous),
]


@pytest.mark.parametrize(("said", "repeatable", "not_repeatable"), OUTCOMES)
def test_what_an_answer_proves(
    api: Api,
    server: FakeHttp,
    said: Answer,
    repeatable: type[ImageSyncError],
    not_repeatable: type[ImageSyncError],
) -> None:
    """A known body decides, else the HTTP status; calls that start or reset something are never "nothing was done"."""
    for call, kind in (
        (lambda: api.assign("a1", "positive", "x"), repeatable),
        (lambda: api.train("x"), not_repeatable),
    ):
        server.answers(said)
        with pytest.raises(ImageSyncError) as caught:
            call()
        assert type(caught.value) is kind or (type(caught.value).__mro__[1] is kind), caught.value
    assert len(server.requests) == 2


def test_a_success_counts_whatever_the_http_status(api: Api, server: FakeHttp) -> None:
    """HTTP statuses are documented nowhere: the body decides."""
    server.answers(answer(500, GOOD), answer(404, {"status": "ok"}))

    api.assign("a1", "positive", "x")
    assert api.delete("x")


def test_nothing_to_reset_is_no_error(api: Api, server: FakeHttp) -> None:
    """A tag that has no model yet is as good as reset."""
    server.answers(ok({"status": "error", "message": "unknown_custom_model"}))

    assert not api.delete("x")


@pytest.mark.parametrize("message", ["duplicate_image_id", "image_id_exists", "image_reading_error"])
def test_messages_about_a_picture_come_back(api: Api, server: FakeHttp, message: str) -> None:
    """A picture that is there already, or that cannot be read, is an answer about that picture."""
    server.answers(ok({"status": "error", "message": message}))

    assert api.add("a1", part()) == Reply("error", message, {"status": "error", "message": message})


def test_at_most_so_many_at_the_same_time(server: FakeHttp) -> None:
    """Twelve threads add, three requests are under way at the most."""
    under_way, most, lock = 0, 0, threading.Lock()
    pause = threading.Event()

    def script(_request: object) -> Answer:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        pause.wait(0.03)
        with lock:
            under_way -= 1
        return ok(GOOD)

    server.script = script
    api = Api(Client(server.url), Timeouts(), 3)
    threads = [threading.Thread(target=lambda n=n: api.add(f"a{n}", part())) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    api.close()

    assert most == 3
    assert len(server.requests) == 12


def test_signing_in_wants_the_right_words(server: FakeHttp) -> None:
    """A server that speaks of an unknown task is a Mobius SDK; a web page or another API is not."""
    platform = MobiusPlatform(server.url, stop=threading.Event(), state=MemoryState())
    server.answers(ok({"status": "error", "message": "unknown_task_id"}))
    platform.sign_in()
    assert server.requests[0].path == f"/status/{'0' * 32}"
    for said in (Answer(200, b"<html>"), ok({"result": "success"}), Answer(404, b"")):
        server.answers(said)
        with pytest.raises((Transient, NotFound), match="Signing in") as caught:
            platform.sign_in()
        assert "credentials.endpoint" in caught.value.hint
    platform.close()
