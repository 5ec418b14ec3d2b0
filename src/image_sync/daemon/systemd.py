"""Tells systemd how the process is: the datagrams of ``sd_notify(3)``, without its library."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

from image_sync.log import get_logger

_KEYS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_PATIENCE = 1.0  # seconds that a full socket may hold up the main loop
_LONGEST = 1024  # characters of a status line

log = get_logger(__name__)


class Notifier:
    """The line to systemd, or to nobody: without ``NOTIFY_SOCKET`` every method does nothing.

    A failing line never stops the work: the first error is logged at debug, none is raised.

    Args:
        environ: where systemd's variables are read, by default those of the process. They are removed if it can be
            changed, so that no child process takes them for its own.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else environ
        found = {key: variables.get(key, "") for key in _KEYS}
        if isinstance(variables, MutableMapping):
            for key in _KEYS:
                variables.pop(key, None)
        self._failed = False
        self._address = self._address_of(found["NOTIFY_SOCKET"])
        self._interval = self._interval_of(found["WATCHDOG_USEC"], found["WATCHDOG_PID"])

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds within which :meth:`watchdog` is to be called, half of what systemd waits; None: it does not wait."""
        return self._interval

    def ready(self, status: str = "") -> None:
        """Starting, or reloading, is done; ``status`` is what :meth:`status` would say."""
        self._send("READY=1", _status(status) if status else "")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(_status(text))

    def reloading(self) -> None:
        """The configuration is being taken over; :meth:`ready` ends it."""
        # systemd from 253 compares this with the moment at which it asked, to tell this reload from an earlier one.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The process is about to end."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """The work goes on. To be called by whoever knows that it does, not by a timer."""
        self._send("WATCHDOG=1")

    def _address_of(self, name: str) -> str:
        if not name:
            return ""
        if name[0] not in "/@" or len(name) == 1 or not hasattr(socket, "AF_UNIX"):
            self._fail(ValueError(f"{name!r} is not the address of a Unix socket"))
            return ""
        return "\0" + name[1:] if name[0] == "@" else name

    def _interval_of(self, microseconds: str, pid: str) -> float | None:
        if not microseconds or (pid and pid != str(os.getpid())):
            return None
        if not (microseconds.isascii() and microseconds.isdigit() and int(microseconds)):
            self._fail(ValueError(f"WATCHDOG_USEC is {microseconds!r}, not a number of microseconds"))
            return None
        return int(microseconds) / 2_000_000

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        message = "\n".join(filter(None, assignments)).encode("utf-8", "backslashreplace")
        try:
            # Opened each time: a socket kept open would go on talking to a manager that has been replaced.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.settimeout(_PATIENCE)
                line.connect(self._address)
                line.send(message)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.debug("systemd.unreachable", error=str(error))


def _status(text: str) -> str:
    # A line break would end the status and begin an assignment.
    return "STATUS=" + " ".join(text.split())[:_LONGEST]
