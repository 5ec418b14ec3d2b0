"""Who the embedded server lets in, and what it says to the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from image_sync_server.mvi.auth import Credentials
from image_sync_server.mvi.server import MviServer
from image_sync_server.web import Unprotected
from support.mvi_server import Caller, serving

ANN = Credentials("ann", "correct horse")


@pytest.fixture(name="guarded")
def _guarded(tmp_path: Path) -> Iterator[MviServer]:
    with serving(tmp_path, credentials=ANN) as server:
        yield server


def sign_in(server: MviServer, password: str = "correct horse", user: str = "ann") -> requests.Response:
    body = {"grant_type": "password", "username": user, "password": password}
    return Caller(server.url, None).call("POST", "/tokens", json=body)


def test_a_password_gets_a_token_that_lets_in(guarded):
    """POST /tokens answers result, token and user, and the token opens every other call."""
    answer = sign_in(guarded).json()
    assert answer["result"] == "success"
    assert answer["user_id"] == "ann"
    assert Caller(guarded.url, answer["token"]).get("/datasets") == []


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("bob", "correct horse"), ("ann", "ü")])
def test_wrong_credentials_are_401_with_a_fault(guarded, user, password):
    """A wrong user or password is told as 401 with result and fault."""
    response = sign_in(guarded, password, user)
    assert response.status_code == 401
    assert response.json()["result"] == "fail"
    assert response.json()["fault"]


@pytest.mark.parametrize("token", [None, "", "None", "0000", "é".encode().decode("latin-1")])
def test_a_bad_token_is_401_in_the_words_of_mvi(guarded, token):
    """No token, an empty one and a wrong one get the same answer, on calls that exist and on others."""
    caller = Caller(guarded.url, token)
    for path in ("/datasets", "/nothing"):
        response = caller.call("GET", path)
        assert response.status_code == 401
        assert response.json() == {
            "result": "fail",
            "fault": "Failed to parse token.",
            "status": "Unauthorized",
            "type": "UnauthorizedException",
        }


def test_a_token_ends_after_its_life(tmp_path):
    """A token that has outlived its time is refused."""
    with serving(tmp_path, credentials=ANN, token_life=0.0) as server:
        token = sign_in(server).json()["token"]
        assert Caller(server.url, token).call("GET", "/datasets").status_code == 401


def test_version_and_sign_in_ignore_the_token_header(guarded):
    """IBM's tool sends an empty or odd token there; the version starts with three numbers."""
    answer = Caller(guarded.url, "None").get("/version-info")
    assert [part.isdigit() for part in answer["version"].split("-")[0].split(".")] == [True] * 3
    assert answer["result"] == "success"


def test_a_key_is_made_shown_replaced_and_revoked(guarded):
    """An API key works like a token; a second one ends the first; without one GET is 404."""
    caller = Caller(guarded.url, sign_in(guarded).json()["token"])
    missing = caller.call("GET", "/api-keys")
    assert (missing.status_code, missing.json()["type"]) == (404, "NotFoundException")
    first = caller.post("/api-keys")["api_key"]
    assert [len(group) for group in first.split("-")] == [4] * 4
    assert caller.get("/api-keys")["api_key"] == first
    assert Caller(guarded.url, first).get(f"/users/{first}")["username"] == "ann"
    second = caller.post("/api-keys")["api_key"]
    assert Caller(guarded.url, first).call("GET", "/datasets").status_code == 401
    assert Caller(guarded.url, second).get("/datasets") == []
    assert caller.call("DELETE", "/api-keys").json()["result"] == "success"
    assert Caller(guarded.url, second).call("GET", "/datasets").status_code == 401


def test_a_configured_key_lets_in_and_a_password_does_not(tmp_path):
    """With only an API key configured the key is the one way in."""
    with serving(tmp_path, credentials=Credentials(api_key="AbC1-d2E3-fG4h-5IjK")) as server:
        assert Caller(server.url, "AbC1-d2E3-fG4h-5IjK").get("/datasets") == []
        assert Caller(server.url, "AbC1-d2E3-fG4h-5IjX").call("GET", "/datasets").status_code == 401
        assert sign_in(server, "", "admin").status_code == 401


def test_tokens_and_keys_survive_a_restart_and_lie_hashed_on_disk(tmp_path):
    """A token is good for its whole life, even over a restart, and cannot be read from the folder."""
    with serving(tmp_path, credentials=ANN) as server:
        token = sign_in(server).json()["token"]
        key = Caller(server.url, token).post("/api-keys")["api_key"]
    assert token.encode() not in (tmp_path / "server.sqlite3").read_bytes()
    with serving(tmp_path, credentials=ANN) as server:
        assert Caller(server.url, token).get("/datasets") == []
        assert Caller(server.url, key).get("/datasets") == []


def test_without_credentials_any_token_or_none_will_do(tmp_path):
    """On loopback a server without credentials takes everybody, and signs everybody in."""
    with serving(tmp_path) as server:
        for token in (None, "", "None", "anything"):
            assert Caller(server.url, token).get("/datasets") == []
        assert sign_in(server, "whatever", "zoe").json()["user_id"] == "zoe"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_without_credentials_a_web_page_cannot_use_it(tmp_path, headers):
    """A browser that is led here by another site, or by a name that was bound anew, is refused."""
    with serving(tmp_path) as server:
        response = Caller(server.url).call("POST", "/datasets", json={"name": "x"}, headers=headers)
        assert response.status_code == 403
        assert Caller(server.url).get("/datasets") == []


def test_other_machines_are_only_let_near_with_credentials(tmp_path):
    """Listening on every address is refused without credentials and possible with them."""
    server = MviServer(tmp_path)
    try:
        with pytest.raises(Unprotected, match="no user or API key"):
            server.start("0.0.0.0")
    finally:
        server.stop()
    server = MviServer(tmp_path, credentials=ANN)
    try:
        port = server.start("0.0.0.0").rpartition(":")[2]
        assert Caller(f"http://127.0.0.1:{port}").call("GET", "/datasets").status_code == 401
    finally:
        server.stop()


def test_secrets_do_not_show_in_a_repr():
    """Credentials can be printed without telling anything."""
    assert "horse" not in repr(ANN)
    assert "key" not in repr(Credentials(api_key="secret-value")).replace("api_key", "")
    assert "secret-value" not in repr(Credentials(api_key="secret-value"))


def test_half_a_pair_is_no_credential():
    """A user without a password, or a password without a user, is a mistake that is told."""
    for half in (("ann", ""), ("", "horse")):
        with pytest.raises(ValueError, match="needs a"):
            Credentials(*half)
