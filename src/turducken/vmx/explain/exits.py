"""VMX aborts, events that get lost, and MSRs that cannot be read or written."""

from collections.abc import Callable

from turducken.diagnosis import BrokenRule, Diagnosis, Kind, Reading
from turducken.memory import Memory
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Primary
from turducken.vmx.exit_information import IDT_VECTORING, INTERRUPTION_VALID, VmxAbort
from turducken.vmx.explain.entries import msr_entry_readings, msr_name
from turducken.vmx.explain.fields import describe_event, read_field
from turducken.vmx.msr_lists import ENTRY_SIZE, read_msr_area
from turducken.vmx.vmcs import Vmcs

_ABORTS = 'SDM 3C, "VMX Aborts"'
_MOST_ENTRIES = 4096

_ABORT_TEXTS: dict[int, tuple[str, str]] = {
    VmxAbort.SAVING_GUEST_MSRS: (
        "every MSR of the VM-exit MSR-store list must be one that can be stored",
        "MSRs that RDMSR reads at CPL 0, but those of the x2APIC (800H to 8FFH) and IA32_SMBASE",
    ),
    VmxAbort.HOST_PDPTE_CHECK: (
        "the PDPTEs that the host CR3 references must not set reserved bits",
        "four entries of which those with bit 0 set have bits 2:1 and 8:5 clear",
    ),
    VmxAbort.LOADING_HOST_MSRS: (
        "every MSR of the VM-exit MSR-load list must be one that can be loaded with its value",
        "MSRs and values that WRMSR accepts at CPL 0, but IA32_FS_BASE, IA32_GS_BASE, the x2APIC's",
    ),
}


def vmx_aborted(
    vmcs: Vmcs,
    memory: Memory,
    indicator: int,
    *,
    is_storable: Callable[[int], bool],
) -> Diagnosis:
    """Explain a VMX abort; ``is_storable`` tells whether RDMSR can read an MSR."""
    text, allowed = _ABORT_TEXTS.get(indicator, ("the VM exit must be possible", ""))
    readings: list[Reading] = [Reading("VMX-abort indicator", indicator, 8)]
    known = indicator in VmxAbort._value2member_map_
    name = VmxAbort(indicator).name.lower().replace("_", "-") if known else "unknown"
    if indicator == VmxAbort.SAVING_GUEST_MSRS:
        fields = f.EXIT_MSR_STORE_ADDRESS, f.EXIT_MSR_STORE_COUNT
        readings = [*_first_bad(vmcs, memory, fields, is_storable), *readings]
    elif indicator == VmxAbort.LOADING_HOST_MSRS:
        fields = f.EXIT_MSR_LOAD_ADDRESS, f.EXIT_MSR_LOAD_COUNT
        readings = [*_first_bad(vmcs, memory, fields, None), *readings]
    elif indicator == VmxAbort.HOST_PDPTE_CHECK:
        table = vmcs.read(f.HOST_CR3) & 0xFFFF_FFE0
        readings = [
            read_field(vmcs, f.HOST_CR3),
            *(
                Reading(f"PDPTE{n} at {table + 8 * n:#x}", memory.load(table + 8 * n, 8) or 0, 16)
                for n in range(4)
            ),
            *readings,
        ]
    rule = BrokenRule(f"vmx-abort.{name}", text, _ABORTS, tuple(readings), allowed)
    return Diagnosis(Kind.VMX_ABORT, "VM exit", f"VMX abort {indicator}", (rule,))


def _first_bad(
    vmcs: Vmcs,
    memory: Memory,
    fields: tuple[f.VmcsField, f.VmcsField],
    is_storable: Callable[[int], bool] | None,
) -> list[Reading]:
    """Return the list's fields and the first entry that cannot be stored (or loaded)."""
    found = [read_field(vmcs, one) for one in fields]
    address, count = (vmcs.read(one) for one in fields)
    for number, entry in enumerate(read_msr_area(memory, address, min(count, _MOST_ENTRIES))):
        if is_storable is not None:
            is_bad = not entry.is_storable or not is_storable(entry.index)
        else:
            is_bad = not entry.is_loadable
        if is_bad:
            place = address + ENTRY_SIZE * number
            return [*msr_entry_readings(entry, place), *found]
    return found


def forgets_event(vmcs: Vmcs) -> bool:
    """Tell whether a VM entry neither injects an event nor asks for a window to inject one in."""
    if vmcs.read(f.ENTRY_INTERRUPTION_INFORMATION) & INTERRUPTION_VALID:
        return False
    windows = Primary.INTERRUPT_WINDOW_EXITING | Primary.NMI_WINDOW_EXITING
    return not vmcs.read(f.PRIMARY_CONTROLS) & windows


def lost_event(vmcs: Vmcs, information: int, reason: int) -> Diagnosis:
    """Explain an event whose delivery a VM exit interrupted, and that L1 did not inject again."""
    event = describe_event(IDT_VECTORING, information)
    rule = BrokenRule(
        "exits.lost-event",
        "an event whose delivery a VM exit interrupted must be injected again at a later VM entry",
        'SDM 3C, "Information for VM Exits During Event Delivery"',
        (
            Reading("IDT-vectoring information field at the exit", information, 8, event),
            read_field(vmcs, f.ENTRY_INTERRUPTION_INFORMATION),
            Reading("exit reason", reason, 8),
        ),
        "the IDT-vectoring information copied to the VM-entry interruption-information field, with "
        "error code and instruction length",
    )
    return Diagnosis(Kind.LOST_EVENT, "VM entry", f"{event} is lost", (rule,))


def refused_msr(index: int, value: int | None, *, exists: bool) -> Diagnosis:
    """Explain the #GP of RDMSR (``value`` is None) or WRMSR."""
    name = msr_name(index)
    operation = "RDMSR" if value is None else "WRMSR"
    readings = [Reading("ECX", index, 8, name)]
    if value is not None:
        readings.append(Reading("EDX:EAX", value, 16))
    if exists and value is not None:
        rule = BrokenRule(
            "msr.value",
            "the MSR must be writable, and the value one that it takes: no reserved bit set",
            'SDM 2D, "WRMSR - Write to Model Specific Register"',
            tuple(readings),
        )
    else:
        rule = BrokenRule(
            "msr.unknown",
            "the MSR must exist on this processor",
            'SDM 4, "Architectural MSRs"',
            tuple(readings),
            "a look at CPUID first: MSRs come with features",
        )
    shown = f"{operation} of {index:#x}" + (f" ({name})" if name else "")
    return Diagnosis(Kind.MSR, shown, "#GP(0)", (rule,))
