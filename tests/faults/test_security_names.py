"""Names that anybody who can write into a watched folder chooses: data, never part of a request, line or screen."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from support.commands import one_by_one
from support.daemon import Plant
from support.fake_http import FakeHttp, Reply, Request, answer, ok
from support.mvi_server import Caller, serving
from support.pictures import jpeg

FORGED = b'{"level": "critical", "event": "forged"}'
NAMES = (
    b"line\nbreak " + FORGED + b".jpg",
    b"\r\nX-Injected: 1\r\n\r\n.jpg",
    b'a"; filename="b.jpg',
    b'"; name="category_id"\\.jpg',
    b"%00%2e%2e%5c;$(id)`id`'.jpg",
    b"\x1b]0;owned\x07\x1b[2J\x9b.jpg",
    "\u202egpj.exe.jpg".encode(),
    "\u2028\u2029\u200b.jpg".encode(),
    b"caf\xe9\xff\xfe.jpg",
    b"\xed\xa0\x80surrogate.jpg",
    b"-rf.jpg",
    b"--config=evil.jpg",
    b" leading.jpg",
    b"trailing. .jpg",
    b"x" * 251 + b".jpg",
    b"CON.jpg",
    b"<img src=x onerror=alert(1)>.jpg",
    b"[red]rich.jpg",
    "e\u0301\U0001f469\u200d\U0001f52c.jpg".encode(),
)
FOLDERS = (
    "-rf",
    "--help",
    'quo"te',
    "semi;colon",
    "100%41",
    "back\\slash",
    "up\u2215\u2215down",
    "\u202etxt",
    "[bold]x",
    "<b>",
    "{}",
    "é\u4e2d\U0001f600",
    "k" * 200,
)
REFUSED = (b"new\nline", b"tab\t", b"esc\x1b[2J", b"caf\xe9", b"c1-\xc2\x9b", b" ")
RAW_CONTROLS = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u200b\u2028\u2029\u202e\ufeff"} - {"\n"}


def raw_controls(text: str) -> set[str]:
    """Characters in the text that no terminal should get."""
    return RAW_CONTROLS & set(text)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the program says of the odd names, by command; and what the server then has."""
    folder = tmp_path_factory.mktemp("names")
    with serving(folder / "server") as server:
        plant = Plant(folder / "plant", server.url)
        root = os.fsencode(plant.root)
        places = [(b"plain", name) for name in NAMES] + [(os.fsencode(name), b"a.jpg") for name in FOLDERS + REFUSED]
        for number, (category, name) in enumerate(places):
            os.makedirs(root + b"/" + category, exist_ok=True)
            Path(os.fsdecode(root + b"/" + category + b"/" + name)).write_bytes(jpeg(number))
        calls = {
            "run": ["run", "--once", "--log-format", "text", "--log-level", "debug"],
            "run again": ["run", "--once"],
            "status": ["status"],
            "status --json": ["status", "--json"],
            "check": ["check"],
            "show refused": ["show", os.fsdecode(root + b"/" + REFUSED[0] + b"/a.jpg")],
            "show unknown": ["show", "/tmp/\x1b]0;owned\x07\n\u202e.jpg"],
        }
        for name in NAMES[::8]:
            path = os.fsdecode(root + b"/plain/" + name)
            calls |= {f"show {name!r}": ["show", "--", path], f"show --json {name!r}": ["show", "--json", "--", path]}
        said = dict(zip(calls, one_by_one(plant, *calls.values()), strict=True))
        caller = Caller(server.url)
        (dataset,) = caller.get("/datasets")
        categories = [one["name"] for one in caller.get(f"/datasets/{dataset['_id']}/categories")]
        yield said, categories, caller.get(f"/datasets/{dataset['_id']}/files")


def test_every_picture_arrives_under_a_harmless_name(told):
    """Whatever a file is called, its name at the server is plain ASCII, and its category is its folder, unchanged."""
    said, categories, files = told
    assert said["run"].returncode == 1, said["run"].stderr  # those in folders that cannot be categories
    assert len(files) == len(NAMES) + len(FOLDERS)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,100}\.[0-9a-f]{16}\.jpg", one["original_file_name"]) for one in files)
    assert not any(one["original_file_name"].startswith(("-", ".")) for one in files)
    assert sorted(categories) == sorted(["plain", *FOLDERS])
    assert sorted(one["category_name"] for one in files) == sorted(["plain"] * len(NAMES) + list(FOLDERS))


def test_no_name_reaches_the_screen_or_the_log_unescaped(told):
    """Logs in both formats and every command: no control character, no changed direction, no forged line."""
    for command, done in told[0].items():
        assert "Traceback" not in done.stderr, command
        assert raw_controls(done.stdout + done.stderr) == set(), (command, done.stdout + done.stderr)
        assert not any(line.startswith(FORGED.decode()) for line in (done.stdout + done.stderr).splitlines()), command
    assert told[0]["show unknown"].returncode == 2
    assert "cannot name a category" in told[0]["show refused"].stdout
    assert r"\n" in told[0]["status"].stdout


def test_a_plain_name_that_could_break_a_form_is_not_used(tmp_path):
    """With `upload.names: "original"` names travel as they are, except for those that could end a header's field."""
    names = [name for name in NAMES if name != b"x" * 251 + b".jpg"]
    with serving(tmp_path / "server") as server:
        plant = Plant(tmp_path / "plant", server.url, upload={"names": "original"})
        (plant.root / "plain").mkdir()
        for number, name in enumerate(names):
            Path(os.fsdecode(os.fsencode(plant.root) + b"/plain/" + name)).write_bytes(jpeg(number))
        done = plant.call("run", "--once", timeout=20)
        caller = Caller(server.url)
        (dataset,) = caller.get("/datasets")
        files = caller.get(f"/datasets/{dataset['_id']}/files")
    assert done.returncode == 0, done.stderr
    assert len(files) == len(names)
    assert {one["category_name"] for one in files} == {"plain"}
    stored = {one["original_file_name"] for one in files}
    assert {"-rf.jpg", "[red]rich.jpg", "%00%2e%2e%5c;$(id)`id`'.jpg"} <= stored
    assert all(name.isprintable() and not set(name) & set('"\\/') for name in stored), stored


def hostile(request: Request) -> Reply:
    """A server whose every word is meant for the terminal."""
    evil = "m\x1b]0;owned\x07\n\u202e\ud800"
    if request.path.rstrip("/").endswith("/datasets"):
        return ok([{"_id": "ds1", "name": "plates", "created_at": 1}])
    if request.path.rstrip("/").endswith("/trained-models"):
        model = {"_id": "model1", "name": evil, "dataset_id": "ds1", "deployed": "1", "created_at": 1}
        return ok([{**model, "categories": [{"name": evil}], "accuracy": "0.5", "usage": "cic"}])
    if "/dlapis/" in request.path:
        return ok({"result": "success", "classified": {evil: "0.9", f"{evil}2": "0.1"}})
    return answer(404, {"result": "fail", "fault": evil})


def test_a_server_cannot_drive_the_terminal_either(tmp_path):
    """Names of models and categories and reasons of failures that a server makes up are shown escaped."""
    with FakeHttp(hostile) as server:
        plant = Plant(tmp_path / "plant", server.url)
        picture = plant.put("dark/a.jpg", jpeg())
        show = ["predict", "-m", "model1", str(picture)]
        run = ["run", "--once", "--log-format", "text"]
        calls = (["models"], show, ["models", "--deploy", "x"], ["models", "--json"], ["check"], run, ["status"])
        said = one_by_one(plant, *calls)
    for done in said:
        assert "Traceback" not in done.stderr, done.stderr
        assert raw_controls(done.stdout + done.stderr) == set(), done.stdout + done.stderr
    assert said[0].returncode == said[1].returncode == 0, said[0].stderr + said[1].stderr
    assert r"m\x1b]0;owned\x07\n\u202e\ud800" in said[0].stdout
    assert r"m\x1b]0;owned" in said[1].stdout
