"""The layouts of the VMX capability MSRs (480H to 491H), and their values for a profile.

SDM 3D, "VMX Capability Reporting Facility".
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from turducken.address import PAGE_SIZE
from turducken.arch import msr
from turducken.arch.memory_types import MemoryType
from turducken.arch.registers import CR0, CR4
from turducken.bits import Layout, bit, bits, reserved
from turducken.vmx.controls import (
    CONTROL_SETS,
    ENTRY,
    EXIT,
    PIN_BASED,
    PRIMARY,
    SECONDARY,
    VM_FUNCTIONS,
    ControlSet,
)
from turducken.vmx.profile_records import Profile, Setting
from turducken.vmx.vmcs_fields import existing_accesses

_LOW = 0xFFFF_FFFF

BASIC = Layout(
    "IA32_VMX_BASIC",
    64,
    bits("REVISION", 30, 0, "VMCS revision identifier"),
    reserved(31),
    bits("SIZE", 44, 32, "bytes of a VMXON or VMCS region"),
    reserved(47, 45),
    bit("ADDRESSES_32BIT", 48, "physical addresses of VMX structures are limited to 32 bits"),
    bit("DUAL_MONITOR", 49, "dual-monitor treatment of SMIs and SMM"),
    bits("MEMORY_TYPE", 53, 50, "memory type of the VMCS and what it points to"),
    bit("STRING_IO_INFORMATION", 54, "VM exits due to INS and OUTS save instruction information"),
    bit("TRUE_CONTROLS", 55, "the TRUE capability MSRs exist"),
    bit("OPTIONAL_ERROR_CODES", 56, "injected exceptions need not match in error-code delivery"),
    reserved(63, 57),
    source='SDM 3D, "Basic VMX Information"',
)
MISC = Layout(
    "IA32_VMX_MISC",
    64,
    bits("PREEMPTION_TIMER_SHIFT", 4, 0, "the timer counts with this bit of the TSC"),
    bit("SAVES_LMA", 5, "VM exits store IA32_EFER.LMA into a VM-entry control"),
    bit("ACTIVITY_HLT", 6),
    bit("ACTIVITY_SHUTDOWN", 7),
    bit("ACTIVITY_WAIT_FOR_SIPI", 8),
    reserved(13, 9),
    bit("INTEL_PT", 14, "Intel PT can be used in VMX operation"),
    bit("RDMSR_SMBASE", 15, "RDMSR can read IA32_SMBASE in SMM"),
    bits("CR3_TARGETS", 24, 16, "number of CR3-target values"),
    bits("MSR_LIST_LIMIT", 27, 25, "recommended MSRs in a list: 512 times this plus 1"),
    bit("VMXOFF_SMI", 28, "IA32_SMM_MONITOR_CTL bit 2 can be 1"),
    bit("WRITABLE_EXIT_INFORMATION", 29, "VMWRITE can write VM-exit information fields"),
    bit("INJECTION_LENGTH_0", 30, "an injected software event may have length 0"),
    reserved(31),
    bits("MSEG_REVISION", 63, 32),
    source='SDM 3D, "Miscellaneous Data"',
)
EPT_VPID_CAP = Layout(
    "IA32_VMX_EPT_VPID_CAP",
    64,
    bit("EXECUTE_ONLY", 0),
    reserved(5, 1),
    bit("WALK_LENGTH_4", 6),
    bit("WALK_LENGTH_5", 7),
    bit("UNCACHEABLE", 8, "EPT paging structures can be UC"),
    reserved(13, 9),
    bit("WRITE_BACK", 14, "EPT paging structures can be WB"),
    reserved(15),
    bit("PAGES_2MIB", 16),
    bit("PAGES_1GIB", 17),
    reserved(19, 18),
    bit("INVEPT", 20),
    bit("ACCESSED_DIRTY", 21, "accessed and dirty flags for EPT"),
    bit("ADVANCED_EXIT_INFORMATION", 22, "for EPT violations"),
    reserved(24, 23),
    bit("INVEPT_SINGLE_CONTEXT", 25),
    bit("INVEPT_ALL_CONTEXTS", 26),
    reserved(31, 27),
    bit("INVVPID", 32),
    reserved(39, 33),
    bit("INVVPID_INDIVIDUAL_ADDRESS", 40),
    bit("INVVPID_SINGLE_CONTEXT", 41),
    bit("INVVPID_ALL_CONTEXTS", 42),
    bit("INVVPID_RETAINING_GLOBALS", 43),
    reserved(63, 44),
    source='SDM 3D, "VPID and EPT Capabilities"',
)
EPT_CAPABILITIES = (1 << 32) - 1
"""The EPT half of IA32_VMX_EPT_VPID_CAP."""

TRUE_MSRS = {
    PIN_BASED.key: msr.IA32_VMX_TRUE_PINBASED_CTLS,
    PRIMARY.key: msr.IA32_VMX_TRUE_PROCBASED_CTLS,
    EXIT.key: msr.IA32_VMX_TRUE_EXIT_CTLS,
    ENTRY.key: msr.IA32_VMX_TRUE_ENTRY_CTLS,
}
PLAIN_MSRS = {
    PIN_BASED.key: msr.IA32_VMX_PINBASED_CTLS,
    PRIMARY.key: msr.IA32_VMX_PROCBASED_CTLS,
    EXIT.key: msr.IA32_VMX_EXIT_CTLS,
    ENTRY.key: msr.IA32_VMX_ENTRY_CTLS,
}

CR0_FIXED0 = CR0.mask("PE", "NE", "PG")
CR0_FIXED1 = _LOW
CR4_FIXED0 = CR4.mask("VMXE")
_CR4_ALWAYS = CR4.mask(
    "VME", "PVI", "TSD", "DE", "PSE", "PAE", "MCE", "PGE", "PCE", "OSFXSR", "OSXMMEXCPT", "VMXE"
)
_CR4_FEATURES = {
    "umip": "UMIP",
    "la57": "LA57",
    "fsgsbase": "FSGSBASE",
    "pcid": "PCIDE",
    "xsave": "OSXSAVE",
    "smep": "SMEP",
    "smap": "SMAP",
    "pku": "PKE",
}


@dataclass(frozen=True, slots=True)
class AllowedSettings:
    """The settings that a capability MSR allows to one word of controls."""

    fixed1: int
    """Bits that must be 1 (the MSR's "allowed 0-settings")."""
    allowed1: int
    """Bits that may be 1."""

    def accepts(self, value: int) -> bool:
        """Tell whether VM entry accepts ``value`` in the word of controls."""
        return not (self.fixed1 & ~value | value & ~self.allowed1)

    def adjust(self, value: int) -> int:
        """Return ``value`` with the bits set that must be and those cleared that must not be."""
        return (value | self.fixed1) & self.allowed1


def profile_msrs(profile: Profile) -> dict[int, int]:
    """Return the capability MSRs that exist on a processor with this profile, by index."""
    cr4_fixed1 = _CR4_ALWAYS
    for feature, name in _CR4_FEATURES.items():
        if getattr(profile.features, feature):
            cr4_fixed1 |= CR4.mask(name)
    msrs = {
        msr.IA32_VMX_BASIC: _basic(profile),
        msr.IA32_VMX_MISC: _misc(profile),
        msr.IA32_VMX_CR0_FIXED0: CR0_FIXED0,
        msr.IA32_VMX_CR0_FIXED1: CR0_FIXED1,
        msr.IA32_VMX_CR4_FIXED0: CR4_FIXED0,
        msr.IA32_VMX_CR4_FIXED1: cr4_fixed1,
    }
    for key, index in PLAIN_MSRS.items():
        word = CONTROL_SETS[key]
        allowed1 = _allowed1(profile, word)
        msrs[index] = allowed1 << 32 | word.default1
        if profile.misc.true_controls:
            msrs[TRUE_MSRS[key]] = allowed1 << 32 | _fixed1(profile, word)
    if profile.offers("primary", "ACTIVATE_SECONDARY_CONTROLS"):
        msrs[msr.IA32_VMX_PROCBASED_CTLS2] = _allowed1(profile, SECONDARY) << 32
    if profile.offers("secondary", "ENABLE_EPT") or profile.offers("secondary", "ENABLE_VPID"):
        msrs[msr.IA32_VMX_EPT_VPID_CAP] = _ept_vpid(profile)
    if profile.offers("secondary", "ENABLE_VM_FUNCTIONS"):
        msrs[msr.IA32_VMX_VMFUNC] = _allowed1(profile, VM_FUNCTIONS)
    return with_enumeration(msrs)


def _allowed1(profile: Profile, word: ControlSet) -> int:
    settings = profile.controls[word.key]
    named = sum(mask for name, mask in word.masks.items() if settings[name] is not Setting.HIDDEN)
    return named | word.default1


def _fixed1(profile: Profile, word: ControlSet) -> int:
    settings = profile.controls[word.key]
    named = sum(mask for name, mask in word.masks.items() if settings[name] is Setting.ALWAYS)
    return named | word.reserved1


def _basic(profile: Profile) -> int:
    misc = profile.misc
    return BASIC.make(
        REVISION=misc.revision,
        SIZE=PAGE_SIZE,
        MEMORY_TYPE=MemoryType.WB,
        STRING_IO_INFORMATION=misc.string_io_information,
        TRUE_CONTROLS=misc.true_controls,
        OPTIONAL_ERROR_CODES=misc.optional_error_codes,
    )


def _misc(profile: Profile) -> int:
    record = profile.misc
    same = {one.name: getattr(record, one.name) for one in fields(record)}
    values = {name.upper(): int(value) for name, value in same.items() if name.upper() in MISC}
    return MISC.make(**{**values, "MSR_LIST_LIMIT": record.msr_list_limit // 512 - 1})


def _ept_vpid(profile: Profile) -> int:
    names = [
        one.name.upper()
        for record in (profile.ept, profile.vpid)
        for one in fields(record)
        if getattr(record, one.name)
    ]
    return EPT_VPID_CAP.mask(*names)


class _Enumeration:
    """Enough of a `Capabilities` to know which fields exist."""

    def __init__(self, msrs: Mapping[int, int]) -> None:
        self.pin, self.primary, self.exit, self.entry = (
            AllowedSettings(0, msrs[index] >> 32) for index in PLAIN_MSRS.values()
        )
        self.secondary = AllowedSettings(0, msrs.get(msr.IA32_VMX_PROCBASED_CTLS2, 0) >> 32)
        self.vm_functions = AllowedSettings(0, msrs.get(msr.IA32_VMX_VMFUNC, 0))
        self.cr3_targets = MISC["CR3_TARGETS"].get(msrs[msr.IA32_VMX_MISC])


def with_enumeration(msrs: dict[int, int]) -> dict[int, int]:
    """Set IA32_VMX_VMCS_ENUM: bits 9:1 hold the highest index of any field's encoding."""
    index_bits = 0x3FE
    highest = max(encoding & index_bits for encoding in existing_accesses(_Enumeration(msrs)))
    return {**msrs, msr.IA32_VMX_VMCS_ENUM: highest}
