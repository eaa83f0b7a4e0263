"""The table of commands: a command's module is imported only when it is the one that runs, or when help lists all."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from uncrate import __version__
from uncrate.cli.values import coerce_plainly
from uncrate.errors import UsageError, escape

# Each module has one function `command`; its docstring is the help.
COMMANDS = {
    "demo": "uncrate.cli.demo",
    "inspect": "uncrate.cli.inspect",
    "plan": "uncrate.cli.plan",
    "trust": "uncrate.cli.trust",
    "verify": "uncrate.cli.verify",
    "revoke": "uncrate.cli.revoke",
    "probe": "uncrate.cli.probe",
    "chat": "uncrate.cli.chat",
    "train": "uncrate.cli.train",
    "eval": "uncrate.cli.eval",
    "data": "uncrate.cli.data",
    "merge": "uncrate.cli.merge",
    "export": "uncrate.cli.export",
    "doctor": "uncrate.cli.doctor",
}


class PlainCommand(TyperCommand):
    """A command whose plain parameters are coerced here, not by pydantic."""

    def get_params(self, ctx: Any) -> Any:
        return coerce_plainly(super().get_params(ctx))


class LazyCommands(TyperGroup):
    """A group that finds its commands in `COMMANDS`."""

    def get_params(self, ctx: Any) -> Any:
        return coerce_plainly(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            near = get_close_matches(cmd_name, COMMANDS, n=1)
            meant = f"uncrate {near[0]} --help" if near else "uncrate --help"
            raise UsageError(f"there is no command {escape(repr(cmd_name))}", why=_did_you_mean(near), next=meant)
        app = _typer()
        app.command(cmd_name, cls=PlainCommand)(import_module(COMMANDS[cmd_name]).command)
        return typer.main.get_command(app)


def _did_you_mean(near: list[str]) -> str | None:
    return f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"


def _typer(**group: Any) -> typer.Typer:
    # Help without rich: it would take longer to import than the whole of `uncrate inspect`.
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, **group)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"uncrate {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Open Hugging Face-format checkpoints: everything is seen and decided before anything runs.

    WHERE is a folder (./x, /x), a hub id (owner/name, owner/name@revision), or nano, the bundled checkpoint.
    """


def root_command() -> Any:
    """Return the command `uncrate` with all its commands under it."""
    app = _typer(cls=LazyCommands, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(_root)
    return typer.main.get_command(app)
