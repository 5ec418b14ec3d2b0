"""Who may come in: tokens for a user and password, API keys, and the open door on loopback; and who is asking."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from image_sync_server.mvi.request import Failure, Request, success
from image_sync_server.mvi.store import Store

DAY = 24 * 60 * 60.0
TOKEN = "x-auth-token"  # noqa: S105 - the name of the header that carries a token or key
_ALPHABET = string.ascii_letters + string.digits
ANYONE = "admin"
"""Owner of everything when no user is configured."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who is let in; with none of them everybody on this machine is.

    Raises:
        ValueError: a user without a password, or the other way round.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if bool(self.user) != bool(self.password):
            raise ValueError("a user needs a password, and a password needs a user")

    @property
    def open(self) -> bool:
        """Whether nothing is asked of anybody."""
        return not self.password and not self.api_key


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _same(one: str, other: str) -> bool:
    # Equal lengths, so that the time it takes tells nothing of the secret.
    return hmac.compare_digest(_digest(one), _digest(other))


class Guard:
    """Checks tokens and keys; tokens survive a restart, as hashes.

    Args:
        token_life: seconds a session token is good for; 24 hours with MVI.
    """

    def __init__(self, store: Store, credentials: Credentials, token_life: float = DAY) -> None:
        self.credentials = credentials
        self.token_life = token_life
        self._store = store
        self._lock = threading.Lock()
        # Looked at for every request in the event loop, which must never wait for the disk.
        self._tokens: dict[str, tuple[str, float]] = {
            row["digest"]: (row["owner"], row["expires_at"])
            for row in store.rows("SELECT * FROM tokens WHERE expires_at > ?", time.time())
        }
        self._keys: dict[str, str] = {row["owner"]: row["key"] for row in store.rows("SELECT * FROM api_keys")}
        if credentials.api_key:
            self._keys[self.owner] = credentials.api_key

    @property
    def open(self) -> bool:
        """Whether any token will do."""
        return self.credentials.open

    @property
    def owner(self) -> str:
        return self.credentials.user or ANYONE

    def sign_in(self, user: str, password: str) -> str:
        """A fresh session token. Raises Failure: 401."""
        if not self.open:
            right = _same(user, self.credentials.user) & _same(password, self.credentials.password)
            if not right or not self.credentials.password:
                raise Failure(401, "The user name or the password is wrong.")
        token = secrets.token_hex(32)
        expires_at = time.time() + self.token_life
        with self._lock:
            self._store.run("DELETE FROM tokens WHERE expires_at <= ?", time.time())
            self._store.run("INSERT INTO tokens VALUES (?, ?, ?)", _digest(token), user, expires_at)
            self._tokens[_digest(token)] = (user, expires_at)
        return token

    def who(self, secret: str) -> str | None:
        """The user that a token or key belongs to; None when it is not good."""
        owner, expires_at = self._tokens.get(_digest(secret), ("", 0.0))
        if expires_at > time.time():
            return owner
        for owner, key in list(self._keys.items()):
            if _same(secret, key):
                return owner
        return self.owner if self.open else None

    def has_session(self, secret: str) -> bool:
        """Whether this is a session token that is good; a key is none."""
        return self._tokens.get(_digest(secret), ("", 0.0))[1] > time.time()

    def expire_tokens(self) -> None:
        """Make all session tokens invalid; keys stay good."""
        with self._lock:
            self._tokens.clear()
            self._store.run("DELETE FROM tokens")

    def key_of(self, owner: str) -> str | None:
        return self._keys.get(owner)

    def make_key(self, owner: str) -> str:
        """A new API key for a user; the one they had is good no more."""
        key = "-".join("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(4))
        with self._lock:
            self._store.run(
                "INSERT INTO api_keys VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET key = excluded.key", owner, key
            )
            self._keys[owner] = key
        return key

    def revoke_key(self, owner: str) -> None:
        """Take a user's API key away. A configured key is back after a restart."""
        with self._lock:
            self._store.run("DELETE FROM api_keys WHERE owner = ?", owner)
            self._keys.pop(owner, None)


def sign_in(request: Request) -> dict[str, Any]:
    """``POST /tokens``: also with the field names of the oldest documentation."""
    user = request.text("username", "") or request.text("usr_id", "")
    password = request.fields.get("password") or request.fields.get("pwd") or ""
    if not user or not isinstance(password, str):
        raise Failure(400, "username and password must be given.")
    token = request.server.guard.sign_in(user, password)
    return success(token=token, user_id=user, role="admin")


def show_key(request: Request) -> dict[str, Any]:
    key = request.server.guard.key_of(request.user)
    if key is None:
        raise Failure(404, f"User {request.user} has no API key.")
    return success(api_key=key)


def make_key(request: Request) -> dict[str, Any]:
    """``POST /api-keys``: the user's earlier key is good no more."""
    return success(api_key=request.server.guard.make_key(request.user))


def revoke_key(request: Request) -> dict[str, Any]:
    show_key(request)
    request.server.guard.revoke_key(request.user)
    return success()


def user(request: Request) -> dict[str, Any]:
    found = request.server.guard.who(request.path["token"])
    if found is None:
        raise Failure(404, "Could not find a user for this token.")
    return success(username=found, user_id=found, role="admin")


def profiles(request: Request) -> dict[str, Any]:
    return success(login_user_id=request.user, apikey="", sso_entry_url="", base_image_url="/uploads")
