"""Datasets and categories as MVI clients see them."""

from __future__ import annotations

import io
import json
import re
import zipfile

import pytest

from image_sync_server.mvi.server import MviServer
from support.mvi_server import Caller, archive, picture, until

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture(name="caller")
def _caller(server: MviServer) -> Caller:
    caller = Caller(server.url)
    ids = [one["_id"] for one in caller.get("/datasets")]
    caller.post("/datasets/action", action="delete", dataset_id_list=ids)
    return caller


def test_a_dataset_has_the_fields_that_clients_read(caller):
    """Create answers the id; show gives a bare object whose name is not its last key."""
    answer = caller.post("/datasets", name="my parts", purpose="try")
    assert answer["result"] == "success"
    assert UUID.fullmatch(answer["dataset_id"])
    shown = caller.get(f"/datasets/{answer['dataset_id']}")
    assert shown["_id"] == answer["dataset_id"]
    assert (shown["name"], shown["usage"], shown["locked"], shown["total_file_count"]) == ("my parts", "generic", 0, 0)
    assert shown["created_at"] > 1_600_000_000_000
    assert list(shown)[-1] != "name"
    assert sum(key == "name" for key in re.findall(r'"(\w+)":', json.dumps(shown))) == 1


def test_lists_are_newest_first_and_sortable(caller):
    """Without sortby the newest comes first; sortby takes names, and DESC after a blank."""
    assert caller.get("/datasets") == []
    for name in ("b", "c", "a"):
        caller.dataset(name)

    def names(**query: str) -> list[str]:
        return [one["name"] for one in caller.get("/datasets", **query)]

    assert names() == ["a", "c", "b"]
    assert names(sortby="name") == ["a", "b", "c"]
    assert names(sortby="name DESC") == ["c", "b", "a"]
    assert names(sortby="created_at") == ["b", "c", "a"]
    assert names(sortby="usage,created_at DESC") == ["a", "c", "b"]
    assert names(sortby="nothing") == ["b", "c", "a"]


@pytest.mark.parametrize("root", ["", "/visual-inspection", "/visual-insights", "/powerai-vision-ny", "/a/b"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_every_context_root_and_both_slash_forms_work(server, caller, root, slash):
    """The part before /api is free, and no form is answered with a redirect."""
    url = f"{server.url}{root}/api/datasets{slash}"
    assert caller.session.post(url, json={"name": "x"}, allow_redirects=False).status_code == 200
    assert caller.session.get(url, allow_redirects=False).json()[0]["name"] == "x"


def test_outside_the_api_and_wrong_methods_are_told_as_json(server, caller):
    """What does not exist answers 404, what exists otherwise 405, both with a fault."""
    for method, url, status in (
        ("GET", "/", 404),
        ("GET", "/datasets", 404),
        ("GET", "/api/nothing", 404),
        ("PATCH", "/api/datasets", 405),
    ):
        response = caller.session.request(method, server.url + url)
        assert response.status_code == status
        assert response.json()["result"] == "fail"
        assert response.json()["fault"]


@pytest.mark.parametrize(
    ("method", "path", "fragment"),
    [
        ("GET", "/datasets/{bad}", "Could not find dataset"),
        ("DELETE", "/datasets/{bad}", "Could not find dataset"),
        ("GET", "/datasets/{bad}/files/x", "Could not find dataset"),
        ("DELETE", "/datasets/{bad}/files/x", "Unknown dataset"),
        ("GET", "/datasets/{ok}/files/{bad}", "Could not find file"),
        ("DELETE", "/datasets/{ok}/files/{bad}", "Could not find file"),
        ("DELETE", "/trained-models/{bad}", "Could not find trainedModel"),
        ("GET", "/datasets/{bad}/files", ""),
        ("GET", "/datasets/{bad}/export", ""),
        ("GET", "/datasets/{bad}/categories", ""),
        ("GET", "/datasets/{ok}/categories/{bad}", ""),
        ("GET", "/trained-models/{bad}/export", ""),
        ("GET", "/dltasks/{bad}", ""),
        ("GET", "/dltasks/{bad}/status", ""),
        ("DELETE", "/dltasks/{bad}", ""),
        ("GET", "/webapis/{bad}", ""),
        ("DELETE", "/webapis/{bad}", ""),
    ],
)
def test_what_is_not_there_fails_in_the_words_that_ibm_tests_look_for(caller, method, path, fragment):
    """Unknown ids answer non-2xx JSON with result, and with the words of MVI where its tests read them."""
    path = path.format(bad="00000000-aaaa-bbbb-cccc-000000000000", ok=caller.dataset())
    response = caller.call(method, path)
    assert response.status_code == 404
    assert response.json()["result"] == "fail"
    assert fragment in response.json()["fault"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"null",
        b'"x"',
        b'{"name": 3}',
        b'{"name": ""}',
        b'{"name": "a\\u0007"}',
        b'{"name": "\\ud800"}',
        b'{"name": NaN}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_bad_body_is_a_bad_request(caller, body):
    """What is not JSON object with a usable name answers 400, never a server error."""
    response = caller.call("POST", "/datasets", data=body)
    assert response.status_code == 400
    assert response.json()["fault"]
    assert caller.get("/datasets") == []


def test_a_dataset_is_renamed_changed_and_deleted(caller):
    """The actions answer JSON with result success, delete too."""
    dataset = caller.dataset("old")
    assert caller.post(f"/datasets/{dataset}/action", action="rename", data="new")["result"] == "success"
    answer = caller.call("PUT", f"/datasets/{dataset}", json={"purpose": "p", "project_group_id": "g"})
    assert answer.json()["result"] == "success"
    shown = caller.get(f"/datasets/{dataset}")
    assert (shown["name"], shown["purpose"], shown["project_group_id"]) == ("new", "p", "g")
    assert [one["_id"] for one in caller.get("/datasets", pg_id="g,h")] == [dataset]
    assert caller.get("/datasets", pg_id="h") == []
    caller.call("PUT", f"/datasets/{dataset}", json={"project_group_id": ""})
    assert "project_group_id" not in caller.get(f"/datasets/{dataset}")
    gone = caller.call("DELETE", f"/datasets/{dataset}/")
    assert (gone.status_code, gone.json()) == (200, {"result": "success"})
    assert caller.call("GET", f"/datasets/{dataset}").status_code == 404
    assert caller.call("POST", f"/datasets/{caller.dataset()}/action", json={"action": "fly"}).status_code == 400


def test_deleting_several_tells_each(caller):
    """A batch with an unknown id is 422 and says which one; the others are gone."""
    one = caller.dataset()
    response = caller.call("POST", "/datasets/action", json={"action": "delete", "dataset_id_list": [one, "bad"]})
    answer = response.json()
    assert response.status_code == 422
    assert (answer["success_count"], answer["fail_count"]) == (1, 1)
    assert [entry["result"] for entry in answer["result_list"]] == ["success", "fail"]
    assert caller.get("/datasets") == []


def test_categories_live_as_mvi_has_them(caller):
    """Made once however often asked, listed, counted, renamed, deleted; their files stay without a category."""
    dataset = caller.dataset()
    category = caller.category(dataset, "cat")
    assert caller.category(dataset, "cat") == category
    assert caller.category(dataset, "Cat") != category
    assert list(caller.get(f"/datasets/{dataset}/categories/{category}")) == ["_id", "dataset_id", "name", "created_at"]
    assert [one["name"] for one in caller.get(f"/datasets/{dataset}/categories")] == ["Cat", "cat"]
    file = caller.upload(dataset, [("a.jpg", picture("dark", 1))], {"category_id": category}).json()["id"]
    path = f"/datasets/{dataset}/categories/{category}"
    assert caller.post(f"{path}/action", action="calculate") == {"result": "success", "size": 1}
    assert caller.post(f"{path}/action", action="rename", data="dog")["result"] == "success"
    assert caller.get(f"/datasets/{dataset}/files/{file}")["category_name"] == "dog"
    assert caller.call("POST", f"{path}/action", json={"action": "rename", "data": "Cat"}).status_code == 409
    assert caller.call("POST", f"{path}/action", json={"action": "rename", "name": True}).status_code == 400
    assert caller.call("DELETE", path).json()["result"] == "success"
    assert caller.get(f"/datasets/{dataset}/files/{file}")["category_id"] == ""


def test_a_clone_has_everything_under_new_ids(caller):
    """Clone copies files, categories, labels and metadata, and the two live apart from then on."""
    dataset = caller.trainable(each=2)
    caller.category(dataset, "empty")
    (first, *_) = caller.get(f"/datasets/{dataset}/files")
    caller.post(f"/datasets/{dataset}/files/{first['_id']}/user-metadata", batch="7")
    clone = caller.post(f"/datasets/{dataset}/action", action="clone", name="copy")["dataset_id"]
    assert {one["name"] for one in caller.get(f"/datasets/{clone}/categories")} == {"dark", "light", "empty"}
    ours, theirs = caller.get(f"/datasets/{dataset}/files"), caller.get(f"/datasets/{clone}/files")
    for mine, yours in zip(ours, theirs, strict=True):
        for key in ("original_file_name", "category_name", "user_metadata"):
            assert mine[key] == yours[key]
    assert not {file["_id"] for file in ours} & {file["_id"] for file in theirs}
    assert caller.call("DELETE", f"/datasets/{dataset}").status_code == 200
    url = f"{caller.api}/uploads/{theirs[0]['owner']}/datasets/{clone}/files/{theirs[0]['file_name']}"
    assert caller.session.get(url).content == picture("light", 1)
    assert caller.post(f"/datasets/{clone}/action", action="calculate")["size"] == 4
    assert caller.post(f"/datasets/{clone}/action", action="calculate", type="unlabeled")["size"] == 0


def test_an_export_comes_back_by_import(caller):
    """Export names the file last and unquoted; import makes a new dataset, told by a background task of its id."""
    caller.call("DELETE", "/bgtasks")
    dataset = caller.trainable("my pärts", each=2)
    file = caller.get(f"/datasets/{dataset}/files")[0]["_id"]
    box = {"xmin": 1, "ymin": 2, "xmax": 9, "ymax": 8}
    caller.post(f"/datasets/{dataset}/files/{file}/labels", labels=[{"name": "dent <&", "bndbox": box}])
    response = caller.call("GET", f"/datasets/{dataset}/export", params={"raw": "False"})
    assert response.headers["content-disposition"] == "attachment; filename=my_p_rts.zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as exported:
        names = exported.namelist()
        properties = json.loads(exported.read("my_p_rts/prop.json"))
    assert f"my_p_rts/{file}.xml" in names
    assert sum(name.endswith(".jpg") for name in names) == 4
    assert properties["prop_version"] == "PROP_VESION_1"
    entries = json.loads(properties["file_prop_info"])
    assert {entry["category_name"] for entry in entries} == {"dark", "light"}
    assert not any("__DEBUG/" in name for name in names)
    raw = caller.call("GET", f"/datasets/{dataset}/export", params={"raw": "True"}).content
    with zipfile.ZipFile(io.BytesIO(raw)) as exported:
        assert any("__DEBUG/" in name for name in exported.namelist())

    answer = caller.call("POST", "/datasets/import", files={"files": ("x.zip", response.content)}).json()
    new = answer["dataset_id"]
    assert new != dataset
    tasks = until(lambda: caller.get("/bgtasks", status="completed")["task_list"])
    (task,) = [one for one in tasks if one["_id"] == new]
    assert task["event_type"] == "import_dataset"
    assert (task["success_count"], task["fail_count"], task["percent_complete"]) == (4, 0, 100)
    assert caller.get(f"/datasets/{new}")["locked"] == 0
    old, copy = (
        sorted((file["original_file_name"], file["category_name"]) for file in caller.get(f"/datasets/{one}/files"))
        for one in (dataset, new)
    )
    assert old == copy
    assert [label["name"] for label in caller.get(f"/datasets/{new}/object-labels")] == ["dent <&"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zip",
        archive({"a.jpg": b"x"}),
        archive({"prop.json": b"{"}),
        archive({"prop.json": b"[]"}),
        archive({"prop.json": b'{"name": "x", "file_prop_info": "[3]"}'}),
        archive({"../prop.json": b"{}"}),
    ],
)
def test_what_is_no_export_is_not_imported(caller, content):
    """A damaged or foreign archive is refused at once and leaves no dataset."""
    response = caller.call("POST", "/datasets/import", files={"files": ("x.zip", content)})
    assert response.status_code == 400
    assert response.json()["fault"]
    assert caller.get("/datasets") == []


def test_background_tasks_are_filtered_and_cleared(caller):
    """The list takes its filters, refuses a wrong time, and what is over can be removed."""
    caller.call("DELETE", "/bgtasks")
    content = archive({"x/prop.json": json.dumps({"name": "x", "file_prop_info": "[]"}).encode()})
    new = caller.call("POST", "/datasets/import", files={"files": ("x.zip", content)}).json()["dataset_id"]
    until(lambda: caller.get("/bgtasks", status="completed")["task_list"])
    assert (
        caller.get("/bgtasks", newer_than="2001/01/01-00:00:00", task_type="import_dataset")["task_list"][0]["_id"]
        == new
    )
    assert caller.get("/bgtasks", newer_than="2901/01/01-00:00:00")["task_list"] == []
    assert caller.call("GET", "/bgtasks", params={"newer_than": "yesterday"}).status_code == 400
    assert caller.call("DELETE", "/bgtasks").json()["success_count"] == 1
    assert caller.get("/bgtasks") == {"task_list": []}


def test_the_server_describes_itself(caller):
    """GET /system and /profiles answer objects without a failing result."""
    assert caller.get("/system")["result"] == "success"
    assert caller.get("/profiles")["login_user_id"] == "admin"
