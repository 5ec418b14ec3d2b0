"""A secret goes into the program by every way there is, everything goes wrong, and then it is looked for everywhere."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme

from image_sync_server.faults import Action, Fault
from image_sync_server.mvi.auth import Credentials
from support.commands import forked, one_by_one
from support.daemon import Plant, stored
from support.fake_http import FakeHttp, Reply, Request, answer, closed_port, ok
from support.mvi_server import picture, serving
from support.secrets import KEY, PASSWORD, leaking_files, leaks

COMMANDS = (
    ["check"],
    ["status"],
    ["models"],
    ["train"],
    ["run", "--once", "--log-level", "debug", "--log-format", "text"],
)
TROUBLES = (
    Fault(Action.STATUS, method="POST", path="/files$", status=503, retry_after=0),
    Fault(Action.HTML, status=502, path="/files$"),
    Fault(Action.SOFT_FAILURE, method="POST", path="/files$"),
    Fault(Action.LOSE_ANSWER, method="POST", path="/files$"),
    Fault(Action.CUT_ANSWER, method="GET", path="/files"),
    Fault(Action.EXPIRE_TOKENS, method="POST", path="/files$"),
)


@contextlib.contextmanager
def systemd(address: Path) -> Iterator[list[bytes]]:
    """What is told to systemd."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(0.1)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    heard.append(listener.recv(65536))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield heard
        finally:
            ended.set()
            thread.join()


KINDS: dict[str, dict[str, Any]] = {
    "key": {"api_key": {"file": "../key"}},
    "password": {"username": "anna", "password": PASSWORD},
}


@pytest.mark.parametrize("kind", ["key", "password"])
def test_a_secret_shows_up_nowhere_while_everything_goes_wrong(kind, tmp_path, monkeypatch):
    """The daemon at debug level and every command, on a server that fails in six ways: no output, file or message."""
    secret = KEY if kind == "key" else PASSWORD
    who = Credentials(api_key=KEY) if kind == "key" else Credentials(user="anna", password=PASSWORD)
    monkeypatch.setenv("CANARY", secret)
    sign_in = {"api_key": secret} if kind == "key" else {"username": "anna", "password": {"env": "CANARY"}}
    with serving(tmp_path / "server", credentials=who) as server, systemd(tmp_path / "notify") as heard:
        plant = Plant(tmp_path / "plant", server.url, fresh=True)
        plant.configure(credentials=sign_in, upload={"batch_files": 2, "grace": 1}, threshold={"training": 2})
        server.faults.add(*TROUBLES)
        for number in range(3):
            plant.put(f"dark/{number}.jpg", picture("dark", number))
            plant.put(f"light/{number}.jpg", picture("light", number))
        notify = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with plant.running("--log-level", "debug", **notify) as daemon:
            plant.wait(lambda _: plant.tally().confirmed == 6)
            proc = Path(f"/proc/{daemon.process.pid}")
            assert leaks((proc / "cmdline").read_bytes(), secret) == []
            plant.configure(threshold={"upload": 2})
            plant.wait(lambda _: bool(plant.events("configuration.changed")))
            daemon.stop()
        said = one_by_one(
            plant, *COMMANDS, ["show", str(plant.root / "dark/0.jpg")], ["predict", str(plant.root / "dark/0.jpg")]
        )
        assert [done.returncode for done in said[:2]] == [0] * 2, said[0]
    assert any(message.startswith(b"READY=1") for message in heard)
    assert b"http.call" in plant.log().encode()  # it did talk
    for done in said:
        assert leaks((done.stdout + done.stderr).encode("utf-8", "surrogatepass"), secret) == [], done.args
    assert leaks(b"\n".join(heard), secret) == []
    assert leaking_files(plant.folder, secret, except_for=(plant.config,)) == {}


def echo(request: Request) -> Reply:
    """A server that repeats whatever it was told, as debugging proxies do."""
    told = request.json()["password"] if request.path.endswith("/tokens") else request.headers.get("x-auth-token", "")
    return answer(403, {"result": "fail", "fault": f"{told} and {told!r} and {json.dumps(told)} are not welcome"})


def redirecting(request: Request) -> Reply:
    """A server that sends everybody on to a place made of what it was told."""
    return Reply(307, b"", (("Location", f"/{quote(request.headers.get('x-auth-token', ''))}"),))


def nonsense(request: Request) -> Reply:
    """A server whose answers are of another shape, and made of what it was told."""
    return ok([{"_id": request.headers.get("x-auth-token", ""), "name": json.dumps(request.headers)}])


def tls() -> ssl.SSLContext:
    """What a server with a certificate of an unknown authority needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_a_server_cannot_make_a_secret_show_up(tmp_path: Path):
    """A dead server, one that repeats keys and passwords, one that sends us on with them, one without trust."""
    scripts = {"echo": echo, "redirecting": redirecting, "nonsense": nonsense, "tls": echo}
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "key").chmod(0o600)
    calls = []
    with contextlib.ExitStack() as stack:
        endpoints = {"dead": f"http://127.0.0.1:{closed_port()}"}
        for name, script in scripts.items():
            endpoints[name] = stack.enter_context(FakeHttp(script, tls=tls() if name == "tls" else None)).url
        for name, endpoint in endpoints.items():
            for kind, sign_in in KINDS.items():
                plant = Plant(tmp_path / f"{name}-{kind}", endpoint, credentials=sign_in)
                plant.put("dark/a.jpg", picture("dark", 1))
                runs = (name, kind) in {("echo", "password"), ("redirecting", "key")}
                once = [["run", "--once", "--log-level", "debug"]] if runs else []
                wanted = [["check"], *([["models"]] if name == "nonsense" else []), *once]
                wanted += [["status"]] if once else []
                calls += [[*call, "-c", str(plant.config)] for call in wanted]
        said = forked(calls, plant.environ)
    for done in said:
        assert leaks((done.stdout + done.stderr).encode(), KEY, PASSWORD) == [], done.args
        assert "Traceback" not in done.stderr, done.stderr
        assert bool(done.returncode) != (done.args[0] == "status"), done.args
    own = tuple(tmp_path.glob("*/configuration.json"))
    assert len(own) == len(endpoints) * len(KINDS)
    assert leaking_files(tmp_path, KEY, PASSWORD, except_for=(*own, tmp_path / "key")) == {}


def test_what_the_daemon_makes_is_for_its_user_only(tmp_path: Path):
    """Whatever the umask: the state folder 0700, every file in it 0600, and the pictures' folder is not touched."""
    with serving(tmp_path / "server") as server:
        plant = Plant(tmp_path / "plant", server.url)
        plant.put("dark/a.jpg", picture("dark", 1))
        before = os.umask(0)
        try:
            with plant.running() as daemon:
                plant.wait(lambda _: plant.tally().confirmed == 1)
                state = plant.folder / "state"
                assert stat.S_IMODE(state.stat().st_mode) == 0o700
                made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
                assert daemon.stop() == 0
        finally:
            os.umask(before)
        made |= {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
        assert {"ledger.sqlite", "lock"} <= made.keys()
        assert {name: oct(mode) for name, mode in made.items() if mode != 0o600} == {}
        assert sorted(os.listdir(plant.root)) == ["dark"]
        assert len(stored(server)) == 1


def test_a_secret_cannot_be_given_on_the_command_line(tmp_path: Path):
    """Command lines can be read by every user: no command takes a key or password as text."""
    plant = Plant(tmp_path / "plant", "http://127.0.0.1:1")
    calls = [
        [command, option, KEY]
        for command in ("run", "check", "init")
        for option in ("--api-key", "--password", "--token")
    ]
    assert [done.returncode for done in one_by_one(plant, *calls)] == [2] * len(calls)


def test_a_configuration_that_others_can_read_or_change(tmp_path: Path):
    """With a secret in it and readable by others: a warning each time. Writable by all: refused, by each command."""
    plant = Plant(tmp_path / "plant", "http://127.0.0.1:1", credentials={"api_key": KEY})
    plant.config.chmod(0o644)
    (check, run) = one_by_one(plant, ["check"], ["status"])
    assert "can be read by other users" in check.stdout
    plant.config.chmod(0o666)
    for done in one_by_one(plant, ["run"], ["check"], ["status"], ["models"], ["train"]):
        assert done.returncode == 78
        assert "chmod 600" in done.stderr
    assert leaks((check.stdout + check.stderr + run.stderr).encode(), KEY) == []
