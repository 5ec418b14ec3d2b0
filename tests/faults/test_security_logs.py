"""Whatever is logged, and whatever ends the program: no secret, no forged line, no command to a terminal."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from image_sync.config import load, secrets
from image_sync.daemon.assemble import assemble
from image_sync.errors import ImageSyncError
from image_sync.log import configure, get_logger, hide, show_text
from image_sync.platforms import registry
from image_sync.platforms.mvi.auth import api_key
from support.configuration import document, write
from support.fake_http import closed_port
from support.secrets import KEY, PASSWORD, leaks

ODD = "a\n2026-01-01 CRITICAL forged\r\x1b]0;owned\x07\x9b31m\u202egpj\u2028.jpg"
CONTROL = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2028"}


def refuse(secret: str) -> None:
    """Raise an error with a cause, the secret in both."""
    raise RuntimeError(f"refused {secret!r}") from ValueError(secret)


@pytest.fixture
def root_logger():
    """The root logger, and what else configuring changes, as they were before."""
    root = logging.getLogger()
    before, level, hook = root.handlers[:], root.level, sys.excepthook
    with warnings.catch_warnings():
        yield root
    root.handlers[:] = before
    root.setLevel(level)
    sys.excepthook = hook


@pytest.fixture(params=["text", "json"])
def written(request, root_logger):
    """Where lines go, in either format."""
    stream = io.StringIO()
    configure("debug", log_format=request.param, stream=stream)
    yield stream
    assert stream.getvalue()


def test_a_secret_is_masked_in_whatever_carries_it(written):
    """Texts, reprs, JSON, URLs, bytes, objects, containers, keys of other loggers' lines and tracebacks."""
    hide(KEY, PASSWORD)
    log = get_logger("test")
    for secret in (KEY, PASSWORD):
        wrapped = SimpleNamespace(password=secret)
        log.info(secret, text=secret, shown=repr(secret), sent=json.dumps(secret), raw=secret.encode())
        log.info("nested", values=[{"a": (secret, {secret}, wrapped)}], thing=wrapped, error=ValueError(secret))
        logging.getLogger("foreign").warning("with %s and %r", secret, [secret])
        try:
            refuse(secret)
        except RuntimeError:
            log.exception("broken", why=sys.exception())
    assert leaks(written.getvalue().encode("utf-8", "surrogatepass"), KEY, PASSWORD) == []


def test_a_name_can_neither_forge_a_line_nor_drive_a_terminal(written):
    """Line breaks, escape sequences, C1 controls, text direction and halves of characters are shown escaped."""
    log = get_logger("test")
    log.info(ODD, path=ODD.encode("utf-8", "replace"), reason=ODD, many=[ODD])
    logging.getLogger("foreign").error("about %s", ODD)
    lines = written.getvalue().split("\n")
    assert len(lines) == 3, lines
    assert not CONTROL & set("".join(lines))
    assert show_text("\ud800\x1b") == r"\ud800\x1b"


def test_a_traceback_is_shown_without_the_values_of_variables(written, root_logger):
    """A traceback says where, in several lines without other control characters; locals are never shown."""

    def fails(secret: str) -> None:
        raise KeyError(f"bad\x1b[2J{len(secret)}")

    try:
        fails("LOCAL-" + "canary-99")
    except KeyError:
        get_logger("test").exception("broken")
    text = written.getvalue()
    assert "KeyError" in text
    assert "LOCAL-canary-99" not in text
    assert "\x1b" not in text


def test_a_line_that_cannot_be_written_is_not_printed_either(root_logger):
    """When a line fails to be made, a word about it is left; Python would print everything that was in it."""
    stream = io.StringIO()
    configure(log_format="json", stream=stream)

    class Bad:
        def __repr__(self) -> str:
            raise ValueError("no repr CANARY")

    get_logger("test").warning("event", secret="CANARY", bad=Bad())
    assert stream.getvalue() == "a line of test could not be logged: ValueError\n"


CRASH = """
import logging, sys, threading, warnings
from image_sync.log import configure, hide
configure("info", log_format={form!r})
hide({secret!r})

def crash(what):
    raise RuntimeError(what + {secret!r})

class Unraisable:
    def __del__(self):
        crash("finalizer ")

thread = threading.Thread(target=crash, args=("thread ",), name="worker-7")
thread.start()
thread.join()
Unraisable()
warnings.warn("warned of " + {secret!r})
crash("main ")
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_nobody_caught_is_masked_too(form, tmp_path):
    """Exceptions in the main thread, a thread, a finalizer, and warnings: told in the log, the secret masked."""
    script = tmp_path / "crash.py"
    script.write_text(CRASH.format(form=form, secret=PASSWORD))
    done = subprocess.run([sys.executable, script], capture_output=True, timeout=30, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert leaks(said, PASSWORD) == []
    for where in (b"RuntimeError: main", b"RuntimeError: thread", b"RuntimeError: finalizer", b"worker-7"):
        assert where in said
    if form == "json":
        assert {json.loads(line)["event"] for line in said.splitlines()} >= {"crashed"}
        assert len(said.splitlines()) == 4


def test_the_program_itself_masks_what_nobody_caught(tmp_path):
    """Also where the command line's own library has put a hook of its own: a bug's traceback shows no secret."""
    script = tmp_path / "crash.py"
    script.write_text(
        "import sys\n"
        "from image_sync.cli import main, session\n"
        "from image_sync.log import hide\n"
        "secret = sys.stdin.read()\n"
        "def broken(config):\n"
        "    hide(secret)\n"
        "    raise ZeroDivisionError('with ' + secret)\n"
        "import importlib\n"
        "importlib.import_module('image_sync.cli.status').settings_in_force = broken\n"
        "main.run()\n"
    )
    done = subprocess.run(
        [sys.executable, script, "status"], input=PASSWORD.encode(), capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert b"ZeroDivisionError" in done.stderr
    assert leaks(done.stdout + done.stderr, PASSWORD) == []


def test_nothing_prints_settings_or_what_is_made_of_them(tmp_path: Path):
    """The reprs of settings, clients, credentials and platforms, and the errors they raise, hold no secret."""
    endpoint = f"http://127.0.0.1:{closed_port()}"
    for sign_in in ({"api_key": KEY}, {"username": "anna", "password": PASSWORD}):
        proxy = "http://proxy:CANARYproxy7@127.0.0.1:1"
        path = write(tmp_path, document(tmp_path, credentials={"endpoint": endpoint, "proxy": proxy, **sign_in}))
        settings = load(path, {"HOME": str(tmp_path)})
        assert len(secrets(settings)) == 2
        platform = registry.make(settings, threading.Event(), attempts=1)
        parts = assemble(settings, failed=lambda _error: None)
        shown = [settings, settings.credentials, platform, parts, platform.traits]
        for thing in (platform, parts.uploader, parts.trainer, parts.watcher):
            shown += [inner for inner in vars(thing).values() if not isinstance(inner, dict)]
        try:
            platform.sign_in()
        except ImageSyncError as error:
            shown += [error, repr(error), error.__cause__, error.__context__, error.hint]
        parts.platform.close()
        parts.ledger.close()
        text = "\n".join(f"{thing!r} {thing}" for thing in shown)
        assert leaks(text.encode("utf-8", "surrogatepass"), KEY, PASSWORD, "CANARYproxy7") == []
    assert leaks(repr(api_key(KEY)).encode(), KEY) == []
