"""The state of a local APIC and what happens in it.

SDM 3A, "Advanced Programmable Interrupt Controller (APIC)". How software reaches the registers is
in `local_apic`.
"""

from dataclasses import dataclass
from typing import Protocol

from turducken.devices.apic_fabric import ApicFabric, Destination, Message
from turducken.devices.apic_registers import (
    APIC_BASE,
    APIC_DEFAULT_BASE,
    ESR,
    LVT,
    LVT_WRITABLE,
    SVR,
    Delivery,
    Offset,
)
from turducken.devices.apic_timer import ApicTimer, NominalTsc, TimeStampCounter
from turducken.devices.bus import Region
from turducken.devices.clock import Clock, Frequency

VERSION = 0x14
"""An integrated APIC; EOI broadcasts cannot be suppressed."""

LOWEST_LEGAL_VECTOR = 16

_EN, _EXTD, _BSP, _BASE = (APIC_BASE.mask(name) for name in ("EN", "EXTD", "BSP", "BASE"))
MASKED = LVT.mask("MASKED")
"""The mask bit of every entry of the local vector table."""
_SVR_RESET = 0xFF
_DFR_RESET = 0xFFFF_FFFF
_FLAT = 0xF


class ProcessorInputs(Protocol):
    """The processor, as its local APIC sees it."""

    def raise_init(self) -> None:
        """Learn of an INIT signal (the processor decides whether it is blocked)."""

    def raise_sipi(self, vector: int) -> None:
        """Learn of a startup IPI (without effect unless the processor waits for one)."""

    def raise_nmi(self) -> None:
        """Learn of an NMI."""

    def interrupt_changed(self) -> None:
        """Learn that `LocalApic.pending_vector` may have another answer now."""


class ExternalController(Protocol):
    """The 8259 pair, as the local APIC of the boot processor sees it."""

    @property
    def is_requesting(self) -> bool:
        """The level of the INTR output."""

    def peek_vector(self) -> int:
        """Return the vector that an acknowledge cycle would give."""

    def acknowledge(self) -> int:
        """Run an acknowledge cycle and return the vector."""


@dataclass(frozen=True, slots=True)
class ApicFeatures:
    """What of the processor decides how its APIC behaves."""

    x2apic: bool = True
    tsc_deadline: bool = True
    maxphyaddr: int = 46
    timer_hertz: int = 1_000_000_000
    """The timer's rate before division."""


def _highest(vectors: int) -> int:
    """Return the highest set bit's number, 0 where none is set."""
    return max(vectors.bit_length() - 1, 0)


class ApicCore:
    """One processor's local APIC.

    ``external`` is the 8259 pair whose output is wired to
    LINT0 (the boot processor's; other processors have none).
    """

    def __init__(
        self,
        apic_id: int,
        processor: ProcessorInputs,
        fabric: ApicFabric,
        clock: Clock,
        *,
        features: ApicFeatures | None = None,
        tsc: TimeStampCounter | None = None,
        external: ExternalController | None = None,
        is_boot_processor: bool | None = None,
    ) -> None:
        self.apic_id = apic_id
        self._processor = processor
        self._fabric = fabric
        self._external = external
        self._features = features or ApicFeatures()
        self._timer = ApicTimer(
            clock,
            Frequency(self._features.timer_hertz),
            tsc or NominalTsc(clock),
            self._timer_expired,
        )
        is_first = apic_id == 0 if is_boot_processor is None else is_boot_processor
        self._base_msr = APIC_DEFAULT_BASE | _EN | (_BSP if is_first else 0)
        self._region: Region | None = None
        self._lint_levels = [False, False]
        self._reset_registers()
        self._locate()
        fabric.connect(self)

    def _reset_registers(self) -> None:
        """SDM 3A, "Local APIC State After Power-Up or Reset"."""
        self._id_register = self.apic_id
        self._tpr = 0
        self._ldr = 0
        self._dfr = _DFR_RESET
        self._svr = _SVR_RESET
        self._isr = 0
        self._tmr = 0
        self._irr = 0
        self._errors = 0
        self._esr = 0
        self._icr_low = 0
        self._icr_high = 0
        self._divide = 0
        self._lvt = dict.fromkeys(LVT_WRITABLE, MASKED)
        self._external_latched = False
        self._timer.reset()

    def reset(self) -> None:
        """Power-up or reset: back to xAPIC mode at the default base."""
        self._base_msr = APIC_DEFAULT_BASE | _EN | self._base_msr & _BSP
        self._locate()
        self._reset_registers()
        self._processor.interrupt_changed()

    def init_reset(self) -> None:
        """INIT: all registers but the APIC ID; the mode and the base stay.

        SDM 3A, "Local APIC State After an INIT Reset ("Wait-for-SIPI" State)". The processor calls
        this when it takes the INIT.
        """
        kept = self._id_register
        self._reset_registers()
        self._id_register = kept
        if self.is_x2apic:
            self._ldr = self._x2apic_ldr
        self._processor.interrupt_changed()

    # -- mode and place ----------------------------------------------------------------------------

    @property
    def is_enabled(self) -> bool:
        """Tell whether the APIC is globally enabled (CPUID.01H:EDX.APIC follows this)."""
        return bool(self._base_msr & _EN)

    @property
    def is_x2apic(self) -> bool:
        """Tell whether the APIC is in x2APIC mode."""
        return self._base_msr & (_EN | _EXTD) == _EN | _EXTD

    @property
    def is_software_enabled(self) -> bool:
        """Tell whether the enable flag of the spurious-vector register is set."""
        return bool(self._svr & SVR.mask("ENABLE"))

    @property
    def base_msr(self) -> int:
        """IA32_APIC_BASE."""
        return self._base_msr

    def write_base(self, value: int) -> bool:
        """Write IA32_APIC_BASE; False where WRMSR causes #GP.

        SDM 3A, "x2APIC State Transitions".
        """
        address_bits = (1 << self._features.maxphyaddr) - 1
        if value & ~(_BSP | _EN | _EXTD | _BASE & address_bits):
            return False
        enabled, extended = bool(value & _EN), bool(value & _EXTD)
        if extended and not (enabled and self._features.x2apic):
            return False
        if extended and not self.is_enabled:
            return False
        if enabled and not extended and self.is_x2apic:
            return False
        was_enabled, was_x2apic = self.is_enabled, self.is_x2apic
        self._base_msr = value
        self._locate()
        if was_enabled and not enabled:
            self._reset_registers()
        elif extended and not was_x2apic:
            self._enter_x2apic()
        self._processor.interrupt_changed()
        return True

    def _enter_x2apic(self) -> None:
        # SDM 3A, "x2APIC Transitions From xAPIC Mode": the ID becomes the initial 32-bit one, the
        # LDR follows from it, the high half of the ICR is lost.
        self._id_register = self.apic_id
        self._ldr = self._x2apic_ldr
        self._icr_high = 0

    @property
    def _x2apic_ldr(self) -> int:
        # SDM 3A, "Deriving Logical x2APIC ID from the Local x2APIC ID".
        return self.apic_id >> 4 << 16 | 1 << (self.apic_id & 0xF)

    def _locate(self) -> None:
        reachable = self.is_enabled and not self.is_x2apic
        self._region = Region(self._base_msr & _BASE, 0x1000) if reachable else None

    @property
    def region(self) -> Region | None:
        """Where the registers are in memory; None unless in xAPIC mode."""
        return self._region

    # -- priorities and pending interrupts -------------------------------------------------------

    @property
    def tpr(self) -> int:
        """The task-priority register (CR8 is its bits 7:4)."""
        return self._tpr

    @tpr.setter
    def tpr(self, value: int) -> None:
        self._tpr = value & 0xFF
        self._processor.interrupt_changed()

    @property
    def processor_priority(self) -> int:
        """The PPR: SDM 3A, "Task and Processor Priorities"."""
        in_service = _highest(self._isr) & 0xF0
        return self._tpr if self._tpr & 0xF0 >= in_service else in_service

    def pending_vector(self) -> int | None:
        """Return the vector of the interrupt that the processor should take, if any.

        For one from the 8259 pair (ExtINT, which passes all priorities) it is the vector that the
        pair would give now.
        """
        if self._external is not None and self._is_external_pending:
            return self._external.peek_vector()
        return self._pending_fixed()

    def _pending_fixed(self) -> int | None:
        if not self._irr or not self.is_enabled:
            return None
        vector = _highest(self._irr)
        return vector if vector & 0xF0 > self.processor_priority & 0xF0 else None

    @property
    def _is_external_pending(self) -> bool:
        if self._external is None or not self._external.is_requesting:
            return False
        if not self.is_enabled:
            return True  # LINT0 is the INTR pin of a processor without an APIC
        return self._external_latched or self._passes_external(Offset.LVT_LINT0)

    def _passes_external(self, offset: Offset) -> bool:
        entry = self._lvt[offset]
        return not entry & MASKED and LVT["MODE"].get(entry) == Delivery.EXTINT

    def acknowledge(self) -> int | None:
        """Take the pending interrupt into service and return its vector; None if there is none."""
        if self._external is not None and self._is_external_pending:
            self._external_latched = False
            return self._external.acknowledge()
        vector = self._pending_fixed()
        if vector is not None:
            self._irr &= ~(1 << vector)
            self._isr |= 1 << vector
        return vector

    def end_of_interrupt(self) -> None:
        """EOI: the highest vector leaves service: SDM 3A, "Signaling Interrupt Servicing..."."""
        if not self._isr:
            return
        vector = _highest(self._isr)
        bit = 1 << vector
        self._isr &= ~bit
        if self._tmr & bit:
            self._end_local_level(vector)
            self._fabric.broadcast_eoi(vector)
        self._processor.interrupt_changed()

    # -- messages in -------------------------------------------------------------------------------

    @property
    def accepts_fixed(self) -> bool:
        """Tell whether fixed interrupts are accepted.

        SDM 3A, "Local APIC State After It Has Been Software Disabled".
        """
        return self.is_software_enabled

    def matches(self, destination: Destination) -> bool:
        """Tell whether the destination includes this APIC: SDM 3A, "Determining IPI Destination".

        An APIC in the other mode than the sender's compares the bits that the two have in common.
        """
        if destination.is_broadcast:
            return True
        if not destination.is_logical:
            return destination.value == self._id_register
        value = destination.value
        if self.is_x2apic:
            return value >> 16 == self._ldr >> 16 and bool(value & self._ldr & 0xFFFF)
        logical_id = self._ldr >> 24
        if self._dfr >> 28 == _FLAT:
            return bool(value & logical_id)
        same_cluster = value >> 4 in (logical_id >> 4, 0xF)
        return same_cluster and bool(value & logical_id & 0xF)

    def receive(self, message: Message) -> None:
        """Take a message from the fabric."""
        match message.mode:
            case Delivery.FIXED | Delivery.LOWEST_PRIORITY:
                if self.accepts_fixed:
                    self._accept(message.vector, level_triggered=message.level_triggered)
            case Delivery.NMI:
                self._processor.raise_nmi()
            case Delivery.INIT:
                self._processor.raise_init()
            case Delivery.STARTUP:
                self._processor.raise_sipi(message.vector)
            case Delivery.EXTINT:
                self._external_latched = True
                self._processor.interrupt_changed()

    def _accept(self, vector: int, *, level_triggered: bool) -> None:
        if vector < LOWEST_LEGAL_VECTOR:
            self._note_error("RECEIVE_ILLEGAL_VECTOR")
            return
        bit = 1 << vector
        self._irr |= bit
        self._tmr = self._tmr | bit if level_triggered else self._tmr & ~bit
        self._processor.interrupt_changed()

    def _note_error(self, name: str) -> None:
        """Record an error and request the error interrupt: SDM 3A, "Error Handling"."""
        bit = ESR.mask(name)
        is_new = not self._errors & bit
        self._errors |= bit
        entry = self._lvt[Offset.LVT_ERROR]
        vector = LVT["VECTOR"].get(entry)
        if is_new and not entry & MASKED and vector >= LOWEST_LEGAL_VECTOR:
            self._accept(vector, level_triggered=False)

    # -- local interrupts --------------------------------------------------------------------------

    def _timer_expired(self) -> None:
        self._accept(LVT["VECTOR"].get(self._lvt[Offset.LVT_TIMER]), level_triggered=False)

    def set_lint(self, number: int, *, level: bool) -> None:
        """Drive LINT0 or LINT1 (the 8259 pair's output is LINT0)."""
        rises = level and not self._lint_levels[number]
        self._lint_levels[number] = level
        offset = Offset.LVT_LINT1 if number else Offset.LVT_LINT0
        if rises and self.is_enabled:
            self._service_lint(number, is_edge=True)
        if not level and not self._lvt[offset] & LVT.mask("LEVEL"):
            self._lvt[offset] &= ~LVT.mask("REMOTE_IRR")
        self._processor.interrupt_changed()

    def _service_lint(self, number: int, *, is_edge: bool) -> None:
        """Deliver a local interrupt whose pin is asserted, as its entry says."""
        offset = Offset.LVT_LINT1 if number else Offset.LVT_LINT0
        entry = self._lvt[offset]
        mode = LVT["MODE"].get(entry)
        if entry & MASKED or not self._lint_levels[number]:
            return
        if mode == Delivery.FIXED:
            self._service_fixed_lint(offset, is_edge=is_edge)
        elif is_edge and mode == Delivery.NMI:
            self._processor.raise_nmi()
        elif is_edge and mode == Delivery.INIT:
            self._processor.raise_init()

    def _service_fixed_lint(self, offset: Offset, *, is_edge: bool) -> None:
        entry = self._lvt[offset]
        # SDM 3A, "Local Vector Table": LINT1 is always edge-sensitive.
        if entry & LVT.mask("LEVEL") and offset == Offset.LVT_LINT0:
            if not entry & LVT.mask("REMOTE_IRR"):
                self._lvt[offset] |= LVT.mask("REMOTE_IRR")
                self._accept(LVT["VECTOR"].get(entry), level_triggered=True)
        elif is_edge:
            self._accept(LVT["VECTOR"].get(entry), level_triggered=False)

    def _end_local_level(self, vector: int) -> None:
        entry = self._lvt[Offset.LVT_LINT0]
        if entry & LVT.mask("REMOTE_IRR") and LVT["VECTOR"].get(entry) == vector:
            self._lvt[Offset.LVT_LINT0] &= ~LVT.mask("REMOTE_IRR")
            self._service_lint(0, is_edge=False)

    def tsc_changed(self) -> None:
        """Learn that software wrote the TSC or IA32_TSC_ADJUST."""
        self._timer.tsc_changed()
