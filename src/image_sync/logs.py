"""Logging, configured once: structlog to stderr, JSON when stderr is no terminal, secrets masked everywhere.

Knows nothing of image-sync's other parts, so that the embedded server can use it too.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

MASK = "********"
_SHORTEST_SECRET = 4  # masking "a" would garble every line
_JOURNAL_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

_secrets: set[str] = set()
_secrets_lock = threading.Lock()


def hide(*secrets: str) -> None:
    """Mask these strings wherever they would appear in a log line from now on."""
    with _secrets_lock:
        _secrets.update(secret for secret in secrets if len(secret) >= _SHORTEST_SECRET)


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
    return value


def _mask_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        event[key] = _mask(value)
    return event


def _show_paths(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # A path may hold any byte: show it escaped, so that a name can neither break a line nor drive a terminal.
    for key, value in event.items():
        if isinstance(value, bytes):
            event[key] = show_path(value)
    return event


def show_path(path: bytes | str) -> str:
    r"""A path as a person may read it: undecodable bytes and control characters escaped, never raw.

    >>> show_path(b"parts/caf\xe9.jpg")
    'parts/caf\\xe9.jpg'
    """
    raw = os.fsencode(path) if isinstance(path, str) else path
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


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
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _show_paths,
    ]
    if text:
        if not journal:
            shared.append(structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False))
        renderer: Any = structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=30)
        tail: list[Any] = [structlog.processors.format_exc_info, _mask_event]
    else:
        if not journal:
            shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
        renderer = structlog.processors.JSONRenderer(ensure_ascii=True, default=repr)
        tail = [structlog.processors.format_exc_info, _mask_event, _facts_first]
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
    handler = logging.StreamHandler(stream)
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


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for one module: event names are dotted facts, everything else is a field."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
