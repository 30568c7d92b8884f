"""Help that teaches: examples, printed as they are written, below a command's options."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class TeachingCommand(TyperCommand):
    """A command whose ``examples`` follow its help.

    ``implied`` are the values of options that may stand without one.
    """

    examples = ""
    implied: Mapping[str, str] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give options that stand without a value theirs; keep what was written for reports."""
        ctx.obj = list(args)
        told = [f"{one}={self.implied[one]}" if one in self.implied else one for one in args]
        return super().parse_args(ctx, told)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, then the examples."""
        super().format_help(ctx, formatter)
        print(self.examples)


class TeachingGroup(TyperGroup):
    """A group whose ``examples`` follow its help.

    ``later`` are commands, by name in the help's order, of modules that are imported when the
    command is used: each module has a Typer ``app``, which is the command or has it.
    """

    examples = ""
    later: Mapping[str, str]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, then the examples."""
        super().format_help(ctx, formatter)
        print(self.examples)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return [*(one for one in super().list_commands(ctx) if one not in self.later), *self.later]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, importing its module first where it has not been needed before."""
        if cmd_name in self.later and cmd_name not in self.commands:
            found = typer.main.get_command(import_module(self.later[cmd_name]).app)
            members = getattr(found, "commands", {})
            command = members.get(cmd_name, found)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return super().get_command(ctx, cmd_name)


def command_with(examples: str, implied: Mapping[str, str] | None = None) -> type[TeachingCommand]:
    """Return a class of commands with these examples and values, for Typer's ``cls``."""
    members = {"examples": examples, "implied": implied or {}}
    return type("TeachingCommand", (TeachingCommand,), members)


def group_with(examples: str, later: Mapping[str, str]) -> type[TeachingGroup]:
    """Return a class of groups with these examples and commands, for Typer's ``cls``."""
    return type("TeachingGroup", (TeachingGroup,), {"examples": examples, "later": later})
