"""JSON from a file that anybody may have written."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from image_sync.annotations.fault import AnnotationError, Fault

_MOST_BRACKETS = 1_000_000
_MOST_VALUES = 12_000_000
_SAVE_AGAIN = "Export it again, or restore it from a copy."


def document_of(data: bytes, path: bytes) -> Any:
    """What the JSON text says.

    Raises:
        AnnotationError: it is no JSON, is nested too deeply, holds NaN, or would take too much memory.
    """
    # Counting is cheap, and bounds what a hostile file of the permitted size can take when it is unpacked.
    if data.count(b"{") + data.count(b"[") > _MOST_BRACKETS or data.count(b",") > _MOST_VALUES:
        raise AnnotationError(path, [Fault("it holds too much to be read", "Split it: one file for each folder.")])
    try:
        return json.loads(data, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        end = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
        what = "it is cut short" if end else f"it is no JSON (line {error.lineno})"
        raise AnnotationError(path, [Fault(what, _SAVE_AGAIN)]) from None
    except UnicodeDecodeError:
        raise AnnotationError(path, [Fault("it is no text", _SAVE_AGAIN)]) from None
    except RecursionError:
        raise AnnotationError(path, [Fault("it is nested too deeply", "Is this the right file?")]) from None
    except ValueError as error:
        raise AnnotationError(path, [Fault(f"it is no JSON ({_short(error)})", _SAVE_AGAIN)]) from None


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _short(error: ValueError) -> str:
    return str(error).partition(":")[0].partition(";")[0]
