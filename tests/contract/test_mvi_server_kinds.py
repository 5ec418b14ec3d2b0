"""Each named fault does to a real client what its table says: what is stored, what is seen, how often."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import requests

from image_sync_server.mvi.auth import Credentials
from image_sync_server.mvi.fault_presets import KINDS, from_json, parsed
from image_sync_server.mvi.server import MviServer, build
from support.mvi_server import Caller, archive, contents, picture, serving, until

JPG = picture("dark", 1)
BROKEN = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
KEY = "AbC1-d2E3-fG4h-5IjK"


@pytest.fixture(name="caller")
def _caller(server: MviServer) -> Caller:
    server.faults.clear()
    server.faults.forget()
    return Caller(server.url)


@pytest.fixture(name="dataset")
def _dataset(caller: Caller, request: pytest.FixtureRequest) -> str:
    return caller.dataset(request.node.name)


def stored(caller: Caller, dataset: str) -> int:
    return int(caller.get(f"/datasets/{dataset}")["total_file_count"])


def raw_upload(server: MviServer, dataset: str, content: bytes, *, held_back: int = 0) -> socket.socket:
    """A connection on which an upload was sent, but for the last bytes."""
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + content + b"\r\n--b--\r\n"
    head = (
        f"POST /api/datasets/{dataset}/files HTTP/1.1\r\nHost: {server.url.removeprefix('http://')}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    try:
        connection.sendall(head + body[: len(body) - held_back])
    except OSError:
        connection.close()
        raise
    return connection


@pytest.mark.parametrize(
    ("word", "status", "result", "kept"),
    [
        ("500-before=1", 500, "fail", 0),
        ("500-after=1", 500, "fail", 1),
        ("429=1:3", 429, "fail", 0),
        ("401=1", 401, "fail", 0),
        ("html=1", 502, None, 0),
        ("soft-fail=1", 200, "fail", 0),
        ("soft-fail-after=100%", 200, "fail", 1),
        ("truncated-json=1", 200, None, 1),
    ],
)
def test_a_wrong_answer(server, caller, dataset, word, status, result, kept):
    """The status is as told, the body says fail or is not JSON, and the picture is stored or not, each time."""
    kind = word.partition("=")[0]
    server.faults.add(*parsed(word))
    for _ in range(2):
        response = caller.upload(dataset, [("a.jpg", JPG)])
        assert response.status_code == status
        if result is None:
            assert len(response.content) == int(response.headers["content-length"]) > 0
            with pytest.raises(requests.exceptions.JSONDecodeError):
                response.json()
        else:
            assert response.json()["result"] == result
        assert response.headers.get("retry-after") == ("3" if kind == "429" else None)
    server.faults.clear()
    assert server.faults.counts == {kind: 2}
    assert stored(caller, dataset) == 2 * kept
    assert caller.upload(dataset, [("a.jpg", JPG)]).status_code == 200


@pytest.mark.parametrize(("kind", "kept"), [("lost-answer", 1), ("reset-answer", 1), ("reset-body", 0)])
def test_a_broken_connection(server, caller, dataset, kind, kept):
    """The client sees no whole answer, and the picture is stored or not, each time."""
    server.faults.add(*parsed(f"{kind}=1"))
    for _ in range(2):
        with pytest.raises(BROKEN):
            caller.upload(dataset, [("a.jpg", JPG)])
    server.faults.clear()
    assert server.faults.counts == {kind: 2}
    assert stored(caller, dataset) == 2 * kept


def test_reset_body_strikes_while_the_body_is_still_coming(server, caller, dataset):
    """The reset comes when half of the body was sent, and the rest never."""
    server.faults.add(*parsed("reset-body=1"))

    def send() -> None:
        with raw_upload(server, dataset, bytes(200_000), held_back=60_000) as connection:
            connection.recv(1)

    with pytest.raises(ConnectionError):
        send()


def test_lost_and_cut_answers_differ_on_the_wire(server, caller, dataset):
    """A lost answer is a reset without a byte; a cut one is a head and half of a body, then the end."""
    server.faults.add(*parsed("lost-answer=1"))
    with raw_upload(server, dataset, JPG) as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    server.faults.clear()
    server.faults.add(*parsed("reset-answer=1"))
    with raw_upload(server, dataset, JPG) as connection:
        came = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = came.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    assert head.startswith(b"HTTP/1.1 200 ")
    assert len(body) == length // 2


def test_trickle_gives_the_whole_answer_byte_by_byte(server, caller, dataset):
    """The answer takes the seconds asked for, in many small pieces that no read timeout notices, and is whole."""
    server.faults.add(*parsed("trickle=1:0.5"))
    begun = time.monotonic()
    with raw_upload(server, dataset, JPG) as connection:
        pieces: list[bytes] = []
        while not pieces or b"\r\n\r\n" not in b"".join(pieces) or not b"".join(pieces).endswith(b"]}"):
            pieces.append(connection.recv(65536))
            assert pieces[-1]
    assert time.monotonic() - begun >= 0.4
    assert len(pieces) > 20
    assert json.loads(b"".join(pieces).partition(b"\r\n\r\n")[2])["result"] == "success"
    assert caller.upload(dataset, [("b.jpg", JPG)], timeout=(5, 0.3)).status_code == 200
    server.faults.clear()
    assert stored(caller, dataset) == 2


def test_401_ends_all_sessions(tmp_path):
    """The request gets 401, so do all others with a token of before; a new sign-in is not struck and is good."""
    with serving(tmp_path, credentials=Credentials("ann", "horse battery")) as server:
        body = {"grant_type": "password", "username": "ann", "password": "horse battery"}
        tokens = [Caller(server.url, None).post("/tokens", **body)["token"] for _ in range(2)]
        server.faults.add(*from_json({"kind": "401", "count": 1}))
        assert Caller(server.url, tokens[0]).call("GET", "/datasets").status_code == 401
        assert [Caller(server.url, token).call("GET", "/datasets").status_code for token in tokens] == [401, 401]
        server.faults.add(*parsed("401=1"))
        token = Caller(server.url, None).post("/tokens", **body)["token"]
        assert Caller(server.url, token).call("GET", "/datasets").status_code == 401
        server.faults.clear()
        assert server.faults.counts == {"401": 2}


def test_401_strikes_an_api_key_once(tmp_path):
    """A key is refused for one request and good again, also with `all`: a server behind a proxy does that to a key."""
    with serving(tmp_path, credentials=Credentials(api_key=KEY)) as server:
        caller = Caller(server.url, KEY)
        server.faults.add(*from_json({"kind": "401", "count": 1}))
        assert [caller.call("GET", "/datasets").status_code for _ in range(2)] == [401, 200]
        server.faults.add(*parsed("all=1"))
        for fault in server.faults.as_json():
            if fault["kind"] != "401":
                server.faults.add(*parsed(f"{fault['kind']}=0"))
        assert [fault["kind"] for fault in server.faults.as_json()] == ["401"]
        assert caller.call("GET", "/datasets").status_code == 401
        server.faults.clear()
        assert caller.call("GET", "/datasets").status_code == 200
        assert server.faults.counts == {"401": 2}


def test_partial_stores_what_it_does_not_refuse(server, caller, dataset):
    """422, and resultList names each picture as stored or refused, truly; some of each, one alone is spared."""
    server.faults.add(*parsed("partial=1"))
    for turn in range(5):
        names = [f"{turn}-{n}.jpg" for n in range(4)]
        response = caller.upload(dataset, [(name, JPG) for name in names])
        entries = response.json()["resultList"]
        assert response.status_code == 422
        assert [entry["file_name"] for entry in entries] == names
        told = {entry["file_name"] for entry in entries if entry["result"] == "success"}
        assert 0 < len(told) < 4
        assert all("asked for" in entry["fault"] for entry in entries if entry["result"] == "fail")
        files = caller.get(f"/datasets/{dataset}/files")
        assert {file["original_file_name"] for file in files if file["original_file_name"] in names} == told
    assert server.faults.counts == {"partial": 5}
    assert caller.upload(dataset, [("alone.jpg", JPG)]).status_code == 200
    assert server.faults.counts == {"partial": 5}
    assert list((server.store.folder / "incoming").iterdir()) == []


def test_not_stored_refuses_even_a_single_picture(server, caller, dataset):
    """Some of several, or the only one, could not be stored: told as such, gone, and good when sent again."""
    server.faults.add(*parsed("not-stored=1"))
    entries = caller.upload(dataset, [(f"{n}.jpg", JPG) for n in range(4)]).json()["resultList"]
    kept = sum(entry["result"] == "success" for entry in entries)
    alone = caller.upload(dataset, [("alone.jpg", JPG)])
    server.faults.clear()
    assert 0 < kept < 4
    assert alone.status_code == 422
    assert "could not be stored" in alone.json()["resultList"][0]["fault"]
    assert server.faults.counts == {"not-stored": 2}
    assert stored(caller, dataset) == kept
    assert caller.upload(dataset, [("alone.jpg", JPG)]).status_code == 200


@pytest.mark.parametrize("what", ["upload", "training"])
def test_late_happens_after_the_client_was_cut_off(server, caller, what):
    """The connection is reset, nothing is there; a moment later the pictures, or the training, are."""
    dataset = caller.trainable(f"late {what}", each=5)
    server.faults.add(*parsed("late=1:1"))
    name = f"late model of {dataset}"

    def there() -> bool:
        if what == "upload":
            return stored(caller, dataset) == 12
        return [task["name"] for task in caller.get("/dltasks") if task["dataset_id"] == dataset] == [name]

    def ask() -> None:
        if what == "upload":
            caller.upload(dataset, [("a.jpg", JPG), ("b.jpg", JPG)])
        else:
            caller.train(dataset, name)

    with pytest.raises(requests.ConnectionError):
        ask()
    assert not there()
    until(there)
    server.faults.clear()
    assert server.faults.counts == {"late": 1}


def test_late_zip_says_success_and_unpacks_later(server, caller, dataset):
    """The answer is a success without ids, nothing is there; later every member is, in its category, once."""
    server.faults.add(*parsed("late-zip=1:1"))
    members = {f"{n}.jpg": picture("dark", n) for n in range(5)}
    response = caller.upload(dataset, [("five.zip", archive(members))], {"category_name": "dent"})
    assert (response.status_code, response.json()["result"]) == (200, "success")
    assert [entry["file_name"] for entry in response.json()["resultList"]] == ["five.zip"]
    assert stored(caller, dataset) == 0
    assert caller.upload(dataset, [("a.jpg", JPG)]).json()["id"]
    until(lambda: stored(caller, dataset) == 6)
    files = caller.get(f"/datasets/{dataset}/files", query='category_name == "dent"')
    assert {file["original_file_name"] for file in files} == set(members)
    assert server.faults.counts == {"late-zip": 1}
    assert list((server.store.folder / "incoming").iterdir()) == []


def test_train_500_fails_the_first_two_looks_at_the_end(server, caller):
    """Two status calls get 500 with result fail once the training is over, the task itself says trained throughout."""
    dataset = caller.trainable("train-500")
    server.faults.add(*parsed("train-500=1"))
    tasks = [caller.train(dataset, f"model {n}") for n in range(2)]

    def trained(task: str) -> bool:
        return bool(caller.get(f"/dltasks/{task}")["status"] == "trained")

    for task in tasks:
        until(partial(trained, task))
        answers = [caller.call("GET", f"/dltasks/{task}/status") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [500, 500, 200, 200]
        assert answers[0].json()["result"] == "fail"
        assert trained(task)
        assert answers[2].json()["status"] == "trained"
    assert server.faults.counts == {"train-500": 2}


def test_listing_lag_hides_new_files_for_a_while(server, caller, dataset):
    """Stored and known by their ids at once; listings, queries and the count show them later, and old files always."""
    assert caller.upload(dataset, [("old.jpg", JPG)]).status_code == 200
    server.faults.add(*parsed("listing-lag=1:1"))
    answer = caller.upload(dataset, [("new.jpg", JPG)], {"category_name": "dent"}).json()
    begun = time.monotonic()
    server.faults.clear()

    def seen() -> tuple[list[str], int, int, int]:
        names = [file["original_file_name"] for file in caller.get(f"/datasets/{dataset}/files")]
        queried = caller.get(f"/datasets/{dataset}/files", query='original_file_name == "new.jpg"')
        listed = next(one for one in caller.get("/datasets") if one["_id"] == dataset)
        return names, len(queried), stored(caller, dataset), listed["total_file_count"]

    assert seen() == (["old.jpg"], 0, 1, 1)
    assert caller.get(f"/datasets/{dataset}/files/{answer['id']}")["category_name"] == "dent"
    mine = [one for one in contents(server) if one.dataset == "test_listing_lag_hides_new_files_for_a_while"]
    assert [one.name for one in mine] == ["old.jpg", "new.jpg"]
    until(lambda: seen() == (["new.jpg", "old.jpg"], 1, 2, 2))
    assert time.monotonic() - begun > 0.5
    assert server.faults.counts == {"listing-lag": 1}


def test_duplicate_stores_twice_and_answers_once(server, caller, dataset):
    """One upload, two files of the same name and bytes; the answer has the id of the second."""
    server.faults.add(*parsed("duplicate=1"))
    answer = caller.upload(dataset, [("a.jpg", JPG), ("big.jpg", JPG + bytes(2_000_000))], {"category_name": "dent"})
    server.faults.clear()
    assert answer.status_code == 200
    mine = [one for one in contents(server) if one.dataset == "test_duplicate_stores_twice_and_answers_once"]
    assert sorted(Counter(mine).values()) == [2, 2]
    assert {one.category for one in mine} == {"dent"}
    files = caller.get(f"/datasets/{dataset}/files", query='original_file_name == "a.jpg"')
    assert files[0]["_id"] == answer.json()["id"] != files[1]["_id"]
    assert server.faults.counts == {"duplicate": 1}


def test_a_rate_and_a_seed_are_kept(tmp_path):
    """About so many requests are struck, the same ones in each run with the same seed, others with another."""

    def run(name: str, seed: int) -> list[int]:
        with serving(tmp_path / name, fault_seed=seed) as server:
            server.faults.add(*parsed("429=30%"), *parsed("html=20%"))
            caller = Caller(server.url)
            return [caller.call("GET", "/datasets").status_code for _ in range(200)]

    first = run("a", 5)
    assert first == run("b", 5) != run("c", 6)
    counts = Counter(first)
    assert 30 < counts[429] < 80
    assert 15 < counts[502] < 60


def test_kinds_are_switched_over_http(server, caller):
    """POST takes kinds with rates, GET tells what is on and what struck, a rate of 0 and DELETE switch off."""
    url = f"{server.url}/_faults"
    kinds = [{"kind": "429", "rate": 1, "count": 2, "path": "^/system$"}, {"kind": "late", "rate": "5%", "seconds": 3}]
    answer = caller.session.post(url, json=kinds).json()
    shown = [(one["kind"], one["probability"], one["count"], one["seconds"]) for one in answer["faults"]]
    assert shown == [("429", 1, 2, 1), ("late", 0.05, None, 3)]
    assert [caller.call("GET", "/system").status_code for _ in range(3)] == [429, 429, 200]
    assert caller.session.get(url).json()["struck"] == {"429": 2}
    assert caller.session.post(url, json={"kind": "late", "rate": 0}).json()["faults"] == []
    every = caller.session.post(url, json={"kind": "all", "rate": "5%"}).json()["faults"]
    assert {one["kind"] for one in every} == set(KINDS)
    again = caller.session.post(url, json={"kind": "html", "rate": 0.5}).json()["faults"]
    assert sorted(one["probability"] for one in again) == [0.05] * (len(KINDS) - 1) + [0.5]
    gone = caller.session.delete(url).json()
    assert (gone["faults"], gone["struck"]["429"]) == ([], 2)
    assert caller.session.get(url).json()["struck"] == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"kind": "418"}, "there is no kind '418'; known: 500-before, 500-after"),
        ({"kind": "429", "rate": 2}, "rate must be between 0 and 1"),
        ({"kind": "429", "rate": "half"}, "KIND=RATE"),
        ({"kind": "429", "rate": True}, "rate a number"),
        ({"kind": "late", "seconds": "3"}, "seconds has the wrong type"),
        ({"kind": "late", "seconds": 1e9}, "between 0 and 86400"),
        ({"kind": "html", "seconds": 3}, "html takes no seconds"),
        ({"kind": "html", "how": 3}, "unknown key 'how'"),
        ({"kind": 3}, "kind must be a text"),
    ],
)
def test_a_kind_that_is_not_understood_is_refused(server, caller, body, words):
    """Each mistake is told in a sentence, and nothing is switched."""
    response = caller.session.post(f"{server.url}/_faults", json=body)
    assert response.status_code == 400
    assert words in response.json()["fault"]
    assert server.faults.as_json() == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"])
def test_other_machines_may_not_touch_the_switches(tmp_path, method, address):
    """A request with a good key from another machine's address is 403, with the reason, and changes nothing."""
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b'{"kind": "429"}', "more_body": False}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    server = MviServer(tmp_path, credentials=Credentials(api_key=KEY))
    try:
        server.faults.add(*parsed("html=1"))
        headers = [(b"host", b"mvi.example.com"), (b"x-auth-token", KEY.encode())]
        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": "/_faults",
            "query_string": b"",
            "headers": headers,
        }
        app = build(server)
        asyncio.run(app({**scope, "client": (address, 4711)}, receive, send))  # type: ignore[arg-type]
        assert sent[0]["status"] == 403
        assert b"from the machine that the server runs on" in sent[1]["body"]  # type: ignore[operator]
        assert [fault["kind"] for fault in server.faults.as_json()] == ["html"]
    finally:
        server.stop()


def test_every_kind_is_shown_here():
    """No kind without a test above, and all of them with `all`, once each."""
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in KINDS if f"{name}=" not in source and f'"{name}"' not in source] == []
    assert [fault.kind for fault in parsed("all=0.5")] == list(KINDS)
    assert {fault.probability for fault in parsed("all=0.5")} == {0.5}
