"""The fault switches do to a real client what they say."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.auth import Credentials
from image_sync_server.mvi.server import MviServer
from support.mvi_server import Caller, picture, serving, until

JPG = picture("dark", 1)
UPLOADS = {"method": "POST", "path": "/files$"}


@pytest.fixture(name="caller")
def _caller(server: MviServer) -> Caller:
    server.faults.clear()
    server.requests.clear()
    return Caller(server.url)


def stored(caller: Caller, dataset: str) -> int:
    return int(caller.get(f"/datasets/{dataset}")["total_file_count"])


def switch(server: MviServer, action: Action, **options: object) -> None:
    server.faults.add(Fault(action, **UPLOADS, **options))  # type: ignore[arg-type]


def test_an_error_status_comes_with_retry_after_and_stores_nothing(server, caller):
    """An error status answers as told, once per count, and the request is not carried out."""
    dataset = caller.dataset()
    switch(server, Action.STATUS, status=429, retry_after=7, count=2)
    for _ in range(2):
        response = caller.upload(dataset, [("a.jpg", JPG)])
        assert (response.status_code, response.headers["retry-after"]) == (429, "7")
        assert response.json()["result"] == "fail"
    assert caller.upload(dataset, [("a.jpg", JPG)]).status_code == 200
    assert stored(caller, dataset) == 1


def test_a_reset_before_the_handler_stores_nothing(server, caller):
    """The client sees a broken connection, and nothing happened."""
    dataset = caller.dataset()
    switch(server, Action.RESET)
    with pytest.raises(requests.ConnectionError):
        caller.upload(dataset, [("a.jpg", JPG)])
    assert stored(caller, dataset) == 0
    (entry,) = server.requests.matching("POST", "/files")
    assert (entry.status, entry.fault) == (None, "reset")


def test_a_lost_answer_leaves_the_files_stored(server, caller):
    """The client sees a broken connection, and everything happened."""
    dataset = caller.dataset()
    switch(server, Action.LOSE_ANSWER)
    with pytest.raises(requests.ConnectionError):
        caller.upload(dataset, [("a.jpg", JPG)])
    assert stored(caller, dataset) == 1


def test_a_cut_answer_ends_in_the_middle(server, caller):
    """Headers and half a body arrive; the rest never does; the files are stored."""
    dataset = caller.dataset()
    switch(server, Action.CUT_ANSWER)
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        caller.upload(dataset, [("a.jpg", JPG)])
    assert stored(caller, dataset) == 1


def test_a_late_request_is_carried_out_after_the_client_gave_up(server, caller):
    """The connection breaks at once; the files appear some time later."""
    dataset = caller.dataset()
    switch(server, Action.LATE, seconds=0.3)
    with pytest.raises(requests.ConnectionError):
        caller.upload(dataset, [(f"{n}.jpg", JPG) for n in range(20)])
    assert stored(caller, dataset) == 0
    until(lambda: stored(caller, dataset) == 20)


def test_a_slow_answer_is_slow(server, caller):
    """The client's timeout strikes first if it is shorter; otherwise the answer comes late and whole."""
    dataset = caller.dataset()
    switch(server, Action.SLOW, seconds=0.4)
    begun = time.monotonic()
    assert caller.upload(dataset, [("a.jpg", JPG)]).status_code == 200
    assert time.monotonic() - begun >= 0.4
    switch(server, Action.SLOW, seconds=5)
    with pytest.raises(requests.ReadTimeout):
        caller.upload(dataset, [("a.jpg", JPG)], timeout=0.2)


def test_empty_html_and_soft_failures_look_as_they_do_in_the_field(server, caller):
    """200 without a body after storing; a proxy's page with 502; 200 with result fail."""
    dataset = caller.dataset()
    switch(server, Action.EMPTY)
    response = caller.upload(dataset, [("a.jpg", JPG)])
    assert (response.status_code, response.content) == (200, b"")
    assert stored(caller, dataset) == 1
    switch(server, Action.HTML, status=502)
    response = caller.upload(dataset, [("a.jpg", JPG)])
    assert (response.status_code, response.text[:6]) == (502, "<html>")
    switch(server, Action.SOFT_FAILURE)
    response = caller.upload(dataset, [("a.jpg", JPG)])
    assert (response.status_code, response.json()["result"]) == (200, "fail")
    assert stored(caller, dataset) == 1


def test_tokens_expire_on_demand(tmp_path: Path):
    """After expire_tokens the token is 401, and a new one is good."""
    with serving(tmp_path, credentials=Credentials("ann", "horse battery")) as server:
        body = {"grant_type": "password", "username": "ann", "password": "horse battery"}
        token = Caller(server.url, None).post("/tokens", **body)["token"]
        caller = Caller(server.url, token)
        server.faults.add(Fault(Action.EXPIRE_TOKENS, path="/datasets"))
        assert caller.call("GET", "/datasets").status_code == 401
        assert caller.call("GET", "/datasets").status_code == 401
        token = Caller(server.url, None).post("/tokens", **body)["token"]
        assert Caller(server.url, token).get("/datasets") == []


def test_faults_are_switched_over_http(server, caller):
    """POST adds one or several, GET shows what is left, DELETE clears; the switches themselves are never hit."""
    url = f"{server.url}/_faults"
    forever = {"action": "status", "status": 500, "count": None}
    answer = caller.session.post(url, json=[{"action": "reset", "path": "^/system$", "count": 3}, forever]).json()
    assert [fault["action"] for fault in answer["faults"]] == ["reset", "status"]
    with pytest.raises(requests.ConnectionError):
        caller.call("GET", "/system")
    assert caller.call("GET", "/datasets").status_code == 500
    assert [fault["count"] for fault in caller.session.get(url).json()["faults"]] == [2, None]
    assert caller.session.delete(url).json()["faults"] == []
    assert caller.call("GET", "/datasets").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        None,
        3,
        {},
        {"action": "explode"},
        {"action": "reset", "cuont": 1},
        {"action": "reset", "count": 0},
        {"action": "reset", "count": True},
        {"action": "reset", "path": "("},
        {"action": "status", "status": 200},
        {"action": "slow", "seconds": "1"},
        {"action": "reset", "probability": 2},
    ],
)
def test_a_fault_that_is_not_understood_is_refused(server, caller, body):
    """Each mistake is told in a sentence, and nothing is switched."""
    response = caller.session.post(f"{server.url}/_faults", json=body)
    assert response.status_code == 400
    assert "not understood" in response.json()["fault"]
    assert server.faults.as_json() == []


def test_a_guarded_servers_switches_need_its_token(tmp_path: Path):
    """Who may not come in may not break things either."""
    with serving(tmp_path, credentials=Credentials(api_key="AbC1-d2E3-fG4h-5IjK")) as server:
        assert requests.post(f"{server.url}/_faults", json={"action": "reset"}, timeout=5).status_code == 401
        caller = Caller(server.url, "AbC1-d2E3-fG4h-5IjK")
        assert caller.session.post(f"{server.url}/_faults", json={"action": "reset"}).status_code == 200


def test_the_server_stops_in_the_middle_of_a_slow_answer(tmp_path: Path):
    """Stopping does not wait for what is slow on purpose."""
    with serving(tmp_path) as server:
        server.faults.add(Fault(Action.SLOW, seconds=60))
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(Caller(server.url).call, "GET", "/datasets")
            until(lambda: server.faults.as_json() == [])
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 3
            assert isinstance(answer.exception(5), requests.ConnectionError)
