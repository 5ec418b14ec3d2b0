"""Entry point of the command ``image-sync``: its failures are told in words and become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from image_sync import __version__
from image_sync.errors import EXIT_DONE, ImageSyncError, UsageError


def run() -> None:
    """Run the command that ``sys.argv`` holds."""
    _open_streams()
    if sys.argv[1:] == ["--version"]:  # scripts ask it often: no import is needed to answer
        print(f"image-sync {__version__}")
        return
    from image_sync.cli.app import app

    as_json = "--json" in sys.argv[1:]
    try:
        if as_json:
            sys.exit(_answer_in_json(app))
        app()
    except ImageSyncError as error:
        tell(error)
        if as_json:
            _tell_in_json(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        sys.exit(1)
    finally:
        _let_go()


def _let_go() -> None:
    """Print what is left; if the terminal or the reader is gone, nowhere: else Python would end with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1 if stream is sys.stdout else 2)


def _open_streams() -> None:
    """Let standard streams that were closed (``2>&-``) lead nowhere: else the next file that is opened becomes one."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
            setattr(sys, name, stream)


def _answer_in_json(app: Callable[..., object]) -> int:
    """Run a command whose mistakes in calling it, too, are told in JSON. Returns its exit code."""
    from typer.exceptions import TyperException

    try:
        code = app(standalone_mode=False)
    except TyperException as error:
        told = getattr(error, "format_message", error.__str__)()
        raise UsageError(told, hint="image-sync --help lists the commands and options.") from None
    return code if isinstance(code, int) else EXIT_DONE


def _tell_in_json(error: ImageSyncError) -> None:
    """The same on standard output, for the program that asked."""
    import json

    from image_sync.log import masked

    told = {"what": masked(error.what), "hint": masked(error.hint) or None, "exit_code": error.exit_code}
    print(json.dumps({"error": told}, indent=2))


def tell(error: ImageSyncError) -> None:
    """Print what happened and what to do next, without secrets."""
    from image_sync.log import masked, show_text

    first, *more = (show_text(line) for line in masked(error.what).split("\n"))
    print("\n".join([f"image-sync: {first}", *more]), file=sys.stderr)
    if error.hint:
        print(f"  {show_text(masked(error.hint))}", file=sys.stderr)
