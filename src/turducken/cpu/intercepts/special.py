"""The instructions of `turducken.cpu.special`, and the blocks that contain them."""

from typing import TYPE_CHECKING

from iced_x86 import Mnemonic

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR4, RFLAGS
from turducken.cpu import vm_exit
from turducken.cpu.absent import EARLIER
from turducken.cpu.alignment import is_misaligned
from turducken.cpu.control_registers import sync_mmu
from turducken.cpu.decoder import (
    Instruction,
    OpKind,
    effective_address,
    gpr_number,
    read_register,
    register_size,
    write_register,
)
from turducken.cpu.engine import SegmentIndex, Trap
from turducken.cpu.events import Event, EventKind, exception
from turducken.cpu.guest_controls import Secondary
from turducken.cpu.intercepts import string_io, system, system_calls
from turducken.cpu.intercepts.checked import CHECKS, refuse_undefined
from turducken.cpu.operands import read_operand
from turducken.cpu.special import is_far, is_vector, loads_stack_segment
from turducken.cpu.transfers import jumps, returns
from turducken.cpu.transfers.stack_segment import load_stack_segment
from turducken.cpu.transfers.steps import Refusal
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import RANDOM_INFORMATION
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_OSXSAVE, _PKE, _FSGSBASE = (CR4.mask(one) for one in ("OSXSAVE", "PKE", "FSGSBASE"))
_LOW = 0xFFFF_FFFF
_CF, _DF, _ZF, _IF = (RFLAGS.mask(one) for one in ("CF", "DF", "ZF", "IF"))
_ARITHMETIC = RFLAGS.mask("CF", "PF", "AF", "ZF", "SF", "OF")


def on_special(p: "Processor") -> None:
    """Handle `Trap.SPECIAL`: execute one instruction of the block, perhaps ourselves."""
    instruction = p.instruction()
    if instruction is None:
        return
    p.stepped_from = p.state.rip, p.state.rip + instruction.len
    if p.breakpoints.enabled:
        met = p.breakpoints.at_instruction()
        if met:
            p.raise_event(exception(Vector.DB, payload=met))
            return
    if is_misaligned(p.state, instruction):
        p.raise_exception(Vector.AC, 0)
        return
    operation = _OPERATIONS.get(instruction.mnemonic)
    if operation is not None:
        p.engine.executed += 1
        operation(p, instruction)
        return
    if is_vector(instruction) or p.accesses.scanner.absent.has(instruction):
        _lack(p, instruction)
        return
    if instruction.is_invalid and refuse_undefined(p, p.instruction_bytes()):
        return
    check = CHECKS.get(instruction.mnemonic)
    refused = None if check is None else check(p, instruction)
    if refused is not None:
        p.refuse(refused)
        return
    transfer = _transfer(instruction)
    if transfer is not None:
        p.engine.executed += 1
        refusal = transfer(p, instruction)
        if refusal is not None:
            p.refuse(refusal)
        return
    sets_interrupts = instruction.mnemonic == Mnemonic.STI and not p.state.rflags & _IF
    trap = p.engine.step()
    if trap:
        p.handlers[trap](p)
    elif sets_interrupts and p.state.rflags & _IF:
        p.state.in_shadow = True  # which the engine's step ends


def _transfer(
    instruction: Instruction,
) -> "Callable[[Processor, Instruction], Refusal] | None":
    """Return what executes a far transfer or load of SS; None: it is something else."""
    if is_far(instruction):
        return jumps.far_transfer
    if instruction.mnemonic == Mnemonic.RETF:
        return returns.far_return
    return load_stack_segment if loads_stack_segment(instruction) else None


def _lack(p: "Processor", instruction: Instruction) -> None:
    """An instruction that the processor does not have: #UD, or what it was before it got a prefix.

    SDM 2A, "LZCNT", and 2D, "TZCNT": "on processors that do not support" them they are BSR and BSF.
    """
    if instruction.mnemonic not in EARLIER:
        p.raise_exception(Vector.UD)
        return
    operand, size = instruction.op0_register, register_size(instruction.op0_register)
    if instruction.op1_kind == OpKind.MEMORY:
        place = effective_address(p.state, instruction, p.state.rip)
        found = read_operand(p, place, size)
        if found is None:
            return
        value = found
    else:
        value = read_register(p.state, instruction.op1_register)
    flags = p.state.rflags & ~_ZF
    if not value:
        flags |= _ZF
    elif EARLIER[instruction.mnemonic] == Mnemonic.BSF:
        write_register(p.state, operand, (value & -value).bit_length() - 1)
    else:
        write_register(p.state, operand, value.bit_length() - 1)
    p.state.rflags = flags
    p.advance(instruction.len)


def _rdrand(p: "Processor", instruction: Instruction) -> None:
    is_seed = instruction.mnemonic == Mnemonic.RDSEED
    features, guest = p.profile.features, p.guest
    if not (features.rdseed if is_seed else features.rdrand):
        p.raise_exception(Vector.UD)
        return
    control = Secondary.RDSEED_EXITING if is_seed else Secondary.RDRAND_EXITING
    register = instruction.op0_register
    size = register_size(register)
    if guest is not None and guest.has_secondary(control):
        information = RANDOM_INFORMATION.make(
            REG1=gpr_number(register), OPERAND_SIZE={2: 0, 4: 1, 8: 2}[size]
        )
        vm_exit.current_vmcs(p).write(f.EXIT_INSTRUCTION_INFORMATION, information)
        reason = ExitReason.RDSEED if is_seed else ExitReason.RDRAND
        vm_exit.exit_to_host(p, reason, length=instruction.len)
        return
    write_register(p.state, register, p.random.getrandbits(8 * size))
    p.state.rflags = p.state.rflags & ~_ARITHMETIC | _CF
    p.advance(instruction.len)


def _xgetbv(p: "Processor", instruction: Instruction) -> None:
    state = p.state
    if not state.cr4 & _OSXSAVE:
        p.raise_exception(Vector.UD)
    elif state.gpr[1] & 0xFFFF_FFFF:
        p.general_protection()
    else:
        state.gpr[0], state.gpr[2] = state.xcr0 & _LOW, state.xcr0 >> 32
        p.advance(instruction.len)


def _rdpkru(p: "Processor", instruction: Instruction) -> None:
    gpr = p.state.gpr
    if _refuses_pkru(p, gpr[1]):
        return
    gpr[0], gpr[2] = p.pkru, 0
    p.advance(instruction.len)


def _wrpkru(p: "Processor", instruction: Instruction) -> None:
    gpr = p.state.gpr
    if _refuses_pkru(p, gpr[1] | gpr[2]):
        return
    p.pkru = gpr[0] & _LOW
    sync_mmu(p)
    p.advance(instruction.len)


def _refuses_pkru(p: "Processor", must_be_0: int) -> bool:
    if not p.state.cr4 & _PKE:
        p.raise_exception(Vector.UD)
        return True
    if must_be_0 & _LOW:
        p.general_protection()
        return True
    return False


def _write_base(p: "Processor", instruction: Instruction) -> None:
    """WRFSBASE and WRGSBASE: SDM 2D, "WRFSBASE/WRGSBASE - Write FS/GS Segment Base"."""
    state = p.state
    if not (state.is_64bit and state.cr4 & _FSGSBASE):
        p.raise_exception(Vector.UD)
        return
    value = read_register(state, instruction.op0_register)
    if not state.is_canonical(value):
        p.general_protection()
        return
    index = SegmentIndex.FS if instruction.mnemonic == Mnemonic.WRFSBASE else SegmentIndex.GS
    state.set_segment_base(index, value)
    p.advance(instruction.len)


def _int1(p: "Processor", instruction: Instruction) -> None:
    p.raise_event(Event(EventKind.PRIVILEGED_SOFTWARE, Vector.DB, None, instruction.len))


_OPERATIONS: "dict[int, Callable[[Processor, Instruction], None]]" = {
    Mnemonic.RDRAND: _rdrand,
    Mnemonic.RDSEED: _rdrand,
    Mnemonic.XGETBV: _xgetbv,
    Mnemonic.XSETBV: lambda p, _: system.on_xsetbv(p),
    Mnemonic.INVD: lambda p, _: system.on_invd(p),
    Mnemonic.INT1: _int1,
    Mnemonic.RDPKRU: _rdpkru,
    Mnemonic.WRPKRU: _wrpkru,
    Mnemonic.WRFSBASE: _write_base,
    Mnemonic.WRGSBASE: _write_base,
    Mnemonic.SYSCALL: system_calls.syscall,
    Mnemonic.SYSRET: system_calls.sysret,
    Mnemonic.SYSRETQ: system_calls.sysret,
    Mnemonic.SYSENTER: system_calls.sysenter,
    Mnemonic.INSB: string_io.ins,
    Mnemonic.INSW: string_io.ins,
    Mnemonic.INSD: string_io.ins,
    Mnemonic.OUTSB: string_io.outs,
    Mnemonic.OUTSW: string_io.outs,
    Mnemonic.OUTSD: string_io.outs,
}

HANDLERS: "dict[int, Callable[[Processor], None]]" = {int(Trap.SPECIAL): on_special}
