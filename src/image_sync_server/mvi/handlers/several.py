"""Calls on several things at once: each is done, or not, by itself."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response

from image_sync_server.mvi.answers import Failure, counted
from image_sync_server.mvi.request import Request


def deleted(
    request: Request, things: str, fields: tuple[str, ...], key: str, delete: Callable[[str], object], **said: str
) -> Response:
    """The answer to ``POST .../action`` with the action ``delete``, the only one that several things have.

    Args:
        things: what they are, for people.
        fields: names under which the body may list their ids.
        key: name of the id in the answer.
        said: more that the answer says of each.

    Raises:
        Failure: 400; one of a single thing is told in the answer.
    """
    if request.text("action") != "delete":
        raise Failure(400, f"The action for several {things} is delete.")
    entries = []
    for one in request.ids(*fields):
        entry = {**said, key: one, "result": "success"}
        try:
            delete(one)
        except Failure as failure:
            entry |= {"result": "fail", "fault": failure.fault}
        entries.append(entry)
    return counted(entries)
