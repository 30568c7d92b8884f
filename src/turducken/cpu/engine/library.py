"""The few hot calls of Unicorn's C interface, prepared once.

The binding's own wrappers cost several times what the calls cost; these are plain ctypes functions
with fixed signatures. Everything that is not hot goes through the binding.
"""

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_bool, c_int, c_int32, c_size_t, c_uint32, c_uint64
from ctypes import c_uint as c_unsigned
from ctypes import c_void_p as ptr
from typing import Any

from unicorn import Uc, unicorn_const, x86_const
from unicorn.unicorn_py3.unicorn import uc_tb, uclib

from turducken.errors import UserError

SUPPORTED = (2, 1)
"""The minor version whose private layout `turducken.cpu.engine.state` knows."""


class EngineError(UserError):
    """The instruction engine's build cannot be used; the message says why."""


def _address(name: str) -> int:
    address = ctypes.cast(getattr(uclib, name), ptr).value
    assert address is not None
    return address


def _prepare(name: str, *arguments: Any) -> Any:
    return CFUNCTYPE(c_int, *arguments)(_address(name))


emu_start = _prepare("uc_emu_start", ptr, c_uint64, c_uint64, c_uint64, c_size_t)
emu_stop = _prepare("uc_emu_stop", ptr)
emu_stop_address = _address("uc_emu_stop")
context_size = _prepare("uc_context_size", ptr)
context_alloc = _prepare("uc_context_alloc", ptr, POINTER(ptr))
context_save = _prepare("uc_context_save", ptr, ptr)
context_restore = _prepare("uc_context_restore", ptr, ptr)
reg_read = _prepare("uc_reg_read", ptr, c_int, ptr)
reg_write = _prepare("uc_reg_write", ptr, c_int, ptr)
context_reg_read = _prepare("uc_context_reg_read", ptr, c_int, ptr)
hook_add = _prepare("uc_hook_add", ptr, ptr, c_int, ptr, ptr, c_uint64, c_uint64)
hook_add_instruction = _prepare("uc_hook_add", ptr, ptr, c_int, ptr, ptr, c_uint64, c_uint64, c_int)
mmio_map = _prepare("uc_mmio_map", ptr, c_uint64, c_uint64, ptr, ptr, ptr, ptr)
_ctl_none = _prepare("uc_ctl", ptr, c_int32)
_ctl_int = _prepare("uc_ctl", ptr, c_int32, c_int)
_ctl_range = _prepare("uc_ctl", ptr, c_int32, c_uint64, c_uint64)
_ctl_block = _prepare("uc_ctl", ptr, c_int32, c_uint64, POINTER(uc_tb))

INTERRUPT_HOOK = CFUNCTYPE(None, c_uint64, c_uint32, c_uint64)
FILL_HOOK = CFUNCTYPE(c_bool, c_uint64, c_uint64, c_uint32, c_uint64, c_uint64)
STOP = CFUNCTYPE(c_int, c_uint64)
BLOCK_HOOK = CFUNCTYPE(None, c_uint64, c_uint64, c_uint32, c_uint64)
EDGE_HOOK = CFUNCTYPE(None, ptr, POINTER(uc_tb), POINTER(uc_tb), ptr)
IN_HOOK = CFUNCTYPE(c_uint32, ptr, c_uint32, c_int, ptr)
OUT_HOOK = CFUNCTYPE(None, ptr, c_uint32, c_int, c_uint32, ptr)
MMIO_READ_HOOK = CFUNCTYPE(c_uint64, ptr, c_uint64, c_unsigned, ptr)
MMIO_WRITE_HOOK = CFUNCTYPE(None, ptr, c_uint64, c_unsigned, c_uint64, ptr)


def _control(number: int, arguments: int, *, write: bool, read: bool = False) -> int:
    return number | arguments << 26 | (1 if write else 0) << 30 | (-(1 << 31) if read else 0)


_FLUSH_TLB = _control(unicorn_const.UC_CTL_TLB_FLUSH, 0, write=True)
_FLUSH_CODE = _control(unicorn_const.UC_CTL_TB_FLUSH, 0, write=True)
_VIRTUAL_TLB = _control(unicorn_const.UC_CTL_TLB_TYPE, 1, write=True)
_USE_EXITS = _control(unicorn_const.UC_CTL_UC_USE_EXITS, 1, write=True)
_REMOVE_CODE = _control(unicorn_const.UC_CTL_TB_REMOVE_CACHE, 2, write=True)
_REQUEST_BLOCK = _control(unicorn_const.UC_CTL_TB_REQUEST_CACHE, 2, write=True, read=True)


def open_engine() -> tuple[Uc, int]:
    """Return a new 64-bit x86 engine whose TLB misses ask us, and its raw handle."""
    if (unicorn_const.UC_API_MAJOR, unicorn_const.UC_API_MINOR) != SUPPORTED:
        raise EngineError(f"unicorn {SUPPORTED[0]}.{SUPPORTED[1]} is needed")
    engine = Uc(unicorn_const.UC_ARCH_X86, unicorn_const.UC_MODE_64)
    engine.ctl_set_cpu_model(x86_const.UC_CPU_X86_EPYC)
    handle = engine._uch.value
    _ctl_int(handle, _VIRTUAL_TLB, unicorn_const.UC_TLB_VIRTUAL)
    # Without this, emu_start would translate the code at its "until" address.
    _ctl_int(handle, _USE_EXITS, 1)
    return engine, handle


def flush_tlb(handle: int) -> None:
    """Empty the engine's own TLB, so that every access asks us again."""
    _ctl_none(handle, _FLUSH_TLB)


def flush_code(handle: int) -> None:
    """Drop all translated code."""
    _ctl_none(handle, _FLUSH_CODE)


def remove_code(handle: int, begin: int, end: int) -> None:
    """Drop the code translated from the RAM that linear ``begin`` to ``end`` lead to."""
    _ctl_range(handle, _REMOVE_CODE, begin, end)


def block_instructions(handle: int, address: int) -> int:
    """Return how many instructions the translated block at linear ``address`` has."""
    block = uc_tb()
    _ctl_block(handle, _REQUEST_BLOCK, address, ctypes.byref(block))
    return int(block.icount)


_REFUSED_ADDRESS = 1416


def refused_address(handle: int) -> int:
    """Return the exact linear address of the last access whose translation a hook refused.

    The place in the engine's own record is private; `turducken.cpu.engine.selfcheck` checks it.
    """
    return _word(handle + _REFUSED_ADDRESS)


def _word(address: int) -> int:
    return c_uint64.from_address(address).value


_CPU, _STATE = 440, 296
"""Where an engine points to its CPU, and that to its registers."""


def state_address(handle: int, read: Callable[[int], int] = _word) -> int:
    """Return where the registers are: what `context_save` copies from there on.

    The places of both pointers are private; `turducken.cpu.engine.selfcheck` checks them, with a
    ``read`` that fails where nothing is.
    """
    return read(read(handle + _CPU) + _STATE)


def add_hook(handle: int, kind: int, callback: Any, data: int | None = None) -> None:
    """Register a ctypes callback (or a native function's address) for every address."""
    hook = c_size_t()
    status = hook_add(handle, ctypes.addressof(hook), kind, ctypes.cast(callback, ptr), data, 1, 0)
    if status:
        raise EngineError(f"the engine refuses hook {kind:#x}: error {status}")


def add_instruction_hook(handle: int, instruction: int, callback: Any) -> None:
    """Register a ctypes callback for IN or OUT."""
    hook = c_size_t()
    status = hook_add_instruction(
        handle,
        ctypes.addressof(hook),
        unicorn_const.UC_HOOK_INSN,
        ctypes.cast(callback, ptr),
        None,
        1,
        0,
        instruction,
    )
    if status:
        raise EngineError(f"the engine refuses an instruction hook: error {status}")
