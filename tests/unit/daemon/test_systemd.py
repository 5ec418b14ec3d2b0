"""The line to systemd, over real datagram sockets."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
import structlog

from image_sync.daemon.systemd import Notifier


class Manager:
    """Systemd's end of the line."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.settimeout(5)

    def heard(self) -> dict[str, str]:
        """The assignments of the next message."""
        text = self._socket.recv(65536).decode()
        return dict(line.split("=", 1) for line in text.split("\n"))

    def silent(self) -> bool:
        """Whether nothing waits to be heard."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(65536)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path) -> Iterator[Manager]:
    """A listening socket: a file, or an abstract name as systemd uses for some units."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract names are Linux's")
    end = Manager(f"@image-sync-{uuid.uuid4()}" if request.param == "abstract" else str(tmp_path / "notify"))
    yield end
    end.close()


@pytest.fixture
def debug_log(monkeypatch) -> Iterator[list[dict[str, object]]]:
    """Everything that is logged, debug included."""
    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        yield lines  # type: ignore[misc]


def test_ready_carries_the_status(manager):
    """Ready and its status come in one message, so that neither is seen without the other."""
    Notifier({"NOTIFY_SOCKET": manager.name}).ready("upload 3 / 10")
    assert manager.heard() == {"READY": "1", "STATUS": "upload 3 / 10"}
    assert manager.silent()


def test_ready_without_a_status(manager):
    """Ready alone leaves the earlier status as it is."""
    Notifier({"NOTIFY_SOCKET": manager.name}).ready()
    assert manager.heard() == {"READY": "1"}


def test_a_life(manager):
    """Status, watchdog and stopping arrive as systemd expects them, in order, one message each."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    notifier.ready("starting")
    notifier.status("upload 3 / 10")
    notifier.watchdog()
    notifier.stopping()
    manager.heard()
    assert manager.heard() == {"STATUS": "upload 3 / 10"}
    assert manager.heard() == {"WATCHDOG": "1"}
    assert manager.heard() == {"STOPPING": "1"}
    assert manager.silent()


def test_reloading_says_when(manager):
    """Reloading carries the monotonic clock in microseconds, as Type=notify-reload needs it."""
    before = time.monotonic_ns() // 1000
    Notifier({"NOTIFY_SOCKET": manager.name}).reloading()
    heard = manager.heard()
    assert heard["RELOADING"] == "1"
    assert before <= int(heard["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_a_status_cannot_say_anything_else(manager):
    """Line breaks in a status (a file name may hold some) do not become assignments; odd characters get through."""
    Notifier({"NOTIFY_SOCKET": manager.name}).status("part\nSTOPPING=1\r\n\tcaf\u00e9 \udce9" + "x" * 5000)
    heard = manager.heard()
    assert list(heard) == ["STATUS"]
    assert heard["STATUS"].startswith("part STOPPING=1 caf\u00e9 \\udce9xxx")
    assert len(heard["STATUS"]) < 1100


def test_without_a_socket_nothing_happens(debug_log):
    """Run by hand there is nobody to tell: no error, no log line, no interval."""
    notifier = Notifier({})
    notifier.ready("x")
    notifier.status("x")
    notifier.reloading()
    notifier.watchdog()
    notifier.stopping()
    assert notifier.watchdog_interval is None
    assert debug_log == []


@pytest.mark.parametrize("name", ["/nowhere/at/all", "@nobody-listens-here", "vsock:2:1234", "relative", "/", "@"])
def test_a_broken_line_is_logged_once_and_never_raised(name, debug_log):
    """Nobody listens, or the address is of a kind we do not know: one debug line, however often we call."""
    notifier = Notifier({"NOTIFY_SOCKET": name})
    for _ in range(3):
        notifier.ready("x")
        notifier.watchdog()
    assert [(line["event"], line["log_level"]) for line in debug_log] == [("systemd.unreachable", "debug")]


def test_a_full_socket_does_not_hold_up_the_work(manager):
    """A manager that never reads costs about a second for each call, not for ever."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    address = "\0" + manager.name[1:] if manager.name.startswith("@") else manager.name
    with contextlib.ExitStack() as fillers:
        while True:  # each has room for some messages of its own; the manager's queue may hold more than one can send
            filler = fillers.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            filler.setblocking(False)
            if not _sent(filler, address):
                break
        begun = time.monotonic()
        notifier.watchdog()
        assert 0.5 < time.monotonic() - begun < 5


def _sent(filler: socket.socket, address: str) -> int:
    """Send until nothing more is taken; how many messages were."""
    for count in itertools.count():
        try:
            filler.sendto(b"x", address)
        except BlockingIOError:
            return count
    raise AssertionError


def test_a_new_manager_is_found(tmp_path):
    """After systemd replaced its socket, messages reach the new one."""
    name = str(tmp_path / "notify")
    first = Manager(name)
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.watchdog()
    assert first.heard() == {"WATCHDOG": "1"}
    first.close()
    Path(name).unlink()
    second = Manager(name)
    notifier.watchdog()
    assert second.heard() == {"WATCHDOG": "1"}
    second.close()


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": ""}, 30.0),
        ({"WATCHDOG_USEC": "1500000"}, 0.75),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "\u0663"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
        ({}, None),
    ],
)
def test_the_interval_is_half_of_what_systemd_waits(variables, interval):
    """In seconds; None when no watchdog is set, it is another process's, or the number makes no sense."""
    assert Notifier(variables).watchdog_interval == interval


def test_variables_are_taken_away():
    """The variables are gone from a mapping that can be changed, others stay, and one that cannot is left alone."""
    variables = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    Notifier(MappingProxyType(dict(variables)))
    Notifier(variables)
    assert variables == {"PATH": "/bin"}


def test_children_do_not_inherit_the_line(manager, monkeypatch):
    """By default the process's own environment is read, and a child started later sees none of it."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    assert notifier.watchdog_interval == 30.0
    code = "import os; print([key for key in os.environ if key.startswith(('NOTIFY_', 'WATCHDOG_'))])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
    notifier.ready()
    assert manager.heard() == {"READY": "1"}
