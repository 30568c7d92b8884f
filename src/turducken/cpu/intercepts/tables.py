"""Descriptor-table registers: SGDT, SIDT, SLDT, STR and what loads them.

SDM 2A, "LGDT/LIDT", "LLDT", "LTR"; SDM 2B, "SGDT", "SIDT", "SLDT", "STR". In non-root operation
they are VM exits with descriptor-table exiting; what CR4.UMIP keeps from user mode is #GP before.
"""

from typing import TYPE_CHECKING, NamedTuple

from iced_x86 import Mnemonic

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR4
from turducken.arch.segments import UNUSABLE, Descriptor, Segment, SegmentIndex, SystemType
from turducken.cpu import operands, vm_exit
from turducken.cpu.decoder import (
    Code,
    Instruction,
    OpKind,
    effective_address,
    read_register,
    write_register,
)
from turducken.cpu.descriptors import place_of, set_busy
from turducken.cpu.events import Event
from turducken.cpu.guest_controls import Secondary
from turducken.cpu.intercepts.operands import descriptor_information, displacement
from turducken.cpu.transfers.steps import fault, is_long, is_real_or_8086
from turducken.mmu.faults import Fault
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_UMIP = CR4.mask("UMIP")
_GDTR, _IDTR, _LDTR, _TR = (
    SegmentIndex.GDTR,
    SegmentIndex.IDTR,
    SegmentIndex.LDTR,
    SegmentIndex.TR,
)
_LOADS = frozenset({Mnemonic.LGDT, Mnemonic.LIDT, Mnemonic.LLDT, Mnemonic.LTR})
_BY_BASE = {
    Mnemonic.SGDT: (_GDTR, 0),
    Mnemonic.SIDT: (_IDTR, 1),
    Mnemonic.LGDT: (_GDTR, 2),
    Mnemonic.LIDT: (_IDTR, 3),
}
_BY_SELECTOR = {
    Mnemonic.SLDT: (_LDTR, 0),
    Mnemonic.STR: (_TR, 1),
    Mnemonic.LLDT: (_LDTR, 2),
    Mnemonic.LTR: (_TR, 3),
}
"""The register, and the number that tells the instruction in the information field."""
_SHORT = frozenset({Code.LGDT_M1632_16, Code.LIDT_M1632_16})
"""With a 16-bit operand size, a base has 24 bits."""


class _System(NamedTuple):
    """A system descriptor and its base."""

    descriptor: Descriptor
    base: int


def on_descriptor_table(p: "Processor") -> None:
    """Handle an instruction that loads or stores a descriptor-table register."""
    instruction = p.instruction()
    if instruction is None:
        return
    loads = instruction.mnemonic in _LOADS
    selects = instruction.mnemonic in _BY_SELECTOR
    is_kept = loads or p.state.cr4 & _UMIP
    if selects and is_real_or_8086(p.state):
        p.raise_exception(Vector.UD)
    elif is_kept and p.state.cpl:
        p.general_protection()
    elif p.guest is not None and p.guest.has_secondary(Secondary.DESCRIPTOR_TABLE_EXITING):
        _exit(p, instruction)
    elif selects:
        register, _ = _BY_SELECTOR[instruction.mnemonic]
        (_load_selector if loads else _store_selector)(p, instruction, register)
    else:
        register, _ = _BY_BASE[instruction.mnemonic]
        (_load_base if loads else _store_base)(p, instruction, register)


def _exit(p: "Processor", instruction: Instruction) -> None:
    selects = instruction.mnemonic in _BY_SELECTOR
    _, identity = (_BY_SELECTOR if selects else _BY_BASE)[instruction.mnemonic]
    information = descriptor_information(instruction, p.state, identity)
    vm_exit.current_vmcs(p).write(f.EXIT_INSTRUCTION_INFORMATION, information)
    reason = ExitReason.LDTR_OR_TR_ACCESS if selects else ExitReason.GDTR_OR_IDTR_ACCESS
    is_memory = instruction.op0_kind == OpKind.MEMORY
    qualification = displacement(instruction, p.state.rip) if is_memory else 0
    vm_exit.exit_to_host(p, reason, qualification, length=instruction.len)


def _load_base(p: "Processor", instruction: Instruction, register: int) -> None:
    state = p.state
    width = 8 if state.is_64bit else 4
    value = operands.read_operand(p, effective_address(state, instruction, state.rip), 2 + width)
    if value is None:
        return
    limit, base = value & 0xFFFF, value >> 16
    if state.is_64bit and not state.is_canonical(base):
        p.general_protection()
        return
    state.set_table(register, base & 0xFF_FFFF if instruction.code in _SHORT else base, limit)
    p.advance(instruction.len)


def _store_base(p: "Processor", instruction: Instruction, register: int) -> None:
    state = p.state
    base, limit = state.table(register)
    width = 8 if state.is_64bit else 4
    place = effective_address(state, instruction, state.rip)
    if operands.write_operand(p, place, 2 + width, limit | base << 16):
        p.advance(instruction.len)


def _store_selector(p: "Processor", instruction: Instruction, register: int) -> None:
    state = p.state
    selector = state.segment(register).selector
    if instruction.op0_kind == OpKind.MEMORY:
        place = effective_address(state, instruction, state.rip)
        if not operands.write_operand(p, place, 2, selector):
            return
    else:
        write_register(state, instruction.op0_register, selector)
    p.advance(instruction.len)


def _load_selector(p: "Processor", instruction: Instruction, register: int) -> None:
    state = p.state
    if instruction.op0_kind == OpKind.MEMORY:
        value = operands.read_operand(p, effective_address(state, instruction, state.rip), 2)
        if value is None:
            return
        selector = value
    else:
        selector = read_register(state, instruction.op0_register) & 0xFFFF
    segment = _ldt(p, selector) if register is _LDTR else _task(p, selector)
    if not isinstance(segment, Segment):
        p.refuse(segment)
        return
    state.set_segment(register, segment)
    p.advance(instruction.len)


def _ldt(p: "Processor", selector: int) -> Segment | Event | Fault:
    if selector & 0xFFFC == 0:
        return Segment(selector, 0, 0, UNUSABLE)
    found = _system(p, selector)
    if not isinstance(found, _System):
        return found
    descriptor, base = found
    if descriptor.segment_type != SystemType.LDT:
        return fault(Vector.GP, selector)
    if not descriptor.is_present:
        return fault(Vector.NP, selector)
    return descriptor.segment(selector)._replace(base=base)


def _task(p: "Processor", selector: int) -> Segment | Event | Fault:
    if selector & 0xFFFC == 0:
        return fault(Vector.GP, 0)
    found = _system(p, selector)
    if not isinstance(found, _System):
        return found
    descriptor, base = found
    kind = descriptor.segment_type
    if kind != SystemType.TSS and (kind != SystemType.TSS16 or is_long(p.state)):
        return fault(Vector.GP, selector)
    if not descriptor.is_present:
        return fault(Vector.NP, selector)
    failed = set_busy(p.linear, descriptor, busy=True)
    if failed is not None:
        return failed
    segment = descriptor.segment(selector)
    return segment._replace(base=base, access=segment.access | 2)


def _system(p: "Processor", selector: int) -> _System | Event | Fault:
    """Return a system descriptor of the GDT and its base, which has 64 bits in IA-32e mode."""
    state = p.state
    size = 16 if is_long(state) else 8
    place = None if selector & 4 else place_of(state, selector, size)
    if place is None:
        return fault(Vector.GP, selector)
    raw = p.linear.read(place, size)
    if not isinstance(raw, bytes):
        return raw
    word = int.from_bytes(raw, "little")
    found = Descriptor(word & 0xFFFF_FFFF_FFFF_FFFF, place)
    base = found.base | word >> 64 << 32 & 0xFFFF_FFFF_0000_0000
    is_wrong = word >> (64 + 40) & 0x1F or not state.is_canonical(base)
    if not found.is_system or (is_long(state) and is_wrong):
        return fault(Vector.GP, selector)
    return _System(found, base)


HANDLERS: "dict[int, Callable[[Processor], None]]" = {
    0x166 + n: on_descriptor_table for n in range(8)
}
