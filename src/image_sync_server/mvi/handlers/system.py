"""Who is asked, who asks: version, system, tokens, keys, users, and the fault switches."""

from __future__ import annotations

import ipaddress
import os
import platform
from importlib import metadata
from typing import Any

from image_sync_server.mvi import fault_presets
from image_sync_server.mvi.answers import Failure, success
from image_sync_server.mvi.request import Request

_SPOKEN = "8.7.0"
"""The version of MVI whose words this server uses."""


def version() -> str:
    """Three numbers as clients expect, and a suffix that says what this really is."""
    return f"{_SPOKEN}-image-sync-{metadata.version('image-sync')}"


def version_info(_request: Request) -> dict[str, Any]:
    """``GET /version-info``; needs no token."""
    return success(version=version(), product="image-sync embedded server")


def system(request: Request) -> dict[str, Any]:
    return success(
        product="image-sync embedded server",
        version=version(),
        python=platform.python_version(),
        cpus=os.cpu_count() or 1,
        gpus=[],
        usages=["cic", "cod"],
        max_request_bytes=request.server.limits.body,
    )


def profiles(request: Request) -> dict[str, Any]:
    return success(login_user_id=request.user, apikey="", sso_entry_url="", base_image_url="/uploads")


def projects(_request: Request) -> list[Any]:
    """``GET /projects``: this server has no project groups, and the list says so."""
    return []


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
    if not request.server.guard.revoke_key(request.user):
        raise Failure(404, f"User {request.user} has no API key.")
    return success()


def user(request: Request) -> dict[str, Any]:
    found = request.server.guard.who(request.path["token"])
    if found is None:
        raise Failure(404, "Could not find a user for this token.")
    return success(username=found, user_id=found, role="admin")


def _only_here(request: Request) -> None:
    if not ipaddress.ip_address(request.client.partition("%")[0] or "0.0.0.0").is_loopback:  # noqa: S104 - no address is no loopback
        raise Failure(403, "Faults can only be switched from the machine that the server runs on.")


def show_faults(request: Request) -> dict[str, Any]:
    """``GET /_faults``: what is on, and how often each kind has struck."""
    _only_here(request)
    return _told(request)


def add_faults(request: Request) -> dict[str, Any]:
    """``POST /_faults``: one fault or a list of them; ``fault_presets.from_json`` says in which form."""
    _only_here(request)
    raw = request.body if isinstance(request.body, list) else [request.body]
    try:
        faults = [fault for one in raw for fault in fault_presets.from_json(one)]
    except ValueError as error:
        raise Failure(400, f"The fault is not understood: {error}.") from error
    request.server.faults.add(*faults)
    return _told(request)


def clear_faults(request: Request) -> dict[str, Any]:
    """``DELETE /_faults``: all off and counted anew; the answer has the counts until now."""
    _only_here(request)
    request.server.faults.clear()
    answer = _told(request)
    request.server.faults.forget()
    return answer


def _told(request: Request) -> dict[str, Any]:
    return success(faults=request.server.faults.as_json(), struck=dict(request.server.faults.counts))
