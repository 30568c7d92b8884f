"""``turducken vmcs``: a VMCS in a snapshot, every field with name and meaning."""

from typing import Annotated

import typer

from turducken.address import PAGE_OFFSET_MASK, Hpa
from turducken.cli.errors import InputError
from turducken.cli.pt.printing import JsonOption, one_line_errors, print_result
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.inspect.numbers import parse_number
from turducken.inspect.opening import SOURCE_HELP, AnySource, open_source

EXAMPLES = """\
 Examples

   turducken run lhv-amd64 --snapshot end.core        writes memory, and where the VMCSs are
   turducken vmcs end.core                            VMCS12 of processor 0, as L1 left it
   turducken vmcs end.core cpu0.vmcs02                what the processor ran L2 with
   turducken vmcs end.core 0x4a0000 --all             at an address; fields of zeros too
"""
_NAMES = ("vmcs12", "vmcs", "vmcs01")
"""Of which the first that the source knows is shown, if none is asked for."""

app = typer.Typer(add_completion=False)


@app.command("vmcs", cls=command_with(EXAMPLES + exit_statuses()))
def vmcs(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|ADDRESS",
            help="A VMCS that the snapshot names (cpuN.vmcs, cpuN.vmcs01, vmcs02, vmcs12), or the "
            "physical address of one.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fields whose value is 0 too.")] = False,
    json: JsonOption = None,
) -> None:
    """Print a VMCS of turducken's format: every field with its name, value and meaning."""
    from rich.text import Text

    from turducken.report.state import field_lines, vmcs_as_dict
    from turducken.system.state import VmcsState
    from turducken.vmx import vmcs_fields as f
    from turducken.vmx.explain import read_field
    from turducken.vmx.vmcs import LAUNCH_LAUNCHED, Vmcs

    with one_line_errors(), open_source(source) as memory:
        name, region = _find(memory, which)
        found = Vmcs(memory, Hpa(region))
        if memory.load(region, 8) is None:
            raise InputError(f"{source}: no memory at {region:#x}")
        fields = tuple(read_field(found, one) for one in f.FIELDS.values())
        launched = found.slots[f.LAUNCH_SLOT] & 0xFFFF_FFFF == LAUNCH_LAUNCHED
        shown = fields if everything else tuple(one for one in fields if one.value)
        state = VmcsState(name, region, launched, shown)
        word = "launched" if launched else "clear"
        head = f"{name} at {region:#x}: revision {found.revision:#x}, {word}"
        head += ", marked as a shadow VMCS" if found.is_shadow else ""
        lines = [head, *field_lines(shown, indent="")]
        record = {"revision": found.revision, **vmcs_as_dict(state, whole=True)}
        print_result(record, tuple(Text(line) for line in lines), json)


def _find(source: AnySource, which: str | None) -> tuple[str, int]:
    """Return name and address of what is asked for."""
    known = sorted(name for name in source.roots if ".vmcs" in name)
    if which is None:
        wanted = [name for end in _NAMES for name in known if name.endswith(f".{end}")]
        if not wanted:
            raise InputError(f"{source.name}: it names no VMCS; give the physical address of one")
        return wanted[0], source.roots[wanted[0]]
    if which in source.roots:
        return which, source.roots[which]
    if not which[:1].isdigit():
        there = f"; it has {', '.join(known)}" if known else ""
        raise InputError(f"{source.name}: it names no {which}{there}")
    region = parse_number(which, "ADDRESS")
    if region & PAGE_OFFSET_MASK:
        raise InputError(f"{which}: a VMCS begins at a multiple of 4 KiB")
    return which, region
