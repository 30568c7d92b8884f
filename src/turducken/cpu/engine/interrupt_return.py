"""IRET within ring 0 of a 64-bit kernel, without leaving the engine.

Kernels execute it to return from interrupts of their own, and to have what they have changed of
their code executed as it is: a boot of Linux has 100,000 of them. What is done here is what
`turducken.cpu.transfers.returns` does where the segments stay what they are.

SDM 2A, "IRET/IRETD/IRETQ - Interrupt Return".
"""

from turducken.arch.registers import RFLAGS
from turducken.arch.segments import SegmentIndex
from turducken.cpu.engine.hot import HOT
from turducken.cpu.engine.state import CC_OP_EFLAGS, H_CS64
from turducken.cpu.engine.trap_data import TrapData, byte_at_rip, data_at
from turducken.native import U64, word_at

_CS, _SS = int(SegmentIndex.CS), int(SegmentIndex.SS)
_REX_W, _IRET = 0x48, 0xCF
_WORD = 8
_FRAME = 5 * _WORD
_RSP = 4

_ARITHMETIC = RFLAGS.mask("CF", "PF", "AF", "ZF", "SF", "OF")
_DF, _AC, _NT = RFLAGS.mask("DF"), RFLAGS.mask("AC"), RFLAGS.mask("NT")
_LOADED = RFLAGS.mask("IF", "IOPL", "RF", "ID")
"""What is simply taken from the stack in ring 0, besides arithmetic flags and DF."""
_RARE = RFLAGS.mask("TF", "NT", "VM", "AC", "VIF", "VIP")
_FIXED = 2

# Of a descriptor's access rights, as in the VMCS: type, S, DPL, P, AVL, L, D/B, G.
_RIGHTS = 0xF0FF
_CODE, _CODE_MASK = 0x2099, 0x60F9
"""Code of ring 0 for 64-bit mode, present, accessed; conforming or not, readable or not."""
_DATA, _DATA_MASK = 0x93, 0xFB
"""Writable data of ring 0, present, accessed."""
_PRESENT = 0x8000
"""In the engine's flags of a segment."""


@HOT.compiled
def return_from_interrupt(data: TrapData) -> bool:
    """Execute IRETQ where code and stack segment stay what they are; return False elsewhere."""
    registers = data.registers
    if data.blocks_nmi or not registers.hflags & H_CS64 or registers.eflags & (_NT | _AC):
        return False
    if byte_at_rip(data, 0) != _REX_W or byte_at_rip(data, 1) != _IRET:
        return False
    frame = data_at(data, registers.gpr[_RSP], _FRAME)
    if frame == 0:
        return False
    rip, flags = word_at(frame), word_at(frame + 2 * _WORD)
    upper = rip >> 47
    if flags & _RARE or upper not in (0, 0x1_FFFF):
        return False
    if not is_loaded(data, _CS, word_at(frame + _WORD) & 0xFFFF, _CODE, _CODE_MASK):
        return False
    if not is_loaded(data, _SS, word_at(frame + 4 * _WORD) & 0xFFFF, _DATA, _DATA_MASK):
        return False
    registers.gpr[_RSP] = word_at(frame + 3 * _WORD)
    registers.rip = rip
    registers.eflags = flags & _LOADED | _FIXED
    registers.cc_source = flags & _ARITHMETIC
    registers.cc_operation = CC_OP_EFLAGS
    registers.direction = 0xFFFF_FFFF if flags & _DF else 1
    registers.error_code = 0
    registers.is_software = 0
    return True


@HOT.compiled
def is_loaded(data: TrapData, index: U64, selector: U64, rights: U64, mask: U64) -> bool:
    """Tell whether loading ``selector`` would leave a segment register as it is.

    It must be that of a descriptor in the GDT whose access rights under ``mask`` are ``rights``, or
    the null selector in a stack segment that it is in already.
    """
    loaded = data.registers.segments[index]
    if loaded.selector & 0xFFFF != selector or selector & 7:
        return False
    if selector == 0:
        return index == _SS and loaded.flags & _PRESENT == 0
    table = data.registers.gdtr
    if selector + 7 > table.limit:
        return False
    place = data_at(data, table.base + selector, 8)
    if place == 0:
        return False
    raw = word_at(place)
    access = raw >> 40 & _RIGHTS
    limit = raw & 0xFFFF | raw >> 32 & 0xF_0000
    if raw >> 55 & 1:
        limit = limit << 12 | 0xFFF
    base = raw >> 16 & 0xFF_FFFF | raw >> 56 << 24
    if access & mask != rights or access != loaded.flags >> 8 & _RIGHTS:
        return False
    return loaded.base == base and loaded.limit == limit
