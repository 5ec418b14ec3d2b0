"""Faults at the n-th system call, by strace: an error instead of the call, or SIGKILL just before it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from image_sync.ledger.database import FILE
from support.daemon import Plant

TESTS = Path(__file__).parents[1]
WAITING = """
import os, sys, threading, time
from pathlib import Path
wanted, told, sys.argv = sys.argv[1], Path(sys.argv[2]), ["image-sync", *sys.argv[3:]]
run = threading.Thread.run
def traced(self):
    if self.name == wanted:
        tid = threading.get_native_id()
        draft = told.with_suffix(".draft")
        draft.write_text(str(tid))
        draft.rename(told)
        while "TracerPid:\\t0\\n" in Path(f"/proc/self/task/{tid}/status").read_text():
            time.sleep(0.002)
    run(self)
threading.Thread.run = traced
from image_sync.cli.main import run as program
program()
"""
"""The program, in which one thread waits until strace has taken hold of it: strace counts calls per thread."""


@cache
def why_not() -> str:
    """Why strace cannot be used here; empty if it can."""
    if shutil.which("strace") is None:
        return "faults at system calls need the Debian package strace"
    with tempfile.TemporaryDirectory() as folder:
        command = ["strace", "-qq", "-o", f"{folder}/log", "-e", "inject=chdir:error=EIO", "true"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    return f"faults at system calls need the right to trace: {done.stderr.strip()}" if done.returncode else ""


def needed() -> None:
    """Skip the test where there is no strace."""
    if reason := why_not():
        pytest.skip(reason)


def injecting(state: Path, *injections: str) -> list[str]:
    """The beginning of a command line: strace with these injections on the ledger's files in this folder only."""
    calls = sorted({name for one in injections for name in one.partition(":")[0].split(",")})
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={','.join(calls)}"]
    for name in (FILE, f"{FILE}-journal"):
        words += ["-P", str(state / name)]
    for one in injections:
        words += ["-e", f"inject={one}"]
    return words


def python(
    *words: str, under: Sequence[str] = (), stdout: int = subprocess.PIPE, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A Python process that can import the tests' support, with strace before it or not."""
    return subprocess.run(
        [*under, sys.executable, *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
        env=os.environ if environ is None else environ,
        cwd=TESTS,
    )


def killed_at(plant: Plant, thread: str, call: str, number: int, *words: str) -> bool:
    """Run the program on a plant with SIGKILL before the n-th such system call of one of its threads.

    Returns:
        Whether it was killed; False: it came to its end.
    """
    return injected(plant, thread, f"{call}:signal=KILL:when={number}", *words) == -signal.SIGKILL


def injected(plant: Plant, thread: str, injection: str, *words: str, path: Path | None = None) -> int:
    """Run the program on a plant with a fault at system calls of one of its threads.

    Args:
        thread: a worker's name, or ``MainThread``.
        injection: in the words of strace, such as ``openat:error=EIO:when=1``.
        words: the command, such as ``run --once``.
        path: count only calls on this file.

    Returns:
        Its exit code, negative after a signal.
    """
    told = plant.folder / "thread"
    told.unlink(missing_ok=True)
    call = injection.partition(":")[0]
    fault = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={injection}"]
    fault += [] if path is None else ["-P", str(path)]
    before = fault if thread == "MainThread" else []
    command = [*before, sys.executable, "-c", WAITING, thread, str(told), *words, "-c", str(plant.config)]
    with (
        (plant.folder / "daemon.log").open("ab") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=plant.environ) as program,
    ):
        tracer: subprocess.Popen[bytes] | None = None
        try:
            until = time.monotonic() + 60
            while not told.exists() and program.poll() is None:
                assert time.monotonic() < until, plant.log()
                time.sleep(0.005)
            if told.exists():
                tracer = subprocess.Popen([*fault, "-p", told.read_text()])
            return program.wait(max(1.0, until - time.monotonic()))
        finally:
            program.kill()
            if tracer is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    tracer.wait(5)
                tracer.kill()
                tracer.wait()
