"""One request as a handler sees it, and how it is answered: JSON, with ``result`` and ``fault`` for every failure."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from sqlite3 import Row
from typing import TYPE_CHECKING, Any

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from image_sync_server.mvi.store import FILES, Store
from image_sync_server.web import Form

if TYPE_CHECKING:
    from image_sync_server.mvi.server import MviServer

LONG = 4096
"""Characters of a description, or of a value of metadata."""


class Failure(HTTPException):
    """A request that fails: the HTTP status, and what is wrong in one sentence, which MVI clients print."""

    def __str__(self) -> str:
        return self.detail


def failed(status: int, fault: str, headers: Mapping[str, str] | None = None) -> Response:
    """A failure as MVI tells it: ``result``, ``fault``, and the ``status`` and ``type`` that MVI 8 adds."""
    phrase = HTTPStatus(status).phrase
    kind = phrase.title().replace(" ", "").replace("-", "") + "Exception"
    return rendered({"result": "fail", "fault": fault, "status": phrase, "type": kind}, status, headers)


def success(**fields: Any) -> dict[str, Any]:
    """An answer that says ``result: success`` first."""
    return {"result": "success", **fields}


def rendered(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response; ASCII only, so that no name however odd can break the encoding."""
    raw = json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
    return Response(raw, status, dict(headers or {}), media_type="application/json")


def file_name(name: str, fallback: str) -> str:
    """A download name; IBM's tool takes quotes as part of it, so it must need none.

    >>> file_name("my pärts", "dataset")
    'my_p_rts.zip'
    """
    return (re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:80] or fallback) + ".zip"


def download(archive: Path, name: str) -> Response:
    """An archive, deleted once it is sent. The name comes last and without quotes, as IBM's tool cuts it out."""
    headers = {"Content-Disposition": f"attachment; filename={name}"}
    delete = BackgroundTask(archive.unlink, missing_ok=True)
    return FileResponse(archive, media_type="application/zip", headers=headers, background=delete)


def counted(entries: list[dict[str, Any]]) -> Response:
    """The answer to a call on many things: 200 if all worked, 422 if at least one did not."""
    bad = sum(entry["result"] != "success" for entry in entries)
    body = {"result": "fail" if bad else "success", "success_count": len(entries) - bad, "fail_count": bad,
            "result_list": entries}  # fmt: skip
    if bad:
        body["fault"] = f"{bad} of {len(entries)} could not be done; result_list says which and why."
    return rendered(body, 422 if bad else 200)


def found(row: Row | None, fault: str) -> Row:
    """The row, if there is one. Raises Failure (404) with this fault if there is none."""
    if row is None:
        raise Failure(404, fault)
    return row


def picked(row: Row, names: str) -> dict[str, Any]:
    """The columns of these names, which are shown as they are kept."""
    return {name: row[name] for name in names.split()}


def parsed_json(text: str | bytes) -> Any:
    """What a text says in JSON. Raises ValueError when it is not JSON, or holds a number that JSON cannot show."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # NaN, Infinity, 1e999
        raise ValueError(text)
    return number


def checked_text(name: str, value: str, most: int, *, may_be_empty: bool = False) -> str:
    """The text, if it may be stored and shown.

    Args:
        name: what it is called in a fault.
        most: characters that are taken.
        may_be_empty: whether it may be blank.

    Raises:
        Failure: 400 when it is blank, too long, or holds control characters or half characters.
    """
    if not value.strip() and not may_be_empty:
        raise Failure(400, f"{name} must not be empty.")
    if len(value) > most:
        raise Failure(400, f"{name} has {len(value)} characters; at most {most} are taken.")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in value):  # noqa: PLR2004 - Unicode's own numbers
        raise Failure(400, f"{name} must not hold control characters.")
    return value


@dataclass(frozen=True, slots=True)
class Request:
    """One request: already authorised, its body read.

    Attributes:
        path: what the placeholders of the route stand for.
        body: the JSON body; None when there was none.
        client: the address that it came from.
        root: ``http://host:port`` as the client calls this server.
    """

    server: MviServer
    user: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    form: Form
    client: str
    root: str

    @property
    def store(self) -> Store:
        return self.server.store

    @property
    def dataset(self) -> Row:
        """The dataset that the path names. Raises Failure (404)."""
        return find_dataset(self.store, self.path["ds"])

    @property
    def file(self) -> Row:
        """The file that the path names, in its dataset. Raises Failure (404)."""
        return find_file(self.store, self.dataset["id"], self.path["file"])

    @property
    def fields(self) -> Mapping[str, Any]:
        """The body as an object; its unknown keys are passed over. Raises Failure (400) when it is something else."""
        if self.body is None:
            return {}
        if not isinstance(self.body, dict):
            raise Failure(400, "The body must be a JSON object.")
        return self.body

    def text(self, name: str, default: str | None = None, *, most: int = 0) -> str:
        """A text of the body.

        Args:
            default: what an absent one stands for; without it the text must be there and not blank.
            most: characters that are taken, if not a name's.

        Raises:
            Failure: 400.
        """
        value = self.fields.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise Failure(400, f"{name} must be given, as a text.")
        return self.checked(name, value, may_be_empty=default is not None, most=most)

    def checked(self, name: str, value: str, *, may_be_empty: bool = False, most: int = 0) -> str:
        """:func:`checked_text`, as long as a name may be unless ``most`` says otherwise."""
        return checked_text(name, value, most or self.server.limits.name, may_be_empty=may_be_empty)

    def chosen(self, name: str) -> list[str]:
        """The values that a comma-separated word of the query lists; none when it is not given."""
        return [one for one in self.query.get(name, "").split(",") if one]

    def ordered(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Items, given newest first, in the order that the query asks for."""
        return ordered(items, self.query.get("sortby", ""))

    def metadata(self, given: Any, name: str) -> dict[str, Any]:
        """User metadata: an object of texts, numbers, booleans, and lists of them. Raises Failure (400)."""
        if not isinstance(given, dict):
            raise Failure(400, f"{name} must be a JSON object of keys and values.")
        for key, value in given.items():
            self.checked("A metadata key", key)
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, str):
                    self.checked(f"The value of {key}", one, may_be_empty=True, most=LONG)
                elif not (one is None or isinstance(one, bool | int | float)) or one in {math.inf, -math.inf}:
                    raise Failure(400, f"The value of {key} in {name} must be a text, a number, or a list of them.")
        return given

    def archive(self) -> Path:
        """The archive of an import as a scratch file, which the caller deletes. Raises Failure (400)."""
        if len(self.form.files) != 1:
            raise Failure(400, "An import takes one part named files: the exported archive.")
        scratch = self.store.scratch()
        with self.form.files[0].open() as file, scratch.open("xb") as copy:
            shutil.copyfileobj(file, copy)
        return scratch

    def ids(self, *names: str) -> list[str]:
        """A list of ids, under the first of these names that the body has. Raises Failure (400)."""
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
        """The answer to ``POST .../action`` with the action ``delete``; each thing is deleted, or not, by itself.

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
                entry |= {"result": "fail", "fault": failure.detail}
            entries.append(entry)
        return counted(entries)


def find_dataset(store: Store, dataset_id: str, fault: str = "Could not find dataset") -> Row:
    """The row of a dataset. Raises Failure (404) with the words that MVI uses."""
    return found(store.row("SELECT * FROM datasets WHERE id = ?", dataset_id), f"{fault} with id {dataset_id}.")


def find_file(store: Store, dataset_id: str, file_id: str) -> Row:
    """The row of a file of this dataset. Raises Failure (404) with the words that MVI uses."""
    row = store.row(f"{FILES} WHERE f.dataset_id = ? AND f.id = ?", dataset_id, file_id)
    return found(row, f"Could not find file with id {file_id} in dataset {dataset_id}.")


def page(query: Mapping[str, str]) -> tuple[int, int]:
    """``limit`` and ``skip`` of a listing; -1 means no limit.

    Raises:
        Failure: 400 when one is not a whole number from 0 on.
    """
    numbers = []
    for name, default in (("limit", -1), ("skip", 0)):
        text = query.get(name, "").strip()
        if text and not (text.isascii() and text.isdigit() and len(text) < 16):  # noqa: PLR2004 - fits SQLite's integers
            raise Failure(400, f"{name} must be a whole number from 0 on, not {text[:40]!r}")
        numbers.append(int(text) if text else default)
    return numbers[0], numbers[1]


def sort_keys(sortby: str) -> list[tuple[str, bool]]:
    """The fields of a ``sortby``, and whether each is descending."""
    words = [word.strip().partition(" ") for word in sortby.split(",")]
    return [(name, direction.strip().upper() == "DESC") for name, _, direction in words if name]


def ordered(items: Sequence[dict[str, Any]], sortby: str) -> list[dict[str, Any]]:
    """Items, given newest first, in the order asked for; equal ones keep the order of their making."""
    keys = sort_keys(sortby)
    result = list(items if not keys or keys[0][1] else reversed(items))
    for name, down in reversed(keys):
        result.sort(key=lambda item: _rank(item.get(name)), reverse=down)
    return result


def _rank(value: Any) -> tuple[int, Any]:
    if isinstance(value, int | float):
        return 1, value
    return (0, "") if value is None else (2, str(value))
