"""What a guest's accesses to its APIC are: virtualized, VM exits, or accesses to the real one.

SDM 3C, "Virtualizing Memory-Mapped APIC Accesses", "Virtualizing MSR-Based APIC Accesses".
"""

from typing import TYPE_CHECKING

from turducken.cpu import virtual_apic
from turducken.cpu.guest_controls import GuestControls, Primary, Secondary
from turducken.mmu.faults import ApicAccess
from turducken.mmu.rights import FETCH, READ, WRITE
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_TPR, _EOI, _ICR_LOW, _ICR_HIGH, _SELF_IPI = 0x80, 0xB0, 0x300, 0x310, 0x3F0
_VECTOR_BLOCKS = frozenset(range(0x100, 0x280, 0x10))
_LOCAL_VECTORS = frozenset(range(0x320, 0x380, 0x10))
_BOTH = frozenset(
    {0x20, _TPR, _EOI, 0xD0, 0xE0, 0xF0, 0x280, _ICR_LOW, _ICR_HIGH, 0x380, 0x3E0, *_LOCAL_VECTORS}
)
_READABLE = _BOTH | _VECTOR_BLOCKS | {0x30}
"""What is read from the virtual-APIC page with "APIC-register virtualization"."""
_ONLY_TPR = frozenset({_TPR})
_DELIVERING = frozenset({_TPR, _EOI, _ICR_LOW})
_REGISTER = 4
"""Bytes of a register that an access has to stay within; the next one is 16 bytes on."""

_MSRS = range(0x800, 0x900)
_TPR_MSR, _EOI_MSR, _SELF_IPI_MSR = (_MSRS.start + (one >> 4) for one in (_TPR, _EOI, _SELF_IPI))
_LOWEST_VECTOR = 16
_NO_SELF_IPI = 0xFFF3_B700
"""Bits of the ICR that must be 0: reserved ones, trigger mode, delivery status, delivery mode."""
_SHORTHAND, _SELF = 3 << 18, 1 << 18


class StandIn:
    """The virtual-APIC page in the place of the APIC-access page, for one instruction."""

    def __init__(self, page: int, *, reads: bool, writes: bool) -> None:
        self.page = page
        self._grants = {READ: reads, WRITE: writes, FETCH: False}
        self.is_written = False

    def grants(self, kind: int) -> bool:
        """Tell whether an access is virtualized; a write is noted."""
        if kind == WRITE and self._grants[WRITE]:
            self.is_written = True
        return self._grants[kind]


def _readable(guest: GuestControls) -> frozenset[int]:
    return _READABLE if guest.has_secondary(Secondary.APIC_REGISTER_VIRTUALIZATION) else _ONLY_TPR


def _writable(guest: GuestControls) -> frozenset[int]:
    if guest.has_secondary(Secondary.APIC_REGISTER_VIRTUALIZATION):
        return _BOTH
    return _DELIVERING if _delivers(guest) else _ONLY_TPR


def _delivers(guest: GuestControls) -> bool:
    return guest.has_secondary(Secondary.VIRTUAL_INTERRUPT_DELIVERY)


def virtualize(p: "Processor", fault: ApicAccess) -> bool:
    """Execute the current instruction on the virtual-APIC page, if its access is virtualized.

    Returns False where the access is a VM exit.
    """
    guest = p.guest
    assert guest is not None
    register = fault.offset & ~0xF
    if not guest.has_primary(Primary.USE_TPR_SHADOW) or fault.is_physical:
        return False
    if fault.offset - register + p.operand_size() > _REGISTER:
        return False
    page = StandIn(
        guest.virtual_apic,
        reads=register in _readable(guest),
        writes=register in _writable(guest),
    )
    if not page.grants(fault.kind):
        return False
    page.is_written = False
    p.accesses.virtual_apic = page
    trap = p.engine.step()
    p.accesses.virtual_apic = None
    p.engine.is_stale = True
    if trap:
        p.handlers[trap](p)
    elif page.is_written:
        _emulate_write(p, register)
    return True


def _emulate_write(p: "Processor", register: int) -> None:
    """SDM 3C, "APIC-Write Emulation": what follows a write that the page has taken."""
    guest = p.guest
    assert guest is not None
    place = guest.virtual_apic + register
    value = p.memory.load(place, 4)
    if register == _TPR:
        virtual_apic.write_tpr(p, value)
    elif register == _EOI and _delivers(guest):
        p.memory.store(place, 4, 0)
        virtual_apic.end_of_interrupt(p)
    elif register == _ICR_LOW and _delivers(guest) and _is_self_ipi(value):
        virtual_apic.send_self(p, value & 0xFF)
    elif register == _ICR_HIGH:
        p.memory.store(place, 4, value & 0xFF00_0000)
    else:
        p.exit_at_boundary(ExitReason.APIC_WRITE, register)


def _is_self_ipi(command: int) -> bool:
    """Fixed, edge-triggered, to itself, with a legal vector; no reserved bit is set."""
    if command & _SHORTHAND != _SELF or command & _NO_SELF_IPI:
        return False
    return command & 0xFF >= _LOWEST_VECTOR


# x2APIC mode


def read_msr(p: "Processor", index: int) -> int | None:
    """RDMSR under "virtualize x2APIC mode": return the value, None where it is not virtualized."""
    guest = p.guest
    assert guest is not None
    registers = guest.has_secondary(Secondary.APIC_REGISTER_VIRTUALIZATION)
    if index != _TPR_MSR and not (registers and index in _MSRS):
        return None
    return p.memory.load(guest.virtual_apic + (index - _MSRS.start << 4), 8)


def write_msr(p: "Processor", index: int, value: int) -> bool | None:
    """WRMSR likewise: True where it has been done, False for #GP."""
    guest = p.guest
    assert guest is not None
    if index != _TPR_MSR and not (_delivers(guest) and index in (_EOI_MSR, _SELF_IPI_MSR)):
        return None
    if value >> 8 or (index == _EOI_MSR and value):
        return False
    p.memory.store(guest.virtual_apic + (index - _MSRS.start << 4), 8, value)
    if index == _TPR_MSR:
        virtual_apic.write_tpr(p, value)
    elif index == _EOI_MSR:
        virtual_apic.end_of_interrupt(p)
    elif value < _LOWEST_VECTOR:
        p.exit_at_boundary(ExitReason.APIC_WRITE, _SELF_IPI)
    else:
        virtual_apic.send_self(p, value)
    return True
