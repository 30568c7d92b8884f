"""What a processor profile says, as records: the tables and keys of a profile's file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from turducken.errors import UserError


class ProfileError(UserError):
    """A profile cannot be used; the message is one line that names the file and the key."""


class Setting(Enum):
    """What software may do with one control."""

    HIDDEN = "hidden"
    """It must be 0: the processor does not have it. In TOML also ``false``."""
    OPTIONAL = "optional"
    """It may be 0 or 1. In TOML also ``true``."""
    ALWAYS = "always"
    """It must be 1: the processor cannot do without."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """``[cpu]``: what kind of part it is."""

    vendor: str = "GenuineIntel"
    brand: str = "Turducken"
    family: int = 6
    model: int = 60
    stepping: int = 3
    microcode: int = 1
    """The update revision that IA32_BIOS_SIGN_ID reports."""
    physical_address_bits: int = 40
    linear_address_bits: int = 48
    performance_counters: int = 0
    """General-purpose counters; with none there is no performance monitoring."""
    fixed_counters: int = 0
    apic_timer_hertz: int = 100_000_000
    """What the APIC timer counts before its divider: the bus or core crystal clock."""


@dataclass(frozen=True, slots=True)
class Features:
    """``[features]``: what CPUID reports, by the manual's names in lower case."""

    sse3: bool = True
    pclmulqdq: bool = True
    monitor: bool = True
    ssse3: bool = True
    fma: bool = False
    cx16: bool = True
    pcid: bool = True
    sse4_1: bool = True
    sse4_2: bool = True
    x2apic: bool = True
    movbe: bool = True
    popcnt: bool = True
    tsc_deadline: bool = True
    aes: bool = True
    xsave: bool = True
    avx: bool = False
    f16c: bool = False
    rdrand: bool = True
    fsgsbase: bool = True
    tsc_adjust: bool = True
    bmi1: bool = True
    avx2: bool = False
    smep: bool = True
    bmi2: bool = True
    erms: bool = True
    invpcid: bool = True
    rtm: bool = False
    mpx: bool = False
    rdseed: bool = True
    adx: bool = True
    smap: bool = True
    clflushopt: bool = True
    umip: bool = False
    pku: bool = False
    la57: bool = False
    xsaveopt: bool = True
    xsavec: bool = False
    xsaves: bool = False
    nx: bool = True
    pages_1gib: bool = True
    rdtscp: bool = True
    lzcnt: bool = True
    prefetchw: bool = True


@dataclass(frozen=True, slots=True)
class Misc:
    """``[vmx.misc]``: what IA32_VMX_BASIC and IA32_VMX_MISC report."""

    revision: int = 0x12
    true_controls: bool = True
    string_io_information: bool = True
    optional_error_codes: bool = False
    preemption_timer_shift: int = 5
    saves_lma: bool = True
    activity_hlt: bool = True
    activity_shutdown: bool = True
    activity_wait_for_sipi: bool = True
    rdmsr_smbase: bool = False
    cr3_targets: int = 4
    msr_list_limit: int = 512
    """Recommended maximum of entries in an MSR list: a multiple of 512."""
    writable_exit_information: bool = True
    injection_length_0: bool = True


@dataclass(frozen=True, slots=True)
class Ept:
    """``[vmx.ept]``: the EPT half of IA32_VMX_EPT_VPID_CAP."""

    execute_only: bool = False
    walk_length_4: bool = False
    walk_length_5: bool = False
    uncacheable: bool = False
    write_back: bool = False
    pages_2mib: bool = False
    pages_1gib: bool = False
    accessed_dirty: bool = False
    advanced_exit_information: bool = False
    invept: bool = False
    invept_single_context: bool = False
    invept_all_contexts: bool = False


@dataclass(frozen=True, slots=True)
class Vpid:
    """``[vmx.vpid]``: the VPID half of IA32_VMX_EPT_VPID_CAP."""

    invvpid: bool = False
    invvpid_individual_address: bool = False
    invvpid_single_context: bool = False
    invvpid_all_contexts: bool = False
    invvpid_retaining_globals: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """``[vmx.choices]``: what the manual leaves to the processor."""

    nmi_injection_needs_no_sti_blocking: bool = False
    """SDM 3C, "Checks on Guest Non-Register State": a processor may require this."""
    vmresume_after_vmxoff_fails: bool = False
    """Error 6 where VMXOFF and VMXON came between VMLAUNCH and VMRESUME of an active VMCS."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A processor. ``controls`` maps a word of controls to the settings of its named controls."""

    name: str
    source: str
    """The file it was read from."""
    description: str = ""
    cpu: Cpu = field(default_factory=Cpu)
    features: Features = field(default_factory=Features)
    misc: Misc = field(default_factory=Misc)
    ept: Ept = field(default_factory=Ept)
    vpid: Vpid = field(default_factory=Vpid)
    choices: Choices = field(default_factory=Choices)
    controls: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)

    def offers(self, word: str, control: str) -> bool:
        """Tell whether a control (such as ``"secondary", "ENABLE_EPT"``) may be 1."""
        return self.controls[word][control] is not Setting.HIDDEN
