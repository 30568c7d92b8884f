"""Valid VMCSs of several kinds, for tests that plant one fault."""

from functools import cache
from pathlib import Path

from turducken.address import MIB, Hpa
from turducken.memory import PhysicalMemory
from turducken.vmx import vmcs_fields as f
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.checks import EntryContext
from turducken.vmx.controls import Entry, Exit, PinBased, Primary, Secondary
from turducken.vmx.profile import read_profile
from turducken.vmx.vmcs import Vmcs

EVERYTHING = Path(__file__).parent / "everything.toml"
REGION = Hpa(0x1000)
LINKED = Hpa(0x2000)
VIRTUAL_APIC = 0x3000
PDPT = 0x4000
NO_LINK = 0xFFFF_FFFF_FFFF_FFFF

CODE_64, CODE_32, DATA, TSS, LDT, BAD = 0xA09B, 0xC09B, 0xC093, 0x8B, 0x82, 0x10000

_CR0, _CR4 = 0x8001_0031, 0x2020
_PAT = 0x0007_0406_0007_0406


@cache
def capabilities(profile: str = str(EVERYTHING)) -> Capabilities:
    return Capabilities.from_profile(read_profile(profile))


class Case:
    """A VMCS in its own memory, and what else a VM entry's checks look at."""

    def __init__(self, caps: Capabilities | None = None) -> None:
        self.capabilities = caps or capabilities()
        self.memory = PhysicalMemory(MIB)
        self.vmcs = Vmcs(self.memory, REGION)
        self.vmcs.set_header(self.capabilities.revision)
        self.ia32e_mode = True
        self.pointer: int | None = None

    def __getitem__(self, field: f.VmcsField) -> int:
        return self.vmcs.read(field)

    def __setitem__(self, field: f.VmcsField, value: int) -> None:
        self.vmcs.write(field, value)

    def set_bits(self, field: f.VmcsField, bits: int) -> None:
        self[field] |= bits

    def clear_bits(self, field: f.VmcsField, bits: int) -> None:
        self[field] &= ~bits

    def context(self) -> EntryContext:
        return EntryContext(
            self.vmcs,
            self.capabilities,
            self.memory,
            is_ia32e_mode=self.ia32e_mode,
            pointer=self.pointer,
        )


def segments(case: Case, code: int, data: int) -> None:
    for one in f.GUEST_SEGMENTS[:6]:
        case[one.selector] = 8 if one.name == "CS" else 16
        case[one.limit] = 0xFFFF_FFFF
        case[one.access_rights] = code if one.name == "CS" else data
    case[f.GUEST_TR_SELECTOR] = 24
    case[f.GUEST_TR_LIMIT] = 0x67
    case[f.GUEST_TR_ACCESS_RIGHTS] = TSS
    case[f.GUEST_LDTR_SELECTOR] = 32
    case[f.GUEST_LDTR_LIMIT] = 0xF
    case[f.GUEST_LDTR_ACCESS_RIGHTS] = LDT


def host_64(case: Case) -> None:
    case[f.HOST_CR0], case[f.HOST_CR4], case[f.HOST_CR3] = _CR0, _CR4, 0x9000
    for one in (f.HOST_ES_SELECTOR, f.HOST_SS_SELECTOR, f.HOST_DS_SELECTOR):
        case[one] = 16
    case[f.HOST_CS_SELECTOR], case[f.HOST_TR_SELECTOR] = 8, 24
    case[f.HOST_RIP] = 0xFFFF_8000_0000_0000
    case[f.HOST_PAT], case[f.HOST_EFER] = _PAT, 0xD01
    case.set_bits(f.EXIT_CONTROLS, Exit.HOST_ADDRESS_SPACE_SIZE | Exit.LOAD_PAT | Exit.LOAD_EFER)
    case.set_bits(f.EXIT_CONTROLS, Exit.LOAD_PERF_GLOBAL_CTRL)


def host_32(case: Case) -> None:
    host_64(case)
    case.ia32e_mode = False
    case.clear_bits(f.EXIT_CONTROLS, Exit.HOST_ADDRESS_SPACE_SIZE)
    case[f.HOST_EFER], case[f.HOST_RIP] = 0x801, 0x10_0000


def controls(case: Case) -> None:
    caps = case.capabilities
    case[f.PIN_BASED_CONTROLS] = caps.pin.adjust(
        PinBased.EXTERNAL_INTERRUPT_EXITING | PinBased.NMI_EXITING
    )
    case[f.PRIMARY_CONTROLS] = caps.primary.adjust(Primary.ACTIVATE_SECONDARY_CONTROLS)
    case[f.SECONDARY_CONTROLS] = Secondary.ENABLE_EPT | Secondary.ENABLE_VPID
    case[f.EXIT_CONTROLS] = caps.exit.adjust(Exit.ACKNOWLEDGE_INTERRUPT_ON_EXIT)
    loads = Entry.LOAD_PAT | Entry.LOAD_EFER | Entry.LOAD_DEBUG_CONTROLS
    loads |= Entry.LOAD_PERF_GLOBAL_CTRL | Entry.LOAD_BNDCFGS
    case[f.ENTRY_CONTROLS] = caps.entry.adjust(loads)
    case[f.VPID], case[f.EPTP] = 1, 0x1E | 0x5000


def long_mode(caps: Capabilities | None = None) -> Case:
    case = Case(caps)
    controls(case)
    host_64(case)
    case.set_bits(f.ENTRY_CONTROLS, Entry.IA32E_MODE_GUEST)
    segments(case, CODE_64, DATA)
    case[f.GUEST_CR0], case[f.GUEST_CR4], case[f.GUEST_CR3] = _CR0, _CR4, 0x9000
    case[f.GUEST_EFER], case[f.GUEST_PAT], case[f.GUEST_DR7] = 0xD01, _PAT, 0x400
    case[f.GUEST_RFLAGS], case[f.GUEST_RIP] = 2, 0xFFFF_8000_0000_1000
    case[f.VMCS_LINK_POINTER] = NO_LINK
    return case


def protected_mode() -> Case:
    """32-bit paging, entered from a 32-bit host."""
    case = long_mode()
    host_32(case)
    case.clear_bits(f.ENTRY_CONTROLS, Entry.IA32E_MODE_GUEST)
    segments(case, CODE_32, DATA)
    case[f.GUEST_CR4], case[f.GUEST_EFER], case[f.GUEST_RIP] = 0x2010, 0x801, 0x1000
    return case


def pae() -> Case:
    case = protected_mode()
    case[f.GUEST_CR4] = 0x2020
    for one in f.GUEST_PDPTES:
        case[one] = 0x6001
    return case


def pae_without_ept() -> Case:
    case = pae()
    case.clear_bits(f.SECONDARY_CONTROLS, Secondary.ENABLE_EPT)
    case[f.GUEST_CR3] = PDPT
    for number, one in enumerate(f.GUEST_PDPTES):
        case[one] = 0
        case.memory.store(PDPT + 8 * number, 8, 0x6001)
    return case


def virtual_8086() -> Case:
    case = protected_mode()
    case[f.GUEST_RFLAGS] = 0x2_0002
    for number, one in enumerate(f.GUEST_SEGMENTS[:6]):
        case[one.selector] = 0x1000 + number
        case[one.base] = case[one.selector] << 4
        case[one.limit] = 0xFFFF
        case[one.access_rights] = 0xF3
    return case


def real_mode() -> Case:
    """An unrestricted guest in real mode."""
    case = protected_mode()
    case.set_bits(f.SECONDARY_CONTROLS, Secondary.UNRESTRICTED_GUEST)
    case[f.GUEST_CR0] = 0x20
    segments(case, 0x9B, 0x93)
    for one in f.GUEST_SEGMENTS[:6]:
        case[one.limit] = 0xFFFF
    return case


BASELINES = (long_mode, protected_mode, pae, pae_without_ept, virtual_8086, real_mode)
