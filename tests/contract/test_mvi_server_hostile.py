"""Archives and pictures made to do harm."""

from __future__ import annotations

import http.client
import io
import resource
import socket
import struct
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from image_sync_server.mvi.pictures import Limits
from image_sync_server.mvi.server import MviServer
from support.mvi_server import Caller, archive, picture, serving, until

JPG = picture("dark", 1)
LIMITS = Limits(zip_members=50, zip_member=2_000_000, zip_total=8_000_000, picture=1_000_000, json=100_000, parts=60)


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MviServer]:
    with serving(tmp_path_factory.mktemp("mvi"), limits=LIMITS) as server:
        yield server


@pytest.fixture(name="caller")
def _caller(server: MviServer) -> Caller:
    return Caller(server.url)


def built(members: list[tuple[str | zipfile.ZipInfo, bytes]], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    raw = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(raw, "w", kind) as file:
        warnings.simplefilter("ignore")  # zipfile warns of equal names, which are the point here
        for name, content in members:
            file.writestr(name, content)
    return raw.getvalue()


def link() -> bytes:
    info = zipfile.ZipInfo("passwd.jpg")
    info.external_attr = 0o120777 << 16
    return built([(info, b"/etc/passwd")])


def encrypted() -> bytes:
    raw = bytearray(archive({"a.jpg": JPG}))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + at] |= 1
    return bytes(raw)


def lying() -> bytes:
    """The directory promises 10 bytes, the member holds many more."""
    raw = bytearray(archive({"a.jpg": bytes(300_000)}))
    struct.pack_into("<I", raw, raw.index(b"PK\x01\x02") + 24, 10)
    return bytes(raw)


def overlapping() -> bytes:
    """Two entries of the directory share the bytes of one member."""
    raw = archive({"a.jpg": JPG})
    start = raw.index(b"PK\x01\x02")
    end = raw.index(b"PK\x05\x06")
    entry = raw[start:end]
    tail = bytearray(raw[end:])
    struct.pack_into("<HHI", tail, 8, 2, 2, 2 * len(entry))
    return raw[:start] + entry + entry.replace(b"a.jpg", b"b.jpg") + bytes(tail)


def broken() -> bytes:
    raw = bytearray(archive({"a.jpg": JPG}))
    at = raw.index(b"a.jpg") + 40
    raw[at : at + 20] = bytes(20)
    return bytes(raw)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "climbs": (archive({"a.jpg": JPG, "../../evil.jpg": JPG}), "leads out"),
    "climbs in the middle": (archive({"a/../../evil.jpg": JPG}), "leads out"),
    "climbs the windows way": (archive({"..\\evil.jpg": JPG}), "leads out"),
    "absolute": (built([(zipfile.ZipInfo("/etc/evil.jpg"), JPG)]), "leads out"),
    "drive": (archive({"C:/evil.jpg": JPG}), "leads out"),
    "litter that climbs": (archive({"../readme.txt": b"x", "a.jpg": JPG}), "leads out"),
    "link": (link(), "link"),
    "encrypted": (encrypted(), "encrypted"),
    "two of a name": (archive({"x/a.jpg": JPG, "y/a.jpg": JPG}), "two entries"),
    "the very same name": (
        built([("a.jpg", JPG)] * 2),
        "two entries",
    ),
    "many members": (archive({f"{n}.jpg": JPG for n in range(51)}), "51 entries"),
    "large member": (archive({"a.jpg": bytes(2_000_001)}), "at most 2000000"),
    "bomb": (archive({"a.jpg": bytes(1_900_000)}), "grows"),
    "large in all": (
        built([(f"{n}.jpg", bytes(1_000_000)) for n in range(9)]),
        "unpacks to",
    ),
    "lying": (lying(), "damaged"),
    "overlapping": (overlapping(), "overlaps"),
    "broken": (broken(), "damaged"),
    "odd compression": (built([("a.jpg", JPG)], zipfile.ZIP_LZMA), "deflate"),
    "cut": (archive({"a.jpg": JPG})[:-30], "damaged"),
    "zip in zip": (archive({"a.zip": archive({"b.jpg": JPG})}), "no picture"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_whole(server, caller, name):
    """It becomes one failed entry with the reason, in no time, and nothing of it is stored anywhere."""
    content, word = HOSTILE[name]
    dataset = caller.dataset()
    begun = time.monotonic()
    response = caller.upload(dataset, [("evil.zip", content), ("good.jpg", JPG)])
    assert time.monotonic() - begun < 1
    assert response.status_code == 422
    refused, good = response.json()["resultList"]
    assert (refused["file_name"], refused["result"]) == ("evil.zip", "fail")
    assert word in refused["fault"]
    assert good["result"] == "success"
    assert [file["original_file_name"] for file in caller.get(f"/datasets/{dataset}/files")] == ["good.jpg"]
    assert list((server.store.folder / "incoming").iterdir()) == []
    assert not list(server.store.folder.parent.rglob("evil*"))


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def jpeg(width: int, height: int) -> bytes:
    at = JPG.index(b"\xff\xc0")
    return JPG[: at + 5] + struct.pack(">HH", height, width) + JPG[at + 9 :]


@pytest.mark.parametrize(
    "raw", [png(9000, 9000), png(65_535, 65_535), png(2**31 - 1, 1), jpeg(65_500, 65_500), jpeg(8000, 7000)]
)
def test_absurd_dimensions_are_refused_by_the_header(caller, raw):
    """A tiny file that would need gigabytes to decode is refused without decoding, warning or delay."""
    dataset = caller.dataset()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    response = caller.upload(dataset, [("big.png", raw)])
    assert response.status_code == 422
    assert "pixels" in response.json()["resultList"][0]["fault"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000


@pytest.mark.parametrize(
    "raw",
    [
        png(0, 5),
        jpeg(0, 5),
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8" + b"\xff" * 5000,
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 40,
        JPG[:20] + b"\xff\xd9",
    ],
)
def test_nonsense_behind_a_good_start_is_refused(caller, raw):
    """Every malformed header is one failed entry, never a server error."""
    response = caller.upload(caller.dataset(), [("x.jpg", raw)])
    assert response.status_code == 422
    assert response.json()["resultList"][0]["fault"]


def test_a_picture_beyond_the_size_limit_is_refused_alone(caller):
    """One oversized picture fails, its neighbour is stored."""
    response = caller.upload(caller.dataset(), [("a.jpg", JPG[:-2] + bytes(1_000_000) + JPG[-2:]), ("b.jpg", JPG)])
    assert [entry["result"] for entry in response.json()["resultList"]] == ["fail", "success"]


def test_forms_and_bodies_have_bounds(caller):
    """Too many parts, a huge field and a huge JSON body are 413."""
    dataset = caller.dataset()
    assert caller.upload(dataset, [(f"{n}.jpg", JPG) for n in range(61)]).status_code == 413
    assert caller.upload(dataset, [("a.jpg", JPG)], {"labels": "x" * 100_001}).status_code == 413
    assert caller.call("POST", "/datasets", data=b" " * 100_001).status_code == 413
    assert caller.get(f"/datasets/{dataset}/files") == []


def test_a_hostile_import_is_refused_or_told(caller):
    """A dataset archive with a bad picture and a bad name imports the rest; its task fails and names the picture."""
    content = archive(
        {"d/prop.json": b'{"name": "../../x", "file_prop_info": "[]"}', "d/a.jpg": JPG, "d/b.jpg": b"junk"}
    )
    new = caller.call("POST", "/datasets/import", files={"files": ("x.zip", content)}).json()["dataset_id"]
    deadline = time.monotonic() + 10
    while caller.get(f"/datasets/{new}")["locked"]:
        assert time.monotonic() < deadline
    assert caller.get(f"/datasets/{new}")["name"] == "x"
    task = next(one for one in caller.get("/bgtasks")["task_list"] if one["_id"] == new)
    assert (task["status"], task["success_count"], task["fail_count"]) == ("failed", 1, 1)
    assert "b.jpg" in task["fault"]
    assert caller.call("POST", "/datasets/import", files={"files": ("x.zip", HOSTILE["climbs"][0])}).status_code == 400


def half_open(url: str, number: int, said: bytes = b"GET /api/datasets HTTP/1.1\r\nHost: ") -> list[socket.socket]:
    """Connections of clients that begin a request and do not go on."""
    where = (urlsplit(url).hostname, urlsplit(url).port)
    found = []
    for _ in range(number):
        found.append(socket.create_connection(where, timeout=5))
        found[-1].sendall(said)
    return found


def is_closed(one: socket.socket) -> bool:
    one.settimeout(0.001)
    try:
        return one.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


POST = b"POST /api/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"


@pytest.mark.parametrize(
    "said", [b"", b"GET /api/datasets HTTP/1.1\r\nHost: ", POST], ids=["nothing", "headers", "body"]
)
def test_a_client_that_does_not_go_on_is_hung_up_on(tmp_path, said):
    """Nothing, half of the headers or half of a body keep a connection for the time of silence, not longer."""
    with serving(tmp_path, limits=Limits(silence=0.5)) as server:
        (silent,) = half_open(server.url, 1, said)
        with silent:
            assert not is_closed(silent)
            until(lambda: is_closed(silent), 10)


def test_headers_that_drip_are_hung_up_on(tmp_path):
    """The headers must be whole in time: a byte now and then does not count."""
    with serving(tmp_path, limits=Limits(silence=0.5)) as server:
        (slow,) = half_open(server.url, 1)
        with slow:

            def goes_on() -> bool:
                try:
                    slow.sendall(b"x")
                except OSError:
                    return True
                return is_closed(slow)

            until(goes_on, 10)


def test_a_kept_connection_outlives_the_silence(tmp_path):
    """A client that keeps its connection between two requests is no silent one."""
    with serving(tmp_path, limits=Limits(silence=0.2)) as server:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=5)
        for _ in range(2):
            connection.request("GET", "/api/datasets")
            assert connection.getresponse().read() == b"[]"
            kept = connection.sock
            threading.Event().wait(0.5)
        assert connection.sock is kept
        connection.close()


def test_many_half_open_connections_do_not_make_it_deaf(tmp_path):
    """Beyond the limit the connection that was silent longest is closed, and a new client is answered at once."""
    with serving(tmp_path, limits=Limits(connections=20)) as server:
        flood = half_open(server.url, 100)
        began = time.monotonic()
        assert Caller(server.url).get("/datasets") == []
        assert time.monotonic() - began < 5
        until(lambda: sum(not is_closed(one) for one in flood) <= 20, 10)
        for one in flood:
            one.close()


def test_plain_fields_of_a_form_are_bounded_together(caller):
    """Many fields that are small each are refused, as is an endless header of a part."""
    dataset = caller.dataset()
    fields = {f"f{number}": "x" * 5000 for number in range(30)}
    response = caller.upload(dataset, [("a.jpg", JPG)], fields)
    assert response.status_code == 413
    assert "plain fields have more than 100000 bytes" in response.json()["fault"]
    body = b"--b\r\nContent-Disposition: " + b"x" * 20_000
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = caller.call("POST", f"/datasets/{dataset}/files", data=body, headers=headers)
    assert (response.status_code, response.json()["fault"]) == (400, "The multipart body is damaged.")
