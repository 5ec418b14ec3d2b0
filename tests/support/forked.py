"""Real processes of the program without the second that its imports take: forked from one that has done them.

A process that is started so is one of its own, with its own id, environment, working folder and exit code, and meets
SIGKILL as any other. What it does not prove is the start itself: tests of that start :data:`support.daemon.PROGRAM`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

_IMPORTED = (
    "alembic.command",
    "rich.table",
    "sqlalchemy.dialects.sqlite",
    "typer._adapters",
    "boto3",
    "image_sync.cli.app",
    "image_sync.cli.run",
    "image_sync.cli.session",
    "image_sync.cli.status",
    "image_sync.daemon.assemble",
    "image_sync.platforms.mobius.platform",
    "image_sync.platforms.mvi.platform",
    "image_sync.platforms.sagemaker.platform",
)
_START = "from support.forked import serve; serve({})"
_MESSAGE = 1 << 20


class Forked:
    """One process of the program; has what the tests need of :class:`subprocess.Popen`."""

    def __init__(
        self, arguments: Sequence[str], environ: Mapping[str, str], folder: str, stdout: IO[bytes], stderr: IO[bytes]
    ) -> None:
        self.returncode: int | None = None
        request = {"arguments": list(arguments), "environ": dict(environ), "folder": folder}
        self._wire, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(os.devnull, "rb") as stdin:
            streams = [stream.fileno() for stream in (stdin, stdout, stderr)]
            socket.send_fds(_server(), [json.dumps(request).encode()], [theirs.fileno(), *streams])
        self.pid = int(self._wire.recv(64))

    def __del__(self) -> None:
        self._wire.close()

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; raises :class:`subprocess.TimeoutExpired` as Popen does."""
        if self.returncode is None:
            self._wire.settimeout(timeout or (None if timeout is None else 1e-6))
            try:
                self.returncode = int(self._wire.recv(64))
            except TimeoutError:
                raise subprocess.TimeoutExpired("image-sync", timeout or 0.0) from None
            self._wire.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


_servers: dict[int, socket.socket] = {}


def _server() -> socket.socket:
    """The socket of this process's server, which is started when it is first asked for."""
    if os.getpid() not in _servers:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE)
        tests = os.path.dirname(os.path.dirname(__file__))
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]).strip(":")}
        with theirs:
            server = subprocess.Popen(
                [sys.executable, "-c", _START.format(theirs.fileno())], pass_fds=[theirs.fileno()], env=environ
            )

        def end() -> None:
            ours.close()
            server.wait()

        atexit.register(end)
        _servers[os.getpid()] = ours
    return _servers[os.getpid()]


def serve(handle: int) -> None:
    """Fork a process for each request, and tell how it ended, until nobody can ask any more."""
    for name in _IMPORTED:
        importlib.import_module(name)
    sys.path.remove(os.path.dirname(os.path.dirname(__file__)))
    gc.freeze()  # what is never looked at is never copied
    requests = socket.socket(fileno=handle)
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(waker)
    chosen = selectors.DefaultSelector()
    chosen.register(requests, selectors.EVENT_READ)
    chosen.register(woken, selectors.EVENT_READ)
    wires: dict[int, socket.socket] = {}
    while True:
        for key, _ in chosen.select():
            if key.fd == woken:
                os.read(woken, 4096)
                _reap(wires)
                continue
            message, handles, _flags, _address = socket.recv_fds(requests, _MESSAGE, 4)
            if not message:
                os._exit(0)  # whoever asked has ended
            wire = socket.socket(fileno=handles[0])
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                chosen.close()
                for one in (*wires.values(), wire, requests):
                    one.close()
                os.close(woken)
                os.close(waker)
                _become(json.loads(message), handles[1:])
                _work()
            for stream in handles[1:]:
                os.close(stream)
            wires[pid] = wire
            wire.send(str(pid).encode())


def _reap(wires: dict[int, socket.socket]) -> None:
    while wires:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with wires.pop(pid) as wire, contextlib.suppress(OSError):
            wire.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Be the process that was asked for, as if Python had just been started for it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    os.chdir(request["folder"])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for good
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115 - for good
    sys.argv = [os.path.join(os.path.dirname(sys.modules["image_sync"].__file__ or ""), "__main__.py")]
    sys.argv += request["arguments"]


def _work() -> None:
    if "CRASH_AT" in os.environ:
        from support.soak_crasher import main as run
    else:
        from image_sync.cli.main import run

    code = 0
    try:
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:  # noqa: BLE001 - as Python does at its end
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as Python does at its end
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)  # taking the interpreter apart would copy all of it first
