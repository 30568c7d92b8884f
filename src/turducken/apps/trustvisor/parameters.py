"""Parameters of a PAL: from its caller's registers, stack and buffers into the PAL, and back.

32-bit callers follow the i386 convention (all parameters on the stack), 64-bit callers that of
System V for AMD64 (six in registers). Buffers are copied into the PAL's section of parameters, and
the PAL gets pointers to the copies.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from turducken.apps.trustvisor.abi import RETURN_ADDRESS, ParameterKind, SectionKind
from turducken.apps.trustvisor.pal import Pal, PalMemory
from turducken.hypervisor.current_guest import CurrentGuest
from turducken.vmx.interface import Registers

_RCX, _RDX, _RSI, _RDI = 1, 2, 6, 7
_IN_REGISTERS = (_RDI, _RSI, _RDX, _RCX, 8, 9)
_STACK_ALIGNMENT = 16


class CopyBack(NamedTuple):
    """A buffer that the caller gets back: where it is in the PAL, and in the caller."""

    inside: int
    outside: int
    size: int


@dataclass(slots=True)
class Parameters:
    """What a call passes: the words that the PAL gets, and the buffers to be copied back."""

    words: list[int] = field(default_factory=list)
    back: list[CopyBack] = field(default_factory=list)


class CallFrame(NamedTuple):
    """What the caller's stack says: where to return to, and the words passed."""

    return_address: int
    words: tuple[int, ...]


def read_frame(guest: CurrentGuest, pal: Pal, stack: int, gpr: Registers) -> CallFrame | None:
    """Return the frame of a call that has just been made; None where it cannot be read."""
    count = len(pal.descriptor.parameters)
    on_stack = 0 if pal.is_64bit else count
    width = 8 if pal.is_64bit else 4
    data = guest.read(stack, width * (1 + on_stack))
    if data is None:
        return None
    return_address, *words = struct.unpack(f"<{1 + on_stack}{'Q' if pal.is_64bit else 'I'}", data)
    if pal.is_64bit:
        words = [gpr[number] for number in _IN_REGISTERS[:count]]
    return CallFrame(return_address, tuple(words))


def pass_in(
    guest: CurrentGuest, pal: Pal, memory: PalMemory, words: tuple[int, ...]
) -> Parameters | None:
    """Copy buffers into the PAL; None where the caller could not read or write one itself."""
    passed = Parameters()
    section = pal.descriptor.section(SectionKind.PARAMETERS)
    place = section.address if section is not None else 0
    for parameter, word in zip(pal.descriptor.parameters, words, strict=True):
        if not parameter.is_buffer:
            passed.words.append(word)
            continue
        data = bytes(parameter.size)
        if parameter.kind is not ParameterKind.OUT:
            read = guest.read(word, parameter.size)
            if read is None:
                return None
            data = read
        memory.write(place, data)
        if parameter.kind is not ParameterKind.IN:
            passed.back.append(CopyBack(place, word, parameter.size))
        passed.words.append(place)
        place += parameter.room
    return passed


def pass_out(guest: CurrentGuest, memory: PalMemory, passed: Parameters) -> bool:
    """Copy buffers back; False where the caller could not write one itself."""
    is_good = True
    for inside, outside, size in passed.back:
        data = memory.read(inside, size)
        is_good = data is not None and guest.write(outside, data) and is_good
    return is_good


def set_up_stack(pal: Pal, memory: PalMemory, words: list[int], gpr: Registers) -> int:
    """Put parameters and the return address where the PAL expects them; return its RSP."""
    top = pal.stack.range.stop
    if pal.is_64bit:
        for number, word in zip(_IN_REGISTERS, words, strict=False):
            gpr[number] = word
        frame, top = struct.pack("<Q", RETURN_ADDRESS), top - 8
    else:
        room = -(-4 * len(words) // _STACK_ALIGNMENT) * _STACK_ALIGNMENT
        frame = struct.pack(f"<{1 + len(words)}I", RETURN_ADDRESS, *words)
        top -= room + 4
    memory.write(top, frame)
    return top
