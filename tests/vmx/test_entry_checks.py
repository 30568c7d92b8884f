"""Each rule of VM entry fires on its own planted fault, and nothing else does."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vmx_support import (
    BAD,
    BASELINES,
    LINKED,
    NO_LINK,
    PDPT,
    REGION,
    VIRTUAL_APIC,
    Case,
    capabilities,
    long_mode,
    pae,
    pae_without_ept,
    protected_mode,
    real_mode,
    virtual_8086,
)

from turducken.vmx import vmcs_fields as f
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.checks import ALL_RULES, GROUPS, Area, check_entry
from turducken.vmx.controls import Entry, Exit, PinBased, Primary, Secondary
from turducken.vmx.exit_information import EventType, interruption
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.instruction_errors import InstructionError

PIN, PRIMARY, SECONDARY = f.PIN_BASED_CONTROLS, f.PRIMARY_CONTROLS, f.SECONDARY_CONTROLS
EXITS, ENTRIES = f.EXIT_CONTROLS, f.ENTRY_CONTROLS
WIDE = 1 << 46
"""The first bit beyond the physical-address width."""
NON_CANONICAL = 1 << 47

Fault = Callable[[Case], None]


class Row(NamedTuple):
    """Plant ``fault`` in ``base``; exactly the rules in ``broken`` must fail."""

    broken: str
    fault: Fault
    base: Callable[[], Case] = long_mode


def write(field: f.VmcsField, value: int) -> Fault:
    return lambda case: case.__setitem__(field, value)


def bits(field: f.VmcsField, value: int) -> Fault:
    return lambda case: case.set_bits(field, value)


def clear(field: f.VmcsField, value: int) -> Fault:
    return lambda case: case.clear_bits(field, value)


def both(*faults: Fault) -> Fault:
    def plant(case: Case) -> None:
        for fault in faults:
            fault(case)

    return plant


def without_what_only_everything_has(case: Case) -> None:
    case.clear_bits(ENTRIES, Entry.LOAD_BNDCFGS | Entry.LOAD_PERF_GLOBAL_CTRL)
    case.clear_bits(f.EXIT_CONTROLS, Exit.LOAD_PERF_GLOBAL_CTRL)


def less_capable(**facts: object) -> Fault:
    """Change facts of the processor."""

    def plant(case: Case) -> None:
        cpu = dataclasses.replace(case.capabilities.cpu, **facts)
        case.capabilities = Capabilities(case.capabilities.msrs, cpu)

    return plant


def profile(name: str) -> Fault:
    def plant(case: Case) -> None:
        case.capabilities = capabilities(name)

    return plant


def inject(vector: int, kind: EventType, *, error_code: bool = False) -> Fault:
    word = interruption(vector, kind, has_error_code=error_code)
    return write(f.ENTRY_INTERRUPTION_INFORMATION, word)


TPR_SHADOW = both(
    bits(PRIMARY, Primary.USE_TPR_SHADOW), write(f.VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC)
)
VID = both(TPR_SHADOW, bits(SECONDARY, Secondary.VIRTUAL_INTERRUPT_DELIVERY))
POSTED = both(VID, bits(PIN, PinBased.PROCESS_POSTED_INTERRUPTS))
NO_EPT = clear(SECONDARY, Secondary.ENABLE_EPT)
SWITCHING = both(bits(SECONDARY, Secondary.ENABLE_VM_FUNCTIONS), write(f.VM_FUNCTION_CONTROLS, 1))
SHADOWING = bits(SECONDARY, Secondary.VMCS_SHADOWING)
UNRESTRICTED = bits(SECONDARY, Secondary.UNRESTRICTED_GUEST)
NMI = inject(2, EventType.NMI)
EXTERNAL = both(inject(0x30, EventType.EXTERNAL_INTERRUPT), bits(f.GUEST_RFLAGS, 0x200))
PF = inject(14, EventType.HARDWARE_EXCEPTION, error_code=True)

X, E, I = "controls.execution.", "controls.exit.", "controls.injection."  # noqa: E741

EXECUTION_ROWS = [
    Row(X + "pin-reserved", bits(PIN, 1 << 8)),
    Row(X + "pin-reserved", clear(PIN, 1 << 2)),
    Row(X + "primary-reserved", bits(PRIMARY, 1 << 0)),
    Row(X + "primary-reserved", clear(PRIMARY, 1 << 8)),
    Row(X + "secondary-reserved", bits(SECONDARY, 1 << 31)),
    Row(X + "cr3-target-count", write(f.CR3_TARGET_COUNT, 5)),
    Row(X + "io-bitmaps", both(bits(PRIMARY, Primary.USE_IO_BITMAPS), write(f.IO_BITMAP_A, 8))),
    Row(X + "io-bitmaps", both(bits(PRIMARY, Primary.USE_IO_BITMAPS), write(f.IO_BITMAP_B, WIDE))),
    Row(X + "msr-bitmaps", both(bits(PRIMARY, Primary.USE_MSR_BITMAPS), write(f.MSR_BITMAPS, 1))),
    Row(
        X + "msr-bitmaps", both(bits(PRIMARY, Primary.USE_MSR_BITMAPS), write(f.MSR_BITMAPS, WIDE))
    ),
    Row(X + "virtual-apic-address", both(TPR_SHADOW, bits(f.VIRTUAL_APIC_ADDRESS, 0x10))),
    Row(X + "virtual-apic-address", both(TPR_SHADOW, bits(f.VIRTUAL_APIC_ADDRESS, WIDE))),
    Row(X + "tpr-threshold-reserved", both(TPR_SHADOW, write(f.TPR_THRESHOLD, 0x10))),
    Row(X + "tpr-threshold-vtpr", both(TPR_SHADOW, write(f.TPR_THRESHOLD, 1))),
    Row(X + "virtual-nmis", both(clear(PIN, PinBased.NMI_EXITING), bits(PIN, 1 << 5))),
    Row(X + "nmi-window", bits(PRIMARY, Primary.NMI_WINDOW_EXITING)),
    Row(X + "apic-access-address", both(bits(SECONDARY, 1), write(f.APIC_ACCESS_ADDRESS, 4))),
    Row(X + "apic-access-address", both(bits(SECONDARY, 1), write(f.APIC_ACCESS_ADDRESS, WIDE))),
    Row(X + "tpr-shadow-needed", bits(SECONDARY, Secondary.VIRTUALIZE_X2APIC_MODE)),
    Row(X + "tpr-shadow-needed", bits(SECONDARY, Secondary.APIC_REGISTER_VIRTUALIZATION)),
    Row(X + "tpr-shadow-needed", bits(SECONDARY, Secondary.VIRTUAL_INTERRUPT_DELIVERY)),
    Row(X + "x2apic-or-apic-accesses", both(TPR_SHADOW, bits(SECONDARY, 1 | 1 << 4))),
    Row(
        X + "virtual-interrupt-delivery", both(VID, clear(PIN, PinBased.EXTERNAL_INTERRUPT_EXITING))
    ),
    Row(X + "posted-interrupts-delivery", bits(PIN, PinBased.PROCESS_POSTED_INTERRUPTS)),
    Row(
        X + "posted-interrupts-acknowledge",
        both(POSTED, clear(EXITS, Exit.ACKNOWLEDGE_INTERRUPT_ON_EXIT)),
    ),
    Row(X + "posted-interrupts-vector", both(POSTED, write(f.POSTED_INTERRUPT_VECTOR, 256))),
    Row(X + "posted-interrupts-descriptor", both(POSTED, write(f.POSTED_INTERRUPT_DESCRIPTOR, 32))),
    Row(
        X + "posted-interrupts-descriptor", both(POSTED, write(f.POSTED_INTERRUPT_DESCRIPTOR, WIDE))
    ),
    Row(X + "vpid", write(f.VPID, 0)),
    Row(X + "eptp-memory-type", write(f.EPTP, 0x501C)),
    Row(X + "eptp-walk-length", write(f.EPTP, 0x5016)),
    Row(
        X + "eptp-accessed-dirty",
        both(write(f.EPTP, 0x505E), profile("sandybridge"), without_what_only_everything_has),
    ),
    Row(X + "eptp-reserved", write(f.EPTP, 0x509E)),
    Row(X + "eptp-reserved", write(f.EPTP, WIDE | 0x501E)),
    Row(X + "pml-ept", both(NO_EPT, bits(SECONDARY, Secondary.ENABLE_PML))),
    Row(X + "pml-address", both(bits(SECONDARY, Secondary.ENABLE_PML), write(f.PML_ADDRESS, 8))),
    Row(X + "pml-address", both(bits(SECONDARY, Secondary.ENABLE_PML), write(f.PML_ADDRESS, WIDE))),
    Row(X + "ept-needed", both(NO_EPT, UNRESTRICTED)),
    Row(X + "ept-needed", both(NO_EPT, bits(SECONDARY, Secondary.MODE_BASED_EXECUTE))),
    Row(X + "vm-functions-reserved", both(SWITCHING, write(f.VM_FUNCTION_CONTROLS, 2))),
    Row(X + "eptp-switching-ept", both(SWITCHING, NO_EPT)),
    Row(X + "eptp-list-address", both(SWITCHING, write(f.EPTP_LIST_ADDRESS, 0x800))),
    Row(X + "eptp-list-address", both(SWITCHING, write(f.EPTP_LIST_ADDRESS, WIDE))),
    Row(X + "vmcs-shadowing-bitmaps", both(SHADOWING, write(f.VMREAD_BITMAP, 8))),
    Row(X + "vmcs-shadowing-bitmaps", both(SHADOWING, write(f.VMWRITE_BITMAP, WIDE))),
    Row(
        X + "ve-information-address",
        both(bits(SECONDARY, Secondary.EPT_VIOLATION_VE), write(f.VE_INFORMATION_ADDRESS, 8)),
    ),
    Row(X + "tsc-multiplier", bits(SECONDARY, Secondary.USE_TSC_SCALING)),
]

EXIT_AND_ENTRY_ROWS = [
    Row(E + "reserved", bits(EXITS, 1 << 31)),
    Row(E + "reserved", clear(EXITS, 1 << 0)),
    Row(E + "preemption-timer", bits(EXITS, Exit.SAVE_PREEMPTION_TIMER)),
    Row(
        E + "msr-store-area",
        both(write(f.EXIT_MSR_STORE_COUNT, 1), write(f.EXIT_MSR_STORE_ADDRESS, 8)),
    ),
    Row(
        E + "msr-store-area",
        both(write(f.EXIT_MSR_STORE_COUNT, 2), write(f.EXIT_MSR_STORE_ADDRESS, WIDE - 16)),
    ),
    Row(
        E + "msr-load-area",
        both(write(f.EXIT_MSR_LOAD_COUNT, 1), write(f.EXIT_MSR_LOAD_ADDRESS, WIDE)),
    ),
    Row(
        E + "msr-load-area",
        both(write(f.EXIT_MSR_LOAD_COUNT, 0xFFFF_FFFF), write(f.EXIT_MSR_LOAD_ADDRESS, WIDE - 16)),
    ),
    Row("controls.entry.reserved", bits(ENTRIES, 1 << 31)),
    Row("controls.entry.reserved", clear(ENTRIES, 1 << 12)),
    Row("controls.entry.smm", bits(ENTRIES, Entry.ENTRY_TO_SMM)),
    Row("controls.entry.smm", bits(ENTRIES, Entry.DEACTIVATE_DUAL_MONITOR)),
    Row(
        "controls.entry.msr-load-area",
        both(write(f.ENTRY_MSR_LOAD_COUNT, 1), write(f.ENTRY_MSR_LOAD_ADDRESS, 1)),
    ),
    Row(
        "controls.entry.msr-load-area",
        both(write(f.ENTRY_MSR_LOAD_COUNT, 1), write(f.ENTRY_MSR_LOAD_ADDRESS, 2**64 - 16)),
    ),
]

INJECTION_ROWS = [
    Row(I + "type", write(f.ENTRY_INTERRUPTION_INFORMATION, 0x8000_0100)),
    Row(I + "vector", inject(3, EventType.NMI)),
    Row(I + "vector", inject(32, EventType.HARDWARE_EXCEPTION)),
    Row(I + "vector", inject(1, EventType.OTHER_EVENT)),
    *(
        Row(I + "error-code-missing", inject(vector, EventType.HARDWARE_EXCEPTION))
        for vector in (8, 10, 11, 12, 13, 14, 17)
    ),
    *(
        Row(I + "error-code-stray", inject(vector, EventType.HARDWARE_EXCEPTION, error_code=True))
        for vector in (0, 1, 3, 6, 7, 9, 15, 16, 18, 20, 31)
    ),
    Row(I + "error-code-stray", inject(14, EventType.SOFTWARE_INTERRUPT, error_code=True)),
    Row(
        I + "error-code-stray",
        inject(13, EventType.HARDWARE_EXCEPTION, error_code=True),
        real_mode,
    ),
    Row(I + "reserved", both(NMI, bits(f.ENTRY_INTERRUPTION_INFORMATION, 1 << 12))),
    Row(I + "reserved", both(NMI, bits(f.ENTRY_INTERRUPTION_INFORMATION, 1 << 30))),
    Row(I + "error-code-reserved", both(PF, write(f.ENTRY_EXCEPTION_ERROR_CODE, 1 << 16))),
    *(
        Row(I + "instruction-length", both(inject(3, kind), write(f.ENTRY_INSTRUCTION_LENGTH, 16)))
        for kind in (
            EventType.SOFTWARE_INTERRUPT,
            EventType.PRIVILEGED_SOFTWARE_EXCEPTION,
            EventType.SOFTWARE_EXCEPTION,
        )
    ),
]


def leave_ia32e(case: Case) -> None:
    case.ia32e_mode = False


def become_long_guest(case: Case) -> None:
    case.set_bits(ENTRIES, Entry.IA32E_MODE_GUEST)
    case.set_bits(f.GUEST_CR4, 1 << 5)
    case.set_bits(f.GUEST_EFER, 1 << 8 | 1 << 10)


H, HS, HA = "host.registers.", "host.segments.", "host.address-space."
HOST_ROWS = [
    Row(H + "cr0", clear(f.HOST_CR0, 1 << 5)),
    Row(H + "cr0", clear(f.HOST_CR0, 1 << 31)),
    Row(H + "cr0", bits(f.HOST_CR0, 1 << 32)),
    Row(H + "cr4", clear(f.HOST_CR4, 1 << 13)),
    Row(H + "cr4", bits(f.HOST_CR4, 1 << 23)),
    Row(H + "cr3", write(f.HOST_CR3, WIDE)),
    Row(H + "sysenter-esp", write(f.HOST_SYSENTER_ESP, NON_CANONICAL)),
    Row(H + "sysenter-eip", write(f.HOST_SYSENTER_EIP, 1 << 63)),
    Row(H + "perf-global-ctrl", write(f.HOST_PERF_GLOBAL_CTRL, 1 << 4)),
    Row(H + "pat", write(f.HOST_PAT, 0x0007_0406_0007_0402)),
    Row(H + "pat", write(f.HOST_PAT, 0x0807_0406_0007_0406)),
    Row(H + "efer-reserved", bits(f.HOST_EFER, 1 << 1)),
    Row(H + "efer-mode", clear(f.HOST_EFER, 1 << 10)),
    Row(H + "efer-mode", clear(f.HOST_EFER, 1 << 8)),
    Row(H + "efer-mode", bits(f.HOST_EFER, 1 << 8), protected_mode),
    *(
        Row(f"{HS}{name}-selector", bits(field, bit))
        for name, field in (
            ("es", f.HOST_ES_SELECTOR),
            ("cs", f.HOST_CS_SELECTOR),
            ("ss", f.HOST_SS_SELECTOR),
            ("ds", f.HOST_DS_SELECTOR),
            ("fs", f.HOST_FS_SELECTOR),
            ("gs", f.HOST_GS_SELECTOR),
            ("tr", f.HOST_TR_SELECTOR),
        )
        for bit in (1, 2, 4)
    ),
    Row(HS + "cs-null", write(f.HOST_CS_SELECTOR, 0)),
    Row(HS + "tr-null", write(f.HOST_TR_SELECTOR, 0)),
    Row(HS + "ss-null", write(f.HOST_SS_SELECTOR, 0), protected_mode),
    Row(HS + "fs-base", write(f.HOST_FS_BASE, NON_CANONICAL)),
    Row(HS + "gs-base", write(f.HOST_GS_BASE, NON_CANONICAL)),
    Row(HS + "tr-base", write(f.HOST_TR_BASE, NON_CANONICAL)),
    Row(HS + "gdtr-base", write(f.HOST_GDTR_BASE, NON_CANONICAL)),
    Row(HS + "idtr-base", write(f.HOST_IDTR_BASE, 0xFFFF_0000_0000_0000)),
    Row(HA + "legacy-processor-guest legacy-processor-host", leave_ia32e),
    Row(
        HA + "ia32e-processor-host",
        lambda c: setattr(c, "ia32e_mode", True),
        protected_mode,
    ),
    Row(
        HA + "legacy-processor-guest legacy-host-guest",
        become_long_guest,
        protected_mode,
    ),
    Row(HA + "legacy-host-pcide", bits(f.HOST_CR4, 1 << 17), protected_mode),
    Row(HA + "legacy-host-rip", write(f.HOST_RIP, 1 << 32), protected_mode),
    Row(HA + "ia32e-host-pae", clear(f.HOST_CR4, 1 << 5)),
    Row(HA + "ia32e-host-rip", write(f.HOST_RIP, NON_CANONICAL)),
]


R, T = "guest.registers.", "guest.descriptor-tables."
REGISTER_ROWS = [
    Row(R + "cr0", clear(f.GUEST_CR0, 1 << 5)),
    Row(R + "cr0", bits(f.GUEST_CR0, 1 << 40)),
    Row(R + "cr0", clear(f.GUEST_CR0, 1 << 5), real_mode),
    Row(R + "cr0", clear(f.GUEST_CR0, 1 << 31), protected_mode),
    Row(R + "cr0-paging", bits(f.GUEST_CR0, 1 << 31), real_mode),
    Row(R + "cr4", clear(f.GUEST_CR4, 1 << 13)),
    Row(R + "cr4", bits(f.GUEST_CR4, 1 << 63)),
    Row(R + "cr3", write(f.GUEST_CR3, WIDE)),
    Row(R + "debugctl", write(f.GUEST_DEBUGCTL, 1 << 2)),
    Row(R + "debugctl", write(f.GUEST_DEBUGCTL, 1 << 15)),
    Row(
        R + "ia32e-paging",
        both(UNRESTRICTED, clear(f.GUEST_CR0, 1 << 31)),
    ),
    Row(R + "ia32e-pae", clear(f.GUEST_CR4, 1 << 5)),
    Row(R + "legacy-pcide", bits(f.GUEST_CR4, 1 << 17), protected_mode),
    Row(R + "dr7", write(f.GUEST_DR7, 1 << 32)),
    Row(R + "sysenter-esp", write(f.GUEST_SYSENTER_ESP, NON_CANONICAL)),
    Row(R + "sysenter-eip", write(f.GUEST_SYSENTER_EIP, NON_CANONICAL)),
    Row(R + "perf-global-ctrl", write(f.GUEST_PERF_GLOBAL_CTRL, 1 << 35)),
    Row(R + "pat", write(f.GUEST_PAT, 3)),
    Row(R + "efer-reserved", bits(f.GUEST_EFER, 1 << 12)),
    Row(R + "efer-lma efer-lme", clear(f.GUEST_EFER, 1 << 10)),
    Row(R + "efer-lma", clear(f.GUEST_EFER, 1 << 8 | 1 << 10)),
    Row(R + "efer-lme", clear(f.GUEST_EFER, 1 << 8)),
    Row(R + "bndcfgs-reserved", write(f.GUEST_BNDCFGS, 4)),
    Row(R + "bndcfgs-base", write(f.GUEST_BNDCFGS, NON_CANONICAL)),
    Row(T + "gdtr-base", write(f.GUEST_GDTR_BASE, NON_CANONICAL)),
    Row(T + "idtr-base", write(f.GUEST_IDTR_BASE, NON_CANONICAL)),
    Row(T + "gdtr-limit", write(f.GUEST_GDTR_LIMIT, 0x1_0000)),
    Row(T + "idtr-limit", write(f.GUEST_IDTR_LIMIT, 1 << 31)),
]

S = "guest.segments."
ES, CS, SS, DS, FS, GS, LDTR, TR = f.GUEST_SEGMENTS
CODE_AND_DATA = (ES, CS, SS, DS, FS, GS)
DATA = (ES, DS, FS, GS)


def of(segment: f.SegmentFields, rule: str) -> str:
    return f"{S}{segment.name.lower()}-{rule}"


SEGMENT_ROWS = [
    Row(S + "tr-selector", bits(TR.selector, 4)),
    Row(S + "ldtr-selector", bits(LDTR.selector, 4)),
    Row(S + "ss-selector ss-dpl", bits(SS.selector, 1)),
    *(Row(of(one, "base-8086"), bits(one.base, 1), virtual_8086) for one in CODE_AND_DATA),
    *(Row(of(one, "limit-8086"), write(one.limit, 0xFFFE), virtual_8086) for one in CODE_AND_DATA),
    *(
        Row(of(one, "rights-8086"), write(one.access_rights, 0xF7), virtual_8086)
        for one in CODE_AND_DATA
    ),
    *(Row(of(one, "base"), write(one.base, NON_CANONICAL)) for one in (TR, FS, GS, LDTR)),
    *(Row(of(one, "base"), write(one.base, 1 << 32)) for one in (CS, SS, DS, ES)),
    *(Row(of(CS, "type"), write(CS.access_rights, 0xA090 | kind)) for kind in (0, 8, 10, 12, 14)),
    Row(of(CS, "type"), write(CS.access_rights, 0xA093)),
    *(
        Row(of(SS, "type"), write(SS.access_rights, 0xC090 | kind))
        for kind in (0, 1, 2, 5, 6, 9, 11)
    ),
    *(
        Row(of(one, "type"), write(one.access_rights, 0xC090 | kind))
        for one in DATA
        for kind in (0, 2, 9, 13)
    ),
    Row(of(CS, "dpl"), bits(CS.access_rights, 0x20)),
    Row(of(CS, "dpl"), write(CS.access_rights, 0xA0BF)),
    Row(of(CS, "dpl"), both(UNRESTRICTED, write(CS.access_rights, 0xC0B3)), protected_mode),
    Row(S + "cs-dpl ss-dpl", bits(SS.access_rights, 0x60)),
    Row(of(SS, "dpl"), both(write(CS.access_rights, 0xA09F), bits(SS.access_rights, 0x60))),
    Row(
        of(SS, "dpl-0"),
        both(bits(SS.access_rights, 0x20), write(CS.access_rights, 0xBB)),
        real_mode,
    ),
    *(Row(of(one, "dpl"), bits(one.selector, 3)) for one in DATA),
    *(Row(of(one, "s"), clear(one.access_rights, 0x10)) for one in CODE_AND_DATA),
    *(Row(of(one, "p"), clear(one.access_rights, 0x80)) for one in CODE_AND_DATA),
    *(Row(of(one, "reserved-low"), bits(one.access_rights, 0x100)) for one in CODE_AND_DATA),
    *(Row(of(one, "reserved-low"), bits(one.access_rights, 0x800)) for one in (TR, LDTR)),
    Row(of(CS, "d"), bits(CS.access_rights, 0x4000)),
    *(Row(of(one, "g"), write(one.limit, 0xFFFF_F7FF)) for one in CODE_AND_DATA),
    *(Row(of(one, "g"), clear(one.access_rights, 0x8000)) for one in CODE_AND_DATA),
    *(Row(of(one, "g"), bits(one.access_rights, 0x8000)) for one in (TR, LDTR)),
    *(Row(of(one, "g"), write(one.limit, 0x10_0000)) for one in (TR, LDTR)),
    *(Row(of(one, "reserved-high"), bits(one.access_rights, 1 << 17)) for one in CODE_AND_DATA),
    *(Row(of(one, "reserved-high"), bits(one.access_rights, 1 << 31)) for one in (TR, LDTR)),
    Row(of(TR, "type"), write(TR.access_rights, 0x83)),
    Row(of(TR, "type"), write(TR.access_rights, 0x89), protected_mode),
    Row(of(LDTR, "type"), write(LDTR.access_rights, 0x83)),
    *(Row(of(one, "s"), bits(one.access_rights, 0x10)) for one in (TR, LDTR)),
    *(Row(of(one, "p"), clear(one.access_rights, 0x80)) for one in (TR, LDTR)),
    Row(of(TR, "unusable"), bits(TR.access_rights, BAD)),
]

P, N, D = "guest.rip-rflags.", "guest.non-register.", "guest.pdptes."
STI, MOV_SS = 1, 2
TF, IF = 0x100, 0x200
HLT, SHUTDOWN, WAIT = 1, 2, 3


def linked(case: Case) -> None:
    """Link a VMCS as it should be."""
    case.memory.store(LINKED, 4, case.capabilities.revision)
    case[f.VMCS_LINK_POINTER] = LINKED


def relink(case: Case) -> None:
    """Let a misaligned link pointer find a revision identifier too."""
    case.memory.store(case[f.VMCS_LINK_POINTER], 4, case.capabilities.revision)


def blocked(state: int, flags: int = IF) -> Fault:
    return both(write(f.GUEST_INTERRUPTIBILITY, state), bits(f.GUEST_RFLAGS, flags))


STATE_ROWS = [
    Row(P + "rip-32", write(f.GUEST_RIP, 1 << 32), protected_mode),
    Row(P + "rip-32", clear(CS.access_rights, 0x2000)),
    Row(P + "rip-64", write(f.GUEST_RIP, 1 << 48)),
    Row(P + "rip-64", write(f.GUEST_RIP, 0x7FFF_8000_0000_0000)),
    *(Row(P + "rflags-reserved", bits(f.GUEST_RFLAGS, 1 << n)) for n in (3, 5, 15, 22, 63)),
    Row(P + "rflags-reserved", clear(f.GUEST_RFLAGS, 2)),
    Row(P + "rflags-vm", both(UNRESTRICTED, clear(f.GUEST_CR0, 1 << 31 | 1)), virtual_8086),
    Row(P + "rflags-if", both(EXTERNAL, clear(f.GUEST_RFLAGS, IF))),
    Row(N + "activity-supported", write(f.GUEST_ACTIVITY, 4)),
    Row(N + "activity-supported", write(f.GUEST_ACTIVITY, 0xFFFF_FFFF)),
    Row(
        N + "activity-hlt",
        both(
            write(f.GUEST_ACTIVITY, HLT),
            *(bits(one.access_rights, 0x60) for one in (CS, SS)),
            *(bits(one.selector, 3) for one in (CS, SS)),
        ),
    ),
    Row(N + "activity-blocking", both(write(f.GUEST_ACTIVITY, HLT), blocked(STI))),
    Row(N + "activity-blocking", both(write(f.GUEST_ACTIVITY, SHUTDOWN), blocked(MOV_SS))),
    Row(N + "activity-event", both(write(f.GUEST_ACTIVITY, HLT), PF)),
    Row(
        N + "activity-event",
        both(
            write(f.GUEST_ACTIVITY, HLT),
            inject(3, EventType.SOFTWARE_INTERRUPT),
            write(f.ENTRY_INSTRUCTION_LENGTH, 2),
        ),
    ),
    Row(N + "activity-event", both(write(f.GUEST_ACTIVITY, SHUTDOWN), EXTERNAL)),
    Row(
        N + "activity-event",
        both(write(f.GUEST_ACTIVITY, SHUTDOWN), inject(1, EventType.HARDWARE_EXCEPTION)),
    ),
    Row(N + "activity-event", both(write(f.GUEST_ACTIVITY, WAIT), NMI)),
    Row(N + "interruptibility-reserved", bits(f.GUEST_INTERRUPTIBILITY, 1 << 5)),
    Row(N + "interruptibility-reserved", bits(f.GUEST_INTERRUPTIBILITY, 1 << 31)),
    Row(N + "interruptibility-both", blocked(STI | MOV_SS)),
    Row(N + "sti-if", write(f.GUEST_INTERRUPTIBILITY, STI)),
    Row(N + "interrupt-blocked", both(EXTERNAL, blocked(STI))),
    Row(N + "interrupt-blocked", both(EXTERNAL, blocked(MOV_SS))),
    Row(N + "nmi-mov-ss", both(NMI, blocked(MOV_SS))),
    Row(N + "smi", bits(f.GUEST_INTERRUPTIBILITY, 4)),
    Row(N + "nmi-sti", both(NMI, blocked(STI))),
    Row(N + "nmi-virtual", both(NMI, bits(PIN, 1 << 5), bits(f.GUEST_INTERRUPTIBILITY, 8))),
    Row(N + "enclave", bits(f.GUEST_INTERRUPTIBILITY, 16)),
    Row(
        N + "enclave",
        both(less_capable(sgx=True), blocked(16 | MOV_SS)),
    ),
    *(
        Row(N + "pending-reserved", bits(f.GUEST_PENDING_DEBUG, 1 << n))
        for n in (4, 11, 13, 15, 17, 63)
    ),
    Row(N + "pending-bs-missing", blocked(STI, IF | TF)),
    Row(N + "pending-bs-missing", blocked(MOV_SS, TF)),
    Row(N + "pending-bs-missing", both(write(f.GUEST_ACTIVITY, HLT), bits(f.GUEST_RFLAGS, TF))),
    Row(N + "pending-bs-stray", both(blocked(STI), bits(f.GUEST_PENDING_DEBUG, 1 << 14))),
    Row(
        N + "pending-bs-stray",
        both(blocked(MOV_SS, TF), write(f.GUEST_DEBUGCTL, 2), bits(f.GUEST_PENDING_DEBUG, 1 << 14)),
    ),
    Row(N + "pending-rtm-support", write(f.GUEST_PENDING_DEBUG, 0x1_1000)),
    Row(
        N + "pending-rtm-bits", both(less_capable(rtm=True), write(f.GUEST_PENDING_DEBUG, 0x1_0000))
    ),
    Row(
        N + "pending-rtm-bits", both(less_capable(rtm=True), write(f.GUEST_PENDING_DEBUG, 0x1_1001))
    ),
    Row(
        N + "pending-rtm-blocking",
        both(less_capable(rtm=True), write(f.GUEST_PENDING_DEBUG, 0x1_1000), blocked(MOV_SS)),
    ),
    Row(N + "link-alignment", both(linked, bits(f.VMCS_LINK_POINTER, 8), relink)),
    Row(N + "link-width link-revision link-shadow", write(f.VMCS_LINK_POINTER, WIDE)),
    Row(N + "link-revision", both(linked, lambda c: c.memory.store(LINKED, 4, 0x13))),
    Row(N + "link-revision", write(f.VMCS_LINK_POINTER, 0x7000)),
    Row(N + "link-shadow", both(linked, SHADOWING)),
    Row(N + "link-shadow", both(linked, lambda c: c.memory.store(LINKED, 4, 0x8000_0012))),
    Row(N + "link-current", write(f.VMCS_LINK_POINTER, REGION)),
    Row(N + "link-current", both(linked, lambda c: setattr(c, "pointer", LINKED))),
    *(
        Row(D + "reserved", bits(one, 1 << n), pae)
        for one in f.GUEST_PDPTES
        for n in (1, 2, 5, 8, 46, 63)
    ),
    Row(D + "reserved", lambda c: c.memory.store(PDPT + 24, 8, 0x6003), pae_without_ept),
]


ROWS = [
    *EXECUTION_ROWS,
    *EXIT_AND_ENTRY_ROWS,
    *INJECTION_ROWS,
    *HOST_ROWS,
    *REGISTER_ROWS,
    *SEGMENT_ROWS,
    *STATE_ROWS,
]


def broken(case: Case) -> set[str]:
    return {rule.id for rule in ALL_RULES if not rule.check(case.context())}


@pytest.mark.parametrize("base", BASELINES, ids=lambda base: base.__name__)
def test_baselines_break_nothing(base):
    case = base()
    assert broken(case) == set()
    assert check_entry(case.context()) is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.broken)
def test_a_planted_fault_breaks_its_rule_only(row):
    section, _, names = row.broken.rpartition(".")
    expected = {f"{section}.{name}" for name in names.split()}
    case = row.base()
    row.fault(case)
    assert broken(case) == expected


def test_every_rule_has_a_row():
    covered = {
        f"{row.broken.rpartition('.')[0]}.{name}"
        for row in ROWS
        for name in row.broken.rpartition(".")[2].split()
    }
    assert {rule.id for rule in ALL_RULES} == covered


def test_rules_have_an_id_a_citation_and_a_text():
    assert len({rule.id for rule in ALL_RULES}) == len(ALL_RULES)
    for rule in ALL_RULES:
        assert rule.citation.startswith('SDM 3C, "')
        assert rule.text


@pytest.mark.parametrize(
    ("fault", "area", "error", "reason", "qualification"),
    [
        (write(f.VPID, 0), Area.CONTROLS, 7, None, 0),
        (write(f.HOST_CR3, WIDE), Area.HOST, 8, None, 0),
        (write(f.GUEST_CR3, WIDE), Area.GUEST, None, 33, 0),
        (write(f.VMCS_LINK_POINTER, 8), Area.GUEST, None, 33, 4),
        (both(NMI, blocked(STI)), Area.GUEST, None, 33, 3),
    ],
)
def test_how_vm_entry_fails(fault, area, error, reason, qualification):
    case = long_mode()
    fault(case)
    failure = check_entry(case.context())
    assert failure.area is area
    assert failure.error == (error and InstructionError(error))
    assert failure.exit_reason == (reason and ExitReason(reason))
    assert failure.qualification == qualification
    assert failure.rule.id in str(failure)


def test_a_bad_pdpte_has_qualification_2():
    case = pae()
    case.set_bits(f.GUEST_PDPTE2, 2)
    assert check_entry(case.context()).qualification == 2


def test_order_of_the_areas():
    case = long_mode()
    write(f.GUEST_CR3, WIDE)(case)
    assert check_entry(case.context()).area is Area.GUEST
    write(f.HOST_CR3, WIDE)(case)
    assert check_entry(case.context()).area is Area.HOST
    write(f.VPID, 0)(case)
    assert check_entry(case.context()).area is Area.CONTROLS
    assert [area for area, _ in GROUPS] == [Area.CONTROLS, Area.HOST, Area.GUEST]


# What the manual allows


ALLOWED = [
    (
        "inactive secondary controls are not looked at",
        both(clear(PRIMARY, 1 << 31), write(SECONDARY, 0xFFFF_FFFF)),
    ),
    ("vm functions without the control", write(f.VM_FUNCTION_CONTROLS, 2**64 - 1)),
    (
        "address bits of unused structures",
        both(
            *(
                write(one, 2**64 - 1)
                for one in (
                    f.IO_BITMAP_A,
                    f.MSR_BITMAPS,
                    f.PML_ADDRESS,
                    f.EXIT_MSR_LOAD_ADDRESS,
                    f.VIRTUAL_APIC_ADDRESS,
                )
            )
        ),
    ),
    (
        "msr area up to the last byte",
        both(write(f.EXIT_MSR_LOAD_COUNT, 1), write(f.EXIT_MSR_LOAD_ADDRESS, WIDE - 16)),
    ),
    ("CR0.CD and NW", bits(f.GUEST_CR0, 3 << 29)),
    ("host CR0.CD and NW", bits(f.HOST_CR0, 3 << 29)),
    ("RIP that is not canonical in the last bit", write(f.GUEST_RIP, 1 << 47)),
    ("an injected interrupt", EXTERNAL),
    ("an injected page fault", both(PF, write(f.ENTRY_EXCEPTION_ERROR_CODE, 0xFFFF))),
    ("a software interrupt of length 0", inject(0x80, EventType.SOFTWARE_INTERRUPT)),
    ("a pending MTF exit", inject(0, EventType.OTHER_EVENT)),
    ("an NMI that wakes from HLT", both(NMI, write(f.GUEST_ACTIVITY, HLT))),
    (
        "a machine check in shutdown",
        both(inject(18, EventType.HARDWARE_EXCEPTION), write(f.GUEST_ACTIVITY, SHUTDOWN)),
    ),
    ("waiting for SIPI", write(f.GUEST_ACTIVITY, WAIT)),
    (
        "NMI blocking with an NMI, without virtual NMIs",
        both(NMI, bits(f.GUEST_INTERRUPTIBILITY, 8)),
    ),
    (
        "BS pending under STI while stepping",
        both(blocked(STI, IF | TF), bits(f.GUEST_PENDING_DEBUG, 1 << 14)),
    ),
    ("BS pending while nothing blocks", bits(f.GUEST_PENDING_DEBUG, 1 << 14)),
    ("a linked VMCS", linked),
    (
        "a linked shadow VMCS",
        both(linked, SHADOWING, lambda c: c.memory.store(LINKED, 4, 0x8000_0012)),
    ),
    ("PDPTEs when the guest is not PAE", write(f.GUEST_PDPTE0, 2**64 - 1)),
    (
        "unusable data segments",
        both(
            *(write(one.access_rights, 0x1_0000 | 0xFFFE_0F00) for one in DATA),
            *(write(one.selector, 3) for one in DATA),
        ),
    ),
    (
        "an unusable LDTR",
        both(
            write(LDTR.access_rights, 0xFFFF_FFFF),
            write(LDTR.selector, 4),
            write(LDTR.base, NON_CANONICAL),
        ),
    ),
    ("an unusable SS", both(write(SS.access_rights, 0x1_0000), write(SS.base, 1 << 40))),
    (
        "a conforming CS of lower DPL",
        both(
            write(CS.access_rights, 0xA09F),
            bits(SS.access_rights, 0x60),
            bits(SS.selector, 3),
            bits(CS.selector, 3),
        ),
    ),
    ("AVL", both(*(bits(one.access_rights, 0x1000) for one in f.GUEST_SEGMENTS))),
    (
        "TPR threshold up to VTPR",
        both(
            TPR_SHADOW,
            write(f.TPR_THRESHOLD, 7),
            lambda c: c.memory.write(VIRTUAL_APIC + 0x80, b"\x7f"),
        ),
    ),
    ("TPR threshold with virtual-interrupt delivery", both(VID, write(f.TPR_THRESHOLD, 0xFFFF))),
    (
        "posted interrupts",
        both(
            POSTED, write(f.POSTED_INTERRUPT_DESCRIPTOR, 64), write(f.POSTED_INTERRUPT_VECTOR, 255)
        ),
    ),
]


@pytest.mark.parametrize(
    ("what", "change"), ALLOWED, ids=lambda one: one if isinstance(one, str) else ""
)
def test_what_the_manual_allows(what, change):
    case = long_mode()
    change(case)
    assert broken(case) == set()


def test_without_the_load_controls_their_fields_are_free():
    case = long_mode()
    case.clear_bits(
        ENTRIES,
        Entry.LOAD_PAT | Entry.LOAD_EFER | Entry.LOAD_DEBUG_CONTROLS
        | Entry.LOAD_PERF_GLOBAL_CTRL | Entry.LOAD_BNDCFGS,
    )  # fmt: skip
    case.clear_bits(EXITS, Exit.LOAD_PAT | Exit.LOAD_EFER | Exit.LOAD_PERF_GLOBAL_CTRL)
    for one in (
        f.GUEST_PAT, f.GUEST_EFER, f.GUEST_DEBUGCTL, f.GUEST_DR7, f.GUEST_PERF_GLOBAL_CTRL,
        f.GUEST_BNDCFGS, f.HOST_PAT, f.HOST_EFER, f.HOST_PERF_GLOBAL_CTRL,
    ):  # fmt: skip
        case[one] = 2**64 - 1
    assert broken(case) == set()


def test_optional_error_codes():
    """IA32_VMX_BASIC[56] lets an exception be injected with or without an error code."""
    case = long_mode()
    msrs = dict(case.capabilities.msrs)
    msrs[0x480] |= 1 << 56
    case.capabilities = Capabilities(msrs, case.capabilities.cpu)
    for vector in (6, 14):
        for error_code in (False, True):
            inject(vector, EventType.HARDWARE_EXCEPTION, error_code=error_code)(case)
            assert broken(case) == set()
    inject(0x30, EventType.EXTERNAL_INTERRUPT, error_code=True)(case)
    assert I + "error-code-stray" in broken(case)


def test_length_0_and_mtf_need_their_capability():
    case = long_mode()
    case.capabilities = capabilities("sandybridge")
    without_what_only_everything_has(case)
    inject(3, EventType.SOFTWARE_EXCEPTION)(case)
    assert broken(case) == {I + "instruction-length"}
    inject(0, EventType.OTHER_EVENT)(case)
    assert broken(case) == set()
    msrs = dict(case.capabilities.msrs)
    msrs[0x48E] &= ~(Primary.MONITOR_TRAP_FLAG << 32)
    case.capabilities = Capabilities(msrs, case.capabilities.cpu)
    assert broken(case) == {I + "type"}


def test_a_processor_need_not_mind_nmi_under_sti():
    case = long_mode()
    both(NMI, blocked(STI), less_capable(nmi_injection_needs_no_sti_blocking=False))(case)
    assert broken(case) == set()


@given(st.binary(min_size=(f.END_SLOT - 2) * 8, max_size=(f.END_SLOT - 2) * 8), st.booleans())
def test_no_vmcs_makes_a_check_raise(data, ia32e_mode):
    case = Case()
    case.ia32e_mode = ia32e_mode
    case.vmcs.unpack(range(2, f.END_SLOT), data)
    assert isinstance(broken(case), set)


def test_no_link_is_all_ones():
    assert f.VMCS_LINK_POINTER.mask == NO_LINK
