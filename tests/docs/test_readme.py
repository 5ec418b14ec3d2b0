"""README's tables say what the code does. Run as a program, this file writes them anew: ``make format``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from image_sync import errors
from image_sync.cli.app import COMMANDS, app
from image_sync.config import settings_table
from image_sync_server.mvi.kinds import KINDS

FILE = Path(__file__).parents[2] / "README.md"
README = FILE.read_text(encoding="utf-8")
MEANINGS = {
    "EXIT_DONE": "done",
    "EXIT_SOME_FAILED": (
        "some pictures failed (`run --once`), a prediction is below `--min-confidence`, or what was asked for could "
        "not be done"
    ),
    "EXIT_USAGE": "the command was called wrongly",
    "EXIT_UNREACHABLE": "the platform cannot be reached",
    "EXIT_LEDGER": "the ledger cannot be read or written",
    "EXIT_TRY_LATER": "another daemon works on this state folder",
    "EXIT_UNAUTHORISED": "the platform does not accept the user, password or key",
    "EXIT_CONFIG": "the configuration is wrong",
}


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert found is not None, f"README lacks the markers <!-- {name} --> and <!-- /{name} -->"
    return found.group(1).strip()


def every_command(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"{before}{name}", command
            yield from every_command(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def commands_table() -> str:
    """The table of commands: the first sentence of each command's help, and its own options."""
    lines = ["| command | what it does | options |", "| --- | --- | --- |"]
    for name, command in every_command(typer.main.get_command(app)):
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        names = [one.opts[0] for one in command.params if one.param_type_name == "option" and not one.hidden]
        shown = " ".join([name, *(one.metavar or one.name.upper() for one in arguments)])
        help_text = " ".join((command.help or "").split())
        options = ", ".join(f"`{option}`" for option in names if option not in {"--config", "--help"})
        lines.append(f"| `{shown}` | {help_text} | {options} |")
    return "\n".join(lines)


def exit_codes_table() -> str:
    lines = ["| code | meaning |", "| --- | --- |"]
    codes = sorted((getattr(errors, name), name) for name in dir(errors) if name.startswith("EXIT_"))
    lines += [f"| {code} | {MEANINGS[name]} |" for code, name in codes]
    return "\n".join(lines)


def faults_table() -> str:
    lines = ["| kind | what happens | where | SECONDS |", "| --- | --- | --- | --- |"]
    for name, kind in KINDS.items():
        seconds = "" if kind.seconds is None else f"{kind.seconds:g}"
        lines.append(f"| `{name}` | {kind.text} | {kind.where} | {seconds} |")
    return "\n".join(lines)


TABLES = {
    "settings": settings_table,
    "commands": commands_table,
    "exit codes": exit_codes_table,
    "faults": faults_table,
}


def test_the_list_of_commands_says_what_they_say() -> None:
    """The list below `image-sync --help` is the first sentence of each command's own help."""
    group = typer.main.get_command(app)
    helps = {name: group.get_command(None, name).help for name in COMMANDS}  # type: ignore[attr-defined]

    assert {name: f"{' '.join(text.split()).partition('. ')[0].rstrip('.')}." for name, text in helps.items()} == dict(
        COMMANDS
    )


def test_the_fault_switches_are_documented() -> None:
    """Every kind of fault that the embedded server can rehearse stands in README."""
    assert block("faults") == faults_table()


def test_the_commands_are_documented() -> None:
    """Every command stands in README with its help text and options."""
    assert block("commands") == commands_table()


def test_the_exit_codes_are_documented() -> None:
    """Every exit code of the code stands in README."""
    assert block("exit codes") == exit_codes_table()


@pytest.mark.parametrize("name", ["run", "status", "check", "show", "retry", "train", "models", "predict", "serve"])
def test_every_command_explains_itself(name: str) -> None:
    """`--help` works without a configuration."""
    done = CliRunner().invoke(app, [name, "--help"])

    assert done.exit_code == 0
    assert "--help" in done.output


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_names_things_instead_of_types(name: str) -> None:
    """`--endpoint URL`, not `--endpoint TEXT`."""
    group = typer.main.get_command(app)
    calls = [words.split() for words, _ in every_command(group) if words.split()[0] == name]
    shown = "".join(CliRunner().invoke(app, [*call, "--help"]).output for call in calls)

    assert shown
    assert not re.findall(r"<(?:str|path|int|float|list\[.*)>|\b(?:TEXT|PATH|INTEGER|FLOAT)\b", shown)


def test_commands_named_in_the_readme_exist() -> None:
    """Every `image-sync <command>` in README is a command."""
    group = typer.main.get_command(app)
    known = set(group.commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"`image-sync ([a-z]+)", README))
    named |= set(re.findall(r"^ *image-sync ([a-z]+)(?: -.*)?$", README, re.MULTILINE))

    assert named <= known
    assert {"run", "check", "status"} <= named


if __name__ == "__main__":
    for marker, table in TABLES.items():
        filled = f"<!-- {marker} -->\n{table()}\n<!-- /{marker} -->"
        README = README.replace(f"<!-- {marker} -->\n{block(marker)}\n<!-- /{marker} -->", filled)
    FILE.write_text(README, encoding="utf-8")
