"""The APIC-access page: which accesses are virtualized, and which are VM exits.

SDM 3C, "Virtualizing Memory-Mapped APIC Accesses". Without APIC-register virtualization, only the
task-priority register is virtualized, and only with the TPR shadow.
"""

from typing import TYPE_CHECKING

from turducken.cpu.guest_controls import Primary
from turducken.mmu.faults import ApicAccess
from turducken.mmu.rights import FETCH, WRITE

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

TPR = 0x80
"""Offset of the task-priority register in the APIC's page and in the virtual-APIC page."""


def write_tpr(p: "Processor", value: int) -> None:
    """Set VTPR and do TPR virtualization: SDM 3C, "TPR Virtualization"."""
    guest = p.guest
    assert guest is not None
    p.memory.store(guest.virtual_apic + TPR, 4, value & 0xFF)
    _check_threshold(p, value)


def _check_threshold(p: "Processor", value: int) -> None:
    guest = p.guest
    assert guest is not None
    if value >> 4 & 0xF < guest.tpr_threshold & 0xF:
        p.pending.tpr_below_threshold = p.attention = True


def virtualize(p: "Processor", fault: ApicAccess) -> bool:
    """Execute the current instruction on the virtual-APIC page, if its access is virtualized.

    Returns False where the access is a VM exit.
    """
    guest = p.guest
    assert guest is not None
    if not guest.has_primary(Primary.USE_TPR_SHADOW) or fault.kind == FETCH:
        return False
    if not TPR <= fault.offset < TPR + 4 or fault.offset + p.operand_size() > TPR + 4:
        return False
    p.accesses.virtual_apic_page = guest.virtual_apic
    trap = p.engine.step()
    p.accesses.virtual_apic_page = None
    p.engine.is_stale = True
    if trap:
        p.handlers[trap](p)
    elif fault.kind == WRITE:
        value = p.memory.load(guest.virtual_apic + TPR, 4)
        write_tpr(p, value)
    return True
