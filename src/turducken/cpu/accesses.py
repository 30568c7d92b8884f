"""What the engine asks while it runs: translations, ports, device memory; and what was refused."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from turducken.address import PAGE_OFFSET_MASK
from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, RFLAGS
from turducken.cpu.absent import AbsentInstructions
from turducken.cpu.decoder import code_bits, linear_address, loads_descriptor, uses_stack
from turducken.cpu.engine import SegmentIndex, Trap
from turducken.cpu.engine.grants import LARGE_SHIFT
from turducken.cpu.events import Event, exception
from turducken.cpu.last_block import starts_of, undo_branch
from turducken.cpu.special import BlockScanner
from turducken.mmu.faults import ApicAccess, EptMisconfiguration, EptViolation, Fault, PageFault
from turducken.mmu.mmu import Access
from turducken.mmu.rights import ERROR_U, FETCH, READ
from turducken.mmu.tlb import Mapping

if TYPE_CHECKING:
    from turducken.cpu.apic_access import StandIn
    from turducken.cpu.processor import Processor

_PE = CR0.mask("PE")
_AC, _VM = RFLAGS.mask("AC"), RFLAGS.mask("VM")


class Accesses:
    """One processor's accesses: implements `EngineHost`, and `Devices` for our own accesses.

    ``fault`` is the translation that was refused last (None: its address is not canonical),
    ``io_refused`` the exception of the port access that was. ``code_watch`` learns of every page
    that is granted for fetches, and for stores if ``watches_stores``; ``virtual_apic`` stands
    for the APIC-access page while it is set. Accesses to ``implicit`` pages are supervisor-mode
    accesses at CPL 3 too.
    """

    def __init__(self, processor: "Processor") -> None:
        self._p = processor
        self.scanner = BlockScanner(AbsentInstructions(processor.profile.features))
        self.fault: Fault | None = None
        self.io_refused: Event | None = None
        self.is_guarded = False
        """The access that was refused last is a debugger's business, and no fault."""
        self.virtual_apic: StandIn | None = None
        self.code_watch: Callable[[int, int, int], None] | None = None
        self.watches_stores = True
        self.implicit: tuple[range, ...] = ()
        self.watched: frozenset[int] = frozenset()
        """Pages with data breakpoints of the processor's own."""
        self.is_watched = False
        """The access that was refused last is to one of them."""

    def fill(self, page: int, kind: int) -> int | None:
        """Translate the linear ``page`` for the engine; on a fault, remember it."""
        p = self._p
        if p.debugger is not None and kind != FETCH and p.debugger.guards(p.index, page):
            self.is_guarded = True
            return None
        state, mmu = p.state, p.mmu
        if page in self.watched and kind != FETCH:
            self.is_watched = True
            return None
        if page > mmu.address_mask >> 1 and state.is_64bit and not state.is_canonical(page):
            self.fault = None
            return None
        # SDM 3A, "Access Rights": user-mode accesses are those at CPL 3, if they are explicit.
        user = state.cpl == 3 and not any(page in one for one in self.implicit)
        found = mmu.translate(Access(page, kind, user, bool(state.rflags & _AC)))
        if not isinstance(found, Mapping):
            stand_in = self.virtual_apic
            if isinstance(found, ApicAccess) and stand_in is not None and stand_in.grants(kind):
                return stand_in.page
            self.fault = found
            return None
        if p.policy.evicted():
            p.engine.is_stale = True
        grants = p.engine.grants
        grants.source = grants.common if mmu.is_global(page, found) else grants.local
        shift = found.shift
        place = (found.page | page & ((1 << shift) - 1)) & ~PAGE_OFFSET_MASK
        if shift >= LARGE_SHIFT and kind != FETCH:
            self._grant_large(page, place, kind)
        if self.code_watch is not None:
            self.code_watch(p.index, place, kind)
        return place

    def _grant_large(self, page: int, place: int, kind: int) -> None:
        """Let the engine use a large page's translation for all of its data, if nobody minds."""
        if self.implicit or self.watched or not self._p.mmu.answers_for_whole_pages:
            return
        if self._p.debugger is not None and self._p.debugger.guards_any:
            return
        if kind == READ or not self.watches_stores:
            self._p.engine.grant_large(page, place, kind)

    def engine_fault(self) -> Fault:
        """Return the fault that the engine stopped at, with the exact address filled in."""
        engine, fault = self._p.engine, self.fault
        assert fault is not None
        offset = engine.fault_address & PAGE_OFFSET_MASK
        if isinstance(fault, PageFault):
            return fault._replace(address=fault.address | offset)
        if isinstance(fault, EptViolation) and fault.address is not None:
            final = fault.qualification & 1 << 8
            gpa = fault.gpa | offset if final else fault.gpa
            return fault._replace(gpa=gpa, address=fault.address | offset)
        if isinstance(fault, EptMisconfiguration) and fault.address is not None:
            gpa = fault.gpa | offset if fault.is_final else fault.gpa
            return fault._replace(gpa=gpa, address=fault.address | offset)
        if isinstance(fault, ApicAccess):
            return fault._replace(address=fault.address | offset, offset=fault.offset | offset)
        return fault

    def is_special(self, address: int, size: int) -> bool:
        """Tell whether a block of code has an instruction that only we can execute."""
        p = self._p
        if p.debugger is not None and p.debugger.covers(p.index, address, size):
            return True
        if p.breakpoints.has_code(address, size):
            return True
        code = p.linear.fetch(address, size, user=p.state.cpl == 3)
        return isinstance(code, bytes) and self.scanner.has_special(code, code_bits(p.state))

    def starts_of(self, address: int, size: int) -> list[int]:
        """Return the linear addresses of the instructions of a block."""
        return starts_of(self._p, address, size)

    def port_in(self, port: int, size: int) -> int | None:
        """Return what IN reads, or None where the instruction faults or exits."""
        if self.port_is_refused(port, size):
            return None
        self._p.breakpoints.port(port, size)
        return self._p.platform.port_in(self._p.index, port, size)

    def port_out(self, port: int, size: int, value: int) -> bool:
        """Execute OUT, or return False where the instruction faults or exits."""
        if self.port_is_refused(port, size):
            return False
        self._p.breakpoints.port(port, size)
        self._p.platform.port_out(self._p.index, port, size, value)
        return True

    def port_is_refused(self, port: int, size: int) -> bool:
        """Tell whether IN or OUT faults or exits; ``io_refused`` is the exception, if it is one.

        SDM 1, "I/O Permission Bit Map"; the exception comes before the VM exit.
        """
        state = self._p.state
        self.io_refused = None
        flags = state.rflags
        restricted = state.cr0 & _PE and (flags & _VM or state.cpl > flags >> 12 & 3)
        if restricted and not self._bitmap_allows(port, size):
            self.io_refused = self.io_refused or exception(Vector.GP, 0)
            return True
        return self._p.guest is not None and self._p.guest.exits_on_port(port, size)

    def _bitmap_allows(self, port: int, size: int) -> bool:
        task = self._p.state.segment(SegmentIndex.TR)
        if task.limit < 0x67:
            return False
        base = self._p.linear.read(task.base + 0x66, 2)
        if not isinstance(base, bytes):
            return False
        place = int.from_bytes(base, "little") + (port >> 3)
        if place + 1 > task.limit:
            return False
        bits = self._p.linear.read(task.base + place, 2)
        if not isinstance(bits, bytes):
            return False
        return not int.from_bytes(bits, "little") >> (port & 7) & ((1 << size) - 1)

    def mmio_read(self, address: int, size: int) -> int:
        """Read a host-physical address that is not RAM."""
        return self._p.platform.mmio_read(self._p.index, address, size)

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write a host-physical address that is not RAM."""
        self._p.platform.mmio_write(self._p.index, address, size, value)


def on_fault(p: "Processor") -> None:
    """Handle `Trap.FAULT`: an access that was refused."""
    accesses, is_fetch = p.accesses, p.engine.fault_kind == FETCH
    if accesses.is_watched:
        _step_at_breakpoint(p)
    elif accesses.fault is None and is_fetch:
        undo_branch(p)
        p.raise_exception(Vector.GP, 0)
    elif accesses.fault is None:
        in_stack = uses_stack(p.peek(), p.state)
        p.raise_exception(Vector.SS if in_stack else Vector.GP, 0)
    elif is_fetch and _is_ahead(p):
        # The engine reads a whole block of code before it executes any of it.
        trap = _step_alone(p)
        if trap == Trap.FAULT and p.engine.fault_kind == FETCH and accesses.fault is not None:
            p.take_fault(accesses.engine_fault())
        elif trap:
            p.handlers[trap](p)
    elif not is_fetch and not accesses.implicit and (pages := _implicit_pages(p)):
        _retry_as_supervisor(p, pages)
    else:
        p.take_fault(accesses.engine_fault())


def _step_at_breakpoint(p: "Processor") -> None:
    """Execute an instruction that accesses a page with a data breakpoint, perhaps the data."""
    accesses = p.accesses
    accesses.is_watched = False
    instruction = p.instruction()
    if instruction is None:
        return
    touched = p.breakpoints.accesses(instruction)
    accesses.watched = frozenset()
    trap = p.engine.step()
    accesses.watched = p.breakpoints.pages
    p.engine.is_stale = True  # it has been told of the page
    if trap:
        p.handlers[trap](p)
    else:
        p.breakpoints.touched(touched)


def _step_alone(p: "Processor") -> int:
    """Execute an instruction without reading those behind it.

    As if it stood in the shadow of STI: then the engine translates no more than one.
    """
    state = p.state
    begin, was_in_shadow = state.rip, state.in_shadow
    state.in_shadow = True
    trap = p.engine.step()
    if state.rip == begin:
        state.in_shadow = was_in_shadow
    return trap


def _is_ahead(p: "Processor") -> bool:
    """Tell whether the instruction at RIP lies wholly before the page that cannot be fetched."""
    left = p.engine.fault_address - linear_address(p.state, SegmentIndex.CS, p.state.rip)
    if left <= 0:
        return False
    instruction = p.peek()
    return instruction is not None and 0 < instruction.len <= left


def _implicit_pages(p: "Processor") -> tuple[range, ...]:
    """Return where the instruction makes implicit supervisor-mode accesses, if one was refused.

    SDM 3A, "Access Rights": accesses to GDT and LDT are, whatever the CPL. The engine does not tell
    them from the instruction's own accesses.
    """
    fault = p.accesses.fault
    if not isinstance(fault, PageFault) or not fault.error_code & ERROR_U:
        return ()
    instruction = p.peek()
    if instruction is None or not loads_descriptor(instruction):
        return ()
    state = p.state
    runs = [state.table(SegmentIndex.GDTR)]
    table = state.segment(SegmentIndex.LDTR)
    runs.append((table.base, table.limit))
    pages = tuple(range(base & ~PAGE_OFFSET_MASK, base + limit + 1) for base, limit in runs)
    return pages if any(fault.address in one for one in pages) else ()


def _retry_as_supervisor(p: "Processor", pages: tuple[range, ...]) -> None:
    accesses = p.accesses
    accesses.implicit = pages
    trap = p.engine.step()
    accesses.implicit = ()
    p.engine.is_stale = True  # it has been told more than user-mode accesses may do
    if trap == Trap.FAULT and accesses.fault is not None:
        p.take_fault(accesses.engine_fault())
    elif trap:
        p.handlers[trap](p)


HANDLERS: "dict[int, Callable[[Processor], None]]" = {int(Trap.FAULT): on_fault}
