"""Who is asked, who asks: version, system, tokens, keys, users, and the fault switches."""

from __future__ import annotations

import ipaddress
import os
import platform
from importlib import metadata
from typing import Any

from image_sync_server.mvi import kinds
from image_sync_server.mvi.answers import Failure, success
from image_sync_server.mvi.call import Call

_SPOKEN = "8.7.0"
"""The version of MVI whose words this server uses."""


def version() -> str:
    """Three numbers as clients expect, and a suffix that says what this really is."""
    return f"{_SPOKEN}-image-sync-{metadata.version('image-sync')}"


def version_info(_call: Call) -> dict[str, Any]:
    """``GET /version-info``; needs no token."""
    return success(version=version(), product="image-sync embedded server")


def system(call: Call) -> dict[str, Any]:
    """``GET /system``."""
    return success(
        product="image-sync embedded server",
        version=version(),
        python=platform.python_version(),
        cpus=os.cpu_count() or 1,
        gpus=[],
        usages=["cic", "cod"],
        max_request_bytes=call.site.limits.body,
    )


def profiles(call: Call) -> dict[str, Any]:
    """``GET /profiles``."""
    return success(login_user_id=call.user, apikey="", sso_entry_url="", base_image_url="/uploads")


def projects(_call: Call) -> list[Any]:
    """``GET /projects``: this server has no project groups, and the list says so."""
    return []


def sign_in(call: Call) -> dict[str, Any]:
    """``POST /tokens``: also with the field names of the oldest documentation."""
    user = call.text("username", "") or call.text("usr_id", "")
    password = call.fields.get("password") or call.fields.get("pwd") or ""
    if not user or not isinstance(password, str):
        raise Failure(400, "username and password must be given.")
    token = call.site.guard.sign_in(user, password)
    return success(token=token, user_id=user, role="admin")


def show_key(call: Call) -> dict[str, Any]:
    """``GET /api-keys``."""
    key = call.site.guard.key_of(call.user)
    if key is None:
        raise Failure(404, f"User {call.user} has no API key.")
    return success(api_key=key)


def make_key(call: Call) -> dict[str, Any]:
    """``POST /api-keys``: the user's earlier key is good no more."""
    return success(api_key=call.site.guard.make_key(call.user))


def revoke_key(call: Call) -> dict[str, Any]:
    """``DELETE /api-keys``."""
    if not call.site.guard.revoke_key(call.user):
        raise Failure(404, f"User {call.user} has no API key.")
    return success()


def user(call: Call) -> dict[str, Any]:
    """``GET /users/{token}``."""
    found = call.site.guard.who(call.path["token"])
    if found is None:
        raise Failure(404, "Could not find a user for this token.")
    return success(username=found, user_id=found, role="admin")


def _only_here(call: Call) -> None:
    if not ipaddress.ip_address(call.client.partition("%")[0] or "0.0.0.0").is_loopback:  # noqa: S104 - no address is no loopback
        raise Failure(403, "Faults can only be switched from the machine that the server runs on.")


def show_faults(call: Call) -> dict[str, Any]:
    """``GET /_faults``: what is on, and how often each kind has struck."""
    _only_here(call)
    return _told(call)


def add_faults(call: Call) -> dict[str, Any]:
    """``POST /_faults``: one fault or a list of them; ``kinds.from_json`` says in which form."""
    _only_here(call)
    raw = call.body if isinstance(call.body, list) else [call.body]
    try:
        faults = [fault for one in raw for fault in kinds.from_json(one)]
    except ValueError as error:
        raise Failure(400, f"The fault is not understood: {error}.") from error
    call.site.faults.add(*faults)
    return _told(call)


def clear_faults(call: Call) -> dict[str, Any]:
    """``DELETE /_faults``: all off and counted anew; the answer has the counts until now."""
    _only_here(call)
    call.site.faults.clear()
    answer = _told(call)
    call.site.faults.forget()
    return answer


def _told(call: Call) -> dict[str, Any]:
    return success(faults=call.site.faults.as_json(), struck=dict(call.site.faults.struck))
