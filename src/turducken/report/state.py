"""Where a run ended, for people and as JSON: registers, backtrace, VMCS, screen."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from turducken.diagnosis import Reading
from turducken.system import System
from turducken.system.state import ProcessorState, VmcsState, states_of
from turducken.vmx import vmcs_fields as f

_PER_LINE = 4
_SHORT = frozenset(
    {
        *(f.VM_INSTRUCTION_ERROR, f.EXIT_REASON, f.EXIT_QUALIFICATION, f.GUEST_PHYSICAL_ADDRESS),
        *(f.IDT_VECTORING_INFORMATION, f.EXIT_INTERRUPTION_INFORMATION),
        *(f.ENTRY_INTERRUPTION_INFORMATION, f.GUEST_RIP, f.GUEST_RSP, f.GUEST_RFLAGS),
        *(f.GUEST_CR0, f.GUEST_CR3, f.GUEST_CR4, f.EPTP),
    }
)
"""What of a VMCS is shown where not all of it is asked for."""
_KINDS = {
    f.FieldKind.EXIT_INFORMATION: "VM-exit information",
    f.FieldKind.CONTROL: "controls",
    f.FieldKind.HOST: "host state",
    f.FieldKind.GUEST: "guest state",
}


def state_text(system: System, *, whole_vmcs: bool) -> RenderableType:
    """Return where every processor stands, and what is on the VGA screen."""
    lines: list[Text] = []
    for one in states_of(system):
        lines += [Text(line) for line in _processor_lines(one, system, whole_vmcs=whole_vmcs)]
    screen = screen_of(system)
    if screen:
        lines.append(Text("VGA screen", style="bold"))
        lines += [Text(f"  {line}") for line in screen.splitlines()]
    return Group(*lines)


def screen_of(system: System) -> str:
    """Return the text on the VGA screen; nothing where nobody has written there."""
    return system.machine.chipset.vga.text()


def _processor_lines(one: ProcessorState, system: System, *, whole_vmcs: bool) -> Iterator[str]:
    describe = system.names.describe
    name = describe(one.backtrace[0])
    yield f"cpu{one.index}  {one.level}, {one.mode}, at {one.rip:#x}" + (
        f" ({name})" if name else ""
    )
    registers = [f"{name:<6} {value:016x}" for name, value in one.registers]
    for start in range(0, len(registers), _PER_LINE):
        yield "  " + "   ".join(registers[start : start + _PER_LINE])
    if len(one.backtrace) > 1:
        yield "  backtrace"
        for address in one.backtrace:
            name = describe(address)
            yield f"    {address:#x}" + (f" {name}" if name else "")
    if one.last_exception is not None:
        what, rip = one.last_exception
        name = describe(rip)
        yield f"  last exception: {what}, at {rip:#x}" + (f" ({name})" if name else "")
    if one.vmcs is not None:
        yield from vmcs_lines(one.vmcs, whole=whole_vmcs)


def vmcs_lines(vmcs: VmcsState, *, whole: bool) -> Iterator[str]:
    """Yield a VMCS's fields with names and meanings: all of them, or what is looked at first."""
    state = "launched" if vmcs.is_launched else "clear"
    more = "" if whole else " (--vmcs: all fields)"
    yield f"  {vmcs.name} at {vmcs.region:#x}, {state}{more}"
    if not whole:
        yield from (f"    {one.text}" for one in vmcs.only(_SHORT))
        return
    yield from field_lines(vmcs.fields, indent="    ")


def field_lines(fields: tuple[Reading, ...], *, indent: str) -> Iterator[str]:
    """Yield fields under the headings of their kinds."""
    kinds = {one.name: one.kind for one in f.FIELDS.values()}
    for kind, heading in _KINDS.items():
        some = [one for one in fields if kinds[one.name] is kind]
        if some:
            yield f"{indent}{heading}"
            yield from (f"{indent}  {one.text}" for one in some)


def state_as_dict(one: ProcessorState, system: System, *, whole_vmcs: bool) -> dict[str, Any]:
    """Return what `--json` has of a processor's state."""
    describe = system.names.describe
    return {
        "level": one.level,
        "mode": one.mode,
        "registers": dict(one.registers),
        "backtrace": [
            {"address": address, "symbol": describe(address)} for address in one.backtrace
        ],
        "last_exception": None
        if one.last_exception is None
        else {"event": one.last_exception[0], "rip": one.last_exception[1]},
        "vmcs": None if one.vmcs is None else vmcs_as_dict(one.vmcs, whole=whole_vmcs),
    }


def vmcs_as_dict(vmcs: VmcsState, *, whole: bool) -> dict[str, Any]:
    """Return a VMCS's fields for JSON."""
    fields = vmcs.fields if whole else vmcs.only(_SHORT)
    return {
        "name": vmcs.name,
        "region": vmcs.region,
        "launched": vmcs.is_launched,
        "fields": {one.name: {"value": one.value, "decoded": one.decoded} for one in fields},
    }
