"""Who we are to MVI: an API key, a user with a password, or nobody. All travel in the header ``X-Auth-Token``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from copy import copy

from image_sync.errors import NotFound, PlatformError, Refused, Unauthorised
from image_sync.log import get_logger, hide
from image_sync.platforms.http import Client, header_value
from image_sync.platforms.mvi import wire

_log = get_logger(__name__)

_PAUSES = (5.0, 60.0, 300.0)
"""Seconds until the next login after one, two and more that were of no use in a row: more would lock the account."""
_BREATH = 1.0
"""Seconds in which threads that wait for a login share its failure."""


class FixedToken:
    """A value that does not change: an API key as MVI 8 and newer give out, or nothing for a server without users."""

    def __init__(self, token: str, refusal: str, hint: str) -> None:
        self._token = token
        self._refusal = refusal
        self._hint = hint

    def token(self) -> str:
        """The value of the token header; empty: send no header."""
        return self._token

    def renew(self, refused: str) -> str:  # noqa: ARG002 - as Password has it
        """Never: the same value is tried again a little later, and a new one comes with a new configuration."""
        raise Unauthorised(self._refusal, hint=self._hint)

    def accepted(self, token: str) -> None:
        """There is nothing to learn."""


def anonymous() -> FixedToken:
    """No credentials."""
    hint = "Put credentials.api_key, or username and password, into the configuration"
    return FixedToken("", "The server wants to know who we are", hint)


def api_key(key: str) -> FixedToken:
    """An API key; it does not run out, but it can be revoked. Raises ConfigError when no header can carry it."""
    hide(key, key.strip())
    hint = "Make a new one in MVI under your user's API keys and put it in credentials.api_key"
    refusal = "The API key was refused (revoked or mistyped?)"
    return FixedToken(header_value(key, "credentials.api_key"), refusal, hint)


class Password:
    """A user and password, turned into a token that lives a day. Threads that need a new one share one login.

    Args:
        login: turns them into a token; raises Unauthorised when they are refused.
        clock: seconds, only their difference matters.
    """

    def __init__(self, login: Callable[[], str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._login = login
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._worked = False
        self._failure: PlatformError | None = None
        self._vain = 0
        """How many logins in a row were refused, or gave a token that never worked."""
        self._tried_at = float("-inf")

    def token(self) -> str:
        """The value of the token header; the first call logs in."""
        with self._lock:
            return self._token or self._sign_in()

    def renew(self, refused: str) -> str:
        """Another token than the refused one: another thread's if it was quicker, else from a login.

        Raises:
            Unauthorised: there is none to be had.
        """
        with self._lock:
            if self._token and self._token != refused:
                return self._token
            if self._token and not self._worked and self._early():
                raise Unauthorised(
                    "The server refuses the session token that it has just given out",
                    hint="Check the clocks of its machines, and whether something between us and it drops X-Auth-Token",
                )
            return self._sign_in()

    def accepted(self, token: str) -> None:
        """Remember that the present token works: when it is refused later, it has run out."""
        if not self._worked and token == self._token:
            self._worked = True
            self._vain = 0

    def _early(self) -> bool:
        return self._clock() - self._tried_at < _PAUSES[min(self._vain, len(_PAUSES)) - 1]

    def _sign_in(self) -> str:
        if self._failure is not None:
            refused = isinstance(self._failure, Unauthorised)
            if self._early() if refused else self._clock() - self._tried_at < _BREATH:
                raise copy(self._failure)
        self._vain += 1
        self._token, self._worked, self._failure = "", False, None
        try:
            self._token = self._login()
        except PlatformError as error:
            self._failure = error
            self._vain -= not isinstance(error, Unauthorised)
            raise
        finally:
            self._tried_at = self._clock()
        _log.info("mvi.signed_in")
        return self._token


Auth = FixedToken | Password
"""Gives the value of the token header, and a new one when the server refused it."""


def log_in(client: Client, username: str, password: str) -> str:
    """A session token (``POST /tokens``, up to MVI 1.3). Raises Unauthorised when there is none to be had."""
    what = "Signing in"
    hide(password)
    request = {"grant_type": "password", "username": username, "password": password}
    answer = client.send("POST", "/tokens", what=what, repeatable=True, body=request)
    try:
        body = client.check(answer, what=what, repeatable=True)
    except NotFound as error:
        raise Unauthorised(
            f"{error.what}: this server knows no login by password",
            hint="MVI 8 and newer want an API key: make one there and put it in credentials.api_key",
        ) from None
    except (Unauthorised, Refused) as error:
        raise Unauthorised(error.what, hint="Check credentials.username and password") from None
    token = wire.parse(wire.Token, body, what=what, repeatable=True).token
    hide(token)
    if not token:
        raise Unauthorised(f"{what}: the server gave no token", hint="Check credentials.endpoint")
    return header_value(token, "The session token")
