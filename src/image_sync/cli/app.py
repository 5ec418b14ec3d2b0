"""The command ``image-sync``: which commands there are. Each is imported when it is called: none waits for all."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from image_sync.cli import options
from image_sync.errors import UsageError

COMMANDS: Mapping[str, str] = {
    "run": "Watch the folders, upload, train.",
    "demo": "Show the whole job: pictures are found, counted, uploaded, trained on; the model judges unseen ones.",
    "serve": "Run an MVI-compatible server that really trains, on this machine's processor.",
    "stop": "Stop the daemon that runs with this configuration, and wait until it has ended.",
    "reload": "Let the running daemon read its configuration again.",
    "check": "Prove that the configuration works: file, state, folders, server, login.",
    "status": "Show counts, thresholds, the training and the watched folders.",
    "list": "List the files that need a person, or all files in one state.",
    "show": "Show everything known of one picture: its state and why, when it was sent, its id at the platform.",
    "retry": "Send refused pictures again, and check quarantined ones again.",
    "repair": "Send pictures again that were uploaded and are no longer at the server.",
    "forget": "Take a picture, or what is left of a category, out of the dataset, at the server too.",
    "removals": "Show which pictures would be removed at the server because their files were deleted.",
    "train": "Start a training of everything that is uploaded, without waiting for the threshold.",
    "models": "List the trained models of the dataset, newest first.",
    "predict": "Classify pictures with a trained model.",
    "init": "Write a configuration.json by asking questions, or from options alone.",
    "schema": "Print the JSON Schema of configuration.json, which lets an editor complete and check it.",
    "annotations": "Check the boxes drawn in pictures, or convert them to another format.",
    "mobius": "What only a Mobius Vision SDK can do: ask single tags, ask about added pictures, load a state.",
    "ledger": "Look after the ledger: check it, or set a damaged one aside.",
}
"""Command to its first sentence. It lies in the module of its name: a function of that name, or a group ``app``."""
_LIE_WITH = {"reload": "stop", "repair": "retry"}
"""Commands that lie in another one's module."""


def _name_things(command: Any) -> None:
    """Have help say `IMAGE...` alone: recent releases of Typer add the type, `<list[Path]>`."""
    for param in command.params:
        if param.param_type_name == "argument":
            param.display_type_rich = lambda **_: ""
    for inner in getattr(command, "commands", {}).values():
        _name_things(inner)


class Commands(TyperGroup):
    """A group whose commands are imported by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # only read for "did you mean"

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click passes it
        """All of them, in the order of a first day's use."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - click passes it
        """The command, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"image_sync.cli.{_LIE_WITH.get(cmd_name, cmd_name)}")
        app = getattr(module, "app", None)
        if app is None:
            app = typer.Typer(add_completion=False)
            app.command(cmd_name)(getattr(module, cmd_name))
        app.rich_markup_mode = None  # the boxes around help would cost as much time as everything else in it
        command = typer.main.get_command(app)
        command.name = cmd_name
        _name_things(command)
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - click passes it
        """The list below ``--help``, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    name="image-sync",
    cls=Commands,
    help="Turns folders of labelled pictures into trained vision models. Without a command: run.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    config: options.Config = options.CONFIG,
    once: options.Once = False,
    log_level: options.LogLevel = "info",
    log_format: options.LogFormat = "auto",
    _version: Annotated[
        bool, typer.Option("--version", callback=options.print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turns folders of labelled pictures into trained vision models. Without a command: run."""
    from image_sync import log  # late: structlog alone takes as long as everything above

    log.configure("warning")
    context.default_map = _given(context)
    if context.invoked_subcommand is None:
        from image_sync.cli.run import run

        run(config=config, once=once, log_level=log_level, log_format=log_format)


def _given(context: typer.Context) -> dict[str, Any]:
    """The options that stand before the command, as defaults of the command and of its subcommands."""
    name = context.invoked_subcommand
    given = {key: value for key, value in context.params.items() if options.written(context, key)}
    if name is None or not given:
        return {}
    command = context.command.get_command(context, name)  # type: ignore[attr-defined]  # it is a group
    commands = {name: command, **getattr(command, "commands", {})}
    taken = {parameter.name for one in commands.values() for parameter in one.params}
    for parameter in context.command.params:
        if parameter.name in given and parameter.name not in taken:
            raise UsageError(f"the command {name} has no option {parameter.opts[0]}", hint=f"See: image-sync {name} -h")
    return {name: given | dict.fromkeys(commands, given)}
