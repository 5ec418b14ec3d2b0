"""Logging, configured once: structlog to stderr, JSON when stderr is no terminal, secrets masked everywhere.

Knows nothing of image-sync's other parts, so that the embedded server can use it too.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import MutableMapping
from datetime import datetime
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import quote

# structlog takes rich with it wherever it is installed, for tracebacks that are not used here: 8 MB in a daemon, and a
# tenth of the time that a command takes to start.
_rich: Any = sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # None: an import fails
import structlog  # noqa: E402 - see above

if _rich is None:
    del sys.modules["rich"]

MASK = "********"
_SHORTEST_SECRET = 4  # masking "a" would garble every line
_TEXTS = frozenset({"exception", "stack"})  # fields of several lines
_JOURNAL_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

_secrets: set[str] = set()
_secrets_lock = threading.Lock()


def hide(*secrets: str) -> None:
    """Mask these strings wherever they would appear in a log line from now on."""
    spellings = {one for secret in secrets if len(secret) >= _SHORTEST_SECRET for one in _spellings(secret)}
    with _secrets_lock:
        _secrets.update(spellings)


def _spellings(secret: str) -> set[str]:
    """The secret as it stands, and as it would look in a URL, in bytes, in a repr or JSON, and in a repr of that."""
    raw = secret.encode("utf-8", "backslashreplace")
    once = _escaped(secret)
    twice = {spelling for one in once for spelling in _escaped(one)}
    return {secret, quote(raw, safe=""), quote(raw), repr(raw)[2:-1], *once, *twice}


def _escaped(text: str) -> set[str]:
    shown = {repr(text), ascii(text), json.dumps(text), json.dumps(text, ensure_ascii=False)}
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")  # a repr of something with both kinds of quotes
    return {quoted, *(one[1:-1] for one in shown)}


def masked(text: str) -> str:
    """The text with every hidden secret replaced by asterisks."""
    with _secrets_lock:
        found = sorted((secret for secret in _secrets if secret in text), key=len, reverse=True)
    for secret in found:
        text = text.replace(secret, MASK)
    return text


def _mask(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {key: _mask(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_mask, value)) if type(value) in {list, tuple} else masked(repr(value))
    # Whatever else there is would be shown by its repr, after this.
    return value if value is None or isinstance(value, bool | int | float) else masked(repr(value))


def _clean(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask secrets; show paths, which may hold any byte, as text."""
    for key, value in event.items():
        event[key] = masked(show_path(value)) if isinstance(value, bytes) else _mask(value)
    return event


def _escape(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Values come from file names and servers: none may break a line, or drive a terminal. JSON escapes by itself.
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = "\n".join(map(show_text, value.split("\n") if key in _TEXTS else [value]))
    return event


def show_text(text: str) -> str:
    r"""A text as a person may read it: control characters, line breaks and halves of characters escaped.

    >>> show_text("a\x1b[31m\nb")
    'a\\x1b[31m\\nb'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def show_path(path: bytes | str) -> str:
    r"""A path as a person may read it: undecodable bytes and control characters escaped, never raw.

    >>> show_path(b"parts/caf\xe9.jpg")
    'parts/caf\\xe9.jpg'
    """
    raw = os.fsencode(path) if isinstance(path, str) else path
    return show_text(raw.decode("utf-8", "backslashreplace"))


def _local_time(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["timestamp"] = datetime.now().astimezone().isoformat(" ", "milliseconds")
    return event


def _facts_first(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = {key: event[key] for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


class _JournalPrefix:
    """Puts the priority that journald reads before each line."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        priority = _JOURNAL_PRIORITY.get(str(event.get("level", method)), 6)
        return f"<{priority}>{self._renderer(logger, method, event)}"


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; one that cannot be written leaves a word, where Python would print all that was in it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Say that a line is missing."""
        error = sys.exception()
        if not isinstance(error, OSError):  # a full disk or a closed pipe: there is nobody to tell
            self.stream.write(f"a line of {record.name} could not be logged: {type(error).__name__}\n")


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, where: str) -> None:
    if error is None or issubclass(kind, KeyboardInterrupt):
        return
    get_logger(__name__).critical("crashed", thread=where, exc_info=(kind, error, trace))


def _catch_the_uncaught() -> None:
    """Have what nobody caught go through the log: Python itself would print it unmasked, and not as JSON."""
    sys.excepthook = lambda kind, error, trace: _uncaught(kind, error, trace, "main")
    if threading.excepthook is not threading.__excepthook__:
        return  # done already, or a test runner watches over this process
    threading.excepthook = lambda seen: _uncaught(
        seen.exc_type, seen.exc_value, seen.exc_traceback, seen.thread.name if seen.thread else ""
    )
    sys.unraisablehook = lambda seen: _uncaught(
        seen.exc_type, seen.exc_value, seen.exc_traceback, threading.current_thread().name
    )
    logging.captureWarnings(capture=True)


def configure(level: str = "info", *, log_format: str = "auto", stream: TextIO | None = None) -> None:
    """Set up logging for the process; calling it again replaces the earlier set-up.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``text``, ``json``, or ``auto``: text on a terminal, JSON elsewhere.
        stream: where lines go; standard error by default.
    """
    stream = stream or sys.stderr
    text = log_format == "text" or (log_format == "auto" and stream.isatty())
    journal = bool(os.environ.get("JOURNAL_STREAM"))
    shared: list[Any] = [structlog.stdlib.add_log_level]
    if text:
        if not journal:
            shared.append(_local_time)
        # The default for tracebacks would show the values of local variables.
        renderer: Any = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), pad_event_to=30, exception_formatter=structlog.dev.plain_traceback
        )
        tail: list[Any] = [structlog.processors.format_exc_info, _clean, _escape]
    else:
        if not journal:
            shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
        renderer = structlog.processors.JSONRenderer(ensure_ascii=True, default=repr)
        tail = [structlog.processors.format_exc_info, _clean, _facts_first]
    if journal:
        renderer = _JournalPrefix(renderer)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # The libraries' own chatter says nothing an operator can act on.
    for name in ("urllib3", "watchdog", "PIL", "alembic", "multipart", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # watchdog 7.1.0 prints the list of all watches with each warning: megabytes in a journal.
    warnings.filterwarnings("ignore", module="watchdog")
    _catch_the_uncaught()


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for one module: event names are dotted facts, everything else is a field."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
