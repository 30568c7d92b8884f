"""The local APIC as software reaches it: the register page (xAPIC mode) and MSRs (x2APIC mode)."""

from turducken.arch.msr import IA32_APIC_BASE, IA32_TSC_DEADLINE
from turducken.devices.apic_core import LOWEST_LEGAL_VECTOR, MASKED, VERSION, ApicCore
from turducken.devices.apic_fabric import Destination, Message
from turducken.devices.apic_registers import (
    ICR,
    LVT,
    LVT_READ_ONLY,
    LVT_READ_ONLY_LINT,
    LVT_WRITABLE,
    SVR,
    X2APIC_MSR_BASE,
    Delivery,
    Offset,
    Shorthand,
)
from turducken.devices.bus import all_ones

_WORD = 0xFFFF_FFFF
_SVR_WRITABLE = SVR.mask("VECTOR", "ENABLE", "FOCUS_OFF")
_ICR_WRITABLE = ICR.mask("VECTOR", "MODE", "LOGICAL", "ASSERT", "LEVEL", "SHORTHAND")
_XAPIC_ONLY = frozenset({Offset.APR, Offset.RRD, Offset.DFR, Offset.ICR_HIGH})
_READ_ONLY = frozenset({Offset.ID, Offset.VERSION, Offset.PPR, Offset.LDR, Offset.CURRENT_COUNT})
_WRITE_ONLY = frozenset({Offset.EOI, Offset.SELF_IPI})
_DEADLINE_MODE = LVT["TIMER_MODE"].put(0, 2)
"""A reserved bit of the timer's entry where there is no TSC-deadline mode."""
_VECTOR_BLOCKS = (Offset.ISR, Offset.TMR, Offset.IRR)

_X2APIC_REGISTERS: dict[int, int] = {
    Offset.ID: 0,
    Offset.VERSION: 0,
    Offset.TPR: 0xFF,
    Offset.PPR: 0,
    Offset.EOI: 0,
    Offset.LDR: 0,
    Offset.SVR: _SVR_WRITABLE,
    Offset.ESR: 0,
    Offset.ICR_LOW: _WORD << 32 | _ICR_WRITABLE,
    Offset.INITIAL_COUNT: _WORD,
    Offset.CURRENT_COUNT: 0,
    Offset.DIVIDE: 0xB,
    Offset.SELF_IPI: 0xFF,
}
"""The registers of x2APIC mode besides LVT and vector blocks, with the bits that may be written."""


class LocalApic(ApicCore):
    """One processor's local APIC with its registers.

    They answer through `mmio_read` and `mmio_write` in xAPIC mode and through `read_msr` and
    `write_msr` in x2APIC mode.
    """

    # -- reading registers -------------------------------------------------------------------------

    def mmio_read(self, offset: int, size: int) -> int:
        """Return bytes of a register in the page; registers are 32 bits wide, 16 bytes apart."""
        if offset & 0xC:
            return 0
        return self._read(offset & ~0xF) >> 8 * (offset & 3) & all_ones(size)

    def _read(self, offset: int) -> int:
        """Return the 32-bit register at ``offset``."""
        for block, vectors in zip(_VECTOR_BLOCKS, (self._isr, self._tmr, self._irr), strict=True):
            if block <= offset < block + 0x80:
                return vectors >> 2 * (offset - block) & _WORD
        if offset in self._lvt:
            return self._lvt[Offset(offset)]
        match offset:
            case Offset.ID:
                return self._id_register if self.is_x2apic else self._id_register << 24
            case Offset.VERSION:
                return len(LVT_WRITABLE) - 1 << 16 | VERSION
            case Offset.TPR:
                return self._tpr
            case Offset.PPR | Offset.APR:
                return self.processor_priority
            case Offset.LDR:
                return self._ldr
            case Offset.DFR:
                return self._dfr
            case Offset.SVR:
                return self._svr
            case Offset.ESR:
                return self._esr
            case Offset.ICR_LOW:
                return self._icr_low
            case Offset.ICR_HIGH:
                return self._icr_high
            case Offset.INITIAL_COUNT:
                return self._timer.initial_count
            case Offset.CURRENT_COUNT:
                return self._timer.current_count
            case Offset.DIVIDE:
                return self._divide
            case Offset.EOI | Offset.RRD:
                return 0
        self._note_error("ILLEGAL_REGISTER")
        return 0

    # -- writing registers -------------------------------------------------------------------------

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write a register in the page; a write that is not at its first byte is lost."""
        if offset & 0xF == 0:
            self._write(offset, value & _WORD)

    def _write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at ``offset`` as xAPIC mode does: reserved bits are ignored."""
        if offset in self._lvt:
            self._write_lvt(Offset(offset), value)
            return
        match offset:
            case Offset.ID:
                self._id_register = value >> 24
            case Offset.TPR:
                self.tpr = value
            case Offset.EOI:
                self.end_of_interrupt()
            case Offset.LDR:
                self._ldr = value & 0xFF00_0000
            case Offset.DFR:
                self._dfr = value | 0x0FFF_FFFF
            case Offset.SVR:
                self._write_svr(value)
            case Offset.ESR:
                # SDM 3A, "Error Handling": a write shows what has gathered since the last one.
                self._esr, self._errors = self._errors, 0
            case Offset.ICR_LOW:
                self._icr_low = value & _ICR_WRITABLE
                self._send_ipi(Destination(self._icr_high >> 24, self._is_icr_logical))
            case Offset.ICR_HIGH:
                self._icr_high = value & 0xFF00_0000
            case Offset.INITIAL_COUNT:
                self._timer.start(value)
            case Offset.DIVIDE:
                self._divide = value & 0xB
                self._timer.set_divide(self._divide)
            case _:
                if not self._is_implemented(offset):
                    self._note_error("ILLEGAL_REGISTER")

    @staticmethod
    def _is_implemented(offset: int) -> bool:
        if Offset.ISR <= offset < Offset.IRR + 0x80:
            return True
        return offset in _READ_ONLY or offset in _XAPIC_ONLY

    def _write_lvt(self, offset: Offset, value: int) -> None:
        kept = self._lvt[offset] & LVT.mask("REMOTE_IRR")
        entry = value & LVT_WRITABLE[offset]
        if offset == Offset.LVT_TIMER and not self._features.tsc_deadline:
            entry &= ~_DEADLINE_MODE
        if not self.is_software_enabled:
            entry |= MASKED
        if entry & LVT.mask("LEVEL") and LVT["MODE"].get(entry) == Delivery.FIXED:
            entry |= kept
        self._lvt[offset] = entry
        if offset == Offset.LVT_TIMER:
            self._configure_timer()
        elif offset == Offset.LVT_LINT0:
            self._service_lint(0, is_edge=False)
        self._processor.interrupt_changed()

    def _configure_timer(self) -> None:
        entry = self._lvt[Offset.LVT_TIMER]
        self._timer.configure(mode=LVT["TIMER_MODE"].get(entry), is_masked=bool(entry & MASKED))

    def _write_svr(self, value: int) -> None:
        self._svr = value & _SVR_WRITABLE
        if not self.is_software_enabled:
            for offset in LVT_WRITABLE:
                self._lvt[offset] |= MASKED
            self._configure_timer()
        self._processor.interrupt_changed()

    # -- interprocessor interrupts -----------------------------------------------------------------

    @property
    def _is_icr_logical(self) -> bool:
        return bool(self._icr_low & ICR.mask("LOGICAL"))

    def _send_ipi(self, destination: Destination) -> None:
        """Send what the ICR says: SDM 3A, "Issuing Interprocessor Interrupts"."""
        fields = ICR.decode(self._icr_low)
        mode, vector = fields["MODE"], fields["VECTOR"]
        if mode == Delivery.INIT and fields["LEVEL"] and not fields["ASSERT"]:
            return  # INIT level de-assert: no effect on these processors
        if mode in (Delivery.FIXED, Delivery.LOWEST_PRIORITY) and vector < LOWEST_LEGAL_VECTOR:
            self._note_error("SEND_ILLEGAL_VECTOR")
        shorthand = Shorthand(fields["SHORTHAND"])
        if mode == Delivery.EXTINT:
            return  # reserved in the ICR
        message = Message(mode, vector)
        if self._fabric.on_ipi is not None:
            is_plain = shorthand is Shorthand.NONE
            self._fabric.on_ipi(message, destination if is_plain else shorthand)
        if shorthand is Shorthand.NONE:
            self._fabric.send(message, destination)
        else:
            self._fabric.send_shorthand(message, shorthand, self)

    # -- MSRs --------------------------------------------------------------------------------------

    def read_msr(self, index: int) -> int | None:
        """Return IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register; None where #GP."""
        if index == IA32_APIC_BASE:
            return self._base_msr
        if index == IA32_TSC_DEADLINE:
            return self._timer.deadline
        offset = self._x2apic_offset(index)
        if offset is None or offset in _WRITE_ONLY:
            return None
        if offset == Offset.ICR_LOW:
            return self._icr_high << 32 | self._icr_low
        return self._read(offset)

    def write_msr(self, index: int, value: int) -> bool:
        """Write one of the MSRs that `read_msr` reads; False where WRMSR causes #GP."""
        if index == IA32_APIC_BASE:
            return self.write_base(value)
        if index == IA32_TSC_DEADLINE:
            self._timer.arm(value)
            return True
        offset = self._x2apic_offset(index)
        if offset is None or value & ~self._x2apic_writable(offset):
            return False
        if offset == Offset.ICR_LOW:
            self._icr_low, self._icr_high = value & _WORD, value >> 32
            self._send_ipi(Destination(value >> 32, self._is_icr_logical, is_x2apic=True))
        elif offset == Offset.SELF_IPI:
            self._send_self(value)
        elif offset in _READ_ONLY or self._vector_block(offset):
            return False
        else:
            self._write(offset, value)
        return True

    def _send_self(self, vector: int) -> None:
        if vector < LOWEST_LEGAL_VECTOR:
            self._note_error("SEND_ILLEGAL_VECTOR")
        self.receive(Message(Delivery.FIXED, vector))

    def _x2apic_offset(self, index: int) -> int | None:
        """Return the register's offset if the MSR exists in the current mode."""
        offset = index - X2APIC_MSR_BASE << 4
        if not self.is_x2apic or offset in _XAPIC_ONLY:
            return None
        exists = offset in self._lvt or self._vector_block(offset) or offset in _X2APIC_REGISTERS
        return offset if exists else None

    @staticmethod
    def _vector_block(offset: int) -> bool:
        return Offset.ISR <= offset < Offset.IRR + 0x80

    @staticmethod
    def _x2apic_writable(offset: int) -> int:
        """Return the bits that WRMSR may set: SDM 3A, "Reserved Bit Checking"."""
        if offset in LVT_WRITABLE:
            is_lint = offset in (Offset.LVT_LINT0, Offset.LVT_LINT1)
            # Read-only bits are not reserved: writing them is ignored.
            read_only = LVT_READ_ONLY_LINT if is_lint else LVT_READ_ONLY
            return LVT_WRITABLE[Offset(offset)] | read_only
        return _X2APIC_REGISTERS.get(offset, 0)
