"""What a process takes: time, processor, memory, writes; by the kernel's account (Linux)."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from support.resources import peak_memory, processor_seconds

_LOOK = 20
"""Milliseconds between two looks at the memory of a process: its peak is gone when it has ended."""


class Spoiled(Exception):  # noqa: N818 - it is what the figure is
    """A figure that cannot be had, in words: something failed, or not everything arrived."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process took from its start to its end.

    Attributes:
        seconds: on the clock. cpu: seconds of processor time.
        peak: most bytes in memory. written: bytes that it caused to be written to disks.
        output: what it printed.
    """

    seconds: float
    cpu: float
    peak: int
    written: int
    output: str


class Account(NamedTuple):
    """What a running process has taken so far."""

    at: float
    cpu: float
    memory: int
    written: int


def spend(command: Sequence[str | Path], environ: Mapping[str, str] | None = None, *, expect: int = 0) -> Spent:
    """Run a command to its end. What it says on stderr is kept apart, in a file, as a service's log is.

    Raises:
        Spoiled: it ended with another code than expected.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        begun = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)), env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=log
        )
        try:
            # Opened now: once it has ended, only root may open it, and who has it open may still read it.
            with Path(f"/proc/{process.pid}/io").open() as figures:
                peak = _watch(process.pid)
                ended = time.perf_counter()
                # It has ended, but is not forgotten before it is asked for: until then the kernel tells about it.
                written = _written(figures)
        except BaseException:  # the session was ended: nothing is left running
            process.kill()
            process.wait()
            raise
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        log.seek(0)
        if process.returncode != expect:
            said = log.read().decode(errors="replace")[-2000:]
            raise Spoiled(f"{' '.join(map(str, command))[:200]} ended with {process.returncode}:\n{said}")
        return Spent(
            ended - begun, usage.ru_utime + usage.ru_stime, peak, written, output.read().decode(errors="replace")
        )


def account(process: int) -> Account:
    """What a running process has taken so far."""
    with Path(f"/proc/{process}/io").open() as figures:
        return Account(time.monotonic(), processor_seconds(process), _memory(process), _written(figures))


def _watch(process: int) -> int:
    """Wait until it has ended; the most memory it ever had."""
    peak, handle = 0, os.pidfd_open(process)
    try:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        while not ended.poll(_LOOK):
            try:
                peak = max(peak, peak_memory(process))
            except (AssertionError, OSError):
                continue  # just ending
    finally:
        os.close(handle)
    return peak


def _memory(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _written(account: TextIO) -> int:
    account.seek(0)
    figures = {name: int(value) for name, _, value in (line.partition(":") for line in account)}
    return figures["write_bytes"] - figures["cancelled_write_bytes"]
