"""What all commands of ``turducken pt`` share: the source, how it is read, how they print."""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from turducken.cli.pt.printing import JsonOption, one_line_errors, print_result
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.inspect import records
from turducken.inspect.chain import ChainOptions, Stage
from turducken.inspect.errors import InspectError
from turducken.inspect.opening import SOURCE_HELP, AnySource, Reading, open_source

Via = Annotated[
    str,
    typer.Option(
        "--via",
        metavar="NAME[:FORMAT][=VALUE],...",
        help="The translations, inner to outer: cr3=0x1000,ept12=0x201e,ept01=0x301e. "
        "Names that a snapshot knows need no value.",
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Show at most this many rows.")]
Regions = list[str] | None
Ram = Annotated[
    Regions,
    typer.Option("--ram", metavar="FIRST-END", help="Where there is RAM (default: the source)."),
]
Hypervisor = Annotated[
    Regions,
    typer.Option("--hypervisor", metavar="FIRST-END", help="Memory that nobody may reach."),
]
Ept01 = Annotated[str, typer.Option("--ept01", help="EPTP of EPT01, or the source's name of it.")]
Ept12 = Annotated[str, typer.Option("--ept12", help="EPTP of EPT12, which is in L1's memory.")]
Ept02 = Annotated[str, typer.Option("--ept02", help="EPTP of EPT02, the shadow.")]
Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write.")]


@dataclass(frozen=True, slots=True)
class Session:
    """An open source, and how a command was asked to read it and to print."""

    source: AnySource
    reading: Reading
    json_to: str | None

    @property
    def options(self) -> ChainOptions:
        """How chains are read where their text does not say."""
        return self.reading.options(self.source)

    def stages(self, via: str, option: str = "--via") -> list[Stage]:
        """Return the stages of a chain that must not be empty."""
        stages = self.reading.chain(via, self.source)
        if not stages:
            known = ", ".join(sorted(self.source.roots))
            there = f" (the source knows {known})" if known else ""
            raise InspectError(f"{option} is missing: which table?{there}")
        return stages

    def shadow(self, values: Sequence[str]) -> list[Stage]:
        """Return EPT01, EPT12 and EPT02, given as values or by a source's names."""
        if not all(values):
            raise InspectError("a shadow takes --ept01, --ept12 and --ept02, all three")
        stages = []
        for name, value in zip(("ept01", "ept12", "ept02"), values, strict=True):
            text = f"{name}={value}" if value[0].isdigit() else f"{value}:ept"
            (stage,) = self.reading.chain(text, self.source)
            stages.append(replace(stage, name=name))
        return stages

    def show(self, record: records.Record, *views: RenderableType) -> None:
        """Print a result, and warnings about the source."""
        print_result(record, views, self.json_to)
        for warning in self.source.warnings:
            print(f"warning: {warning}", file=sys.stderr)


def _reads_source(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    base: Annotated[str, typer.Option("--base", help="A raw dump's first address.")] = "0",
    paging: Annotated[
        str | None,
        typer.Option(
            "--paging",
            help="How cr3 is read: 4-level, 5-level, pae, 32-bit (default: as the source says, "
            "or 4-level).",
        ),
    ] = None,
    maxphyaddr: Annotated[
        int | None,
        typer.Option("--maxphyaddr", help="Physical-address bits (default: snapshot's, or 52)."),
    ] = None,
    pat: Annotated[str | None, typer.Option("--pat", help="IA32_PAT, if not as at reset.")] = None,
    no_execute_only: Annotated[
        bool, typer.Option("--no-execute-only", help="The processor has no execute-only pages.")
    ] = False,
    no_1gib: Annotated[
        bool, typer.Option("--no-1gib", help="The processor has no pages of 1 GiB.")
    ] = False,
    no_2mib: Annotated[
        bool, typer.Option("--no-2mib", help="The processor's EPT has no pages of 2 MiB.")
    ] = False,
    mode_based_execute: Annotated[
        bool,
        typer.Option(
            "--mode-based-execute",
            help="Mode-based execute control is on: bit 10 of an EPT entry is execute for user "
            "addresses.",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Let a gdb remote run on afterwards.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Hold the parameters that every command with a source has; see `command`."""


_Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def command(app: typer.Typer, name: str, when_1: str = "") -> _Decorator:
    """Register a command of ``app``: it gets a `Session` for its source, and the shared options.

    ``when_1`` says what exit status 1 means, for its help.
    """
    shared = inspect.signature(_reads_source).parameters
    first, options = shared["source"], [one for key, one in shared.items() if key != "source"]

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]
        required = [one for one in own if one.default is one.empty]
        optional = [one for one in own if one.default is not one.empty]
        parameters = [first, *required, *optional, *options]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            mine = {one.name: values[one.name] for one in own}
            reading = Reading(
                paging=values["paging"],
                maxphyaddr=values["maxphyaddr"],
                pat=values["pat"],
                no_execute_only=values["no_execute_only"],
                no_1gib=values["no_1gib"],
                no_2mib=values["no_2mib"],
                mode_based_execute=values["mode_based_execute"],
            )
            with (
                one_line_errors(),
                open_source(
                    values["source"], base=values["base"], resume=values["resume"]
                ) as source,
            ):
                function(Session(source, reading, values["json"]), **mine)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        statuses = exit_statuses({1: when_1} if when_1 else None)
        return app.command(name, cls=command_with(statuses))(run)

    return register
