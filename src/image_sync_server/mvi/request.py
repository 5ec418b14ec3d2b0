"""One request as a handler sees it, and the parts of the server that it may use."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Row
from typing import Any

from starlette.responses import Response

from image_sync_server.faults import Faults
from image_sync_server.mvi.answers import Failure, checked_text, counted
from image_sync_server.mvi.auth import Guard
from image_sync_server.mvi.jobs import Jobs
from image_sync_server.mvi.pictures import Limits
from image_sync_server.mvi.records import datasets, files
from image_sync_server.mvi.store import Store
from image_sync_server.mvi.training_job import ModelCache
from image_sync_server.web import Form


@dataclass(frozen=True, slots=True)
class Server:
    """The parts of one running server."""

    store: Store
    guard: Guard
    jobs: Jobs
    cache: ModelCache
    limits: Limits
    faults: Faults


@dataclass(frozen=True, slots=True)
class Request:
    """One request: already authorised, its body read."""

    server: Server
    user: str
    path: Mapping[str, str]
    """What the placeholders of the route stand for."""
    query: Mapping[str, str]
    body: Any
    """The JSON body; None when there was none."""
    form: Form
    client: str
    """Address the request came from."""
    root: str = ""
    """``http://host:port`` as the client calls this server."""

    @property
    def store(self) -> Store:
        """The disk."""
        return self.server.store

    @property
    def dataset(self) -> Row:
        """The dataset that the path names.

        Raises:
            Failure: 404.
        """
        return datasets.find(self.store, self.path["ds"])

    @property
    def file(self) -> Row:
        """The file that the path names, in its dataset.

        Raises:
            Failure: 404.
        """
        return files.find(self.store, self.dataset["id"], self.path["file"])

    @property
    def fields(self) -> Mapping[str, Any]:
        """The body as an object; unknown keys are the handlers' to ignore.

        Raises:
            Failure: 400 when it is something else.
        """
        if self.body is None:
            return {}
        if not isinstance(self.body, dict):
            raise Failure(400, "The body must be a JSON object.")
        return self.body

    def text(self, name: str, default: str | None = None, *, long: bool = False) -> str:
        """A text of the body.

        Args:
            default: what an absent one stands for; without it the text must be there and not blank.
            long: take up to 4,096 characters instead of a name's length.

        Raises:
            Failure: 400.
        """
        value = self.fields.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise Failure(400, f"{name} must be given, as a text.")
        return self.checked(name, value, may_be_empty=default is not None, most=4096 if long else 0)

    def checked(self, name: str, value: str, *, may_be_empty: bool = False, most: int = 0) -> str:
        """A text from outside that may be stored and shown.

        Raises:
            Failure: 400 when it is blank, too long, or holds control characters or half characters.
        """
        return checked_text(name, value, most or self.server.limits.name, may_be_empty=may_be_empty)

    def metadata(self, found: Any, name: str) -> dict[str, Any]:
        """User metadata: an object of texts, numbers, booleans, and lists of them.

        Raises:
            Failure: 400 when it is something else.
        """
        if not isinstance(found, dict):
            raise Failure(400, f"{name} must be a JSON object of keys and values.")
        for key, value in found.items():
            self.checked("A metadata key", key)
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, str):
                    self.checked(f"The value of {key}", one, may_be_empty=True, most=4096)
                elif not (one is None or isinstance(one, bool | int | float)) or one in {float("inf"), float("-inf")}:
                    raise Failure(400, f"The value of {key} in {name} must be a text, a number, or a list of them.")
        return found

    def archive(self) -> Path:
        """The archive of an import as a scratch file, which the caller deletes.

        Raises:
            Failure: 400 when there is none, or more than one.
        """
        if len(self.form.files) != 1:
            raise Failure(400, "An import takes one part named files: the exported archive.")
        scratch = self.store.scratch()
        with self.form.files[0].open() as file, scratch.open("xb") as copy:
            shutil.copyfileobj(file, copy)
        return scratch

    def ids(self, *names: str) -> list[str]:
        """A list of ids, under the first of these names that the body has.

        Raises:
            Failure: 400.
        """
        for name in names:
            value = self.fields.get(name)
            if value is not None:
                if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                    raise Failure(400, f"{name} must be a list of ids.")
                return list(value)
        raise Failure(400, f"{' or '.join(names)} must be given, as a list of ids.")

    def delete_several(
        self, things: str, fields: tuple[str, ...], key: str, delete: Callable[[str], object], **said: str
    ) -> Response:
        """The answer to ``POST .../action`` with the action ``delete``, the only one that several things have.

        Each is deleted, or not, by itself.

        Args:
            things: what they are, for people.
            fields: names under which the body may list their ids.
            key: name of the id in the answer.
            said: more that the answer says of each.

        Raises:
            Failure: 400; one of a single thing is told in the answer.
        """
        if self.text("action") != "delete":
            raise Failure(400, f"The action for several {things} is delete.")
        entries = []
        for one in self.ids(*fields):
            entry = {**said, key: one, "result": "success"}
            try:
                delete(one)
            except Failure as failure:
                entry |= {"result": "fail", "fault": failure.fault}
            entries.append(entry)
        return counted(entries)
