"""What one processor's VMX can do, in the form that checks ask.

SDM 3D, "VMX Capability Reporting Facility". A `Capabilities` is made from the values of the
capability MSRs and a few facts that CPUID tells: a hypervisor makes one from what it reads, and the
machine makes one from a profile.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from turducken.arch import msr
from turducken.arch.debug import DEBUGCTL
from turducken.arch.memory_types import MemoryType
from turducken.arch.registers import CR0, EFER
from turducken.paging.entries import EPTP
from turducken.vmx.capability_msrs import (
    BASIC,
    EPT_VPID_CAP,
    MISC,
    PLAIN_MSRS,
    TRUE_MSRS,
    AllowedSettings,
    profile_msrs,
)
from turducken.vmx.controls import ENTRY, EXIT, PIN_BASED, PRIMARY, ControlSet
from turducken.vmx.profile_records import Profile
from turducken.vmx.vmcs_fields import Access, existing_accesses

_ALL = (1 << 64) - 1
_LOW = 0xFFFF_FFFF
_CAP = {one.name: one.mask for one in EPT_VPID_CAP}

UNRESTRICTED_CR0 = CR0.mask("PE", "PG")
"""CR0 bits that may be 0 in an unrestricted guest though IA32_VMX_CR0_FIXED0 fixes them."""


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """What the checks need to know that no VMX capability MSR tells."""

    physical_address_bits: int
    linear_address_bits: int = 48
    efer: int = EFER.mask("SCE", "LME", "LMA", "NXE")
    """Bits of IA32_EFER that are not reserved; likewise the next two."""
    debugctl: int = _ALL & ~DEBUGCTL.reserved_mask & ~DEBUGCTL.mask("RTM")
    perf_global_ctrl: int = 0
    rtm: bool = False
    """CPUID reports RTM."""
    sgx: bool = False
    """CPUID reports SGX."""
    nmi_injection_needs_no_sti_blocking: bool = False
    vmresume_after_vmxoff_fails: bool = False


class Capabilities:
    """What one processor's VMX can do: its capability MSRs, and the answers that checks need.

    Treat it as immutable. ``msrs`` has exactly the capability MSRs that exist.
    """

    __slots__ = (
        "accesses",
        "activity_states",
        "address_reserved",
        "cpu",
        "cr0_fixed0",
        "cr0_fixed1",
        "cr3_targets",
        "cr4_fixed0",
        "cr4_fixed1",
        "entry",
        "ept_vpid",
        "eptp_reserved",
        "eptp_types",
        "eptp_walks",
        "exit",
        "injection_length_0",
        "linear_width",
        "msrs",
        "optional_error_codes",
        "physical_reserved",
        "pin",
        "preemption_timer_shift",
        "primary",
        "revision",
        "saves_lma",
        "secondary",
        "string_io_information",
        "vm_functions",
        "writable_exit_information",
    )

    def __init__(self, msrs: Mapping[int, int], cpu: CpuFacts) -> None:
        self.msrs = dict(msrs)
        self.cpu = cpu
        self._read_controls()
        self._read_basic_and_misc()
        self._read_registers()
        self._read_translation()
        self.accesses: dict[int, Access] = existing_accesses(self)
        """The encodings that VMREAD and VMWRITE know."""

    def _read_controls(self) -> None:
        self.pin = self._settings(PIN_BASED)
        self.primary = self._settings(PRIMARY)
        self.exit = self._settings(EXIT)
        self.entry = self._settings(ENTRY)
        secondary = self.msrs.get(msr.IA32_VMX_PROCBASED_CTLS2, 0)
        self.secondary = AllowedSettings(secondary & _LOW, secondary >> 32)
        self.vm_functions = AllowedSettings(0, self.msrs.get(msr.IA32_VMX_VMFUNC, 0))

    def _settings(self, word: ControlSet) -> AllowedSettings:
        """Return what VM entry enforces: what the TRUE MSR says, where there is one."""
        value = self.msrs.get(TRUE_MSRS[word.key], self.msrs[PLAIN_MSRS[word.key]])
        return AllowedSettings(value & _LOW, value >> 32)

    def _read_basic_and_misc(self) -> None:
        basic, misc = self.msrs[msr.IA32_VMX_BASIC], self.msrs[msr.IA32_VMX_MISC]
        self.revision = BASIC["REVISION"].get(basic)
        self.string_io_information = bool(BASIC["STRING_IO_INFORMATION"].get(basic))
        self.optional_error_codes = bool(BASIC["OPTIONAL_ERROR_CODES"].get(basic))
        self.preemption_timer_shift = MISC["PREEMPTION_TIMER_SHIFT"].get(misc)
        self.saves_lma = bool(MISC["SAVES_LMA"].get(misc))
        self.cr3_targets = MISC["CR3_TARGETS"].get(misc)
        self.writable_exit_information = bool(MISC["WRITABLE_EXIT_INFORMATION"].get(misc))
        self.injection_length_0 = bool(MISC["INJECTION_LENGTH_0"].get(misc))
        # Bit n set: activity state n is supported (SDM 3D, "Miscellaneous Data"; 0 always is).
        self.activity_states = 1 | misc >> MISC["ACTIVITY_HLT"].low - 1 & 0b1110
        beyond = _ALL & -(1 << self.cpu.physical_address_bits)
        self.physical_reserved = beyond
        """Bits beyond the processor's physical-address width."""
        limited = BASIC["ADDRESSES_32BIT"].get(basic)
        self.address_reserved = _ALL & ~_LOW if limited else beyond
        """Bits that an address of a VMX structure must not set."""
        self.linear_width = self.cpu.linear_address_bits

    def _read_registers(self) -> None:
        self.cr0_fixed0 = self.msrs[msr.IA32_VMX_CR0_FIXED0]
        self.cr0_fixed1 = self.msrs[msr.IA32_VMX_CR0_FIXED1]
        self.cr4_fixed0 = self.msrs[msr.IA32_VMX_CR4_FIXED0]
        self.cr4_fixed1 = self.msrs[msr.IA32_VMX_CR4_FIXED1]

    def _read_translation(self) -> None:
        self.ept_vpid = self.msrs.get(msr.IA32_VMX_EPT_VPID_CAP, 0)
        types = (_CAP["UNCACHEABLE"], MemoryType.UC), (_CAP["WRITE_BACK"], MemoryType.WB)
        self.eptp_types = frozenset(int(kind) for mask, kind in types if self.ept_vpid & mask)
        walks = (_CAP["WALK_LENGTH_4"], 4), (_CAP["WALK_LENGTH_5"], 5)
        self.eptp_walks = frozenset(levels - 1 for mask, levels in walks if self.ept_vpid & mask)
        """Values of EPTP bits 5:3 that are supported."""
        # "Reserved bits 11:7 and 63:N (where N is the physical-address width) must all be 0"
        reserved_bits = EPTP.reserved_mask | EPTP.mask("SSS") | self.physical_reserved
        if not self.has(_CAP["ACCESSED_DIRTY"]):
            reserved_bits |= EPTP.mask("AD")
        self.eptp_reserved = reserved_bits

    @classmethod
    def from_profile(cls, profile: Profile) -> "Capabilities":
        """Return what a processor with this profile reports."""
        return cls(profile_msrs(profile), profile_facts(profile))

    def has(self, ept_vpid_capability: int) -> bool:
        """Tell whether a bit of IA32_VMX_EPT_VPID_CAP is set."""
        return bool(self.ept_vpid & ept_vpid_capability)

    def accepts_eptp(self, eptp: int) -> bool:
        """Tell whether VM entry with "enable EPT" accepts an EPTP.

        SDM 3C, "VM-Execution Control Fields" (of the checks on VMX controls).
        """
        if eptp & self.eptp_reserved or _EPTP_WALK.get(eptp) not in self.eptp_walks:
            return False
        return _EPTP_TYPE.get(eptp) in self.eptp_types

    def accepts_cr0(self, value: int, *, unrestricted: bool = False) -> bool:
        """Tell whether CR0 may have this value in VMX operation.

        SDM 3C, "Restrictions on VMX Operation"; ``unrestricted``: in an unrestricted guest.
        """
        fixed0 = self.cr0_fixed0 & ~UNRESTRICTED_CR0 if unrestricted else self.cr0_fixed0
        return not (fixed0 & ~value | value & ~self.cr0_fixed1)

    def accepts_cr4(self, value: int) -> bool:
        """Tell whether CR4 may have this value in VMX operation."""
        return not (self.cr4_fixed0 & ~value | value & ~self.cr4_fixed1)

    def is_canonical(self, address: int) -> bool:
        """Tell whether a linear address is canonical on this processor."""
        upper = address >> (self.linear_width - 1)
        return upper == 0 or upper == (1 << (65 - self.linear_width)) - 1


_EPTP_WALK = EPTP["WALK"]
_EPTP_TYPE = EPTP["MT"]


def profile_facts(profile: Profile) -> CpuFacts:
    """Return what a profile says beyond the capability MSRs."""
    cpu, features = profile.cpu, profile.features
    general = cpu.performance_counters
    fixed = cpu.fixed_counters if general else 0
    no_nx = 0 if features.nx else EFER.mask("NXE")
    no_rtm = 0 if features.rtm else DEBUGCTL.mask("RTM")
    return CpuFacts(
        physical_address_bits=cpu.physical_address_bits,
        linear_address_bits=cpu.linear_address_bits,
        efer=_ALL & ~EFER.reserved_mask & ~no_nx,
        debugctl=_ALL & ~DEBUGCTL.reserved_mask & ~no_rtm,
        perf_global_ctrl=(1 << general) - 1 | ((1 << fixed) - 1) << 32,
        rtm=features.rtm,
        nmi_injection_needs_no_sti_blocking=profile.choices.nmi_injection_needs_no_sti_blocking,
        vmresume_after_vmxoff_fails=profile.choices.vmresume_after_vmxoff_fails,
    )
