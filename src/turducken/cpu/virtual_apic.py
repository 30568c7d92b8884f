"""The virtual-APIC page: its registers, and the virtual interrupts that are kept there.

SDM 3C, "Virtual APIC State" and "Evaluation and Delivery of Virtual Interrupts". The guest
interrupt status (RVI, SVI) lives in the VMCS, also while the guest runs.
"""

from typing import TYPE_CHECKING

from turducken.cpu import vm_exit
from turducken.cpu.events import Event, EventKind
from turducken.cpu.guest_controls import GuestControls, Primary, Secondary
from turducken.cpu.surroundings import Activity
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

TPR, PPR, EOI, ISR, IRR = 0x80, 0xA0, 0xB0, 0x100, 0x200
"""Offsets of registers in the APIC's page and in the virtual-APIC page."""

_WORDS = range(8)
_ON = 0x20
"""Offset in the posted-interrupt descriptor of the byte whose bit 0 is "outstanding notification".

What stands before it are the posted-interrupt requests, one bit for each vector.
"""


def _guest(p: "Processor") -> GuestControls:
    guest = p.guest
    assert guest is not None
    return guest


def _status(p: "Processor") -> tuple[int, int]:
    """Return RVI and SVI."""
    word = vm_exit.current_vmcs(p).read(f.GUEST_INTERRUPT_STATUS)
    return word & 0xFF, word >> 8


def _set_status(p: "Processor", requesting: int, servicing: int) -> None:
    vm_exit.current_vmcs(p).write(f.GUEST_INTERRUPT_STATUS, requesting | servicing << 8)


def _place(page: int, block: int, vector: int) -> tuple[int, int]:
    """Return the address of a vector's 32-bit word in a block of registers, and its bit."""
    return page + block + (vector >> 5 << 4), 1 << (vector & 31)


def _set(p: "Processor", block: int, vector: int) -> None:
    place, bit = _place(_guest(p).virtual_apic, block, vector)
    p.memory.store(place, 4, p.memory.load(place, 4) | bit)


def _clear(p: "Processor", block: int, vector: int) -> None:
    place, bit = _place(_guest(p).virtual_apic, block, vector)
    p.memory.store(place, 4, p.memory.load(place, 4) & ~bit)


def _highest(p: "Processor", block: int) -> int:
    """Return the highest vector of a block, 0 where none is set."""
    base = _guest(p).virtual_apic + block
    for number in reversed(_WORDS):
        word = p.memory.load(base + 16 * number, 4)
        if word:
            return 32 * number + word.bit_length() - 1
    return 0


# The registers


def write_tpr(p: "Processor", value: int) -> None:
    """Set VTPR and do TPR virtualization: SDM 3C, "TPR Virtualization"."""
    guest = _guest(p)
    p.memory.store(guest.virtual_apic + TPR, 4, value & 0xFF)
    if guest.has_secondary(Secondary.VIRTUAL_INTERRUPT_DELIVERY):
        _update_ppr(p)
        evaluate(p)
    else:
        _check_threshold(p)


def _check_threshold(p: "Processor") -> None:
    guest = _guest(p)
    priority = p.memory.load(guest.virtual_apic + TPR, 4) >> 4 & 0xF
    if priority < guest.tpr_threshold & 0xF:
        p.exit_at_boundary(ExitReason.TPR_BELOW_THRESHOLD, 0)


def _update_ppr(p: "Processor") -> None:
    """SDM 3C, "PPR Virtualization"."""
    page = _guest(p).virtual_apic
    task, servicing = p.memory.load(page + TPR, 4) & 0xFF, _status(p)[1]
    priority = task if task >> 4 >= servicing >> 4 else servicing & 0xF0
    p.memory.store(page + PPR, 4, priority)


def end_of_interrupt(p: "Processor") -> None:
    """SDM 3C, "EOI Virtualization"."""
    requesting, vector = _status(p)
    _clear(p, ISR, vector)
    _set_status(p, requesting, _highest(p, ISR))
    _update_ppr(p)
    if _guest(p).eoi_exits >> vector & 1:
        p.exit_at_boundary(ExitReason.VIRTUALIZED_EOI, vector)
    else:
        evaluate(p)


def send_self(p: "Processor", vector: int) -> None:
    """SDM 3C, "Self-IPI Virtualization"."""
    _request(p, vector)
    evaluate(p)


def _request(p: "Processor", vector: int) -> None:
    _set(p, IRR, vector)
    requesting, servicing = _status(p)
    _set_status(p, max(requesting, vector), servicing)


# Virtual interrupts


def entered(p: "Processor") -> None:
    """A VM entry has loaded the guest.

    SDM 3C, "Updating Non-Register State", "VM Exits Induced by the TPR Threshold".
    """
    guest = _guest(p)
    if guest.has_secondary(Secondary.VIRTUAL_INTERRUPT_DELIVERY):
        _update_ppr(p)
        evaluate(p)
    elif guest.has_primary(Primary.USE_TPR_SHADOW) and guest.has_secondary(
        Secondary.VIRTUALIZE_APIC_ACCESSES
    ):
        _check_threshold(p)


def evaluate(p: "Processor") -> None:
    """SDM 3C, "Evaluation of Pending Virtual Interrupts"."""
    guest = _guest(p)
    priority = p.memory.load(guest.virtual_apic + PPR, 4) >> 4 & 0xF
    is_wanted = not guest.has_primary(Primary.INTERRUPT_WINDOW_EXITING)
    p.pending.virtual_interrupt = is_wanted and _status(p)[0] >> 4 > priority
    p.attention = True


def deliver(p: "Processor") -> None:
    """SDM 3C, "Virtual-Interrupt Delivery"."""
    vector = _status(p)[0]
    _set(p, ISR, vector)
    p.memory.store(_guest(p).virtual_apic + PPR, 4, vector & 0xF0)
    _clear(p, IRR, vector)
    _set_status(p, _highest(p, IRR), vector)
    p.pending.virtual_interrupt = False
    p.activity = Activity.ACTIVE
    p.raise_event(Event(EventKind.EXTERNAL, vector))


def take_interrupt(p: "Processor") -> None:
    """An interrupt arrives under "process posted interrupts": the notification, or a VM exit."""
    vector = p.apic.acknowledge()
    if vector is not None and vector == _guest(p).notification_vector:
        _take_posted(p)
    else:
        vm_exit.exit_for_interrupt(p, vector)


def _take_posted(p: "Processor") -> None:
    """SDM 3C, "Posted-Interrupt Processing"."""
    p.apic.end_of_interrupt()
    descriptor, memory = _guest(p).posted_interrupts, p.memory
    memory.store(descriptor + _ON, 1, memory.load(descriptor + _ON, 1) & ~1)
    for number in _WORDS:
        word = memory.load(descriptor + 4 * number, 4)
        memory.store(descriptor + 4 * number, 4, 0)
        for bit in range(32):
            if word >> bit & 1:
                _request(p, 32 * number + bit)
    evaluate(p)
