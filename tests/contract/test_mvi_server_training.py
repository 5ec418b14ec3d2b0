"""Trainings, trained models, deployments and inference, with the real learner."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from image_sync_server.mvi.server import MviServer
from support.mvi_server import ENDLESS, Caller, archive, picture, until


@pytest.fixture(name="caller", scope="module")
def _caller(server: MviServer) -> Caller:
    return Caller(server.url)


@pytest.fixture(name="dataset", scope="module")
def _dataset(caller: Caller) -> str:
    return caller.trainable()


@pytest.fixture(name="model", scope="module")
def _model(caller: Caller, dataset: str) -> str:
    return caller.trained(dataset, "first")


def deployed(caller: Caller, model: str) -> None:
    if all(one["_id"] != model for one in caller.get("/webapis")):
        answer = caller.post("/webapis", trained_model_id=model, name="live", usage="cic")
        assert answer == {"result": "success", "webapi_id": model, "container_id": model}
    until(lambda: caller.get(f"/webapis/{model}")["status"] == "ready")


def test_a_training_goes_its_way_and_leaves_a_model_of_its_id(caller, dataset, model):
    """The task ends as trained, its curve has numbers as strings, and the model has the task's id."""
    task = caller.get(f"/dltasks/{model}")
    assert (task["name"], task["status"], task["usage"], task["dataset_id"]) == ("first", "trained", "cic", dataset)
    status = caller.status(model)
    assert status["result"] == "success"
    trains = [one for one in status["data"] if one["type"] == "train_msg"]
    tests = [one for one in status["data"] if one["type"] == "test_msg"]
    assert {"iter", "total_iter", "loss", "remain_time", "remaining_time", "progress", "timestamp"} <= set(trains[-1])
    assert all(isinstance(value, str) for one in status["data"] for value in one.values())
    assert (trains[-1]["iter"], trains[-1]["total_iter"]) == ("60", "60")
    assert 0 <= float(tests[-1]["accuracy"]) <= 1
    shown = caller.get(f"/trained-models/{model}")
    assert (shown["_id"], shown["name"], shown["deployed"], shown["production_status"]) == (
        model,
        "first",
        0,
        "untested",
    )
    assert 0.5 <= float(shown["accuracy"]) <= 1
    ids = {one["name"]: one["_id"] for one in caller.get(f"/datasets/{dataset}/categories")}
    assert {one["category_name"]: one["category_id"] for one in shown["categories"]} == ids


def test_lists_are_newest_first_with_a_name_each(caller, dataset, model):
    """Tasks and models are listed newest first, with a slash at the end as the vision command asks."""
    second = caller.trained(dataset, "second")
    assert [task["name"] for task in caller.get("/dltasks/")][:2] == ["second", "first"]
    assert caller.get("/dltasks/", status="trained")[0]["_id"] == second
    assert caller.get("/dltasks/", status="failed") == []
    assert [one["_id"] for one in caller.get("/trained-models/", sortby="created_at")] == [model, second]
    assert caller.get("/trained-models/", usage="cod") == []
    assert caller.call("DELETE", f"/trained-models/{second}").json()["result"] == "success"
    assert caller.call("GET", f"/dltasks/{second}").status_code == 404


def test_too_few_pictures_are_refused_at_once(caller):
    """Fewer than two categories, or fewer than five images in one, is told at POST with the numbers."""
    dataset = caller.dataset()
    body = {"action": "create", "name": "m", "dataset_id": dataset, "usage": "cic"}
    faults = []
    for kind, many in (("dark", 5), ("light", 4)):
        caller.upload(dataset, [(f"{kind}{n}.jpg", picture(kind, n)) for n in range(many)], {"category_name": kind})
        response = caller.call("POST", "/dltasks/", json=body)
        assert response.status_code == 400
        faults.append(response.json()["fault"])
    assert "2 categories" in faults[0]
    assert "light: 4" in faults[1]
    caller.upload(dataset, [("light4.jpg", picture("light", 4))], {"category_name": "light"})
    caller.upload(dataset, [("loose.jpg", picture("light", 9))])
    caller.category(dataset, "empty")
    assert caller.post("/dltasks", **{**body, "action": "pre-analysis"})["estimated_time"] >= 1
    task = caller.post("/dltasks", **{**body, "action": "create-cic-task", "strategy": {"max_iter": 20}})["task_id"]
    assert caller.ended(task)["status"] == "trained"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"action": "create-cod-task"}, "no object labels"),
        ({"usage": "cod", "nn_arch": "frcnn"}, "no object labels"),
        ({"action": "create-act-task", "usage": "act"}, "action detection"),
        ({"action": "train"}, "no action"),
        ({"action": "retrain"}, "no action"),
        ({"action": None}, "action"),
        ({"name": ""}, "name"),
        ({"dataset_id": "bad"}, "dataset"),
        ({"pretrained_model": "bad"}, "trainedModel"),
        ({"userdnn_id": "x"}, "custom"),
        ({"strategy": [1]}, "strategy"),
        ({"action": "create-cod-task", "nn_arch": "resnet"}, "is not a detection network"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_post(caller, dataset, change, word):
    """Detection without labels, unknown actions, datasets and models are refused at once, not later."""
    before = len(caller.get("/dltasks"))
    body = {"action": "create", "name": "m", "dataset_id": dataset, "usage": "cic"} | change
    response = caller.call("POST", "/dltasks", json=body)
    assert response.status_code in {400, 404}
    assert word in response.json()["fault"]
    assert len(caller.get("/dltasks")) == before


def test_a_bad_strategy_fails_the_task_with_a_sentence(caller, dataset):
    """What only the learner can judge ends the task as failed, with its words in status and task."""
    task = caller.train(dataset, strategy={"max_iter": "many"})
    assert caller.ended(task)["status"] == "failed"
    assert "max_iter" in caller.status(task)["fault"]
    assert "max_iter" in caller.get(f"/dltasks/{task}")["fault"]
    assert caller.call("GET", f"/trained-models/{task}").status_code == 404


def test_a_picture_that_cannot_be_decoded_is_named(caller):
    """The fault names the picture as the user did, not only as it is stored."""
    dataset = caller.trainable(each=5)
    raw = picture("dark", 3)
    at = raw.index(b"\xff\xc4")
    broken = raw[: at + 4] + b"\xff" * 16 + raw[at + 20 :]
    assert caller.upload(dataset, [("worn out.jpg", broken)], {"category_name": "dark"}).status_code == 200
    task = caller.train(dataset)
    assert caller.ended(task)["status"] == "failed"
    assert "worn out.jpg" in caller.status(task)["fault"]


def test_a_training_can_continue_from_a_model(caller, dataset, model):
    """pretrained_model starts from the stored weights: the first loss is lower than from the beginning."""
    task = caller.trained(dataset, "more", pretrained_model=model)
    from_model, from_nothing = (float(caller.status(one)["data"][0]["loss"]) for one in (task, model))
    assert from_model < from_nothing
    assert caller.get(f"/dltasks/{task}")["pretrained_model"] == model


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_one_training_runs_others_wait_and_both_can_be_stopped(caller, dataset, method):
    """The second task is idle while the first trains; stop makes both aborted, a second stop is refused."""
    first = caller.train(dataset, "endless", strategy=ENDLESS)
    waiting = caller.train(dataset, "waiting", strategy=ENDLESS)
    until(lambda: caller.status(first)["status"] == "training")
    until(lambda: caller.status(first).get("data"))
    assert caller.status(waiting)["status"] == "idle"
    for task in (waiting, first):
        assert caller.call(method, f"/dltasks/{task}/action", json={"action": "stop"}).status_code == 200
        assert caller.status(task)["status"] == "aborted"
    assert caller.call(method, f"/dltasks/{first}/action", json={"action": "stop"}).status_code == 409
    assert caller.call(method, f"/dltasks/{first}/action", json={"action": "rename", "data": "new"}).status_code == 200
    assert caller.get(f"/dltasks/{first}")["name"] == "new"
    assert caller.call("DELETE", f"/dltasks/{first}").json()["result"] == "success"


def test_a_running_training_can_be_deleted(caller, dataset):
    """DELETE stops it first; nothing is left of it."""
    task = caller.train(dataset, strategy=ENDLESS)
    until(lambda: caller.status(task)["status"] == "training")
    assert caller.call("DELETE", f"/dltasks/{task}").status_code == 200
    assert caller.call("GET", f"/dltasks/{task}/status").status_code == 404
    assert caller.trained(dataset, "next")


def test_deleting_the_dataset_ends_its_waiting_training_as_failed(caller):
    """A training whose pictures are gone says so instead of staying open."""
    dataset = caller.trainable(each=5)
    blocker = caller.train(dataset, strategy=ENDLESS)
    task = caller.train(dataset)
    until(lambda: caller.status(blocker)["status"] == "training")
    caller.call("DELETE", f"/datasets/{dataset}")
    caller.post(f"/dltasks/{blocker}/action", action="stop")
    status = caller.ended(task)
    assert status["status"] == "failed"
    assert "dataset was deleted" in status["fault"]


def test_a_deployed_model_tells_pictures_apart(caller, model):
    """Inference needs no token, and answers a list best first, filtered by confthre and clsnum."""
    deployed(caller, model)
    shown = caller.get("/webapis/")[0]
    assert (shown["_id"], shown["usage"], shown["name"]) == (model, "cic", "live")
    stranger = Caller(caller.api.removesuffix("/api"), None)
    right = 0
    for kind in ("dark", "light"):
        for seed in range(50, 55):
            raw = picture(kind, seed)
            answer = stranger.call("POST", f"/dlapis/{model}", files={"files": ("q.jpg", raw)}).json()
            assert (answer["result"], answer["webAPIId"]) == ("success", model)
            assert answer["imageMd5"] == hashlib.md5(raw).hexdigest()
            guesses = [one["confidence"] for one in answer["classified"]]
            assert guesses == sorted(guesses, reverse=True)
            assert sum(guesses) == pytest.approx(1, abs=0.01)
            right += answer["classified"][0]["name"] == kind
    assert right >= 9
    url = answer["imageUrl"]
    assert url.startswith(caller.api.removesuffix("/api") + "/uploads/")
    assert caller.session.get(url).content == raw

    def ask(**data: str) -> Any:
        return caller.call("POST", f"/dlapis/{model}", files={"files": ("q.jpg", raw)}, data=data)

    assert len(ask(clsnum="1").json()["classified"]) == 1
    assert ask(confthre="1000").json()["classified"] == []
    assert ask(confthre="much").status_code == 400


def test_inference_that_cannot_be_done_is_told(caller, model):
    """An unknown model, no picture, a broken one, and a picture by URL are failures with a fault."""
    deployed(caller, model)
    assert caller.call("POST", "/dlapis/bad", files={"files": ("q.jpg", b"x")}).status_code == 404
    for files in (
        {"other": ("q.jpg", b"x")},
        {"files": ("q.jpg", b"x")},
        {"files": ("q.jpg", picture("dark", 1)[:-9])},
    ):
        response = caller.call("POST", f"/dlapis/{model}", files=files)
        assert response.status_code == 400
        assert response.json()["result"] == "fail"
    response = caller.call("GET", f"/dlapis/{model}", params={"imageUrl": "http://127.0.0.1/x"})
    assert response.status_code == 400


def test_a_deployed_model_is_not_deleted(caller, dataset):
    """Delete asks to undeploy first; deploying twice is a conflict; afterwards both go."""
    model = caller.trained(dataset, "short")
    deployed(caller, model)
    response = caller.call("DELETE", f"/trained-models/{model}")
    assert response.status_code == 409
    assert "ndeploy" in response.json()["fault"]
    assert caller.get(f"/trained-models/{model}")["deployed"] == 1
    assert caller.call("POST", "/webapis", json={"trained_model_id": model, "name": "x"}).status_code == 409
    assert caller.post("/webapis/action", action="delete", webapi_list=[model])["success_count"] == 1
    assert caller.call("DELETE", f"/webapis/{model}").status_code == 404
    assert caller.post("/trained-models/action", action="delete", model_list=[model])["success_count"] == 1


def test_a_model_is_marked_and_grouped(caller, model):
    """PUT sets production status and project group, and refuses a status that does not exist."""
    path = f"/trained-models/{model}"
    assert caller.call("PUT", path, json={"production_status": "production", "pg_id": "g"}).status_code == 200
    assert [one["_id"] for one in caller.get("/trained-models", production_status="production", pg_id="g")] == [model]
    assert caller.call("PUT", path, json={"production_status": "fine"}).status_code == 400
    assert caller.call("GET", f"{path}/assets/coreml/download").status_code == 404


def test_an_exported_model_is_imported_and_answers_the_same(caller, model):
    """Export and import give a new model with the same judgement, told by a background task of its id."""
    response = caller.call("GET", f"/trained-models/{model}/export")
    assert response.headers["content-disposition"] == "attachment; filename=first.zip"
    files = {"files": ("m.zip", response.content)}
    new = caller.call("POST", "/trained-models/import", files=files).json()["trained_model_id"]
    assert new != model
    assert caller.get("/bgtasks")["task_list"][0]["_id"] == new
    shown = caller.get(f"/trained-models/{new}")
    assert (shown["name"], shown["dataset_id"]) == ("first", "")
    assert shown["accuracy"] == caller.get(f"/trained-models/{model}")["accuracy"]
    answers = []
    for one in (model, new):
        deployed(caller, one)
        answers.append(caller.call("POST", f"/dlapis/{one}", files={"files": ("q.jpg", picture("dark", 70))}).json())
    assert answers[0]["classified"] == answers[1]["classified"]


@pytest.mark.parametrize(
    "content",
    [b"x", archive({"a": b"b"}), archive({"model.json": b'{"name": "x", "accuracy": "1"}', "model.bin": b"junk"})],
)
def test_what_is_no_model_is_not_imported(caller, content):
    """Damaged and foreign archives are refused and leave no model."""
    before = len(caller.get("/trained-models"))
    assert caller.call("POST", "/trained-models/import", files={"files": ("m.zip", content)}).status_code == 400
    assert len(caller.get("/trained-models")) == before
