"""Reading descriptors from GDT and LDT, and marking those that are loaded.

SDM 3A, "Segment Descriptor Tables". These are implicit supervisor-mode accesses.
"""

from turducken.arch.segments import UNUSABLE, Descriptor, SegmentIndex
from turducken.cpu.engine import State
from turducken.cpu.events import Event, exception
from turducken.cpu.linear import LinearMemory
from turducken.mmu.faults import Fault


def place_of(state: State, selector: int, size: int = 8) -> int | None:
    """Return the linear address of a descriptor of ``size`` bytes; None: beyond its table."""
    if selector & 4:
        table = state.segment(SegmentIndex.LDTR)
        base, limit = table.base, table.limit
        if table.access & UNUSABLE:
            return None
    else:
        base, limit = state.table(SegmentIndex.GDTR)
    if (selector & 0xFFF8) + size - 1 > limit:
        return None
    return base + (selector & 0xFFF8)


def read_descriptor(
    state: State, memory: LinearMemory, selector: int, fault: int, external: int = 0
) -> Descriptor | Event | Fault:
    """Read a descriptor that must be there; ``fault`` is #GP or #TS, raised where it is not."""
    if selector & 0xFFFC == 0:
        return exception(fault, external)
    linear = place_of(state, selector)
    if linear is None:
        return exception(fault, selector & 0xFFFC | external)
    raw = memory.read(linear, 8)
    if not isinstance(raw, bytes):
        return raw
    return Descriptor(int.from_bytes(raw, "little"), linear)


def mark_accessed(memory: LinearMemory, loaded: Descriptor) -> Fault | None:
    """Set the accessed bit of a code or data segment's descriptor, unless it is set."""
    if loaded.is_accessed:
        return None
    return memory.write(loaded.linear + 5, bytes([loaded.raw >> 40 & 0xFF | 1]))


def set_busy(memory: LinearMemory, task: Descriptor, *, busy: bool) -> Fault | None:
    """Set or clear the busy bit of a TSS descriptor."""
    access = loaded = task.raw >> 40 & 0xFF
    access = access | 2 if busy else access & ~2
    return memory.write(task.linear + 5, bytes([access])) if access != loaded else None
