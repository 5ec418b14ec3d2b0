"""Objects, undeployment and import at MVI, on the wire: answers from a scripted server."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_sync.domain import Annotation, Batch, Box, DatasetRef
from image_sync.errors import ImageSyncError, Refused, Transient
from image_sync.platforms.base import Model, TrainingPlan
from image_sync.platforms.http import Timeouts
from image_sync.platforms.mvi.platform import MviPlatform
from image_sync.platforms.retry import Retrying
from image_sync_contract import held, read_held
from support.fake_http import FakeHttp, Reply, Request, answer, ok

DATASET = DatasetRef("ds-1", "parts")
MODEL = Model("m-1", "pump", "ds-1")
Table = dict[str, Reply]


@pytest.fixture
def table() -> Table:
    """Method and path -> what the server answers."""
    return {
        "GET /datasets/ds-1/tags": ok([{"_id": "t-1", "name": "Dent", "normalized_name": "dent"}]),
        "POST /datasets/ds-1/tags": ok({"result": "success", "dataset_tag_id": "t-2"}),
        "POST /datasets/ds-1/files/f-1/labels": ok({"result": "success"}),
    }


@pytest.fixture
def server(table: Table) -> Iterator[FakeHttp]:
    """The server."""

    def script(request: Request) -> Reply:
        return table.get(f"{request.method} {request.path.removeprefix('/api')}", answer(404, {"result": "fail"}))

    with FakeHttp(script=script) as server:
        yield server


@pytest.fixture
def mvi(server: FakeHttp) -> Iterator[MviPlatform]:
    """The platform."""
    platform = MviPlatform(server.url, stop=threading.Event(), timeouts=Timeouts(2, 2, 5))
    yield platform
    platform.close()


def sent(server: FakeHttp, method: str, path: str) -> list[Any]:
    """The JSON bodies of the requests of this kind."""
    return [one.json() for one in server.requests if (one.method, one.path) == (method, f"/api{path}")]


def test_tags_are_made_once_and_known_ones_are_used(mvi: MviPlatform, server: FakeHttp) -> None:
    """A label that the server has, in whatever case, keeps the server's spelling; a new one makes its tag once."""
    marked = Annotation(100, 80, (Box("dent", 1, 2, 3, 4), Box("hole", 5.5, 6.5, 7.5, 99)))

    for _ in range(2):
        mvi.pictures.annotate(DATASET, "f-1", marked)

    assert sent(server, "POST", "/datasets/ds-1/tags") == [{"name": "hole"}]
    assert sent(server, "POST", "/datasets/ds-1/files/f-1/labels") == 2 * [
        {
            "labels": [
                {"name": "Dent", "bndbox": {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}},
                {"name": "hole", "bndbox": {"xmin": 5, "ymin": 6, "xmax": 8, "ymax": 80}},
            ]
        }
    ]


@pytest.mark.parametrize("refusal", [answer(409, {"result": "fail"}), answer(400, {"result": "fail"})])
def test_a_tag_that_somebody_made_meanwhile(mvi: MviPlatform, server: FakeHttp, table: Table, refusal: Reply) -> None:
    """Making a tag fails because it is there by now: it is found and used."""
    table["POST /datasets/ds-1/tags"] = refusal
    lists = iter([[], [{"_id": "t-9", "name": "Hole"}]])
    script = server.script
    server.script = lambda request: (
        ok(next(lists)) if (request.method, request.path) == ("GET", "/api/datasets/ds-1/tags") else script(request)
    )

    mvi.pictures.annotate(DATASET, "f-1", Annotation(9, 9, (Box("hole", 1, 1, 2, 2),)))

    ((label,),) = [body["labels"] for body in sent(server, "POST", "/datasets/ds-1/files/f-1/labels")]
    assert label["name"] == "Hole"


def test_labels_travel_with_a_single_picture(mvi: MviPlatform, server: FakeHttp, table: Table) -> None:
    """The part `labels` holds a JSON array with boxes and polygons; the outcome says that it went along."""
    table["GET /datasets/ds-1/categories"] = ok([{"_id": "c-1", "name": "good"}])
    table["POST /datasets/ds-1/files"] = ok({"resultList": [{"result": "success", "id": "f-1", "file_name": "a.jpg"}]})
    outline = ((1.0, 1.0), (8.6, 1.2), (4.0, 20.0))
    item = held(
        "a.jpg", 1, hashlib.sha256(b"x").hexdigest(), lambda: b"x",
        Annotation(10, 10, (Box("Dent", 1, 1, 8.6, 10, polygon=outline),)),
    )  # fmt: skip

    (outcome,) = mvi.pictures.upload(Batch("b" * 32, DATASET, "good", (item,)), read_held)

    assert outcome.annotated
    (form,) = [one.parts() for one in server.requests if (one.method, one.path) == ("POST", "/api/datasets/ds-1/files")]
    (part,) = [one for one in form if one.name == "labels"]
    assert json.loads(part.content) == [
        {
            "name": "Dent",
            "bndbox": {"xmin": 1, "ymin": 1, "xmax": 9, "ymax": 10},
            "segment_polygons": [[[1, 1], [9, 1], [4, 10]]],
        }
    ]


def test_boxes_of_a_prediction(mvi: MviPlatform, table: Table) -> None:
    """A detection's answer gives label, confidence, box in pixels and outline, best first; odd boxes are left out."""
    rows = [
        {"label": "hole", "confidence": "0.5", "xmin": "1", "ymin": 2, "xmax": 30, "ymax": 40},
        {
            "label": "dent",
            "confidence": 0.9,
            "xmin": 5,
            "ymin": 6,
            "xmax": 7,
            "ymax": 8,
            "polygons": [[[5, 6], [7, 8]]],
        },
        {"label": "odd", "confidence": 0.1, "xmin": 9, "ymin": 6, "xmax": 7, "ymax": 8, "polygons": "none"},
    ]
    table["POST /dlapis/m-1"] = ok({"result": "success", "classified": rows})

    dent, hole, odd = mvi.models.predict(MODEL, b"jpeg")

    assert (dent.category, dent.confidence) == ("dent", 0.9)
    assert dent.box == Box("dent", 5, 6, 7, 8, polygon=((5, 6), (7, 8)))
    assert hole.box == Box("hole", 1, 2, 30, 40)
    assert (odd.category, odd.box) == ("odd", None)


@pytest.mark.parametrize(
    ("nn_arch", "detection", "action", "sent_arch"),
    [
        ("", True, "create-cod-task", "frcnn"),
        ("yolo_v3", True, "create-cod-task", "yolo_v3"),
        ("yolo_v3", False, "create-cod-task", "yolo_v3"),
        ("", False, "create", None),
    ],
)
def test_the_plan_decides_what_kind_of_training_it_is(
    mvi: MviPlatform, server: FakeHttp, table: Table, nn_arch: str, detection: bool, action: str, sent_arch: str | None
) -> None:
    """A plan that detects makes a detection task, with IBM's default where no architecture is named."""
    table["POST /dltasks"] = ok({"result": "success", "task_id": "m-7"})

    mvi.trainings.start(TrainingPlan("pump-1", DATASET, nn_arch=nn_arch, detection=detection))

    (task,) = sent(server, "POST", "/dltasks")
    assert (task["action"], task.get("nn_arch")) == (action, sent_arch)


def test_a_deployment_that_takes_long_is_left_to_the_caller(mvi: MviPlatform, server: FakeHttp, table: Table) -> None:
    """It was asked for once; whoever is patient comes back later, instead of hanging in repeats."""
    table["POST /webapis"] = ok({"result": "success", "webapi_id": "m-1"})
    table["GET /trained-models/m-1"] = ok({"_id": "m-1", "usage": "cic"})
    mvi.models.poll = 0.01
    mvi.models.deploy_timeout = 0.05

    def script(request: Request) -> Reply:
        posted = any(one.method == "POST" for one in server.requests)
        if request.method == "GET" and request.path == "/api/webapis/m-1" and posted:
            return ok({"_id": "m-1", "status": "starting"})
        return table.get(f"{request.method} {request.path.removeprefix('/api')}", answer(404, {"result": "fail"}))

    server.script = script
    patient = Retrying(mvi, threading.Event(), first=0.01, ceiling=0.01)

    for _ in range(2):
        with pytest.raises(Transient, match="not ready"):
            patient.models.deploy(MODEL)

    assert [one.path for one in server.requests if one.method == "POST"] == ["/api/webapis"]


def test_undeploying_what_is_not_deployed(mvi: MviPlatform, server: FakeHttp, table: Table) -> None:
    """Nothing is deployed: no error. A refusal comes through."""
    mvi.models.undeploy(MODEL)
    table["DELETE /webapis/m-1"] = answer(400, {"result": "fail", "fault": "busy"})

    with pytest.raises(Refused, match="busy"):
        mvi.models.undeploy(MODEL)

    assert [one.method for one in server.requests] == ["DELETE", "DELETE"]


def test_an_import_that_cannot_be_shown_yet(mvi: MviPlatform, server: FakeHttp, table: Table, tmp_path: Path) -> None:
    """The server named the new model: it is told although the model cannot be read yet; nothing else is sent twice."""
    with zipfile.ZipFile(tmp_path / "pump.zip", "w") as made:
        made.writestr("model.bin", b"x" * 100)
    table["POST /trained-models/import"] = ok({"result": "success", "trained_model_id": "m-9"})

    assert mvi.models.import_model(tmp_path / "pump.zip") == Model("m-9", "pump", "")
    with pytest.raises(ImageSyncError, match="cannot be read"):
        mvi.models.import_model(tmp_path / "missing.zip")
    (post,) = [one for one in server.requests if one.method == "POST"]
    (part,) = post.parts()
    assert (part.name, part.filename) == ("files", "pump.zip")
    assert part.content == (tmp_path / "pump.zip").read_bytes()
