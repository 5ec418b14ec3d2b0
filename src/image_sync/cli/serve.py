"""``image-sync serve``: a stand-in server on this machine, for trying out, for tests, and without a licence."""

from __future__ import annotations

import errno
import getpass
import importlib.util
import json
import os
import signal
import sqlite3
import stat
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from image_sync import log
from image_sync.cli import options
from image_sync.errors import AlreadyRunning, ConfigError, ImageSyncError, LedgerError, UsageError
from image_sync.log import show_path

_INSTALL = "Run: pip install 'image-sync[server]'"
try:
    from image_sync_server.mvi import fault_presets
    from image_sync_server.mvi.fault_presets import KINDS
except ModuleNotFoundError as error:
    raise ConfigError("The embedded server is not installed: image_sync_server is missing", hint=_INSTALL) from error

if TYPE_CHECKING:
    from image_sync_server.mobius.server import MobiusServer
    from image_sync_server.mvi.server import MviServer

_EXTRA = ("starlette", "uvicorn", "python_multipart", "numpy", "sklearn")
_READ_FROM_STDIN = "-"
_LARGEST_SECRET = 4096
_MVI_ONLY = ("user", "password", "password_file", "api_key", "api_key_file", "faults")


def serve(
    context: typer.Context,
    api: Annotated[
        Literal["mvi", "mobius"],
        typer.Option(help="What it speaks: mvi, or mobius (a Mobius Vision SDK; then --fault takes other kinds)."),
    ] = "mvi",
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; others than this machine's need credentials.")
    ] = ("127.0.0.1"),
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8080,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where datasets and models are kept.", show_default="~/.local/share/..."),
    ] = None,
    user: Annotated[str, typer.Option(metavar="NAME", envvar="IMAGE_SYNC_SERVE_USER", help="Let this user in.")] = "",
    password: Annotated[
        str,
        typer.Option(
            metavar="PASSWORD",
            envvar="IMAGE_SYNC_SERVE_PASSWORD",
            show_envvar=True,
            help="The user's password; - asks for it.",
        ),
    ] = "",
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file that holds the password and nothing else.")
    ] = None,
    api_key: Annotated[
        str,
        typer.Option(
            metavar="KEY", envvar="IMAGE_SYNC_SERVE_API_KEY", show_envvar=True, help="Let this key in; - asks for it."
        ),
    ] = "",
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file that holds the API key and nothing else.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=RATE[:SECONDS]",
            help="Let this go wrong on purpose, such as 429=5% or late=0.1:3; may be given again. Kinds:\n\n"
            + "\n\n".join(f"{name}: {kind.text}" for name, kind in KINDS.items()).replace("`", "")
            + "\n\nall: each of them, at this rate",
        ),
    ] = None,
    fault_seed: Annotated[
        int | None, typer.Option(metavar="N", help="Let the same requests meet the same faults in every run.")
    ] = None,
    faults: Annotated[
        str, typer.Option(metavar="JSON", help='What shall go wrong, such as {"kind": "late", "path": "/files$"}.')
    ] = "",
    log_level: options.LogLevel = "warning",
    log_format: options.LogFormat = "auto",
) -> None:
    """Run an MVI-compatible server that really trains, on this machine's processor. Ctrl-C ends it."""
    log.configure(log_level, log_format=log_format)
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"The embedded server is not installed: {', '.join(missing)} missing", hint=_INSTALL)
    home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "image-sync"
    if api == "mobius":
        for name in _MVI_ONLY:
            if options.written(context, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} has no meaning with --api mobius",
                    hint="The emulator lets everybody on this machine in; faults are given with --fault.",
                )
        server: MviServer | MobiusServer = _mobius(data or home / "mobius", fault or [], fault_seed)
        _run(server, host, port, "The emulator is not started", "Leave --host out.")
        return
    password = _secret(context, "password", password, password_file)
    api_key = _secret(context, "api_key", api_key, api_key_file)
    server = _mvi(data or home / "server", (user, password, api_key), fault or [], faults, fault_seed)
    _run(server, host, port, "The server is not started", "Give --user and --password-file, or --api-key-file.")


def _run(server: MviServer | MobiusServer, host: str, port: int, refused: str, remedy: str) -> None:
    """Serve until a signal comes: the first one ends it in order, the second one at once.

    Args:
        refused, remedy: what is said where the address would let everybody in.
    """
    from image_sync_server.web import Unprotected

    stop, both = threading.Event(), (signal.SIGINT, signal.SIGTERM)

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in both:
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in both:
        signal.signal(number, end)
    try:
        # Scripts read the address from the first line, so it must not wait in a buffer.
        print(f"listening on {server.start(host, port)}", flush=True)
        stop.wait()
    except Unprotected as error:
        raise UsageError(f"{refused}: {error}", hint=remedy) from error
    except OSError as error:
        what = f"The server cannot listen on {host}, port {port}: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            hint = "Stop what uses the port, or take another one with --port; 0 takes a free one."
            raise AlreadyRunning(what, hint=hint) from error
        hint = "Give an address of this machine with --host."
        if error.errno == errno.EACCES:
            hint = "Ports below 1024 need rights; take a higher one with --port."
        raise UsageError(what, hint=hint) from error
    finally:
        server.stop()
        if struck := server.faults.counts:
            times = ", ".join(f"{name} {count}" for name, count in struck.most_common())
            typer.echo(f"image-sync: faults that struck: {times}", err=True)


def _mvi(folder: Path, login: tuple[str, str, str], words: list[str], texts: str, fault_seed: int | None) -> MviServer:
    """A server that keeps its data in this folder.

    Args:
        login: user, password, API key.
        words: what ``--fault`` says.
        texts: what ``--faults`` says.
    """
    from image_sync_server.mvi.auth import Credentials
    from image_sync_server.mvi.server import MviServer
    from image_sync_server.mvi.store import StoreInUse

    try:
        credentials = Credentials(*login)
    except ValueError as error:
        raise UsageError(
            f"The credentials are not complete: {error}", hint="Give --user and --password-file."
        ) from error
    try:
        switches = [fault for word in words for fault in fault_presets.parsed(word)]
    except ValueError as error:
        raise UsageError(
            f"--fault is not understood: {error}", hint="Write for example: --fault 429=5% --fault lost-answer=0.02"
        ) from error
    try:
        raw = json.loads(texts or "[]")
        for one in raw if isinstance(raw, list) else [raw]:
            switches += fault_presets.from_json(one)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--faults is not understood: {error}",
            hint="""Write for example: --faults '{"action": "status", "status": 503, "path": "/files$", "count": 3}'""",
        ) from error
    try:
        server = MviServer(folder, credentials=credentials, fault_seed=fault_seed)
    except StoreInUse as error:
        raise AlreadyRunning(
            f"Another server works on {show_path(str(folder))}",
            hint="Stop it, or give this one another folder with --data.",
        ) from error
    except (OSError, sqlite3.DatabaseError) as error:
        raise _unusable(folder, error) from error
    server.faults.add(*switches)
    return server


def _mobius(folder: Path, words: list[str], fault_seed: int | None) -> MobiusServer:
    from image_sync_server.mobius.fault_presets import parsed
    from image_sync_server.mobius.server import MobiusServer

    try:
        switches = [parsed(word) for word in words]
    except ValueError as error:
        raise UsageError(
            f"--fault is not understood: {error}", hint="Write for example: --fault lost-answer=5% --fault late=0.1:3"
        ) from error
    try:
        server = MobiusServer(folder, fault_seed=fault_seed)
    except (OSError, sqlite3.DatabaseError) as error:
        raise _unusable(folder, error) from error
    server.faults.add(*switches)
    return server


def _unusable(folder: Path, error: Exception) -> ImageSyncError:
    reason = error.strerror if isinstance(error, OSError) else error
    return LedgerError(
        f"The folder {show_path(str(folder))} cannot be used: {reason}",
        hint="Give a folder that you may write to with --data.",
    )


def _secret(context: typer.Context, name: str, value: str, file: Path | None) -> str:
    """A secret from a file, the environment, the terminal or, with a warning, the command line."""
    option = "--" + name.replace("_", "-")
    if file is not None:
        if options.written(context, name):
            raise UsageError(f"{option} and {option}-file are both given", hint="Give one of them.")
        value = _read(file, option)
    elif value == _READ_FROM_STDIN:
        if sys.stdin.isatty():
            value = getpass.getpass(f"{name.replace('_', ' ').capitalize()}: ")
        else:
            value = sys.stdin.readline().rstrip("\r\n")
    elif value and options.written(context, name):
        typer.echo(
            f"image-sync: everybody on this machine can read {option} in the list of processes; "
            f"better use {option}-file, {option} -, or the environment.",
            err=True,
        )
    log.hide(value)
    return value


def _read(file: Path, option: str) -> str:
    try:
        with file.open("rb") as opened:
            shared = bool(os.fstat(opened.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO))
            raw = opened.read(_LARGEST_SECRET + 1)
    except OSError as error:
        raise ConfigError(
            f"{option}-file {show_path(str(file))} cannot be read: {error.strerror}", hint="Check its path and rights."
        ) from error
    text = raw.decode("utf-8", "replace").rstrip("\r\n")
    if not text or len(raw) > _LARGEST_SECRET or not text.isprintable():
        raise ConfigError(
            f"{option}-file {show_path(str(file))} does not hold one line of text", hint="Put the secret there, alone."
        )
    if shared:
        typer.echo(f"image-sync: others may read {show_path(str(file))}; run: chmod 600 on it.", err=True)
    return text
