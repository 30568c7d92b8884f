"""Entering SVM guest mode once, with every intercept set; from then on states are only edited.

AMD64 Architecture Programmer's Manual 2, "Secure Virtual Machine" and appendix "Layout of VMCB".
"""

import struct

from unicorn import Uc, x86_const

from turducken.arch.msr import IA32_EFER
from turducken.cpu.engine import library
from turducken.cpu.engine.state import State

_BASE = 1 << 45
_VMCB, _HOST_SAVE, _IO_MAP, _MSR_MAP, _STUB = (
    _BASE,
    _BASE + 0x1000,
    _BASE + 0x2000,
    _BASE + 0x6000,
    _BASE + 0x8000,
)
_VMRUN = bytes.fromhex("0f01d8")
_CPUID = bytes.fromhex("0fa2")
_VM_HSAVE_PA = 0xC001_0117
_EFER_LONG_SVM = 0x1D01
_CPUID_EXIT = 0x172

# IRET, PUSHF, POPF stay with the engine, and so do the interrupts that it never has.
_LEFT_ALONE = 1 << 16 | 1 << 17 | 1 << 20 | 1 << 21 | 0x1F


def _control_block() -> bytes:
    """Return a VMCB for 64-bit mode at `_STUB` + 3, intercepting all that can be intercepted."""
    block = bytearray(0x1000)
    everything = 0xFFFF_FFFF_FFFF_FFFF & ~_LEFT_ALONE
    struct.pack_into("<HHHHIQ", block, 0, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF_FFFF, everything)
    struct.pack_into("<QQ", block, 0x40, _IO_MAP, _MSR_MAP)
    struct.pack_into("<I", block, 0x58, 1)
    for offset in (0, 0x10, 0x20, 0x30):
        selector, attributes = (8, 0xA9B) if offset == 0x10 else (16, 0xC93)
        struct.pack_into("<HHIQ", block, 0x400 + offset, selector, attributes, 0xFFFF_FFFF, 0)
    struct.pack_into("<Q", block, 0x4D0, _EFER_LONG_SVM)
    struct.pack_into("<QQQ", block, 0x548, 0x20, 0, 0x8000_0031)
    struct.pack_into("<QQQQ", block, 0x560, 0xFFFF_0FF0, 0x400, 2, _STUB + len(_VMRUN))
    return bytes(block)


def enter_guest_mode(engine: Uc, handle: int, state: State) -> None:
    """Run VMRUN on private pages and stop at the first intercept; ``state`` is the guest's then."""
    # Both are written while no intercept is on: in guest mode msr_write would take the intercept.
    engine.mem_map(_BASE, 0x10000)
    engine.mem_write(_VMCB, _control_block())
    engine.mem_write(_IO_MAP, b"\xff" * 0x3000)
    engine.mem_write(_MSR_MAP, b"\xff" * 0x2000)
    engine.mem_write(_STUB, _VMRUN + _CPUID)
    engine.msr_write(IA32_EFER, _EFER_LONG_SVM)
    engine.msr_write(_VM_HSAVE_PA, _HOST_SAVE)
    engine.reg_write(x86_const.UC_X86_REG_RAX, _VMCB)
    engine.reg_write(x86_const.UC_X86_REG_CR4, 0x20)
    library.emu_start(handle, _STUB, 0, 0, 0)
    if state.rip != _STUB + len(_VMRUN):
        raise library.EngineError("the engine does not enter SVM guest mode")
