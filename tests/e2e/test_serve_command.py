"""``image-sync serve`` as a user runs it."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from image_sync_server.mvi.fault_presets import KINDS
from support.mvi_server import Caller

SERVE = [sys.executable, "-m", "image_sync", "serve"]


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("IMAGE_SYNC_")} | {"COLUMNS": "200"} | more


@contextmanager
def served(*words: str, stdin: str = "", **more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command once it listens, and its address."""
    process = subprocess.Popen(
        [*SERVE, "--port", "0", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None  # communicate() would try to flush it
        line = process.stdout.readline()
        assert line.startswith("listening on http://"), (line, process.stderr and process.stderr.read())
        yield process, line.removeprefix("listening on ").rstrip("\n")
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def refused(*words: str, **more: str) -> tuple[int, str]:
    """Exit code and standard error of a call that does not start a server."""
    done = subprocess.run(
        [*SERVE, *words], capture_output=True, text=True, env=environment(**more), timeout=30, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("missing", ["image_sync_server", "starlette"])
def test_what_is_not_installed_is_told_with_what_to_install(missing):
    """Without the stand-in server, or a library that it needs, the command ends in one line and its remedy."""
    program = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['image-sync', 'serve']; "
    program += "from image_sync.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert f"{missing} is missing" in done.stderr or f"{missing} missing" in done.stderr
    assert "pip install 'image-sync[server]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_listens_and_ends_in_order(tmp_path, number):
    """The first line on stdout is the address; Ctrl-C and SIGTERM end it with exit 0 and nothing on stderr."""
    with served("--data", str(tmp_path / "new" / "data")) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        assert Caller(url).get("/datasets") == []
        assert ended(process, number) == (0, "", "")
    assert (tmp_path / "new" / "data").stat().st_mode & 0o077 == 0


def test_data_stays_and_lies_in_the_users_data_folder(tmp_path):
    """Without --data the folder is below XDG_DATA_HOME, and a second run serves what the first stored."""
    with served(XDG_DATA_HOME=str(tmp_path)) as (process, url):
        Caller(url).dataset("kept")
        ended(process, signal.SIGTERM)
    assert (tmp_path / "image-sync" / "server" / "server.sqlite3").exists()
    with served(XDG_DATA_HOME=str(tmp_path)) as (_, url):
        assert [one["name"] for one in Caller(url).get("/datasets")] == ["kept"]


@pytest.mark.parametrize("way", ["file", "environment", "stdin", "typed"])
def test_a_password_comes_by_every_way_and_only_the_typed_one_warns(tmp_path, way):
    """File, environment, stdin and command line all work; the last one is warned about, none is printed."""
    words, more, stdin = ["--data", str(tmp_path / "d"), "--user", "ann", "--log-level", "debug"], {}, ""
    secret = "correct horse battery"
    if way == "file":
        file = tmp_path / "password"
        file.write_text(secret + "\n")
        file.chmod(0o600)
        words += ["--password-file", str(file)]
    elif way == "environment":
        more["IMAGE_SYNC_SERVE_PASSWORD"] = secret
    elif way == "stdin":
        words += ["--password", "-"]
        stdin = secret + "\n"
    else:
        words += ["--password", secret]
    with served(*words, stdin=stdin, **more) as (process, url):
        body = {"grant_type": "password", "username": "ann", "password": secret}
        token = Caller(url, None).post("/tokens", **body)["token"]
        assert Caller(url, token).get("/datasets") == []
        assert Caller(url, "x").call("GET", "/datasets").status_code == 401
        code, out, err = ended(process, signal.SIGTERM)
    assert code == 0
    assert ("list of processes" in err) == (way == "typed")
    assert secret not in out + err


def test_an_api_key_lets_in_and_a_shared_file_is_warned_about(tmp_path):
    """A key file that others may read works, with a warning that names the file."""
    file = tmp_path / "key"
    file.write_text("AbC1-d2E3-fG4h-5IjK")
    file.chmod(0o644)
    with served("--data", str(tmp_path / "d"), "--api-key-file", str(file)) as (process, url):
        assert Caller(url, "AbC1-d2E3-fG4h-5IjK").get("/datasets") == []
        assert "others may read" in ended(process, signal.SIGTERM)[2]


def test_faults_are_switched_from_the_start(tmp_path):
    """--faults takes one JSON object or a list."""
    text = '[{"action": "status", "status": 503, "path": "^/datasets$", "count": 1}]'
    with served("--data", str(tmp_path), "--faults", text) as (_, url):
        assert [Caller(url).call("GET", "/datasets").status_code for _ in range(2)] == [503, 200]


def test_named_faults_are_switched_from_the_start_and_while_it_runs(tmp_path):
    """--fault KIND=RATE strikes at once, /_faults counts and changes it, and the end says what struck how often."""
    words = ["--fault", "429=1:7", "--fault", "html=0%", "--fault-seed", "3"]
    with served("--data", str(tmp_path), *words) as (process, url):
        caller = Caller(url)
        answer = caller.call("GET", "/datasets")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        shown = caller.session.get(f"{url}/_faults").json()
        assert [(fault["kind"], fault["probability"]) for fault in shown["faults"]] == [("429", 1.0)]
        assert shown["struck"] == {"429": 1}
        caller.session.post(f"{url}/_faults", json=[{"kind": "429", "rate": 0}, {"kind": "500-after"}])
        assert caller.call("POST", "/datasets", json={"name": "parts"}).status_code == 500
        assert caller.session.delete(f"{url}/_faults").json()["faults"] == []
        assert [one["name"] for one in caller.get("/datasets")] == ["parts"]
        assert caller.call("POST", "/datasets", json={"name": "more"}).status_code == 200
        assert ended(process, signal.SIGTERM) == (0, "", "")
    with served("--data", str(tmp_path), "--fault", "soft-fail=1", "--fault", "all=0.5") as (process, url):
        faults = Caller(url).session.get(f"{url}/_faults").json()["faults"]
        assert {fault["probability"] for fault in faults} == {0.5}
        Caller(url).session.post(f"{url}/_faults", json=[{"kind": "all", "rate": 0}, {"kind": "html"}])
        assert Caller(url).call("GET", "/datasets").status_code == 502
        code, out, err = ended(process, signal.SIGINT)
        assert (code, out, err) == (0, "", "image-sync: faults that struck: html 1\n")


def test_help_lists_the_kinds():
    """`serve --help` names every kind with what it does."""
    shown = subprocess.run(
        [*SERVE, "--help"], capture_output=True, text=True, env=environment(COLUMNS="250"), timeout=30, check=True
    ).stdout
    shown = " ".join(shown.split())
    missing = [name for name, kind in KINDS.items() if f"{name}: {kind.text.replace('`', '')}" not in shown]
    assert missing == []


def test_what_cannot_work_is_told_in_two_lines_with_its_exit_code(tmp_path):
    """Port in use, folder in use or unusable, no credentials, half credentials, bad faults: each with a remedy."""
    data = ["--data", str(tmp_path / "d")]
    blocker = tmp_path / "file"
    blocker.write_text("x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [
            (75, "--port", ["--port", port, *data]),
            (74, "--data", ["--port", "0", "--data", str(blocker / "x")]),
            (2, "--api-key-file", ["--host", "0.0.0.0", "--port", "0", *data]),
            (2, "--host", ["--host", "no.such.host.invalid", "--port", "0", *data]),
            (2, "--password-file", ["--user", "ann", *data]),
            (2, "--faults", ["--faults", "{", *data]),
            (2, "--fault 429=5%", ["--fault", "418=1", *data]),
            (2, "one of", ["--password", "x", "--password-file", str(blocker), "--user", "ann", *data]),
            (78, "path and rights", ["--password-file", str(tmp_path / "none"), "--user", "ann", *data]),
        ]
        for code, remedy, words in cases:
            found, err = refused(*words)
            assert found == code, (words, err)
            assert remedy in err
            assert "Traceback" not in err
            assert len(err.strip().splitlines()) == 2, err


def test_a_folder_in_use_is_told(tmp_path):
    """A second server on the same folder is exit 75, and the first one goes on."""
    with served("--data", str(tmp_path)) as (_, url):
        code, err = refused("--port", "0", "--data", str(tmp_path))
        assert (code, "Another server" in err) == (75, True)
        assert Caller(url).get("/datasets") == []


def test_without_the_extra_it_says_what_to_install(tmp_path: Path):
    """Where uvicorn is missing the command names the pip line instead of a traceback."""
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import importlib.util as u, importlib.abc, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'uvicorn' else find(name, package)\n"
        "class Gone(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] == 'uvicorn':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Gone())\n"
    )
    code, err = refused("--port", "0", "--data", str(tmp_path / "d"), PYTHONPATH=str(tmp_path))
    assert code == 78
    assert "pip install 'image-sync[server]'" in err
    assert "uvicorn missing" in err


@pytest.mark.parametrize("api", ["mvi", "mobius"])
def test_more_half_open_connections_than_descriptors_do_not_make_it_deaf(tmp_path: Path, api: str) -> None:
    """With 256 descriptors and 300 such clients a request is answered within seconds, and the log stays small."""
    log = tmp_path / "log"
    with served("--data", str(tmp_path / "data"), "--api", api) as (process, url):
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (256, 256))
        drain = threading.Thread(target=lambda: process.stderr and log.write_text(process.stderr.read()))
        where = (urlsplit(url).hostname, urlsplit(url).port)
        flood = []
        for _ in range(300):
            flood.append(socket.create_connection(where, timeout=20))
            flood[-1].sendall(b"GET /api/datasets HTTP/1.1\r\n")
        drain.start()
        path = "/api/datasets" if api == "mvi" else "/status/x"
        assert requests.get(url + path, timeout=10, proxies={"http": ""}).status_code == 200
        for one in flood:
            one.close()
        process.kill()
        drain.join()

    assert log.stat().st_size < 100_000
