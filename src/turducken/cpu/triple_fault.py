"""What led to a triple fault: each event, and which step of its delivery failed.

SDM 3A, "Interrupt 8 - Double Fault Exception". Nothing but memory below the new stack pointer has
changed when a delivery fails, so its steps can be gone through again.
"""

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, EFER
from turducken.arch.segments import Descriptor, SegmentIndex
from turducken.cpu.delivery import Failure, Gate, TaskSwitch, read_gate, target_code
from turducken.cpu.engine import State
from turducken.cpu.events import Event, EventKind
from turducken.cpu.linear import LinearMemory
from turducken.diagnosis import BrokenRule, Diagnosis, Kind, Reading
from turducken.mmu.faults import PageFault

_PE, _LMA = CR0.mask("PE"), EFER.mask("LMA")
_CITATION = 'SDM 3A, "Interrupt 8 - Double Fault Exception"'
_DELIVERY = 'SDM 3A, "Exception- or Interrupt-Handler Procedures"'
_GATE_TYPES = {5: "task gate", 6: "16-bit interrupt gate", 7: "16-bit trap gate"} | {
    14: "interrupt gate",
    15: "trap gate",
}

Chain = list[tuple[Event, Failure]]
"""The events of one delivery after the other, each with what its delivery met."""


def explain_triple_fault(state: State, memory: LinearMemory, chain: Chain) -> Diagnosis:
    """Return the record of a triple fault that ``chain`` led to."""
    notes = []
    rule: BrokenRule | None = None
    for number, (event, failure) in enumerate(chain):
        begins = "first" if number == 0 else "then"
        found = _failed_step(state, memory, event, failure)
        rule = rule or found
        notes.append(f"{begins} {event_name(event)}: {found.text}")
        notes += [f"  {one.text}" for one in found.readings]
        notes.append(f"  so there is {_failure_name(failure)}")
    notes.append("which cannot be delivered after a double fault: the processor shuts down")
    first = chain[0][0] if chain else None
    operation = f"delivery of {event_name(first)}" if first is not None else "event delivery"
    assert rule is not None
    return Diagnosis(Kind.TRIPLE_FAULT, operation, "triple fault", (rule,), tuple(notes))


def event_name(event: Event) -> str:
    """Return an event with its error code, and for a page fault its address."""
    if event.kind is EventKind.NMI:
        return "NMI"
    known = event.vector in Vector._value2member_map_ and event.kind is not EventKind.EXTERNAL
    name = f"#{Vector(event.vector).name}" if known else f"interrupt {event.vector:#x}"
    if event.kind is EventKind.SOFTWARE_INTERRUPT:
        name = f"INT {event.vector:#x}"
    code = "" if event.error_code is None else f"({event.error_code:#x})"
    is_fault = event.vector == Vector.PF and event.kind is EventKind.HARDWARE
    return name + code + (f" at {event.payload:#x}" if is_fault else "")


def _failure_name(failure: Failure) -> str:
    if isinstance(failure, Event):
        return event_name(failure)
    if isinstance(failure, PageFault):
        return f"#PF({failure.error_code:#x}) at {failure.address:#x}"
    if isinstance(failure, TaskSwitch):
        return f"a task switch to the TSS at selector {failure.selector:#x}"
    return type(failure).__name__


def _failed_step(state: State, memory: LinearMemory, event: Event, failure: Failure) -> BrokenRule:
    """Return which demand of the delivery was not met."""
    table, limit = state.table(SegmentIndex.IDTR)
    size = 16 if state.efer & _LMA else 8 if state.cr0 & _PE else 4
    place = table + size * event.vector
    idtr = (Reading("IDTR base", table, 16), Reading("IDTR limit", limit, 4))
    if size * event.vector + size - 1 > limit:
        return _rule(
            "idt-limit",
            f"entry {event.vector} must be within the IDT's limit",
            idtr,
            f"a limit of at least {size * event.vector + size - 1:#x}",
        )
    raw = memory.read(place, size)
    if not isinstance(raw, bytes):
        return _rule(
            "idt-unreadable", f"IDT entry {event.vector} at {place:#x} must be mapped", idtr
        )
    entry = Reading(
        f"IDT entry {event.vector} at {place:#x}", int.from_bytes(raw, "little"), 2 * size
    )
    if not state.cr0 & _PE:
        return _stack(state, failure, (entry, *idtr))
    long = bool(state.efer & _LMA)
    entry = entry._replace(decoded=_decode_gate(entry.value))
    gate = read_gate(state, memory, event, long=long)
    if not isinstance(gate, Gate):
        return _bad_gate(event, entry, gate, idtr)
    target = target_code(state, memory, event, gate, long=long)
    if not isinstance(target, Descriptor):
        gdt, gdt_limit = state.table(SegmentIndex.GDTR)
        readings = (
            Reading("code selector of the gate", gate.selector, 4),
            entry,
            Reading("GDTR base", gdt, 16),
            Reading("GDTR limit", gdt_limit, 4),
        )
        return _rule(
            "handler-segment",
            "the gate's selector must be that of a present code segment, of 64 bits in IA-32e mode",
            readings,
            "a code descriptor of the GDT (with L set and D clear in IA-32e mode)",
        )
    return _stack(state, failure, (entry, *idtr))


def _decode_gate(value: int) -> str:
    kind = _GATE_TYPES.get(value >> 40 & 0xF, f"type {value >> 40 & 0xF}")
    present = "present" if value >> 47 & 1 else "not present"
    return f"{kind}, {present}, selector {value >> 16 & 0xFFFF:#x}, DPL {value >> 45 & 3}"


def _bad_gate(
    event: Event, entry: Reading, failure: Failure, idtr: tuple[Reading, ...]
) -> BrokenRule:
    is_missing = isinstance(failure, Event) and failure.vector == Vector.NP
    if is_missing:
        return _rule(
            "idt-not-present",
            f"{entry.name} must be present",
            (entry, *idtr),
            "a gate with bit 47 set, with the handler's address",
        )
    return _rule(
        "idt-type",
        f"{entry.name} must be an interrupt or trap gate (in IA-32e mode of 64 bits) that the "
        "event may use",
        (entry, *idtr),
        "type 14 or 15",
    )


def _stack(state: State, failure: Failure, readings: tuple[Reading, ...]) -> BrokenRule:
    stack = Reading("RSP", state.gpr[4], 16)
    task = state.segment(SegmentIndex.TR)
    where = (Reading("TR base", task.base, 16), Reading("TR limit", task.limit, 8))
    address = f" ({failure.address:#x})" if isinstance(failure, PageFault) else ""
    return _rule(
        "stack",
        f"the event's frame must be written to the handler's stack{address}: mapped, within limits",
        (stack, *where, *readings),
        "a stack that is mapped and writable (of the TSS, where the privilege level or IST say so)",
    )


def _rule(name: str, text: str, readings: tuple[Reading, ...], allowed: str = "") -> BrokenRule:
    return BrokenRule(f"delivery.{name}", text, _DELIVERY, readings, allowed)
