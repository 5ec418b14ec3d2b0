"""Keys, passwords and tokens, against a server that counts logins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from image_sync import log
from image_sync.errors import ConfigError, Transient, Unauthorised
from image_sync.platforms.http import Timeouts
from image_sync.platforms.mvi.auth import Password, api_key
from image_sync.platforms.mvi.platform import MviPlatform
from support.fake_http import FakeHttp, Reply, Request, answer, ok

PASSWORD = "pass w0rd of ann"


class Door:
    """A script that lets in whoever has a good token, and hands out new ones."""

    def __init__(self) -> None:
        self.good: set[str] = set()
        self.logins = 0
        self.refuse: Reply | None = None
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self.lock:
            if request.path == "/api/tokens":
                self.logins += 1
                if self.refuse:
                    return self.refuse
                token = f"token-number-{self.logins}"
                self.good = {token}
                return ok({"result": "success", "token": token})
            if request.headers.get("x-auth-token") in self.good:
                return ok([])
            return answer(401, {"result": "fail", "fault": "Failed to parse token."})


@pytest.fixture
def door() -> Door:
    """The doorkeeper."""
    return Door()


@pytest.fixture
def server(door: Door) -> Iterator[FakeHttp]:
    """A server with that door."""
    with FakeHttp(script=door) as server:
        yield server


@pytest.fixture
def platform(server: FakeHttp) -> Callable[..., MviPlatform]:
    """Makes platforms at that server."""

    def make(**credentials: str) -> MviPlatform:
        return MviPlatform(server.url, stop=threading.Event(), timeouts=Timeouts(2, 2, 5), **credentials)  # type: ignore[arg-type]

    return make


def test_login_happens_once_and_late(platform: Callable[..., MviPlatform], server: FakeHttp, door: Door) -> None:
    """Nothing is sent before it is needed; then one login serves all calls."""
    mvi = platform(username="ann", password=PASSWORD)
    assert server.requests == []

    mvi.sign_in()
    mvi.sign_in()

    assert server.paths() == ["POST /api/tokens", "GET /api/datasets", "GET /api/datasets"]
    assert server.requests[0].json() == {"grant_type": "password", "username": "ann", "password": PASSWORD}
    assert "x-auth-token" not in server.requests[0].headers
    assert server.requests[2].headers["x-auth-token"] == "token-number-1"


def test_expired_token_is_renewed(platform: Callable[..., MviPlatform], door: Door) -> None:
    """A token that worked and runs out is replaced without the caller noticing, again and again."""
    mvi = platform(username="ann", password=PASSWORD)
    for _ in range(3):
        mvi.sign_in()
        door.good = set()

    assert door.logins == 3


def test_sixteen_threads_share_one_login(platform: Callable[..., MviPlatform], door: Door) -> None:
    """Threads that find the token expired at the same moment make one login between them."""
    mvi = platform(username="ann", password=PASSWORD)
    mvi.sign_in()
    door.good = set()
    barrier = threading.Barrier(16)
    errors: list[BaseException] = []

    def work() -> None:
        barrier.wait()
        try:
            mvi.sign_in()
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert errors == []
    assert door.logins == 2


@pytest.mark.parametrize(
    "refusal",
    [
        answer(401, {"result": "fail", "fault": "wrong"}),
        answer(200, {"result": "fail", "fault": "wrong"}),
        answer(400, {"result": "fail", "fault": "wrong"}),
        answer(404, {"fault": "wrong"}),
        ok({"result": "success"}),
    ],
)
def test_refused_login_is_not_repeated(platform: Callable[..., MviPlatform], door: Door, refusal: Reply) -> None:
    """A refused password raises Unauthorised with a hint, and is not tried again for some seconds."""
    door.refuse = refusal
    mvi = platform(username="ann", password=PASSWORD)
    for _ in range(5):
        with pytest.raises(Unauthorised) as caught:
            mvi.sign_in()

    assert "credentials" in caught.value.hint
    assert door.logins == 1


def test_refused_login_is_tried_again_after_growing_pauses() -> None:
    """It gets another chance after seconds, a minute, then every five: no storm that would lock the account."""
    now = 0.0
    tries: list[float] = []

    def login() -> str:
        tries.append(now)
        raise Unauthorised("no")

    auth = Password(login, clock=lambda: now)
    for now in (0.0, 4.0, 6.0, 30.0, 65.0, 67.0, 300.0, 366.0, 368.0, 660.0):  # noqa: B007 - the clock reads it
        with pytest.raises(Unauthorised, match="no"):
            auth.token()

    assert tries == [0.0, 6.0, 67.0, 368.0]


def test_server_that_refuses_its_own_tokens(platform: Callable[..., MviPlatform], door: Door) -> None:
    """Fresh tokens that never work do not lead to a storm of logins."""
    mvi = platform(username="ann", password=PASSWORD)
    door.refuse = ok({"token": "never-any-good"})
    for _ in range(5):
        with pytest.raises(Unauthorised, match="just given out"):
            mvi.sign_in()

    assert door.logins == 1


def test_failed_login_is_shared_and_tried_again() -> None:
    """Threads that wait for a failing login share its error; a second later the next call tries anew."""
    now = 100.0
    results: list[str | Transient] = ["old", Transient("away", retry_after=7), "new"]

    def login() -> str:
        result = results.pop(0)
        if isinstance(result, Transient):
            raise result
        return result

    auth = Password(login, clock=lambda: now)
    auth.accepted(auth.token())
    for _ in range(15):
        with pytest.raises(Transient, match="away") as caught:
            auth.renew("old")
        assert caught.value.retry_after == 7
    now += 1.0

    assert auth.renew("old") == "new"
    assert auth.renew("old") == "new"


def test_unreachable_login_is_transient(platform: Callable[..., MviPlatform], door: Door) -> None:
    """A login page that is out of order is no refusal of the password."""
    mvi = platform(username="ann", password=PASSWORD)
    door.refuse = Reply(503)

    with pytest.raises(Transient):
        mvi.sign_in()


def test_refused_api_key_stops_at_once(platform: Callable[..., MviPlatform], server: FakeHttp, door: Door) -> None:
    """A revoked key is told with the remedy after one request; no login is tried."""
    with pytest.raises(Unauthorised) as caught:
        platform(api_key="AbC1-d2E3-fG4h-5IjK").sign_in()

    assert "credentials.api_key" in caught.value.hint
    assert "AbC1" not in str(caught.value)
    assert server.paths() == ["GET /api/datasets"]


def test_api_key_is_sent_as_it_is(platform: Callable[..., MviPlatform], server: FakeHttp, door: Door) -> None:
    """The key travels in X-Auth-Token without surrounding blanks, and wins over a password."""
    door.good = {"AbC1-d2E3-fG4h-5IjK"}

    platform(api_key=" AbC1-d2E3-fG4h-5IjK\n", username="ann", password=PASSWORD).sign_in()

    assert server.paths() == ["GET /api/datasets"]
    assert server.requests[0].headers["x-auth-token"] == "AbC1-d2E3-fG4h-5IjK"


def test_no_credentials_send_no_header(platform: Callable[..., MviPlatform], server: FakeHttp, door: Door) -> None:
    """Without credentials there is no header, and a server that wants some is told as such."""
    with pytest.raises(Unauthorised) as caught:
        platform().sign_in()

    assert "credentials.api_key" in caught.value.hint
    assert "x-auth-token" not in server.requests[0].headers


def test_secrets_are_known_to_the_log() -> None:
    """Keys, passwords and tokens are masked from the moment they are known."""
    api_key("Key1-Key2-Key3-Key4")

    assert log.masked("x Key1-Key2-Key3-Key4 y") == f"x {log.MASK} y"


def test_token_of_a_login_is_masked(platform: Callable[..., MviPlatform], door: Door) -> None:
    """The password and the session token are masked, too."""
    platform(username="ann", password=PASSWORD).sign_in()

    assert PASSWORD not in log.masked(f"login {PASSWORD}")
    assert "token-number-1" not in log.masked("got token-number-1")


def test_unsendable_key_is_refused_before_it_is_sent() -> None:
    """A key with a line break inside is a mistake of the configuration, told without showing it."""
    with pytest.raises(ConfigError) as caught:
        api_key("abc\r\nX-Evil: 1")

    assert "Evil" not in str(caught.value)
