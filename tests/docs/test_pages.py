"""README and the pages in docs/: their tables say what the code does, their links and commands lead somewhere.

Run as a program, this file fills the tables anew: ``make format``.
"""

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
from image_sync_server.mvi.fault_presets import KINDS, WHERE

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
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


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def block(name: str, text: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert found is not None, f"the page lacks the markers <!-- {name} --> and <!-- /{name} -->"
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
        lines.append(f"| `{name}` | {kind.text} | {WHERE[kind.fault.method, kind.fault.path]} | {seconds} |")
    return "\n".join(lines)


TABLES = {
    "settings": ("docs/settings.md", settings_table),
    "commands": ("docs/commands.md", commands_table),
    "exit codes": ("docs/commands.md", exit_codes_table),
    "faults": ("docs/stand-in-server.md", faults_table),
}


def test_the_list_of_commands_says_what_they_say() -> None:
    """The list below `image-sync --help` is the first sentence of each command's own help."""
    group = typer.main.get_command(app)
    helps = {name: group.get_command(None, name).help for name in COMMANDS}  # type: ignore[attr-defined]

    assert {name: f"{' '.join(text.split()).partition('. ')[0].rstrip('.')}." for name, text in helps.items()} == dict(
        COMMANDS
    )


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_say_what_the_code_says(name: str) -> None:
    """Every setting, command, exit code and kind of fault stands on its page, as the program describes it."""
    page, table = TABLES[name]

    assert block(name, (ROOT / page).read_text(encoding="utf-8")) == table()


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


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_named_on_the_pages_exist(page: Path) -> None:
    """Every `image-sync <command>` is a command, also in a block of commands; so is every `make <target>`."""
    group = typer.main.get_command(app)
    known = {words for words, _ in every_command(group)}
    known |= {words.partition(" ")[0] for words in known}
    alone = {words for words in known if not any(one.startswith(f"{words} ") for one in known)}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`(?:sudo )?image-sync ([a-z]+(?: [a-z-]+)?)", text)
    blocks = "".join(re.findall(r"^ *```(?:sh|console)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE))
    named += re.findall(r"^[ $]*(?:sudo )?image-sync ([a-z]+(?: [a-z-]+)?)", blocks, re.MULTILINE)
    made = set(re.findall(r"`(?:sudo )?make ([a-z-]+)", text)) | set(
        re.findall(r"^ *make ([a-z-]+)", blocks, re.MULTILINE)
    )

    assert [words for words in named if words not in known and words.partition(" ")[0] not in alone] == []
    assert made <= targets


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the generator make them."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link within the checkout leads to a file, and to a heading of it where it names one."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert page.parent == ROOT or target.is_relative_to(ROOT / "docs"), f"{link} is not in the site of `make docs`"
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    """Whoever follows the links from README comes to every page."""
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
            ahead += [(page.parent / link).resolve() for link in links]

    assert [_name(page) for page in PAGES if page not in seen] == []


@pytest.mark.parametrize(("name", "most"), [("README.md", 9_000), ("ARCHITECTURE.md", 5_000)])
def test_the_first_pages_stay_short(name: str, most: int) -> None:
    """README is a face, ARCHITECTURE.md a map; the rest has pages of its own."""
    assert len((ROOT / name).read_bytes()) <= most


TOPS = ("", "src/image_sync", "src/image_sync_server")


def test_the_map_names_what_is_there() -> None:
    """Each file and folder in ARCHITECTURE.md is in the source, and so is each class that it calls by its method."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    named = re.findall(r"`((?:[\w-]+/)+|[\w/]+\.py)`", text)

    assert len(named) > 12
    assert [name for name in named if not any((ROOT / top / name).exists() for top in TOPS)] == []
    assert [name for name in re.findall(r"`([A-Z]\w+)\.\w+`", text) if f"class {name}" not in source] == []


def test_readme_installs_the_service_as_its_page_does() -> None:
    """The lines in README are the first ones of docs/service.md, which a test carries out."""
    (lines,) = re.findall(r"```sh\n(sudo .*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)

    assert f"```sh\n{lines}" in (ROOT / "docs/service.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    for marker, (page, table) in TABLES.items():
        whole = (ROOT / page).read_text(encoding="utf-8")
        filled = f"<!-- {marker} -->\n{table()}\n<!-- /{marker} -->"
        whole = whole.replace(f"<!-- {marker} -->\n{block(marker, whole)}\n<!-- /{marker} -->", filled)
        (ROOT / page).write_text(whole, encoding="utf-8")
