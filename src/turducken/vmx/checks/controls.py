"""Checks on VMX controls; where one fails, VM entry is VMfailValid 7.

SDM 3C, "Checks on VMX Controls".
"""

from turducken.paging.entries import EPTP
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks.rules import Check, EntryContext, Rule, Section
from turducken.vmx.controls import Entry, Exit, PinBased, Primary, Secondary, VmFunction
from turducken.vmx.vmcs_fields import VmcsField

_EXECUTION = Section("controls.execution", 'SDM 3C, "VM-Execution Control Fields"')
_EXIT = Section("controls.exit", 'SDM 3C, "VM-Exit Control Fields"')
_ENTRY = Section("controls.entry", 'SDM 3C, "VM-Entry Control Fields"')

_VTPR = 0x80
"""Offset of the virtual TPR in the virtual-APIC page."""
_MSR_ENTRY_SIZE = 16
_MSR_ALIGNMENT = 15
_EPTP_TYPE, _EPTP_WALK, _EPTP_AD = EPTP["MT"], EPTP["WALK"], EPTP.mask("AD")
_NEED_TPR_SHADOW = (
    Secondary.VIRTUALIZE_X2APIC_MODE
    | Secondary.APIC_REGISTER_VIRTUALIZATION
    | Secondary.VIRTUAL_INTERRUPT_DELIVERY
)
_NEED_EPT = Secondary.UNRESTRICTED_GUEST | Secondary.MODE_BASED_EXECUTE


# Helpers: "if the control is 1, then ..."


def _if_primary(control: int, check: Check) -> Check:
    return lambda c: not c.primary & control or check(c)


def _if_secondary(control: int, check: Check) -> Check:
    return lambda c: not c.secondary & control or check(c)


def _if_pin(control: int, check: Check) -> Check:
    return lambda c: not c.pin & control or check(c)


def _page(*fields: VmcsField) -> Check:
    """Bits 11:0 of the addresses are 0, and no bit beyond the physical-address width is set."""
    return lambda c: all(c.is_structure_address(one) for one in fields)


# VM-execution control fields


def _threshold_is_reached(c: EntryContext) -> bool:
    """Bits 3:0 of the TPR threshold are not greater than bits 7:4 of VTPR."""
    if not reads_vtpr(c):
        return True
    vtpr = c.memory.load(c[f.VIRTUAL_APIC_ADDRESS] + _VTPR, 4)
    return c[f.TPR_THRESHOLD] & 0xF <= ((vtpr or 0) >> 4) & 0xF


def reads_vtpr(c: EntryContext) -> bool:
    """Tell whether `VTPR_RULE` reads the virtual-APIC page."""
    masked = Secondary.VIRTUALIZE_APIC_ACCESSES | Secondary.VIRTUAL_INTERRUPT_DELIVERY
    return bool(c.primary & Primary.USE_TPR_SHADOW) and not c.secondary & masked


def _threshold_bits(c: EntryContext) -> bool:
    if not c.primary & Primary.USE_TPR_SHADOW:
        return True
    return bool(c.secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY) or not c[f.TPR_THRESHOLD] >> 4


def _posted(check: Check) -> Check:
    return _if_pin(PinBased.PROCESS_POSTED_INTERRUPTS, check)


def _ept(check: Check) -> Check:
    return _if_secondary(Secondary.ENABLE_EPT, check)


def _has_ept(c: EntryContext) -> bool:
    return bool(c.secondary & Secondary.ENABLE_EPT)


def _eptp_has_valid_ad(c: EntryContext) -> bool:
    return not c[f.EPTP] & _EPTP_AD & c.capabilities.eptp_reserved


def _eptp_switching(check: Check) -> Check:
    def guarded(c: EntryContext) -> bool:
        return not c[f.VM_FUNCTION_CONTROLS] & VmFunction.EPTP_SWITCHING or check(c)

    return _if_secondary(Secondary.ENABLE_VM_FUNCTIONS, guarded)


EXECUTION_RULES: tuple[Rule, ...] = (
    _EXECUTION.rule(
        "pin-reserved",
        "reserved bits in the pin-based controls must be set properly",
        lambda c: c.capabilities.pin.accepts(c.pin),
    ),
    _EXECUTION.rule(
        "primary-reserved",
        "reserved bits in the primary processor-based controls must be set properly",
        lambda c: c.capabilities.primary.accepts(c.primary),
    ),
    _EXECUTION.rule(
        "secondary-reserved",
        "reserved bits in the secondary processor-based controls must be cleared",
        lambda c: c.capabilities.secondary.accepts(c.secondary),
    ),
    _EXECUTION.rule(
        "cr3-target-count",
        "the CR3-target count must not be greater than the number of values supported",
        lambda c: c[f.CR3_TARGET_COUNT] <= c.capabilities.cr3_targets,
    ),
    _EXECUTION.rule(
        "io-bitmaps",
        '"use I/O bitmaps": both addresses aligned and within the physical-address width',
        _if_primary(Primary.USE_IO_BITMAPS, _page(f.IO_BITMAP_A, f.IO_BITMAP_B)),
    ),
    _EXECUTION.rule(
        "msr-bitmaps",
        '"use MSR bitmaps": the address aligned and within the physical-address width',
        _if_primary(Primary.USE_MSR_BITMAPS, _page(f.MSR_BITMAPS)),
    ),
    _EXECUTION.rule(
        "virtual-apic-address",
        '"use TPR shadow": the virtual-APIC address aligned and within the width',
        _if_primary(Primary.USE_TPR_SHADOW, _page(f.VIRTUAL_APIC_ADDRESS)),
    ),
    _EXECUTION.rule(
        "tpr-threshold-reserved",
        '"use TPR shadow" without "virtual-interrupt delivery": threshold bits 31:4 must be 0',
        _threshold_bits,
    ),
    _EXECUTION.rule(
        "virtual-nmis",
        '"virtual NMIs" needs "NMI exiting"',
        _if_pin(PinBased.VIRTUAL_NMIS, lambda c: bool(c.pin & PinBased.NMI_EXITING)),
    ),
    _EXECUTION.rule(
        "nmi-window",
        '"NMI-window exiting" needs "virtual NMIs"',
        _if_primary(Primary.NMI_WINDOW_EXITING, lambda c: bool(c.pin & PinBased.VIRTUAL_NMIS)),
    ),
    _EXECUTION.rule(
        "apic-access-address",
        '"virtualize APIC accesses": the APIC-access address aligned and within the width',
        _if_secondary(Secondary.VIRTUALIZE_APIC_ACCESSES, _page(f.APIC_ACCESS_ADDRESS)),
    ),
    _EXECUTION.rule(
        "tpr-shadow-needed",
        "x2APIC mode, APIC-register virtualization and virtual-interrupt delivery need "
        '"use TPR shadow"',
        _if_secondary(_NEED_TPR_SHADOW, lambda c: bool(c.primary & Primary.USE_TPR_SHADOW)),
    ),
    _EXECUTION.rule(
        "x2apic-or-apic-accesses",
        '"virtualize x2APIC mode" and "virtualize APIC accesses" exclude each other',
        _if_secondary(
            Secondary.VIRTUALIZE_X2APIC_MODE,
            lambda c: not c.secondary & Secondary.VIRTUALIZE_APIC_ACCESSES,
        ),
    ),
    _EXECUTION.rule(
        "virtual-interrupt-delivery",
        '"virtual-interrupt delivery" needs "external-interrupt exiting"',
        _if_secondary(
            Secondary.VIRTUAL_INTERRUPT_DELIVERY,
            lambda c: bool(c.pin & PinBased.EXTERNAL_INTERRUPT_EXITING),
        ),
    ),
    _EXECUTION.rule(
        "posted-interrupts-delivery",
        '"process posted interrupts" needs "virtual-interrupt delivery"',
        _posted(lambda c: bool(c.secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY)),
    ),
    _EXECUTION.rule(
        "posted-interrupts-acknowledge",
        '"process posted interrupts" needs "acknowledge interrupt on exit"',
        _posted(lambda c: bool(c.exit & Exit.ACKNOWLEDGE_INTERRUPT_ON_EXIT)),
    ),
    _EXECUTION.rule(
        "posted-interrupts-vector",
        '"process posted interrupts": the notification vector is in the range 0-255',
        _posted(lambda c: c[f.POSTED_INTERRUPT_VECTOR] <= 255),
    ),
    _EXECUTION.rule(
        "posted-interrupts-descriptor",
        '"process posted interrupts": descriptor address bits 5:0 are 0, and it is in the width',
        _posted(
            lambda c: not c[f.POSTED_INTERRUPT_DESCRIPTOR] & (63 | c.capabilities.address_reserved)
        ),
    ),
    _EXECUTION.rule(
        "vpid",
        '"enable VPID": the VPID must not be 0000H',
        _if_secondary(Secondary.ENABLE_VPID, lambda c: c[f.VPID] != 0),
    ),
    _EXECUTION.rule(
        "eptp-memory-type",
        '"enable EPT": EPTP bits 2:0 must be a supported memory type',
        _ept(lambda c: _EPTP_TYPE.get(c[f.EPTP]) in c.capabilities.eptp_types),
    ),
    _EXECUTION.rule(
        "eptp-walk-length",
        '"enable EPT": EPTP bits 5:3 must be one less than a page-walk length that is supported',
        _ept(lambda c: _EPTP_WALK.get(c[f.EPTP]) in c.capabilities.eptp_walks),
    ),
    _EXECUTION.rule(
        "eptp-accessed-dirty",
        '"enable EPT": EPTP bit 6 must be 0 without accessed and dirty flags for EPT',
        _ept(_eptp_has_valid_ad),
    ),
    _EXECUTION.rule(
        "eptp-reserved",
        '"enable EPT": EPTP bits 11:7 and those beyond the physical-address width must be 0',
        _ept(lambda c: not c[f.EPTP] & c.capabilities.eptp_reserved & ~_EPTP_AD),
    ),
    _EXECUTION.rule(
        "pml-ept",
        '"enable PML" needs "enable EPT"',
        _if_secondary(Secondary.ENABLE_PML, _has_ept),
    ),
    _EXECUTION.rule(
        "pml-address",
        '"enable PML": the PML address aligned and within the physical-address width',
        _if_secondary(Secondary.ENABLE_PML, _page(f.PML_ADDRESS)),
    ),
    _EXECUTION.rule(
        "ept-needed",
        '"unrestricted guest" and "mode-based execute control for EPT" need "enable EPT"',
        _if_secondary(_NEED_EPT, _has_ept),
    ),
    _EXECUTION.rule(
        "vm-functions-reserved",
        '"enable VM functions": reserved bits in the VM-function controls must be clear',
        _if_secondary(
            Secondary.ENABLE_VM_FUNCTIONS,
            lambda c: c.capabilities.vm_functions.accepts(c[f.VM_FUNCTION_CONTROLS]),
        ),
    ),
    _EXECUTION.rule(
        "eptp-switching-ept", '"EPTP switching" needs "enable EPT"', _eptp_switching(_has_ept)
    ),
    _EXECUTION.rule(
        "eptp-list-address",
        '"EPTP switching": the EPTP-list address aligned and within the width',
        _eptp_switching(_page(f.EPTP_LIST_ADDRESS)),
    ),
    _EXECUTION.rule(
        "vmcs-shadowing-bitmaps",
        '"VMCS shadowing": VMREAD- and VMWRITE-bitmap addresses aligned and within the width',
        _if_secondary(Secondary.VMCS_SHADOWING, _page(f.VMREAD_BITMAP, f.VMWRITE_BITMAP)),
    ),
    _EXECUTION.rule(
        "ve-information-address",
        '"EPT-violation #VE": the information address aligned and within the width',
        _if_secondary(Secondary.EPT_VIOLATION_VE, _page(f.VE_INFORMATION_ADDRESS)),
    ),
    _EXECUTION.rule(
        "tsc-multiplier",
        '"use TSC scaling": the TSC multiplier must not be zero',
        _if_secondary(Secondary.USE_TSC_SCALING, lambda c: c[f.TSC_MULTIPLIER] != 0),
    ),
)

VTPR_RULE = _EXECUTION.rule(
    "tpr-threshold-vtpr",
    '"use TPR shadow" without APIC-access virtualization or virtual-interrupt delivery: the '
    "threshold must not exceed bits 7:4 of VTPR",
    _threshold_is_reached,
)
"""Depends on the virtual-APIC page, not on the VMCS alone (where `reads_vtpr`)."""


# MSR areas, of VM exits and of VM entries


def _msr_area(address: VmcsField, count: VmcsField) -> Check:
    """An area with entries is 16-byte aligned, and ends within the physical-address width.

    "The arithmetic used for the computation uses more bits than the physical-address width."
    """

    def is_valid(c: EntryContext) -> bool:
        entries = c[count]
        if not entries:
            return True
        first = c[address]
        last = first + entries * _MSR_ENTRY_SIZE - 1
        width = c.capabilities.address_reserved
        return not first & _MSR_ALIGNMENT and not (first | last) & width and not last >> 64

    return is_valid


EXIT_RULES: tuple[Rule, ...] = (
    _EXIT.rule(
        "reserved",
        "reserved bits in the VM-exit controls must be set properly",
        lambda c: c.capabilities.exit.accepts(c.exit),
    ),
    _EXIT.rule(
        "preemption-timer",
        '"save VMX-preemption timer value" needs "activate VMX-preemption timer"',
        lambda c: (
            not c.exit & Exit.SAVE_PREEMPTION_TIMER
            or bool(c.pin & PinBased.ACTIVATE_PREEMPTION_TIMER)
        ),
    ),
    _EXIT.rule(
        "msr-store-area",
        "the VM-exit MSR-store area is 16-byte aligned and within the physical-address width",
        _msr_area(f.EXIT_MSR_STORE_ADDRESS, f.EXIT_MSR_STORE_COUNT),
    ),
    _EXIT.rule(
        "msr-load-area",
        "the VM-exit MSR-load area is 16-byte aligned and within the physical-address width",
        _msr_area(f.EXIT_MSR_LOAD_ADDRESS, f.EXIT_MSR_LOAD_COUNT),
    ),
)

ENTRY_RULES: tuple[Rule, ...] = (
    _ENTRY.rule(
        "reserved",
        "reserved bits in the VM-entry controls must be set properly",
        lambda c: c.capabilities.entry.accepts(c.entry),
    ),
    _ENTRY.rule(
        "smm",
        'outside SMM, "entry to SMM" and "deactivate dual-monitor treatment" must be 0',
        lambda c: not c.entry & (Entry.ENTRY_TO_SMM | Entry.DEACTIVATE_DUAL_MONITOR),
    ),
    _ENTRY.rule(
        "msr-load-area",
        "the VM-entry MSR-load area is 16-byte aligned and within the physical-address width",
        _msr_area(f.ENTRY_MSR_LOAD_ADDRESS, f.ENTRY_MSR_LOAD_COUNT),
    ),
)


CONTROL_RULES = (*EXECUTION_RULES, *EXIT_RULES, *ENTRY_RULES)
"""Rules that depend only on control fields that seldom change."""
