"""``turducken run``: run an image, show what it does, and say how it ended."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Annotated

import typer

from turducken.cli import (
    choices,
    debugging,
    linux_options,
    pc_options,
    reporting,
    stopping,
    tracing,
)
from turducken.cli.ending import check_timeout, ended_from_outside
from turducken.cli.errors import InputError
from turducken.cli.output import STDOUT, output_file
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.system import DEFAULT_IMAGE, DEFAULT_MODE, Result, Stops, System

if TYPE_CHECKING:
    from turducken.cli.findings import Findings

EXAMPLES = """\
 Examples

   turducken run                                    lhv-amd64, with all its tests
   turducken run lhv-i386-pae --cpus 2 --tlb random --seed 7
   turducken run lhv-amd64 --cmdline "tests=ept" --json result.json
   turducken run my-hypervisor.elf --mode bare --cpus 2 --sanitize=strict
   turducken run vmlinuz --memory 512M --initrd busybox --share . --run 'ls -l /share'
   turducken run xen-4.17-amd64.gz --module any-file --memory 1G \\
       --cmdline "com1=115200 console=com1" --until "VMX enabled" --fail-on "Panic on CPU"
   turducken run --firmware seabios --disk c.img --disk d.img:ro
   turducken run app.efi --cmdline "words for it"   a UEFI application, started by OVMF
"""

STATUSES = exit_statuses(
    {
        0: "the guest said success (debug-exit 0), or --until matched",
        1: "the guest failed (another debug-exit value, --fail-on, triple fault, halted for good,\n"
        "        stuck), or with --sanitize=strict an invalidation is missing",
        2: "bad usage, or an image, profile or other file that cannot be used",
        3: "--max-instructions or --timeout was reached",
        130: "interrupted (SIGINT; 143: SIGTERM, 129: SIGHUP): summary and files are written",
    }
)

ConsoleOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|-", rich_help_panel=choices.SHOW, help="Write the guest's console there."
    ),
]
JsonOption = Annotated[
    str | None,
    typer.Option(metavar="FILE|-", rich_help_panel=choices.SHOW, help="Write the result there."),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", rich_help_panel=choices.SHOW, help="Neither console nor summary."
    ),
]
SnapshotOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=choices.SHOW,
        help="Write the memory at the end of the run there, for turducken pt.",
    ),
]


ReportOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.html",
        rich_help_panel=choices.SHOW,
        help="Write a page about the run there: diagnoses, timeline, exits, tables, console.",
    ),
]


app = typer.Typer(add_completion=False)


@app.command("run", cls=command_with(EXAMPLES + STATUSES, {"--sanitize": "report"}))
def run(
    context: typer.Context,
    image: choices.Image = DEFAULT_IMAGE,
    mode: choices.ModeOption = DEFAULT_MODE,
    cpus: choices.Cpus = 1,
    memory: choices.Memory = "256M",
    cmdline: choices.Cmdline = "",
    module: choices.Modules = [],  # noqa: B006 - Typer copies it
    profile: choices.ProfileOption = "default",
    tlb: choices.Tlb = "keep",
    shadow: choices.Shadow = "cached",
    seed: choices.Seed = 0,
    apps: choices.Apps = [],  # noqa: B006 - Typer copies it
    until: stopping.Until = None,
    fail_on: stopping.FailOn = None,
    max_instructions: stopping.MaxInstructions = None,
    timeout: stopping.Timeout = None,
    until_count: stopping.UntilCount = 1,
    until_all: stopping.UntilAll = False,
    success_code: stopping.SuccessCode = "0",
    console: ConsoleOption = None,
    json: JsonOption = None,
    quiet: Quiet = False,
    watch: choices.Watch = [],  # noqa: B006 - Typer copies it
    snapshot: SnapshotOption = None,
    sanitize: choices.Sanitize = None,
    explain: choices.ExplainOption = choices.Explain.FATAL,
    vmcs: choices.VmcsOption = False,
    report: ReportOption = None,
    trace: tracing.TraceFile = None,
    trace_kind: tracing.Kinds = [],  # noqa: B006 - Typer copies it
    trace_cpu: tracing.Cpus = [],  # noqa: B006 - Typer copies it
    trace_range: tracing.Ranges = [],  # noqa: B006 - Typer copies it
    last: tracing.Last = None,
    symbols: choices.SymbolFiles = [],  # noqa: B006 - Typer copies it
    initrd: linux_options.Initrds = [],  # noqa: B006 - Typer copies it
    share: linux_options.Share = None,
    run_command: linux_options.Command = None,
    insmod: linux_options.KernelModules = [],  # noqa: B006 - Typer copies it
    firmware: pc_options.FirmwareOption = None,
    disk: pc_options.Disks = [],  # noqa: B006 - Typer copies it
    cdrom: pc_options.Cdroms = [],  # noqa: B006 - Typer copies it
    firmware_log: pc_options.FirmwareLog = None,
    serial: pc_options.SerialPorts = [],  # noqa: B006 - Typer copies it
    gdb: debugging.Gdb = None,
    gdb_no_wait: debugging.NoWait = False,
    gdb_arch: debugging.Arch = debugging.Architecture.AUTO,
) -> int:
    """Run an image on the machine."""
    chosen = choices.SystemChoices(
        image,
        mode,
        cpus,
        memory,
        cmdline,
        tuple(module),
        profile,
        tlb,
        shadow,
        seed,
        tuple(watch),
        tuple(apps),
        tuple(symbols),
    )
    stops = stopping.StopChoices(
        until, fail_on, max_instructions, until_count, until_all, success_code
    ).resolve()
    is_shown = not quiet and STDOUT not in (console, json)
    if console == json == STDOUT:
        raise InputError("--console - and --json -: standard output can take only one of them")
    check_timeout(timeout)
    traced = tracing.TraceChoices(trace, trace_kind, trace_cpu, trace_range, last)
    options = pc_options.PcChoices(image, firmware, disk, cdrom).apply(chosen.resolve())
    options = linux_options.LinuxChoices(initrd, share, run_command, insmod).apply(options)
    options = replace(options, diagnose=explain is not choices.Explain.NONE)
    if sanitize is not None:
        choices.check_sanitize(sanitize)
        options = replace(options, observed=True)
    with ExitStack() as files:
        console_file = files.enter_context(output_file("--console", console))
        json_file = files.enter_context(output_file("--json", json))
        snapshot_file = files.enter_context(output_file("--snapshot", snapshot))
        trace_file = files.enter_context(output_file("--trace", trace))
        report_file = files.enter_context(output_file("--report", report))
        options = pc_options.with_outputs(options, files, firmware_log, serial)
        system = System(options)
        tracer = traced.begin(system, trace_file) if traced.is_wanted else None
        page = None if report_file is None else reporting.Report(system, context.obj or ())
        findings = None if sanitize is None else _sanitized(system)
        if console_file is not None:
            system.console.on_byte = pc_options.byte_writer(console_file)
        with (
            ended_from_outside(system, timeout),
            debugging.debugged(
                system,
                gdb,
                waits=not gdb_no_wait,
                architecture=gdb_arch,
                tell=_tell_stderr,
            ),
        ):
            result = _run(system, stops, findings, explain if is_shown else None)
        if tracer is not None:
            tracer.finish()
        if json_file is not None:
            json_file.write(_record(system, result, findings, whole_vmcs=vmcs))
        if page is not None and report_file is not None:
            report_file.write(page.render(result, findings))
        if snapshot_file is not None:
            _save(system, snapshot_file)
        if is_shown:
            _tell(system, result, findings, explain, whole_vmcs=vmcs)
        if tracer is not None and result.exit_status:
            _tell_last(tracer)
        is_wrong = findings is not None and sanitize == "strict" and findings.has_failed
        return result.exit_status or int(is_wrong)


def _tell_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sanitized(system: System) -> "Findings":
    from turducken.cli.findings import Findings

    return Findings(system)


def _run(
    system: System,
    stops: Stops,
    findings: "Findings | None",
    explain: choices.Explain | None,
) -> Result:
    """Run with the console on standard output, and a live view where that is a terminal.

    ``explain`` is None where nothing is to be shown.
    """
    if explain is None:
        return system.run(stops)
    from turducken.report.diagnoses import MOST_AT_ONCE, Announcer
    from turducken.report.live import LiveView
    from turducken.report.plain import PlainView
    from turducken.report.printing import make_terminal

    terminal = make_terminal()
    view = LiveView(terminal, system) if terminal.is_terminal else PlainView(system)
    with view:
        if findings is not None:
            findings.show = view.tell
        if system.diagnoses is not None:
            most = None if explain is choices.Explain.ALL else MOST_AT_ONCE
            system.diagnoses.on_new.append(Announcer(system, view.tell, most))
        return system.run(stops, view.turn)


def _save(system: System, file: IO[bytes]) -> None:
    from turducken.system.snapshot import save_snapshot

    save_snapshot(system, file)


def _tell_last(tracer: tracing.Trace) -> None:
    """Print what `--last` kept, of a run that failed."""
    lines = tracer.lines
    if lines:
        print(f"the last {len(lines)} events:", *lines, sep="\n  ", file=sys.stderr)


def _record(
    system: System, result: Result, findings: "Findings | None", *, whole_vmcs: bool
) -> bytes:
    """Return what `--json` writes."""
    from turducken.report.as_json import dump, result_as_dict

    told = result_as_dict(system, result, whole_vmcs=whole_vmcs)
    told["findings"] = None if findings is None else findings.as_list()
    return dump(told).encode()


def _tell(
    system: System,
    result: Result,
    findings: "Findings | None",
    explain: choices.Explain,
    *,
    whole_vmcs: bool,
) -> None:
    """Print the summary."""
    from turducken.report.printing import make_terminal, print_plainly
    from turducken.report.summary import summary

    terminal = make_terminal()
    print_plainly(summary(system, result, explain=explain.value, whole_vmcs=whole_vmcs), terminal)
    if findings is not None:
        terminal.print(findings.summary, highlight=False)
