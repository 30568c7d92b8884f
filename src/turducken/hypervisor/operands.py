"""The operands of an instruction that caused a VM exit, from the exit's information fields.

SDM 3C, "Information for VM Exits Due to Instruction Execution".
"""

from typing import NamedTuple

from turducken.address import is_canonical
from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR4, EFER
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import ACCESS_RIGHTS, FIELD_ACCESS_INFORMATION, UNUSABLE
from turducken.vmx.interface import VmxProcessor
from turducken.vmx.vmcs import Vmcs

_LAYOUT = FIELD_ACCESS_INFORMATION
_SCALING, _ADDRESS_SIZE = _LAYOUT["SCALING"], _LAYOUT["ADDRESS_SIZE"]
_SEGMENT, _INDEX, _BASE = _LAYOUT["SEGMENT"], _LAYOUT["INDEX"], _LAYOUT["BASE"]
_INDEX_INVALID, _BASE_INVALID = _LAYOUT.mask("INDEX_INVALID"), _LAYOUT.mask("BASE_INVALID")
_ADDRESS_MASKS = (0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)
_LMA, _LA57 = EFER.mask("LMA"), CR4.mask("LA57")
_L = ACCESS_RIGHTS.mask("L")
_BIG = ACCESS_RIGHTS.mask("D/B")
_SS, _FS, _GS = 2, 4, 5
_CODE, _WRITABLE_OR_READABLE, _EXPAND_DOWN = 8, 2, 4
_RSP = 4


class SegmentFault(NamedTuple):
    """#GP(0) or #SS(0): the operand is outside its segment, or its address not canonical."""

    vector: int


def is_64bit_mode(vmcs: Vmcs) -> bool:
    """Tell whether the guest whose state ``vmcs`` holds is in 64-bit mode."""
    long = vmcs.slots[f.GUEST_EFER.slot] & _LMA
    return bool(long and vmcs.slots[f.GUEST_CS_ACCESS_RIGHTS.slot] & _L)


def is_canonical_for(vmcs: Vmcs, address: int) -> bool:
    """Tell whether a linear address is canonical for the guest, by its CR4.LA57."""
    width = 57 if vmcs.slots[f.GUEST_CR4.slot] & _LA57 else 48
    return is_canonical(address, width=width)


def read_gpr(processor: VmxProcessor, vmcs: Vmcs, number: int) -> int:
    """Return a general-purpose register of the guest."""
    return vmcs.slots[f.GUEST_RSP.slot] if number == _RSP else processor.gpr[number]


def write_gpr(processor: VmxProcessor, vmcs: Vmcs, number: int, value: int) -> None:
    """Set a general-purpose register of the guest."""
    if number == _RSP:
        vmcs.write(f.GUEST_RSP, value)
    else:
        processor.gpr[number] = value


def memory_operand(
    processor: VmxProcessor, vmcs: Vmcs, length: int, *, write: bool
) -> int | SegmentFault:
    """Return the linear address of the memory operand of ``length`` bytes."""
    information = vmcs.read(f.EXIT_INSTRUCTION_INFORMATION)
    offset = vmcs.read(f.EXIT_QUALIFICATION)
    if not information & _BASE_INVALID:
        offset += read_gpr(processor, vmcs, _BASE.get(information))
    if not information & _INDEX_INVALID:
        index = read_gpr(processor, vmcs, _INDEX.get(information))
        offset += index << _SCALING.get(information)
    offset &= _ADDRESS_MASKS[min(_ADDRESS_SIZE.get(information), 2)]
    number = _SEGMENT.get(information)
    segment = f.GUEST_SEGMENTS[number]
    fault = SegmentFault(Vector.SS if number == _SS else Vector.GP)
    if is_64bit_mode(vmcs):
        base = vmcs.read(segment.base) if number in (_FS, _GS) else 0
        address = (base + offset) & 0xFFFF_FFFF_FFFF_FFFF
        fits = is_canonical_for(vmcs, address) and is_canonical_for(vmcs, address + length - 1)
        return address if fits else fault
    if not _fits(vmcs, segment, offset, length, write=write):
        return fault
    return (vmcs.read(segment.base) + offset) & 0xFFFF_FFFF


def _fits(vmcs: Vmcs, segment: f.SegmentFields, offset: int, length: int, *, write: bool) -> bool:
    """SDM 3A, "Limit Checking" and "Type Checking"."""
    rights, limit = vmcs.read(segment.access_rights), vmcs.read(segment.limit)
    if rights & UNUSABLE:
        return False
    is_code = rights & _CODE
    if write and (is_code or not rights & _WRITABLE_OR_READABLE):
        return False
    if is_code and not rights & _WRITABLE_OR_READABLE:
        return False
    last = offset + length - 1
    if not is_code and rights & _EXPAND_DOWN:
        highest = 0xFFFF_FFFF if rights & _BIG else 0xFFFF
        return offset > limit and last <= highest
    return last <= limit
