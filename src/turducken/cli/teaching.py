"""Help that teaches: examples, printed as they are written, below a command's options."""

from typing import Any

from typer.core import TyperCommand, TyperGroup


class TeachingGroup(TyperGroup):
    """A group of commands whose ``examples`` follow its help."""

    examples = ""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, then the examples."""
        super().format_help(ctx, formatter)
        print(self.examples)


class TeachingCommand(TyperCommand):
    """A command whose ``examples`` follow its help."""

    examples = ""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, then the examples."""
        super().format_help(ctx, formatter)
        print(self.examples)


def command_with(examples: str) -> type[TeachingCommand]:
    """Return a class of commands with these examples, for Typer's ``cls``."""
    return type("TeachingCommand", (TeachingCommand,), {"examples": examples})


def group_with(examples: str) -> type[TeachingGroup]:
    """Return a class of groups with these examples, for Typer's ``cls``."""
    return type("TeachingGroup", (TeachingGroup,), {"examples": examples})
