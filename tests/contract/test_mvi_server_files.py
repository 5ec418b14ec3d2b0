"""Files of a dataset: what an upload answers, and how files are found, changed and removed."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from image_sync_server.mvi.pictures import Limits
from image_sync_server.mvi.server import MviServer
from support.mvi_server import Caller, archive, picture, serving, until

JPG, PNG = picture("dark", 1), picture("light", 1, suffix="png")


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MviServer]:
    with serving(tmp_path_factory.mktemp("mvi"), limits=Limits(body=3_000_000, memory=100_000)) as server:
        yield server


@pytest.fixture(name="caller")
def _caller(server: MviServer) -> Caller:
    return Caller(server.url)


@pytest.fixture(name="dataset")
def _dataset(caller: Caller) -> str:
    return caller.dataset()


def names(caller: Caller, dataset: str, **query: str) -> list[str]:
    return [file["original_file_name"] for file in caller.get(f"/datasets/{dataset}/files", **query)]


def test_an_upload_answers_one_entry_a_file_with_its_id_and_name(caller, dataset):
    """The answer holds result, the first id, the dataset and resultList in the order sent."""
    response = caller.upload(dataset, [("part 7.jpg", JPG), ("b.png", PNG)])
    answer = response.json()
    assert response.status_code == 200
    assert (answer["result"], answer["dataset_id"]) == ("success", dataset)
    assert answer["id"] == answer["resultList"][0]["id"]
    assert [(e["result"], e["file_name"]) for e in answer["resultList"]] == [
        ("success", "part 7.jpg"),
        ("success", "b.png"),
    ]
    assert caller.get(f"/datasets/{dataset}")["total_file_count"] == 2


def test_a_file_has_the_fields_that_clients_read(caller, dataset):
    """Size is a string, the stored name is made of the id, stamps are milliseconds."""
    category = caller.category(dataset, "cat")
    fields = {"category_id": category, "category_name": "cat", "user-metadata": '{"wid": "1", "n": 2}'}
    file_id = caller.upload(dataset, [("a.JPEG", JPG)], fields).json()["id"]
    shown = caller.get(f"/datasets/{dataset}/files/{file_id}")
    assert shown["_id"] == file_id
    assert (shown["original_file_name"], shown["file_name"]) == ("a.JPEG", f"{file_id}.jpg")
    assert (shown["file_type"], shown["content_type"], shown["size"]) == ("image", "image/jpeg", str(len(JPG)))
    assert (shown["category_id"], shown["category_name"]) == (category, "cat")
    assert shown["meta_data"] == {"width": 64, "height": 64}
    assert shown["uploaded_at"] == shown["created_at"] > 1_600_000_000_000
    assert shown["user_metadata"] == {"wid": "1", "n": 2}
    assert shown == caller.get(f"/datasets/{dataset}/files")[0]


def test_plain_fields_may_come_as_parts_with_a_file_name(caller, dataset):
    """IBM's tools send category and metadata that way: the part's name decides, not its file name."""
    category = caller.category(dataset, "cat")
    parts = [
        ("category_id", ("category_id", category)),
        ("category_name", ("category_name", "cat")),
        ("user-metadata", ("user-metadata", '{"a": "b"}')),
        ("scenario", ("scenario", "")),
        ("files", ("x.jpg", JPG)),
    ]
    assert caller.call("POST", f"/datasets/{dataset}/files", files=parts).status_code == 200
    (file,) = caller.get(f"/datasets/{dataset}/files")
    assert (file["category_name"], file["user_metadata"]) == ("cat", {"a": "b"})


def test_a_category_name_alone_makes_the_category_and_a_wrong_id_is_refused(caller, dataset):
    """The id counts when both are given; an unknown one stores nothing."""
    caller.upload(dataset, [("a.jpg", JPG)], {"category_name": "new"})
    assert [one["name"] for one in caller.get(f"/datasets/{dataset}/categories")] == ["new"]
    response = caller.upload(dataset, [("b.jpg", JPG)], {"category_id": "bad", "category_name": "new"})
    assert response.status_code == 404
    assert names(caller, dataset) == ["a.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"hello", "neither"),
        ("gif.jpg", b"GIF89a" + b"\0" * 50, "neither"),
        ("movie.mov", b"\0\0\0\x20ftypqt  " + b"\0" * 50, "neither"),
        ("still.heic", b"\0\0\0\x20ftypheic" + b"\0" * 50, "neither"),
        ("cut.jpg", JPG[: len(JPG) // 2], "cut short"),
        ("cut2.jpg", JPG[:-2], "cut short"),
        ("zero tail.jpg", JPG[:-40] + bytes(40), "cut short"),
        ("cut.png", PNG[:-12], "cut short"),
        ("not.zip", b"PK\x03\x04junk", "damaged"),
        ("none.zip", archive({"readme.txt": b"x"}), "no picture"),
    ],
)
def test_one_bad_file_does_not_keep_the_good_ones_out(caller, dataset, name, content, word):
    """A mixed upload is 422: entries in order, the bad one with its fault, the good ones stored."""
    response = caller.upload(dataset, [("a.jpg", JPG), (name, content), ("b.png", PNG)])
    answer = response.json()
    assert response.status_code == 422
    assert answer["result"] == "fail"
    assert [entry["result"] for entry in answer["resultList"]] == ["success", "fail", "success"]
    assert answer["resultList"][1]["file_name"] == name
    assert word in answer["resultList"][1]["fault"]
    assert names(caller, dataset) == ["b.png", "a.jpg"]


def test_a_zip_is_unpacked_flat_and_its_litter_passed_over(caller, dataset):
    """Folders in it become no categories, members take the request's category, and one entry each."""
    category = caller.category(dataset, "cat")
    content = archive(
        {
            "Aircraft/a.jpg": JPG,
            "Aircraft/deep/b.PNG": PNG,
            "__MACOSX/Aircraft/._a.jpg": b"x",
            ".DS_Store": b"x",
            "Thumbs.db": b"x",
            "notes.txt": b"x",
            "labels.json": b"{}",
        }
    )
    response = caller.upload(dataset, [("all.zip", content), ("c.jpg", JPG)], {"category_id": category})
    assert response.status_code == 200
    assert [entry["file_name"] for entry in response.json()["resultList"]] == ["a.jpg", "b.PNG", "c.jpg"]
    assert len(caller.get(f"/datasets/{dataset}/files", category_id=category)) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user-metadata", "{"),
        ("user-metadata", "[1]"),
        ("user-metadata", '{"a": {"b": 1}}'),
        ("user-metadata", '{"a": Infinity}'),
        ("user-metadata", '{"a": NaN}'),
        ("user-metadata", '{"a": 1e999}'),
        ("labels", "{}"),
        ("labels", '[{"name": "x"}]'),
        ("labels", '[{"bndbox": {}}]'),
        ("labels", "[3]"),
        ("category_name", "a\u0001b"),
    ],
)
def test_a_bad_field_stores_nothing(caller, dataset, field, value):
    """Metadata, labels or a category that cannot be understood refuse the whole request."""
    response = caller.upload(dataset, [("a.jpg", JPG)], {field: value})
    assert response.status_code == 400, response.text
    assert names(caller, dataset) == []


def test_an_upload_without_files_or_form_is_a_bad_request(caller, dataset):
    """No part named files, JSON instead of a form, a broken form: 400 each."""
    path = f"/datasets/{dataset}/files"
    assert caller.call("POST", path, data={"category_name": "x"}).status_code == 400
    assert caller.call("POST", path, json={}).status_code == 400
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (
        b"",
        b"--b\r\n",
        b"junk",
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\nxx',
    ):
        response = caller.call("POST", path, data=body, headers=kind)
        assert response.status_code == 400, body
        assert response.json()["fault"]
    assert names(caller, dataset) == []


@pytest.mark.parametrize(
    "name", ["../../etc/passwd.jpg", "C:\\temp\\x.jpg", "a\tb.jpg", "ünï.jpg", "x" * 400 + ".jpg", "\u202egpj.exe.jpg"]
)
def test_a_clients_file_name_is_never_a_path(server, caller, dataset, name):
    """Only the base name is kept, shortened and without control characters; on disk the file has its id."""
    file_id = caller.upload(dataset, [(name, JPG)]).json()["id"]
    shown = caller.get(f"/datasets/{dataset}/files/{file_id}")
    assert "/" not in shown["original_file_name"]
    assert "\\" not in shown["original_file_name"]
    assert shown["original_file_name"].isprintable()
    assert len(shown["original_file_name"]) <= 255
    stored = [path.name for path in (server.store.folder / "datasets" / dataset / "files").iterdir()]
    assert stored == [f"{file_id}.jpg"]


def test_a_body_beyond_the_limit_is_413(caller, dataset):
    """Told by its length at once, and noticed on the way when it has no length."""
    big = b"\xff\xd8\xff" + bytes(3_000_000)
    assert caller.upload(dataset, [("a.jpg", big)]).status_code == 413
    body = (chunk for chunk in [b"--b\r\n", *([bytes(100_000)] * 40)])
    response = caller.call(
        "POST", f"/datasets/{dataset}/files", data=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert response.status_code in {400, 413}
    chunks = (bytes(100_000) for _ in range(40))
    assert caller.call("POST", "/datasets", data=chunks).status_code == 413
    assert names(caller, dataset) == []


def test_a_large_file_goes_over_disk_and_arrives_whole(server, caller, dataset):
    """A part beyond what memory may hold is stored byte for byte, and no scratch file stays."""
    luck = Image.effect_noise((900, 900), 80)
    raw = io.BytesIO()
    luck.save(raw, "PNG")
    assert len(raw.getvalue()) > 300_000
    files = [("big.png", raw.getvalue()), *((f"{n}.jpg", JPG) for n in range(100))]
    answer = caller.upload(dataset, files).json()
    shown = caller.get(f"/datasets/{dataset}/files/{answer['id']}")
    url = f"{server.url}/uploads/{shown['owner']}/datasets/{dataset}/files/{shown['file_name']}"
    assert caller.session.get(url).content == raw.getvalue()
    assert list((server.store.folder / "incoming").iterdir()) == []


def test_files_are_found_by_category_query_and_page(caller, dataset):
    """category_id, the query grammar on names, sizes and metadata, sortby, limit and skip work together."""
    cat = caller.category(dataset, "cat")
    caller.upload(dataset, [("b.jpg", JPG)], {"category_id": cat, "user-metadata": '{"wid": "one", "n": 5}'})
    caller.upload(dataset, [("a.png", PNG)], {"user-metadata": '{"wid": "two", "a.b": "dot"}'})
    caller.upload(dataset, [('c, "d" .jpg', JPG)])
    found = functools.partial(names, caller, dataset)
    assert found() == ["c, %22d%22 .jpg", "a.png", "b.jpg"]
    assert found(category_id=cat) == ["b.jpg"]
    assert found(query='original_file_name == "a.png"') == ["a.png"]
    assert found(query="original_file_name != 'a.png' , category_name == \"cat\"") == ["b.jpg"]
    assert found(query='original_file_name == "c, %22d%22 .jpg"') == ["c, %22d%22 .jpg"]
    assert found(query=f"size == {len(PNG)}, meta_data.width >= 64") == ["a.png"]
    assert found(query='user_metadata.wid == "one"') == ["b.jpg"]
    assert found(query="user_metadata.n > 4") == ["b.jpg"]
    assert found(query='user_metadata.a.b == "dot"') == ["a.png"]
    assert found(query='user_metadata.zz == "dot"') == []
    assert found(query='user_metadata.wid == "\' OR 1=1 --"') == []
    assert found(sortby="name") == ["a.png", "b.jpg", "c, %22d%22 .jpg"]
    assert found(sortby="name DESC", limit="1") == ["c, %22d%22 .jpg"]
    assert found(sortby="name", limit="1", skip="1") == ["b.jpg"]
    assert found(skip="2") == ["b.jpg"]
    assert found(type="unlabeled") == ["c, %22d%22 .jpg", "a.png"]
    assert found(parent_id="x") == []


@pytest.mark.parametrize(
    "query",
    [
        {"query": "name"},
        {"query": "name = 3"},
        {"query": 'shoe == "3"'},
        {"query": 'name == "x" name == "y"'},
        {"limit": "-1"},
        {"skip": "x"},
        {"limit": "9" * 30},
        {"query": "1; DROP TABLE files"},
    ],
)
def test_a_query_that_is_not_understood_is_a_bad_request(caller, dataset, query):
    """Bad grammar, unknown fields and bad pages answer 400 and say what is wrong."""
    response = caller.call("GET", f"/datasets/{dataset}/files", params=query)
    assert response.status_code == 400
    assert response.json()["fault"]


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_the_category_is_changed_by_post_and_by_get_with_a_body(caller, dataset, method):
    """Both forms are in use; the empty category takes the file out of the one it has."""
    cat = caller.category(dataset, "cat")
    file_id = caller.upload(dataset, [("a.jpg", JPG)]).json()["id"]
    path = f"/datasets/{dataset}/files/{file_id}/action"
    for target in (cat, ""):
        response = caller.call(method, path, json={"action": "change_category", "target_category_id": target})
        assert response.json() == {"dataset_id": dataset, "category_id": target, "id": file_id, "result": "success"}
        assert caller.get(f"/datasets/{dataset}/files/{file_id}")["category_id"] == target
    bad = caller.call(method, path, json={"action": "change_category", "target_category_id": "nope"})
    assert bad.status_code == 404


def test_files_are_deleted_one_by_one_and_together(server, caller, dataset):
    """Both names of the list are taken, a missing file makes it 422, and the bytes go from the disk."""
    ids = [e["id"] for e in caller.upload(dataset, [(f"{n}.jpg", JPG) for n in range(4)]).json()["resultList"]]
    assert caller.call("DELETE", f"/datasets/{dataset}/files/{ids[0]}").json() == {"result": "success"}
    path = f"/datasets/{dataset}/files/action"
    answer = caller.call("POST", path, json={"action": "delete", "id_list": ids[1:2]})
    assert (answer.status_code, answer.json()["success_count"]) == (200, 1)
    answer = caller.call("POST", path, json={"action": "delete", "file_id_list": [ids[2], ids[0]]})
    assert answer.status_code == 422
    assert [(e["file_id"], e["result"]) for e in answer.json()["result_list"]] == [
        (ids[2], "success"),
        (ids[0], "fail"),
    ]
    assert [p.stem for p in (server.store.folder / "datasets" / dataset / "files").iterdir()] == [ids[3]]


def test_files_are_copied_and_moved_with_all_that_belongs_to_them(caller, dataset):
    """Category, metadata and labels come along, made in the other dataset where it lacks them."""
    other = caller.dataset("other")
    fields = {"category_name": "cat", "user-metadata": '{"k": "v"}'}
    ids = [e["id"] for e in caller.upload(dataset, [("a.jpg", JPG), ("b.jpg", JPG)], fields).json()["resultList"]]
    caller.post(
        f"/datasets/{dataset}/files/{ids[0]}/labels", labels=[{"name": "dent", "polygon": [[1, 2], [3, 4], [1, 4]]}]
    )
    answer = caller.post(f"/datasets/{dataset}/files/copy", target_dataset_id=other, files=ids[:1])
    new = answer["result_list"][0]["new_file_id"]
    shown = caller.get(f"/datasets/{other}/files/{new}")
    assert (shown["category_name"], shown["user_metadata"]) == ("cat", {"k": "v"})
    assert shown["tag_list"][0]["tag_name"] == "dent"
    answer = caller.call(
        "POST", f"/datasets/{dataset}/files/move", json={"target_dataset_id": other, "files": [ids[1], "bad"]}
    )
    assert answer.status_code == 422
    assert ["new_file_id" in entry for entry in answer.json()["result_list"]] == [True, False]
    assert names(caller, dataset) == ["a.jpg"]
    assert names(caller, other) == ["b.jpg", "a.jpg"]


@pytest.mark.parametrize(
    "root", ["/uploads", "/api/uploads", "/visual-insights/uploads", "/visual-insights/api/uploads"]
)
def test_bytes_and_thumbnails_lie_beside_and_below_the_api(server, caller, dataset, root):
    """Both places serve the stored bytes and a small JPEG; names that lead elsewhere are not found."""
    file_id = caller.upload(dataset, [("a.png", PNG)]).json()["id"]
    base = f"{server.url}{root}/ann/datasets/{dataset}"
    response = caller.session.get(f"{base}/files/{file_id}.png")
    assert (response.content, response.headers["content-type"]) == (PNG, "image/png")
    thumbnail = caller.session.get(f"{base}/thumbnails/{file_id}.jpg")
    assert Image.open(io.BytesIO(thumbnail.content)).format == "JPEG"
    for name in ("..%2f..%2fserver.sqlite3", "%2e%2e", "x.png"):
        assert caller.session.get(f"{base}/files/{name}").status_code == 404


def test_sixteen_uploads_at_once_lose_nothing(caller, dataset):
    """Parallel requests of 100 files each are all stored, each name once."""

    def send(batch: int) -> int:
        return (
            Caller(caller.api.removesuffix("/api"))
            .upload(dataset, [(f"{batch}-{n}.jpg", JPG) for n in range(100)])
            .status_code
        )

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(send, range(16))) == {200}
    found = names(caller, dataset)
    assert len(found) == len(set(found)) == 1600


def test_the_log_of_requests_tells_what_was_asked(server, caller, dataset):
    """Method, path without its root, length, status and time of each request are kept."""
    server.requests.clear()
    caller.upload(dataset, [("a.jpg", JPG)])
    caller.call("GET", "/nothing/")
    upload, nothing = server.requests
    assert (upload.method, upload.path, upload.status) == ("POST", f"/datasets/{dataset}/files", 200)
    assert upload.content_length is not None
    assert upload.content_length > len(JPG)
    assert upload.seconds > 0
    assert (nothing.path, nothing.status) == ("/nothing", 404)
    assert server.requests.matching("POST", "/files") == [upload]


def test_metadata_is_kept_changed_and_exported(caller, dataset):
    """Keys are added, read, removed by a list in the body, and exported as comma or pipe separated text."""
    file_id = caller.upload(dataset, [("a.jpg", JPG)], {"user-metadata": '{"a": "1"}'}).json()["id"]
    path = f"/datasets/{dataset}/files/{file_id}/user-metadata"
    assert caller.post(path, b="2,3", c=4) == {"a": "1", "b": "2,3", "c": 4}
    assert caller.get(path) == {"a": "1", "b": "2,3", "c": 4}
    assert caller.get(f"{path}/b") == {"b": "2,3"}
    assert caller.call("GET", f"{path}/z").status_code == 404
    text = caller.call("GET", f"/datasets/{dataset}/files/user-metadata", params={"format": "comma"}).text
    assert text == f'#file_id,a,b,c\n{file_id},1,"2,3",4\n'
    text = caller.call("GET", f"/datasets/{dataset}/files/user-metadata", params={"format": "pipe", "keys": "b"}).text
    assert text == f"#file_id|b\n{file_id}|2,3\n"
    assert caller.call("DELETE", path, json=["a", "zz"]).json() == ["a"]
    assert caller.call("DELETE", f"{path}/b").json() == ["b"]
    assert caller.get(path) == {"c": 4}
    assert caller.call("DELETE", path, json={"a": 1}).status_code == 400


def test_metadata_keys_are_known_to_the_dataset(caller, dataset):
    """Keys come with their first use or by themselves; a rename or a deletion reaches all files."""
    caller.upload(dataset, [("a.jpg", JPG), ("b.jpg", JPG)], {"user-metadata": '{"wid": "1"}'})
    base = f"/datasets/{dataset}/files/user-keys"
    assert caller.get(base)[0]["use_count"] == 2
    junk = {"name": "colour", "description": "of the part", "--dsid": dataset, "create": True}
    assert caller.call("POST", base, json=junk).json()["_id"] == f"{dataset}:colour"
    assert caller.call("POST", base, json=junk).status_code == 409
    assert caller.call("PUT", f"{base}/wid", json={"name": "batch"}).json()["name"] == "batch"
    assert caller.get(f"/datasets/{dataset}/files")[0]["user_metadata"] == {"batch": "1"}
    assert caller.get(f"{base}/batch")["use_count"] == 2
    assert caller.call("DELETE", f"{base}/batch").json() == {"result": "success"}
    assert caller.get(f"/datasets/{dataset}/files")[0]["user_metadata"] == {}
    assert [key["name"] for key in caller.get(base)] == ["colour"]


def test_tags_and_labels_are_kept_for_detection(caller, dataset):
    """Tags, labels in both forms, their filters and changes; a label that is no label is refused."""
    box = {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}
    fields = {"labels": json.dumps([{"name": "Dent", "bndbox": box}])}
    file_id = caller.upload(dataset, [("a.jpg", JPG)], fields).json()["id"]
    (tag,) = caller.get(f"/datasets/{dataset}/tags")
    assert (tag["_id"], tag["label_count"]) == (f"{dataset}-dent", 1)
    scratch = caller.post(f"/datasets/{dataset}/tags", name="scratch")["dataset_tag_id"]
    path = f"/datasets/{dataset}/files/{file_id}/object-labels"
    label = caller.post(path, tag_id=scratch, bndbox=box)["id"]
    assert caller.get(f"/datasets/{dataset}/object-labels/{label}")["bndbox"] == box
    assert [one["name"] for one in caller.get(path)] == ["scratch", "Dent"]
    assert [one["_id"] for one in caller.get(f"/datasets/{dataset}/object-labels", tag_ids=scratch)] == [label]
    caller.call(
        "PUT",
        f"/datasets/{dataset}/object-labels/{label}",
        json={"tag_id": tag["_id"], "segment_polygons": [[[1, 1], [9, 1], [1, 9]]]},
    )
    assert caller.get(f"/datasets/{dataset}/object-labels/{label}")["name"] == "Dent"
    caller.post(f"/datasets/{dataset}/tags/{scratch}/action", action="update", name="line")
    assert caller.get(f"/datasets/{dataset}/tags/{scratch}")["name"] == "line"
    assert caller.call("POST", path, json={"tag_id": scratch, "bndbox": {"xmin": 1}}).status_code == 400
    assert caller.call("POST", path, json={"tag_id": scratch}).status_code == 400
    caller.post(f"/datasets/{dataset}/files/{file_id}/labels", labels=[{"name": "only", "bndbox": box}])
    assert [one["name"] for one in caller.get(f"/datasets/{dataset}/files/{file_id}/labels")["labels"]] == ["only"]
    assert caller.get(f"/datasets/{dataset}/files/{file_id}")["label_type"] == "manual"
    assert caller.call("DELETE", f"/datasets/{dataset}/object-labels").json()["success_count"] == 1
    assert caller.call("DELETE", f"/datasets/{dataset}/tags/{scratch}").json() == {"result": "success"}


MP4 = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + b"\0\0\0\x08moov"


@pytest.mark.parametrize("size", [0, 400_000], ids=["in memory", "on disk"])
def test_a_video_is_stored_and_listed(caller, size):
    """It has the type of a video and no width, its bytes come back, and an export that holds it is imported whole."""
    dataset = caller.dataset()
    raw = MP4 + b"\0" * size
    answer = caller.upload(dataset, [("clip.mp4", raw), ("a.jpg", picture("dark", 1))])
    assert answer.status_code == 200, answer.text
    file = answer.json()["resultList"][0]["id"]

    shown = caller.get(f"/datasets/{dataset}/files/{file}")
    assert (shown["file_type"], shown["content_type"], shown["meta_data"]) == ("video", "video/mp4", {})
    assert (shown["original_file_name"], shown["file_name"], shown["size"]) == (
        "clip.mp4",
        f"{file}.mp4",
        str(len(raw)),
    )
    listed = caller.get(f"/datasets/{dataset}/files", query='file_type == "video"')
    assert [one["_id"] for one in listed] == [file]
    path = f"/uploads/{shown['owner']}/datasets/{dataset}"
    assert caller.call("GET", f"{path}/files/{shown['file_name']}").content == raw
    assert caller.call("GET", f"{path}/thumbnails/{file}.jpg").status_code == 404
    exported = caller.call("GET", f"/datasets/{dataset}/export").content
    new = caller.call("POST", "/datasets/import", files={"files": ("x.zip", exported)}).json()["dataset_id"]
    until(lambda: not caller.get(f"/datasets/{new}")["locked"])
    assert sorted(one["file_type"] for one in caller.get(f"/datasets/{new}/files")) == ["image", "video"]


def test_a_video_counts_for_no_training(caller):
    """Four pictures and a video in a category are four pictures."""
    dataset = caller.trainable(each=4)
    category = caller.get(f"/datasets/{dataset}/categories")[0]["_id"]
    assert caller.upload(dataset, [("clip.mp4", MP4)], {"category_id": category}).status_code == 200
    body = {"action": "create", "name": "m", "dataset_id": dataset}
    refusal = caller.call("POST", "/dltasks", json=body)
    assert "light: 4" in refusal.json()["fault"]
    assert "dark: 4" in refusal.json()["fault"]


def test_metadata_may_hold_lists(caller):
    """Lists of texts and numbers are stored, shown and exported; a list in a list is refused."""
    dataset = caller.dataset()
    fields = {"user-metadata": '{"tools": ["saw", 7, null]}'}
    file = caller.upload(dataset, [("a.jpg", picture("dark", 1))], fields).json()["id"]
    path = f"/datasets/{dataset}/files/{file}/user-metadata"
    assert caller.get(path) == {"tools": ["saw", 7, None]}
    assert caller.post(path, sizes=[])["sizes"] == []
    table = caller.call("GET", f"/datasets/{dataset}/files/user-metadata", params={"keys": "tools"}).text
    assert table == f'#file_id,tools\n{file},"[""saw"", 7, null]"\n'
    assert caller.call("POST", path, json={"tools": [["saw"]]}).status_code == 400


def test_project_groups_and_usages_are_told(caller):
    """There are no project groups, and two usages can be trained."""
    assert caller.get("/projects") == []
    assert caller.get("/system")["usages"] == ["cic", "cod"]


def test_what_is_left_out_is_refused_as_the_docs_say(caller):
    """Each call of the table in docs/stand-in-server.md has the status that stands there."""
    dataset = caller.dataset()
    file = caller.upload(dataset, [("clip.mp4", MP4)]).json()["id"]
    for method, path, body, status in (
        ("POST", "/projects", {"name": "x"}, 405),
        ("GET", "/projects/x", None, 404),
        ("POST", f"/datasets/{dataset}/action", {"action": "preprocess"}, 400),
        ("POST", f"/datasets/{dataset}/files/{file}/action", {"action": "capture"}, 400),
        ("POST", f"/datasets/{dataset}/files/{file}/action", {"action": "autolabel"}, 400),
        ("POST", "/dltasks", {"action": "create-act-task", "dataset_id": dataset, "name": "m"}, 400),
        ("GET", "/dlapis/x?imageUrl=http://192.0.2.1/x.jpg", None, 400),
        ("GET", "/trained-models/x/assets/coreml/download", None, 404),
        ("GET", "/events", None, 404),
        ("GET", f"/datasets/{dataset}/action-tags", None, 404),
        ("GET", f"/datasets/{dataset}/files/{file}/action-labels", None, 404),
        ("GET", "/dnn-scripts", None, 404),
        ("GET", "/users", None, 404),
    ):
        assert caller.call(method, path, json=body).status_code == status, path
