"""Events delivered through an 8086's interrupt vector table: real mode, and CR4.VME's redirection.

SDM 3B, "Interrupt and Exception Handling in Real-Address Mode", "Class 3 - Software Interrupt
Handling in Virtual-8086 Mode".
"""

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR4, RFLAGS
from turducken.cpu.engine import SegmentIndex, State
from turducken.cpu.events import Event, exception
from turducken.cpu.linear import LinearMemory
from turducken.mmu.faults import Fault

_TF, _IF, _RF, _AC, _VIF = (RFLAGS.mask(one) for one in ("TF", "IF", "RF", "AC", "VIF"))
_IOPL = RFLAGS["IOPL"]
_VME = CR4.mask("VME")
_IO_MAP_BASE, _REDIRECTION_BYTES = 0x66, 32
_IO_PRIVILEGED = 3


def return_address(state: State, event: Event) -> int:
    """Return the IP to push: behind the instruction for software events."""
    return state.rip + (event.length if event.is_software else 0)


def deliver_real(state: State, memory: LinearMemory, event: Event) -> Event | Fault | None:
    """Deliver an event in real mode, through the table at IDTR."""
    base, limit = state.table(SegmentIndex.IDTR)
    if 4 * event.vector + 3 > limit:
        return exception(Vector.GP, None)
    entry = memory.read(base + 4 * event.vector, 4)
    if not isinstance(entry, bytes):
        return entry
    return _enter(state, memory, event, entry, state.rflags, _IF | _TF | _AC)


def redirect(state: State, memory: LinearMemory, event: Event) -> bool | Event | Fault:
    """Deliver INT n to the 8086 program's own handler, if CR4.VME and the TSS say so.

    Returns False where it goes through the IDT, True where it has been delivered, or what failed.
    With IOPL below 3 the program sees VIF for IF.
    """
    if not state.cr4 & _VME:
        return False
    bit = _redirection_bit(state, memory, event.vector)
    if not isinstance(bit, int):
        return bit
    if bit:
        return False
    entry = memory.read(4 * event.vector, 4, user=True)
    if not isinstance(entry, bytes):
        return entry
    flags, cleared = state.rflags, _IF
    if _IOPL.get(flags) < _IO_PRIVILEGED:
        flags, cleared = program_flags(flags), _VIF
    return _enter(state, memory, event, entry, flags, cleared | _TF) or True


def program_flags(flags: int) -> int:
    """Return RFLAGS as a program with virtual interrupts sees them: VIF for IF, and IOPL 3."""
    return _IOPL.put(flags & ~_IF | (_IF if flags & _VIF else 0), _IO_PRIVILEGED)


def _redirection_bit(state: State, memory: LinearMemory, vector: int) -> int | Event | Fault:
    """Return the vector's bit in the map below the TSS's I/O permission map."""
    task = state.segment(SegmentIndex.TR)
    base = memory.read(task.base + _IO_MAP_BASE, 2)
    if not isinstance(base, bytes):
        return base
    place = int.from_bytes(base, "little") - _REDIRECTION_BYTES + (vector >> 3)
    if not 0 <= place <= task.limit:
        return exception(Vector.GP, 0)
    byte = memory.read(task.base + place, 1)
    return byte[0] >> (vector & 7) & 1 if isinstance(byte, bytes) else byte


def _enter(
    state: State, memory: LinearMemory, event: Event, entry: bytes, flags: int, cleared: int
) -> Event | Fault | None:
    """Push FLAGS, CS and IP, and go on at the handler that a table's entry names."""
    code = state.segment(SegmentIndex.CS)
    pointer = state.gpr[4] & 0xFFFF
    for value in flags, code.selector, return_address(state, event):
        # Each push by itself: SP may wrap between two of them.
        pointer = (pointer - 2) & 0xFFFF
        failed = _push(state, memory, pointer, value & 0xFFFF)
        if failed is not None:
            return failed
    state.gpr[4] = state.gpr[4] & ~0xFFFF | pointer
    state.rflags &= ~(cleared | _RF)
    offset, selector = int.from_bytes(entry[:2], "little"), int.from_bytes(entry[2:], "little")
    state.set_segment(SegmentIndex.CS, code._replace(selector=selector, base=selector << 4))
    state.rip = offset
    state.in_shadow = False
    state.update_mode()
    return None


def _push(state: State, memory: LinearMemory, pointer: int, value: int) -> Event | Fault | None:
    stack = state.segment(SegmentIndex.SS)
    if pointer + 1 > min(stack.limit, 0xFFFF):
        return exception(Vector.SS, None if state.cpl == 0 else 0)
    address = (stack.base + pointer) & 0xFFFF_FFFF
    return memory.write(address, value.to_bytes(2, "little"), user=state.cpl == 3)
