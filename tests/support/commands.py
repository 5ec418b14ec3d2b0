"""Many commands in the time of one: a process imports the program once and forks for each call."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.daemon import Plant

_DRIVER = """
import gc, json, os, sys, threading
sys.argv[0] = "image-sync"
from image_sync.cli import main
import alembic.command, rich.table, image_sync.cli.status
import image_sync.daemon.daemon, image_sync.ledger.migrations
import image_sync.platforms.mvi.platform
folder, calls = sys.argv[1], json.loads(sys.stdin.read())
gc.freeze()  # what is never looked at is never copied
for number, call in enumerate(calls):
    child = os.fork()
    if not child:
        for descriptor in (1, 2):
            os.dup2(os.open(f"{folder}/{number}.{descriptor}", os.O_CREAT | os.O_WRONLY), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv[1:] = call
        code = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        threading._shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # taking the interpreter apart would copy all of it first
    with open(f"{folder}/{number}.code", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


def one_by_one(plant: Plant, *calls: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
    """What each command says, each in a process of its own; ``-c`` is added."""
    return forked([[*call, "-c", str(plant.config)] for call in calls], plant.environ)


def forked(calls: Sequence[Sequence[str]], environ: Mapping[str, str]) -> list[subprocess.CompletedProcess[str]]:
    """What each command line says."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _DRIVER, folder]
        subprocess.run(command, input=json.dumps(calls).encode(), timeout=90, check=True, env=environ)
        return [
            subprocess.CompletedProcess(
                call,
                int(Path(folder, f"{number}.code").read_text()),
                *(Path(folder, f"{number}.{one}").read_text(errors="backslashreplace") for one in (1, 2)),
            )
            for number, call in enumerate(calls)
        ]
