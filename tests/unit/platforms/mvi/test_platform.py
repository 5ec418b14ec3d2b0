"""MVI's many dialects: answers as different releases give them, from a scripted server."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from image_sync.domain import Batch, DatasetRef, Picture
from image_sync.errors import Ambiguous, ConfigError, ImageSyncError, NotFound, Permanent, Refused, Transient, Unfit
from image_sync.platforms.base import Model, Outcome, Phase, Prediction, TrainingPlan
from image_sync.platforms.http import Denied, Timeouts
from image_sync.platforms.mvi.platform import MviPlatform, base_uri
from image_sync_contract import held, read_held
from support.fake_http import FakeHttp, Reply, Request, answer, ok

DATASET = DatasetRef("ds-1", "parts")
MODEL = Model("m-1", "pump", "ds-1")
FAIL = {"result": "fail", "fault": "Fehler"}


@dataclass
class Release:
    """A server of some release: a table of answers, and files that can be listed."""

    table: dict[str, Reply] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    knows_query: bool = True
    knows_category: bool = True
    knows_limit: bool = True
    knows_skip: bool = True
    page_cap: int = 10**9

    def __call__(self, request: Request) -> Reply:
        path = request.path.removeprefix("/api")
        reply = self.table.get(f"{request.method} {path}")
        if reply is not None:
            return reply
        if (request.method, path) == ("GET", "/datasets/ds-1/files"):
            return self._listing(request.query)
        if (request.method, path) == ("GET", "/datasets/ds-1/categories"):
            return ok([{"_id": "c-1", "name": "good"}])
        return answer(404, FAIL)

    def _listing(self, query: dict[str, str]) -> Reply:
        rows = self.files
        if "query" in query and self.knows_query:
            name, _, value = query["query"].partition(" == ")
            value = json.loads(value)
            rows = [
                row
                for row in rows
                if value in {row.get(name), row.get("user_metadata", {}).get(name.removeprefix("user_metadata."))}
            ]
        if "category_id" in query and self.knows_category:
            rows = [row for row in rows if row.get("category_id") == query["category_id"]]
        start = int(query.get("skip", 0)) if self.knows_skip else 0
        count = int(query.get("limit", 10**9)) if self.knows_limit else 10**9
        return ok(rows[start : start + min(count, self.page_cap)])


@pytest.fixture
def release() -> Release:
    """What the server says."""
    return Release()


@pytest.fixture
def server(release: Release) -> Iterator[FakeHttp]:
    """The server."""
    with FakeHttp(script=release) as server:
        yield server


@pytest.fixture
def mvi(server: FakeHttp) -> Iterator[MviPlatform]:
    """The platform."""
    platform = MviPlatform(server.url, stop=threading.Event(), timeouts=Timeouts(2, 2, 5))
    platform.models.poll = platform._api.poll = 0.01
    platform._api.patience = 0.1
    yield platform
    platform.close()


def items(count: int, *, hashed: bool = True) -> tuple[Picture, ...]:
    """So many items."""
    made = []
    for number in range(count):
        content = f"content {number}".encode()
        sha256 = hashlib.sha256(content).hexdigest()
        key = f"p{number}.{sha256[:16]}.jpg" if hashed else f"p{number}.jpg"
        made.append(held(key, len(content), sha256, lambda content=content: content))  # type: ignore[misc]
    return tuple(made)


def batch_of(count: int = 3, *, hashed: bool = True) -> Batch:
    """A batch of so many."""
    return Batch("b" * 32, DATASET, "good", items(count, hashed=hashed), claimed_at=1_700_000_000.0)


def row(number: int, name: str, **more: Any) -> dict[str, Any]:
    """A listed file."""
    return {"_id": f"f-{number}", "original_file_name": name, "category_id": "c-1", "category_name": "good"} | more


UPLOAD = "POST /datasets/ds-1/files"


@pytest.mark.parametrize(
    ("endpoint", "port", "expected"),
    [
        ("https://mvi.example.com", None, "https://mvi.example.com/api"),
        ("https://mvi.example.com/", None, "https://mvi.example.com/api"),
        ("https://mvi.example.com/api", None, "https://mvi.example.com/api"),
        ("https://mvi.example.com/api/", 9443, "https://mvi.example.com:9443/api"),
        ("https://mvi.example.com:8443/powerai-vision", None, "https://mvi.example.com:8443/powerai-vision/api"),
        ("http://[::1]:8000/visual-inspection-ny/api", None, "http://[::1]:8000/visual-inspection-ny/api"),
    ],
)
def test_base_uri(endpoint: str, port: int | None, expected: str) -> None:
    """Every way to write the address leads to the same place."""
    assert base_uri(endpoint, port) == expected


@pytest.mark.parametrize("endpoint", ["mvi.example.com", "ftp://x", "https://", "https://u:p@x", "https://x?a=b"])
def test_unusable_addresses_are_refused(endpoint: str) -> None:
    """What is not the address of a server is a mistake of the configuration."""
    with pytest.raises(ConfigError, match=r"credentials\.endpoint"):
        base_uri(endpoint)


def test_upload_on_the_wire(mvi: MviPlatform, server: FakeHttp, release: Release) -> None:
    """One request carries the category's id and name, the batch as metadata, and each picture under its key."""
    sent = batch_of()
    release.table[UPLOAD] = ok({"resultList": [{"result": "success", "id": f"f-{n}"} for n in range(3)]})

    outcomes = mvi.pictures.upload(sent, read_held)

    parts = server.requests[-1].parts()
    assert outcomes == [Outcome(item.key, f"f-{n}") for n, item in enumerate(sent.pictures)]
    assert [(part.name, part.filename) for part in parts] == [
        ("category_id", None),
        ("category_name", None),
        ("user-metadata", None),
        *[("files", item.key) for item in sent.pictures],
    ]
    assert [part.content for part in parts[:2]] == [b"c-1", b"good"]
    assert json.loads(parts[2].content) == {"batch": sent.id, "source": "image-sync"}
    assert [part.content for part in parts[3:]] == [b"content 0", b"content 1", b"content 2"]
    assert {part.content_type for part in parts[3:]} == {"image/jpeg"}


@pytest.mark.parametrize("status", [200, 400, 422])
def test_mixed_results_by_name(mvi: MviPlatform, release: Release, status: int) -> None:
    """A list of results in any order is matched by name; refused pictures carry the server's reason."""
    a, b, c = (item.key for item in batch_of().pictures)
    entries = [
        {"result": "fail", "file_name": c, "fault": "broken\x1b[31m image"},
        {"result": "success", "original_file_name": b, "id": "f-b", "file_name": "f-b.jpg"},
        {"result": "success", "name": a, "_id": "../evil"},
    ]
    release.table[UPLOAD] = answer(status, {"result": "fail", "resultList": entries})

    assert mvi.pictures.upload(batch_of(), read_held) == [
        Outcome(a, ""),
        Outcome(b, "f-b"),
        Outcome(c, refused="broken?[31m image"),
    ]


def test_name_that_the_server_changed(mvi: MviPlatform, release: Release) -> None:
    """The entry that is left over belongs to the one picture that is: it is neither in doubt nor sent again."""
    a, b, c = (item.key for item in batch_of().pictures)
    entries = [{"result": "success", "id": f"f-{n}", "original_file_name": name} for n, name in enumerate((c, "?", a))]
    release.table[UPLOAD] = ok({"resultList": entries})
    assert mvi.pictures.upload(batch_of(), read_held) == [Outcome(a, "f-2"), Outcome(b, "f-1"), Outcome(c, "f-0")]
    release.table[UPLOAD] = ok({"resultList": entries[1:2]})

    assert mvi.pictures.upload(batch_of(1), read_held) == [Outcome(a, "f-1")]


def test_name_that_is_told_twice(mvi: MviPlatform, release: Release) -> None:
    """An entry that repeats a name says nothing about the picture that no entry names: the dataset is asked."""
    a, b, c = (item.key for item in batch_of().pictures)
    entries = [{"result": "success", "id": f"f-{n}", "name": name} for n, name in enumerate((a, b, a))]
    release.table[UPLOAD] = ok({"resultList": entries})
    release.files = [row(7, c)]
    assert mvi.pictures.upload(batch_of(), read_held)[2] == Outcome(c, "f-7")
    release.files = []

    with pytest.raises(Ambiguous, match="lists 1 of them"):
        mvi.pictures.upload(batch_of(), read_held)


def test_results_with_stored_names_only_go_by_position(mvi: MviPlatform, release: Release) -> None:
    """Names that the server made from its own ids are no names: then the position counts."""
    entries = [{"result": "success", "id": f"f-{n}", "file_name": f"f-{n}.jpg"} for n in range(3)]
    release.table[UPLOAD] = ok({"resultList": entries})

    assert [outcome.remote_id for outcome in mvi.pictures.upload(batch_of(), read_held)] == ["f-0", "f-1", "f-2"]


@pytest.mark.parametrize(
    "body",
    [
        {"result": "success"},
        {"resultList": [{"result": "success"}, {"result": "success"}]},
        {"resultList": [{"result": "success", "file_name": f"other{n}.jpg"} for n in range(3)]},
        {"resultList": []},
        None,
    ],
)
def test_answers_that_name_nothing_are_looked_up(mvi: MviPlatform, release: Release, body: Any) -> None:
    """A bare success, lists of another length or with strange names, and an empty body: the dataset is asked."""
    release.table[UPLOAD] = Reply(200, b"") if body is None else ok(body)
    release.files = [row(n, item.key) for n, item in enumerate(batch_of().pictures)]

    assert [outcome.remote_id for outcome in mvi.pictures.upload(batch_of(), read_held)] == ["f-0", "f-1", "f-2"]


def test_success_that_cannot_be_seen_is_in_doubt(mvi: MviPlatform, release: Release) -> None:
    """A bare success whose pictures are not listed yet is not believed, and not taken for a failure either."""
    release.table[UPLOAD] = ok()
    release.files = [row(0, batch_of().pictures[0].key)]

    with pytest.raises(Ambiguous, match="lists 2 of them"):
        mvi.pictures.upload(batch_of(), read_held)


def test_success_that_cannot_be_looked_up_is_in_doubt(mvi: MviPlatform, release: Release) -> None:
    """When the listing fails after a bare success, that is no reason to send again."""
    release.table[UPLOAD] = ok()
    release.table["GET /datasets/ds-1/files"] = answer(500, FAIL)

    with pytest.raises(Ambiguous):
        mvi.pictures.upload(batch_of(), read_held)


def test_single_picture_of_an_old_release(mvi: MviPlatform, release: Release) -> None:
    """Release 1.1 answers with the id of the one file."""
    release.table[UPLOAD] = ok({"result": "success", "id": "f-9", "dataset_id": "ds-1"})

    assert mvi.pictures.upload(batch_of(1), read_held) == [Outcome(batch_of(1).pictures[0].key, "f-9")]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(200, FAIL), Denied),
        (answer(500, {"resultList": [{"result": "success"}] * 3}), Ambiguous),
        (answer(502, FAIL), Ambiguous),
        (answer(413, FAIL), Unfit),
        (answer(415, FAIL), Unfit),
        (answer(429, FAIL), Transient),
        (answer(404, FAIL), NotFound),
        (Reply(200, b"<html>"), Ambiguous),
        (Reply(200, b'{"resultList": [1, 2, 3]}'), Ambiguous),
        (Reply(200, b'{"resultList": {"a": 1}}'), Ambiguous),
        (Reply(302, b"", (("Location", "https://sso.example.com/"),)), Permanent),
    ],
)
def test_upload_errors(mvi: MviPlatform, release: Release, reply: Reply, kind: type[ImageSyncError]) -> None:
    """What an upload's answer proves decides what may happen to the batch."""
    release.table[UPLOAD] = reply

    with pytest.raises(kind) as caught:
        mvi.pictures.upload(batch_of(), read_held)

    assert type(caught.value) is kind


def test_refused_request_for_several_pictures_without_details(mvi: MviPlatform, release: Release) -> None:
    """Status 422 stands for partial failure at MVI: without details it is in doubt, unless it was a single picture."""
    release.table[UPLOAD] = answer(422, FAIL)

    with pytest.raises(Ambiguous):
        mvi.pictures.upload(batch_of(), read_held)
    with pytest.raises(Refused):
        mvi.pictures.upload(batch_of(1), read_held)


def test_deleted_category_is_made_again(mvi: MviPlatform, server: FakeHttp, release: Release) -> None:
    """When an upload is refused, the category is looked up anew; if it is the same one, the refusal stands."""
    release.table[UPLOAD] = answer(400, FAIL)
    for _ in range(2):
        with pytest.raises(Refused):
            mvi.pictures.upload(batch_of(), read_held)

    assert server.paths().count("GET /api/datasets/ds-1/categories") == 3


@pytest.mark.parametrize("knows_query", [True, False])
@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("count", [3, 15])
def test_find_in_all_releases(
    mvi: MviPlatform, release: Release, knows_query: bool, metadata: bool, count: int
) -> None:
    """What arrived is found whether or not the server understands queries and keeps metadata; the rest is not."""
    sent = batch_of(count)
    extra = {"user_metadata": {"batch": sent.id}} if metadata else {}
    release.knows_query = knows_query
    release.files = [row(n, f"stranger{n}.jpg") for n in range(100, 140)]
    release.files[5:5] = [row(n, item.key, **extra) for n, item in enumerate(sent.pictures[:-1])]

    assert mvi.pictures.find(sent) == {item.key: f"f-{n}" for n, item in enumerate(sent.pictures[:-1])}


def test_find_when_queries_are_refused(mvi: MviPlatform, server: FakeHttp, release: Release) -> None:
    """A release that answers a query with an error is asked for the list instead."""
    plain = release._listing
    release._listing = lambda query: answer(400, FAIL) if "query" in query else plain(query)  # type: ignore[method-assign]
    release.files = [row(0, batch_of().pictures[0].key)]

    assert mvi.pictures.find(batch_of()) == {batch_of().pictures[0].key: "f-0"}


def test_find_is_one_request_when_all_is_there(mvi: MviPlatform, server: FakeHttp, release: Release) -> None:
    """Where metadata works, a batch that arrived whole costs a single request."""
    sent = batch_of(50)
    release.files = [row(n, item.key, user_metadata={"batch": sent.id}) for n, item in enumerate(sent.pictures)]

    assert len(mvi.pictures.find(sent)) == 50
    assert len(server.requests) == 1


def test_plain_names_must_fit_in_size_category_and_time(mvi: MviPlatform, release: Release) -> None:
    """A key without the content's hash proves little: size, category and time must fit as well."""
    sent = batch_of(5, hashed=False)
    now = sent.claimed_at * 1000 + 5000
    release.files = [
        row(0, "p0.jpg", size="9", uploaded_at=now),
        row(1, "p1.jpg", size="10", uploaded_at=now),
        row(2, "p2.jpg", size="9", uploaded_at=now - 2 * 86_400_000),
        row(3, "p3.jpg", size="9", uploaded_at=now, category_name="bad"),
        row(4, "p4.jpg"),
    ]

    assert mvi.pictures.find(sent) == {"p0.jpg": "f-0", "p4.jpg": "f-4"}


def test_oldest_of_several_copies_is_found(mvi: MviPlatform, release: Release) -> None:
    """Of two copies under one key the older one counts."""
    sent = batch_of(1)
    key = sent.pictures[0].key
    metadata = {"batch": sent.id}
    release.knows_limit = False
    release.files = [
        row(2, key, uploaded_at=2000, user_metadata=metadata),
        row(1, key, uploaded_at=1000, user_metadata=metadata),
    ]

    assert mvi.pictures.find(sent) == {key: "f-1"}


@pytest.mark.parametrize(
    "manners",
    [
        {},
        {"knows_skip": False},
        {"knows_limit": False},
        {"knows_limit": False, "knows_skip": False},
        {"page_cap": 300},
    ],
)
@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_listing_is_complete_with_all_manners(
    mvi: MviPlatform, release: Release, manners: dict[str, Any], count: int
) -> None:
    """Every picture is listed once, even where the server ignores paging or has pages of its own size."""
    for name, value in manners.items():
        setattr(release, name, value)
    release.files = [row(n, f"p{n}.jpg") for n in range(count)]

    assert [found.remote_id for found in mvi.pictures.listing(DATASET)] == [f"f-{n}" for n in range(count)]


def test_listing_understands_odd_rows(mvi: MviPlatform, release: Release) -> None:
    """Uncategorised files come in three kinds, sizes and stamps as strings, and category names may be missing."""
    release.files = [
        {"_id": "f-1", "original_file_name": "a.jpg", "category_id": "", "category_name": "", "size": "12"},
        {"_id": "f-2", "original_file_name": "b.jpg", "category_id": None, "uploaded_at": "1700000000000"},
        {"_id": "f-3", "file_type": "video", "user_metadata": "odd"},
        {"_id": "f-4", "original_file_name": "c.jpg", "category_id": "c-1", "user_metadata": {"batch": 7}},
    ]

    rows = list(mvi.pictures.listing(DATASET))

    assert [(one.key, one.category, one.size, one.uploaded_at, one.batch_id) for one in rows] == [
        ("a.jpg", "", 12, None, ""),
        ("b.jpg", "", None, 1_700_000_000.0, ""),
        ("", "", None, None, ""),
        ("c.jpg", "good", None, None, ""),
    ]


@pytest.mark.parametrize("identity", ["../../etc", "http://evil", "x" * 1_000_000, "", "a b", "..", 7, None])
def test_ids_that_could_break_a_url_are_not_believed(
    mvi: MviPlatform, server: FakeHttp, release: Release, identity: object
) -> None:
    """An id that has no business in a URL makes the answer unusable; the error names the call and stays short."""
    release.table["GET /datasets"] = ok([{"_id": identity, "name": "parts"}])

    with pytest.raises(Transient) as caught:
        mvi.pictures.find_dataset("parts")

    assert caught.value.what.startswith("Listing the datasets: ")
    assert len(str(caught.value)) < 400
    assert server.paths() == ["GET /api/datasets"]


def test_long_lists_take_little_memory(mvi: MviPlatform, release: Release) -> None:
    """A list of datasets of 30 MB, and one of pictures from a server that knows no pages, are read entry by entry."""
    row = {"name": "x" * 20, "total_file_count": 1}
    datasets = [{"_id": f"ds-{number}", **row} for number in range(400_000)]
    files = [{"_id": f"f-{n}", "original_file_name": f"{n}.jpg", "pad": "x" * 300} for n in range(60_000)]
    release.table["GET /datasets"] = ok([*datasets, {"_id": "ds-a", "name": "mine"}])
    release.table["GET /datasets/ds-a/files"] = ok(files)
    assert all(len(reply.body) > 20 * 2**20 for reply in release.table.values())
    tracemalloc.start()

    found = mvi.pictures.find_dataset("mine")
    pictures = sum(1 for _ in mvi.pictures.listing(DatasetRef("ds-a", "mine")))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == DatasetRef("ds-a", "mine")
    assert pictures == 60_000
    assert peak < 24 * 2**20


def test_newest_dataset_of_a_name_wins(mvi: MviPlatform, release: Release) -> None:
    """Of several datasets with one name, in either Unicode form, the newest is taken."""
    release.table["GET /datasets"] = ok(
        [
            {"_id": "old", "name": "pie\u0300ces", "created_at": 1000},
            {"_id": "new", "name": "pi\u00e8ces", "created_at": "2000"},
            {"_id": "other", "name": "Pi\u00e8ces", "created_at": 3000},
        ]
    )

    assert mvi.pictures.find_dataset("pi\u00e8ces") == DatasetRef("new", "pi\u00e8ces")


@pytest.mark.parametrize("status", [400, 409, 500])
def test_category_that_another_client_made(mvi: MviPlatform, server: FakeHttp, release: Release, status: int) -> None:
    """A failed creation is looked up: another client may have been quicker."""
    path = "/datasets/ds-1/categories"
    known: list[dict[str, str]] = []
    release.table[f"GET {path}"] = ok([])

    def script(request: Request) -> Reply:
        if (request.method, request.path) == ("POST", f"/api{path}"):
            known.append({"_id": "c-7", "name": request.json()["name"]})
            return answer(status, FAIL)
        return ok(known) if request.path == f"/api{path}" else release(request)

    server.script = script

    assert mvi.pictures.ensure_category(DATASET, "été") == "c-7"
    assert mvi.pictures.ensure_category(DATASET, "été") == "c-7"
    assert len(known) == 1


def test_category_that_cannot_be_made(mvi: MviPlatform, release: Release) -> None:
    """A refusal stays one; a doubt that the list does not settle becomes an error that may be repeated."""
    path = "/datasets/ds-1/categories"
    release.table[f"POST {path}"] = answer(400, FAIL)
    with pytest.raises(Refused):
        mvi.pictures.ensure_category(DATASET, "bad")
    release.table[f"POST {path}"] = answer(500, FAIL)
    with pytest.raises(Transient):
        mvi.pictures.ensure_category(DATASET, "bad")


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (
            TrainingPlan("m", DATASET),
            {"action": "create", "usage": "cic", "name": "m", "dataset_id": "ds-1"},
        ),
        (
            TrainingPlan("m", DATASET, base="m-0", strategy={"max_iter": 500, "unknown": "x"}),
            {
                "action": "create",
                "usage": "cic",
                "name": "m",
                "dataset_id": "ds-1",
                "strategy": {"max_iter": 500, "unknown": "x"},
                "pretrained_model": "m-0",
            },
        ),
        (
            TrainingPlan("m", DATASET, nn_arch="frcnn"),
            {"action": "create-cod-task", "usage": "cod", "nn_arch": "frcnn", "name": "m", "dataset_id": "ds-1"},
        ),
        (
            TrainingPlan("m", DATASET, nn_arch="googlenet"),
            {"action": "create", "usage": "cic", "name": "m", "dataset_id": "ds-1"},
        ),
    ],
)
def test_training_on_the_wire(
    mvi: MviPlatform, server: FakeHttp, release: Release, plan: TrainingPlan, expected: dict[str, Any]
) -> None:
    """A plan becomes the request that IBM documents, with only those keys that it needs."""
    release.table["POST /dltasks"] = ok({"result": "success", "task_id": "t-1"})

    assert mvi.trainings.start(plan) == "t-1"
    assert server.requests[0].json() == expected


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(200, {"result": "fail", "fault": "Not Login"}), Ambiguous),
        (answer(200, {"result": "success"}), Ambiguous),
        (answer(500, FAIL), Ambiguous),
        (answer(400, FAIL), Refused),
    ],
)
def test_training_that_does_not_start(
    mvi: MviPlatform, release: Release, reply: Reply, kind: type[ImageSyncError]
) -> None:
    """A start without a task id is in doubt; a plain refusal is one."""
    release.table["POST /dltasks"] = reply

    with pytest.raises(kind):
        mvi.trainings.start(TrainingPlan("m", DATASET))


def test_progress_reads_strings(mvi: MviPlatform, release: Release) -> None:
    """The figures come as strings, the remaining time under either name; unknown states count as running."""
    release.table["GET /dltasks/t-1/status"] = ok(
        {
            "status": "warming up",
            "data": [
                {"type": "train_msg", "iter": "40", "total_iter": "1500", "loss": "0.4312", "remain_time": "210"},
                {"type": "test_msg", "iter": "40", "loss": "0.5120", "accuracy": "0.8125"},
                {"type": "train_msg", "iter": "60", "total_iter": "1500", "loss": "n/a", "remaining_time": "200"},
            ],
        }
    )

    progress = mvi.trainings.progress("t-1")

    assert (progress.phase, progress.iteration, progress.iterations) == (Phase.RUNNING, 60, 1500)
    assert (progress.loss, progress.accuracy, progress.remaining) == (0.4312, 0.8125, 200.0)


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("idle", Phase.WAITING),
        ("preprocessing", Phase.WAITING),
        ("training", Phase.RUNNING),
        ("completed", Phase.TRAINED),
        ("Trained", Phase.TRAINED),
        ("failed", Phase.FAILED),
        ("aborted", Phase.FAILED),
    ],
)
def test_words_of_the_life_cycle(mvi: MviPlatform, release: Release, word: str, phase: Phase) -> None:
    """Each release's word for a state is understood, and a failure has a reason."""
    release.table["GET /dltasks/t-1/status"] = ok({"status": word})
    release.table["GET /trained-models/t-1"] = ok({"_id": "t-1", "name": "pump", "accuracy": "0.9125"})

    progress = mvi.trainings.progress("t-1")

    assert progress.phase is phase
    assert bool(progress.reason) is (phase is Phase.FAILED)
    assert progress.accuracy == (0.9125 if phase is Phase.TRAINED else None)


@pytest.mark.parametrize("quirk", [answer(500, FAIL), answer(200, FAIL), answer(404, FAIL)])
def test_failing_status_call_is_cross_checked(mvi: MviPlatform, release: Release, quirk: Reply) -> None:
    """A status call that fails just as the training ends is no failure: the task, then the model, are believed."""
    release.table["GET /dltasks/t-1/status"] = quirk
    release.table["GET /dltasks/t-1"] = ok({"_id": "t-1", "name": "pump", "status": "training"})
    assert mvi.trainings.progress("t-1").phase is Phase.RUNNING
    release.table["GET /trained-models/t-1"] = ok({"_id": "t-1", "name": "pump", "accuracy": "0.75"})
    release.table["GET /dltasks/t-1"] = answer(500, FAIL)

    progress = mvi.trainings.progress("t-1")

    assert (progress.phase, progress.accuracy) == (Phase.TRAINED, 0.75)


def test_status_that_fails_for_good(mvi: MviPlatform, release: Release) -> None:
    """When neither task nor model can be read, the first error counts."""
    release.table["GET /dltasks/"] = release.table["GET /trained-models/"] = ok([])
    with pytest.raises(NotFound):
        mvi.trainings.progress("t-1")
    release.table["GET /dltasks/t-1/status"] = answer(503, FAIL)
    with pytest.raises(Transient):
        mvi.trainings.progress("t-1")


def test_model_is_found_by_name_when_its_id_differs(mvi: MviPlatform, release: Release) -> None:
    """Where the id is unknown or answers with an internal error, the lists and the task's name decide."""
    release.table["GET /trained-models/t-1"] = answer(500, FAIL)
    release.table["GET /dltasks/"] = ok([{"_id": "t-1", "name": "pump-1", "dataset_id": "ds-1"}])
    release.table["GET /trained-models/"] = ok(
        [
            {"_id": "m-9", "name": "other", "dataset_id": "ds-1", "created_at": 5000},
            {
                "_id": "m-8",
                "name": "pump-1",
                "dataset_id": "ds-1",
                "accuracy": "0.5",
                "deployed": "1",
                "created_at": 4000,
                "categories": [{"category_id": "c", "category_name": "good"}],
            },
        ]
    )

    found = mvi.models.of_task("t-1")

    assert found == Model("m-8", "pump-1", "ds-1", 0.5, ("good",), 4.0, deployed=True)
    assert [model.id for model in mvi.models.of_dataset(DATASET)] == ["m-9", "m-8"]
    assert mvi.trainings.find(DATASET, "other") == ["m-9"]


def test_all_trainings_of_a_name(mvi: MviPlatform, release: Release) -> None:
    """Tasks and models of the name and dataset count once by id, oldest first, whatever the order of the lists."""
    release.table["GET /dltasks/"] = ok(
        [
            {"_id": "t-3", "name": "m", "dataset_id": "ds-1", "created_at": 3000},
            {"_id": "t-9", "name": "m", "dataset_id": "ds-2", "created_at": 1},
            {"_id": "t-2", "name": "m", "dataset_id": "ds-1", "created_at": "2000"},
        ]
    )
    release.table["GET /trained-models/"] = ok(
        [
            {"_id": "t-2", "name": "m", "dataset_id": "ds-1", "created_at": 9000},
            {"_id": "t-1", "name": "m", "dataset_id": "ds-1", "created_at": 1000},
            {"_id": "t-0", "name": "other", "dataset_id": "ds-1", "created_at": 500},
        ]
    )

    assert mvi.trainings.find(DATASET, "m") == ["t-1", "t-2", "t-3"]
    assert mvi.trainings.find(DatasetRef("ds-2", "x"), "m") == ["t-9"]
    assert mvi.trainings.find(DATASET, "none") == []


@pytest.mark.parametrize(
    ("knows", "requests"),
    [
        ({}, 3),
        ({"knows_query": False}, 3),
        ({"knows_query": False, "knows_limit": False, "knows_skip": False}, 4),
        ({"knows_query": False, "page_cap": 3}, 6),
    ],
)
def test_copies_of_a_few(
    mvi: MviPlatform, server: FakeHttp, release: Release, knows: dict[str, Any], requests: int
) -> None:
    """A few names are asked for one by one where that works; other releases are read whole; all say the same."""
    for name, value in knows.items():
        setattr(release, name, value)
    sent = batch_of(3)
    a, b, _ = (item.key for item in sent.pictures)
    release.files = [
        row(9, "stranger.jpg"),
        row(4, a, uploaded_at=5000, category_id="c-2", category_name="bad"),
        row(3, b),
        row(2, b, size="17", user_metadata={"batch": "x" * 32}),
        row(1, a, uploaded_at="4000.0"),
        *[row(number, f"{number}.jpg") for number in range(20, 23)],
    ]

    copies = mvi.pictures.copies(sent)

    assert {key: [one.remote_id for one in found] for key, found in copies.items()} == {
        a: ["f-1", "f-4"],
        b: ["f-2", "f-3"],
    }
    assert [(one.category, one.uploaded_at) for one in copies[a]] == [("good", 4.0), ("bad", 5.0)]
    assert (copies[b][0].size, copies[b][0].batch_id, copies[b][1].uploaded_at) == (17, "x" * 32, None)
    assert len(server.requests) == requests, server.paths()


@pytest.mark.parametrize(("total", "by_name"), [(1000, False), (50_000, True), (None, False)])
def test_copies_of_many(mvi: MviPlatform, server: FakeHttp, release: Release, total: int | None, by_name: bool) -> None:
    """Many names are picked out of the list, unless the dataset is so large that asking for each takes less."""
    release.table["GET /datasets/ds-1"] = ok({"_id": "ds-1", "name": "parts", "total_file_count": total})
    release.table["GET /datasets"] = ok([{"_id": "ds-1", "name": "parts"}])
    sent = batch_of(20)
    release.files = [row(number, item.key) for number, item in enumerate(sent.pictures)]

    copies = mvi.pictures.copies(sent)

    assert set(copies) == {item.key for item in sent.pictures}
    assert any("query" in request.query for request in server.requests) is by_name


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("deleted", [1, 3, 4, 9])
def test_files_deleted_meanwhile_hide_no_other(
    mvi: MviPlatform, server: FakeHttp, release: Release, after: int, deleted: int
) -> None:
    """When files are deleted while the list is read page by page, those that moved up are not overlooked."""
    release.files = [row(number, f"{number}.jpg") for number in range(20)]
    release.page_cap = 4
    pages = 0

    def script(request: Request) -> Reply:
        nonlocal pages
        pages += 1
        reply = release(request)
        if pages == after:
            del release.files[:deleted]
        return reply

    server.script = script

    listed = [one.remote_id for one in mvi.pictures.listing(DATASET)]

    assert len(listed) == len(set(listed))
    assert {file["_id"] for file in release.files} <= set(listed)


def test_server_that_skips_to_nowhere(mvi: MviPlatform, server: FakeHttp, release: Release) -> None:
    """A server that answers nothing to every skip is asked for everything at once in the end."""
    release.files = [row(number, f"{number}.jpg") for number in range(5)]
    script = server.script
    server.script = lambda request: ok([]) if request.query.get("skip", "0") != "0" else script(request)

    assert len(list(mvi.pictures.listing(DATASET))) == 5
    assert len(server.requests) < 30


def test_copies_without_any_is_read_from_the_list(mvi: MviPlatform, server: FakeHttp, release: Release) -> None:
    """Nothing but empty answers could mean that the question was not understood: the list decides."""
    release.files = [row(number, f"{number}.jpg") for number in range(3)]

    assert mvi.pictures.copies(batch_of(2)) == {}
    assert "query" not in server.requests[-1].query


def test_copies_of_plain_names(mvi: MviPlatform, release: Release) -> None:
    """Without a hash in its name, a file of another size, category or time is somebody else's, and no copy."""
    sent = batch_of(1, hashed=False)
    (item,) = sent.pictures
    release.files = [
        row(1, item.key, size=item.size, uploaded_at=1_700_000_001_000),
        row(2, item.key, size=item.size + 1, uploaded_at=1_700_000_001_000),
        row(3, item.key, size=item.size, category_name="bad", uploaded_at=1_700_000_001_000),
        row(4, item.key, size=item.size, uploaded_at=1_600_000_000_000),
    ]

    assert [one.remote_id for one in mvi.pictures.copies(sent)[item.key]] == ["f-1"]


@pytest.mark.parametrize(
    ("shown", "listed", "expected"), [("12", None, 12), (7.0, None, 7), (None, 5, 5), (None, None, None)]
)
def test_count_where_a_release_tells_it(
    mvi: MviPlatform, release: Release, shown: object, listed: object, expected: int | None
) -> None:
    """The number comes from the dataset, else from the list of datasets, else it is unknown."""
    release.table["GET /datasets/ds-1"] = ok({"_id": "ds-1", "name": "parts", "total_file_count": shown})
    release.table["GET /datasets"] = ok([{"_id": "ds-0"}, {"_id": "ds-1", "total_file_count": listed}])

    assert mvi.pictures.count(DATASET) == expected


@pytest.mark.parametrize(
    ("classified", "expected"),
    [
        (
            [{"name": "cat", "confidence": 0.93}, {"name": "_negative_", "confidence": "0.05"}],
            [("cat", 0.93), ("_negative_", 0.05)],
        ),
        ({"dog": "6.9", "cat": "93.1"}, [("cat", 0.931), ("dog", 0.069)]),
        ({"negative": "0.25", "cat": "0.75"}, [("cat", 0.75), ("negative", 0.25)]),
        ({"cat": "93.1%"}, [("cat", 0.931)]),
        ([{"label": "dent", "confidence": 0.5, "xmin": 1}], [("dent", 0.5)]),
        ([], []),
        (None, []),
        ([{"name": "cat", "confidence": "NaN"}], []),
    ],
)
def test_predictions_in_all_shapes(
    mvi: MviPlatform, server: FakeHttp, release: Release, classified: Any, expected: list[tuple[str, float]]
) -> None:
    """Lists, percent and fractions of all releases become fractions, best first; pseudo classes are passed on."""
    release.table["POST /dlapis/m-1"] = ok({"classified": classified, "result": "success"})

    found = mvi.models.predict(MODEL, b"\x89PNG\r\n\x1a\nxxxx")

    assert [(one.category, round(one.confidence, 6)) for one in found] == expected
    assert all(isinstance(one, Prediction) for one in found)
    assert server.requests[0].parts()[0].filename == "picture.png"


@pytest.mark.parametrize("classified", ["cat", 7, [1], [{"name": {"a": 1}}]])
def test_prediction_of_a_wrong_shape(mvi: MviPlatform, release: Release, classified: Any) -> None:
    """An answer of another shape is an error that names the call, not a traceback of the parser."""
    release.table["POST /dlapis/m-1"] = ok({"classified": classified})

    with pytest.raises(Transient, match="Asking the model m-1: the answer has an unexpected shape"):
        mvi.models.predict(MODEL, b"x")


def test_deployment_is_waited_for(mvi: MviPlatform, server: FakeHttp, release: Release) -> None:
    """Deploying asks for the state until it is ready, in whatever words it starts up."""
    states = [answer(404, FAIL), ok({"_id": "m-1", "status": "starting"}), ok({"_id": "m-1", "status": "ready"})]
    release.table["GET /trained-models/m-1"] = ok({"_id": "m-1", "name": "pump", "usage": "cod"})
    release.table["POST /webapis"] = ok({"webapi_id": "m-1"})
    script = server.script
    server.script = lambda request: (
        (states.pop(0) if len(states) > 1 else states[0]) if request.path == "/api/webapis/m-1" else script(request)
    )

    mvi.models.deploy(MODEL)

    posted = next(request for request in server.requests if request.method == "POST")
    assert posted.json() == {"trained_model_id": "m-1", "name": "pump", "usage": "cod"}


def test_failed_deployment_is_refused(mvi: MviPlatform, release: Release) -> None:
    """A deployment that failed, or that the server's limit forbids, is told in the server's words."""
    release.table["GET /trained-models/m-1"] = ok({"_id": "m-1", "usage": "cic"})
    release.table["POST /webapis"] = ok({"result": "fail", "fault": "WEBAPI_LIMIT_PER_USER", "limit": 3})
    with pytest.raises(Refused, match="WEBAPI_LIMIT_PER_USER"):
        mvi.models.deploy(MODEL)
    release.table["GET /webapis/m-1"] = ok({"_id": "m-1", "status": "failed"})
    with pytest.raises(Refused, match="has failed"):
        mvi.models.deploy(MODEL)


def test_stop_ends_the_wait_for_a_deployment(mvi: MviPlatform, release: Release) -> None:
    """When the program stops, it does not go on waiting for a deployment; a slow one is given up."""
    release.table["GET /webapis/m-1"] = ok({"_id": "m-1", "status": "starting"})
    release.table["GET /trained-models/m-1"] = ok({"_id": "m-1"})
    release.table["POST /webapis"] = ok({})
    mvi.models.deploy_timeout = 0.05
    with pytest.raises(Transient, match="not ready"):
        mvi.models.deploy(MODEL)
    mvi.models.deploy_timeout = mvi.models.poll = 60
    threading.Timer(0.05, mvi.models._api.stop.set).start()
    began = time.monotonic()

    with pytest.raises(Transient, match="Stopped waiting"):
        mvi.models.deploy(MODEL)

    assert time.monotonic() - began < 10


def archive() -> bytes:
    """A small zip archive."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("model.bin", b"x" * 1000)
    return file.getvalue()


def test_export_is_whole_or_not_there(mvi: MviPlatform, release: Release, tmp_path: Path) -> None:
    """The archive gets its name only when it is complete; what the server calls it does not matter."""
    path = "GET /trained-models/m-1/export"
    model = Model("m-1", "../pump 1/ä", "ds-1")
    whole = archive()
    for torn in (
        Reply(200, whole, trouble="cut"),
        Reply(200, whole[:-10]),
        answer(500, FAIL),
    ):
        release.table[path] = torn
        with pytest.raises(Transient):
            mvi.models.export(model, tmp_path)
        assert list(tmp_path.iterdir()) == []
    release.table[path] = Reply(200, whole, (("Content-Disposition", "attachment; filename=../../evil.zip"),))

    written = mvi.models.export(model, tmp_path)

    assert written == tmp_path / "_pump_1_.zip"
    assert written.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [written]
    with pytest.raises(ImageSyncError, match="cannot be written"):
        mvi.models.export(model, tmp_path / "missing" / "x.zip")
