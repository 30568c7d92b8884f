"""The options that say when a run ends, and what counts as success."""

import re
from dataclasses import dataclass
from typing import Annotated

import typer

from turducken.cli.errors import InputError
from turducken.system import Stops

_STOP = "When to stop"

Until = Annotated[
    str | None,
    typer.Option(metavar="REGEX", rich_help_panel=_STOP, help="A line of the console: status 0."),
]
UntilCount = Annotated[
    int,
    typer.Option(
        metavar="N", rich_help_panel=_STOP, help="So many lines must match --until, not one."
    ),
]
UntilAll = Annotated[
    bool,
    typer.Option(
        "--until-all",
        rich_help_panel=_STOP,
        help="A line of each processor must match --until: as many different lines as there are "
        "processors.",
    ),
]
FailOn = Annotated[
    str | None,
    typer.Option(metavar="REGEX", rich_help_panel=_STOP, help="A line of the console: status 1."),
]
MaxInstructions = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=_STOP,
        help="Stop after exactly so many, of all processors together: status 3.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        rich_help_panel=_STOP,
        help="Stop after so many seconds of this host's time: status 3.",
    ),
]
SuccessCode = Annotated[
    str,
    typer.Option(
        metavar="N",
        rich_help_panel=_STOP,
        help="The debug-exit value by which the image says success, where it is not 0 (16 or 0x10 "
        "with many test suites; QEMU's own status is twice that and 1).",
    ),
]


@dataclass(frozen=True, slots=True)
class StopChoices:
    """The options as the user wrote them."""

    until: str | None = None
    fail_on: str | None = None
    max_instructions: int | None = None
    until_count: int = 1
    until_all: bool = False
    success_code: str = "0"

    def resolve(self) -> Stops:
        """Return what is to end a run; InputError where there is a mistake in it."""
        if self.max_instructions is not None and self.max_instructions < 1:
            raise InputError(f"--max-instructions {self.max_instructions}: at least one is needed")
        if self.until_count < 1:
            raise InputError(f"--until-count {self.until_count}: at least one is needed")
        if self.until is None and (self.until_all or self.until_count != 1):
            name = "--until-all" if self.until_all else "--until-count"
            raise InputError(f"{name}: give --until, too")
        if self.until_all and self.until_count != 1:
            raise InputError("--until-all and --until-count: one of them")
        return Stops(
            pattern("--until", self.until),
            pattern("--fail-on", self.fail_on),
            self.max_instructions,
            self.until_count,
            self.until_all,
            _number("--success-code", self.success_code),
        )


def _number(option: str, text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise InputError(f"{option} {text!r}: not a number") from None
    if not 0 <= value < 1 << 32:
        raise InputError(f"{option} {text}: a value of 32 bits is needed")
    return value


def pattern(option: str, text: str | None) -> re.Pattern[str] | None:
    """Return what an option's regular expression is, InputError where it is none."""
    if text is None:
        return None
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{option} {text!r}: not a regular expression: {error}") from None
