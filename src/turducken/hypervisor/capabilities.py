"""What the processor's VMX can do, what L0 needs of it, and what L0 offers to L1.

L0 offers L1 nothing that it does not honour: a control, a field or an invalidation type that L1
sees in its capability MSRs works for its guests as it would without L0.
"""

from dataclasses import dataclass

from turducken.arch import msr
from turducken.arch.registers import EFER
from turducken.vmx.capabilities import Capabilities, CpuFacts
from turducken.vmx.capability_msrs import EPT_VPID_CAP
from turducken.vmx.controls import Entry, Exit, Primary, Secondary
from turducken.vmx.interface import VmxProcessor
from turducken.vmx.restrict import Limits, restrict

CAPABILITY_MSRS = range(msr.IA32_VMX_BASIC, msr.IA32_VMX_VMFUNC + 1)
_NX, _SGX, _RTM = 1 << 20, 1 << 2, 1 << 11


class UnsuitableProcessorError(Exception):
    """The processor lacks something that L0 cannot do without; the message says what."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a user may take away from L1; everything that L0 honours is offered by default."""

    ept: bool = True
    vpid: bool = True
    unrestricted_guest: bool = True
    accessed_dirty: bool = True
    vmcs_shadowing: bool = True
    """Not for L1's use: whether L0 uses it to save exits of L1's VMREAD and VMWRITE."""


def read_capabilities(processor: VmxProcessor) -> Capabilities:
    """Return the processor's capabilities, from its MSRs and CPUID."""
    msrs = {}
    for index in CAPABILITY_MSRS:
        value = processor.rdmsr(index)
        if value is not None:
            msrs[index] = value
    return Capabilities(msrs, _facts(processor))


def _facts(processor: VmxProcessor) -> CpuFacts:
    has_sizes = processor.cpuid(0x8000_0000, 0)[0] >= 0x8000_0008
    sizes = processor.cpuid(0x8000_0008, 0)[0] if has_sizes else 48 << 8 | 36
    no_nx = 0 if processor.cpuid(0x8000_0001, 0)[3] & _NX else EFER.mask("NXE")
    leaf7 = processor.cpuid(7, 0)[1]
    plain = CpuFacts(physical_address_bits=sizes & 0xFF)
    rtm = bool(leaf7 & _RTM)
    return CpuFacts(
        physical_address_bits=sizes & 0xFF,
        linear_address_bits=sizes >> 8 & 0xFF,
        efer=plain.efer & ~no_nx,
        debugctl=plain.debugctl | (1 << 15 if rtm else 0),
        perf_global_ctrl=_writable_bits(processor, msr.IA32_PERF_GLOBAL_CTRL),
        rtm=rtm,
        sgx=bool(leaf7 & _SGX),
    )


def _writable_bits(processor: VmxProcessor, index: int) -> int:
    """Find out which bits of an MSR can be set, one after the other; its value stays."""
    before = processor.rdmsr(index)
    if before is None:
        return 0
    writable = 0
    for number in range(64):
        if processor.wrmsr(index, 1 << number):
            writable |= 1 << number
    processor.wrmsr(index, before)
    return writable


_NEEDED = (
    ("primary", Primary.ACTIVATE_SECONDARY_CONTROLS, "secondary controls"),
    ("primary", Primary.USE_MSR_BITMAPS, "MSR bitmaps"),
    ("secondary", Secondary.ENABLE_EPT, "EPT"),
    ("secondary", Secondary.UNRESTRICTED_GUEST, "unrestricted guest"),
    ("secondary", Secondary.ENABLE_VPID, "VPID"),
    ("exit", Exit.HOST_ADDRESS_SPACE_SIZE, "a 64-bit host"),
    ("exit", Exit.SAVE_EFER | Exit.LOAD_EFER, "IA32_EFER saved and loaded by VM exits"),
    ("exit", Exit.SAVE_PAT, "IA32_PAT saved by VM exits"),
    ("entry", Entry.LOAD_EFER | Entry.LOAD_PAT, "IA32_EFER and IA32_PAT loaded by VM entries"),
)


def check_suitable(capabilities: Capabilities) -> None:
    """Raise `UnsuitableProcessorError` where L0 cannot run on such a processor."""
    for word, controls, name in _NEEDED:
        if getattr(capabilities, word).allowed1 & controls != controls:
            raise UnsuitableProcessorError(f"L0 needs a processor with {name}")
    for kind in ("INVEPT_SINGLE_CONTEXT", "INVVPID_SINGLE_CONTEXT"):
        if not capabilities.has(EPT_VPID_CAP.mask(kind)):
            raise UnsuitableProcessorError(f"L0 needs a processor with {kind.split('_')[0]}")
    if capabilities.primary.fixed1 & (Primary.CR3_LOAD_EXITING | Primary.CR3_STORE_EXITING):
        raise UnsuitableProcessorError("L0 needs a processor on which MOV CR3 need not exit")


_NOT_HONOURED = {
    "secondary": 0,
    "exit": Exit.CLEAR_BNDCFGS,
    "entry": Entry.LOAD_BNDCFGS | Entry.ENTRY_TO_SMM | Entry.DEACTIVATE_DUAL_MONITOR,
    "ept_vpid": 0,
}


_REACHED = 48
"""Physical-address bits that L0's tables, which have four levels, translate."""


def offered_to_l1(capabilities: Capabilities, offer: Offer) -> Capabilities:
    """Return the capabilities that L1 is to see."""
    withheld = dict(_NOT_HONOURED)
    if not offer.ept:
        withheld["secondary"] |= Secondary.ENABLE_EPT
    if not offer.vpid:
        withheld["secondary"] |= Secondary.ENABLE_VPID
    if not offer.unrestricted_guest:
        withheld["secondary"] |= Secondary.UNRESTRICTED_GUEST
    if not offer.accessed_dirty:
        withheld["ept_vpid"] |= EPT_VPID_CAP.mask("ACCESSED_DIRTY")
    if capabilities.cpu.physical_address_bits > _REACHED:
        withheld["ept_vpid"] |= EPT_VPID_CAP.mask("WALK_LENGTH_5")
    return restrict(capabilities, Limits(**{key: ~value for key, value in withheld.items()}))
