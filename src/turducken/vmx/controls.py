"""The VM-execution, VM-exit, VM-entry and VM-function controls.

SDM 3C, "VM-Execution Control Fields", "VM-Exit Control Fields", "VM-Entry Control Fields". Each
word of controls is declared as a class of integer masks, which hot code uses as they are;
`CONTROL_SETS` gives the layouts made from the declarations, for access by name, dumps and profiles.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from turducken.bits import Field, Layout, bit, reserved


class PinBased:
    """SDM 3C, "Pin-Based VM-Execution Controls"."""

    EXTERNAL_INTERRUPT_EXITING = 1 << 0
    NMI_EXITING = 1 << 3
    VIRTUAL_NMIS = 1 << 5
    ACTIVATE_PREEMPTION_TIMER = 1 << 6
    PROCESS_POSTED_INTERRUPTS = 1 << 7


class Primary:
    """SDM 3C, "Processor-Based VM-Execution Controls": the primary controls."""

    INTERRUPT_WINDOW_EXITING = 1 << 2
    USE_TSC_OFFSETTING = 1 << 3
    HLT_EXITING = 1 << 7
    INVLPG_EXITING = 1 << 9
    MWAIT_EXITING = 1 << 10
    RDPMC_EXITING = 1 << 11
    RDTSC_EXITING = 1 << 12
    CR3_LOAD_EXITING = 1 << 15
    CR3_STORE_EXITING = 1 << 16
    CR8_LOAD_EXITING = 1 << 19
    CR8_STORE_EXITING = 1 << 20
    USE_TPR_SHADOW = 1 << 21
    NMI_WINDOW_EXITING = 1 << 22
    MOV_DR_EXITING = 1 << 23
    UNCONDITIONAL_IO_EXITING = 1 << 24
    USE_IO_BITMAPS = 1 << 25
    MONITOR_TRAP_FLAG = 1 << 27
    USE_MSR_BITMAPS = 1 << 28
    MONITOR_EXITING = 1 << 29
    PAUSE_EXITING = 1 << 30
    ACTIVATE_SECONDARY_CONTROLS = 1 << 31


class Secondary:
    """SDM 3C, "Processor-Based VM-Execution Controls": the secondary controls."""

    VIRTUALIZE_APIC_ACCESSES = 1 << 0
    ENABLE_EPT = 1 << 1
    DESCRIPTOR_TABLE_EXITING = 1 << 2
    ENABLE_RDTSCP = 1 << 3
    VIRTUALIZE_X2APIC_MODE = 1 << 4
    ENABLE_VPID = 1 << 5
    WBINVD_EXITING = 1 << 6
    UNRESTRICTED_GUEST = 1 << 7
    APIC_REGISTER_VIRTUALIZATION = 1 << 8
    VIRTUAL_INTERRUPT_DELIVERY = 1 << 9
    PAUSE_LOOP_EXITING = 1 << 10
    RDRAND_EXITING = 1 << 11
    ENABLE_INVPCID = 1 << 12
    ENABLE_VM_FUNCTIONS = 1 << 13
    VMCS_SHADOWING = 1 << 14
    RDSEED_EXITING = 1 << 16
    ENABLE_PML = 1 << 17
    EPT_VIOLATION_VE = 1 << 18
    ENABLE_XSAVES = 1 << 20
    MODE_BASED_EXECUTE = 1 << 22
    USE_TSC_SCALING = 1 << 25


class Exit:
    """SDM 3C, "VM-Exit Controls"."""

    SAVE_DEBUG_CONTROLS = 1 << 2
    HOST_ADDRESS_SPACE_SIZE = 1 << 9
    LOAD_PERF_GLOBAL_CTRL = 1 << 12
    ACKNOWLEDGE_INTERRUPT_ON_EXIT = 1 << 15
    SAVE_PAT = 1 << 18
    LOAD_PAT = 1 << 19
    SAVE_EFER = 1 << 20
    LOAD_EFER = 1 << 21
    SAVE_PREEMPTION_TIMER = 1 << 22
    CLEAR_BNDCFGS = 1 << 23


class Entry:
    """SDM 3C, "VM-Entry Controls"."""

    LOAD_DEBUG_CONTROLS = 1 << 2
    IA32E_MODE_GUEST = 1 << 9
    ENTRY_TO_SMM = 1 << 10
    DEACTIVATE_DUAL_MONITOR = 1 << 11
    LOAD_PERF_GLOBAL_CTRL = 1 << 13
    LOAD_PAT = 1 << 14
    LOAD_EFER = 1 << 15
    LOAD_BNDCFGS = 1 << 16


class VmFunction:
    """SDM 3C, "VM-Function Controls"."""

    EPTP_SWITCHING = 1 << 0


def _mask(*positions: int) -> int:
    mask = 0
    for position in positions:
        mask |= 1 << position
    return mask


def _declared(controls: type) -> dict[str, int]:
    """Return the masks that a class of controls declares, by name."""
    return {name: value for name, value in vars(controls).items() if name.isupper()}


def _layout(name: str, controls: type, width: int) -> Layout:
    """Make the layout whose named bits are those of ``controls`` and whose others are reserved."""
    fields: list[Field] = [
        bit(key, value.bit_length() - 1) for key, value in _declared(controls).items()
    ]
    named = {one.low for one in fields}
    fields += [reserved(position) for position in range(width) if position not in named]
    return Layout(name, width, *fields, source=(controls.__doc__ or "").strip())


@dataclass(frozen=True, slots=True, eq=False)
class ControlSet:
    """One word of controls: its layout, and which bits belong to the default1 class.

    SDM 3C, "Reserved Controls and Default Settings": a control of the default1 class that software
    does not know must be 1; only the TRUE capability MSRs tell which of them may be 0.
    """

    key: str
    """The word's name in profiles, and the attribute of `Capabilities` that holds its settings."""
    layout: Layout
    masks: Mapping[str, int]
    """Every named control's bit."""
    default1: int
    named: int
    """All bits that have a name."""

    @property
    def reserved1(self) -> int:
        """Bits without a name that must be 1."""
        return self.default1 & ~self.named

    def names(self, value: int) -> list[str]:
        """Return the names of the controls that are 1 in ``value``."""
        return self.layout.flags(value)


def _set(key: str, name: str, controls: type, default1: int = 0, width: int = 32) -> ControlSet:
    masks = _declared(controls)
    layout = _layout(name, controls, width)
    return ControlSet(key, layout, masks, default1, sum(masks.values()))


PIN_BASED = _set("pin", "pin-based VM-execution controls", PinBased, _mask(1, 2, 4))
PRIMARY = _set(
    "primary",
    "primary processor-based VM-execution controls",
    Primary,
    _mask(1, 4, 5, 6, 8, 13, 14, 15, 16, 26),
)
SECONDARY = _set("secondary", "secondary processor-based VM-execution controls", Secondary)
EXIT = _set(
    "exit", "VM-exit controls", Exit, _mask(0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 14, 16, 17)
)
ENTRY = _set("entry", "VM-entry controls", Entry, _mask(0, 1, 2, 3, 4, 5, 6, 7, 8, 12))
VM_FUNCTIONS = _set("vm_functions", "VM-function controls", VmFunction, width=64)

CONTROL_SETS = {one.key: one for one in (PIN_BASED, PRIMARY, SECONDARY, EXIT, ENTRY, VM_FUNCTIONS)}

DEPENDENCIES = (
    ("pin.virtual_nmis", "pin.nmi_exiting"),
    ("primary.nmi_window_exiting", "pin.virtual_nmis"),
    ("pin.process_posted_interrupts", "secondary.virtual_interrupt_delivery"),
    ("pin.process_posted_interrupts", "exit.acknowledge_interrupt_on_exit"),
    ("exit.save_preemption_timer", "pin.activate_preemption_timer"),
    ("secondary.virtualize_x2apic_mode", "primary.use_tpr_shadow"),
    ("secondary.apic_register_virtualization", "primary.use_tpr_shadow"),
    ("secondary.virtual_interrupt_delivery", "primary.use_tpr_shadow"),
    ("secondary.virtual_interrupt_delivery", "pin.external_interrupt_exiting"),
    ("secondary.unrestricted_guest", "secondary.enable_ept"),
    ("secondary.enable_pml", "secondary.enable_ept"),
    ("secondary.mode_based_execute", "secondary.enable_ept"),
    ("secondary.ept_violation_ve", "secondary.enable_ept"),
    ("secondary.use_tsc_scaling", "primary.use_tsc_offsetting"),
    ("vm_functions.eptp_switching", "secondary.enable_vm_functions"),
    ("vm_functions.eptp_switching", "secondary.enable_ept"),
)
"""Pairs of controls, as ``word.name``: the first can be 1 only if the second can."""


def control_bit(path: str) -> tuple[str, int]:
    """Return the word and the bit of a control named as in `DEPENDENCIES`."""
    word, _, name = path.partition(".")
    return word, CONTROL_SETS[word].masks[name.upper()]
