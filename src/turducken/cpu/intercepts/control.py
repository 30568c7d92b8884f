"""Accesses to control and debug registers: MOV CR, CLTS, LMSW, SMSW, MOV DR.

SDM 3C, "Instructions That Cause VM Exits" and "Changes to Instruction Behavior in VMX Non-Root
Operation".
"""

from typing import TYPE_CHECKING

from iced_x86 import Mnemonic

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, CR4, RFLAGS
from turducken.cpu import control_registers as cr
from turducken.cpu import vm_exit
from turducken.cpu.decoder import (
    Code,
    Instruction,
    OpKind,
    Register,
    effective_address,
    gpr_number,
    read_register,
    write_register,
)
from turducken.cpu.diagnosing import tell_refused_control_register
from turducken.cpu.events import exception
from turducken.cpu.guest_controls import GuestControls, Primary, Secondary
from turducken.cpu.operands import read_operand, write_operand
from turducken.cpu.virtual_apic import TPR, write_tpr
from turducken.cpu.vmx_operations import update_intercepts
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import CR_QUALIFICATION, DR_QUALIFICATION
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_TS, _PE, _PG = CR0.mask("TS"), CR0.mask("PE"), CR0.mask("PG")
_DE, _UMIP = CR4.mask("DE"), CR4.mask("UMIP")
_VM = RFLAGS.mask("VM")
_LMSW_BITS = 0xF
_GD, _BD = 1 << 13, 1 << 13

_CONTROL = {getattr(Register, f"CR{n}"): n for n in (0, 2, 3, 4, 8)}
_DEBUG = {getattr(Register, f"DR{n}"): n for n in range(8)}
_CLTS, _LMSW, _MOV_TO, _MOV_FROM = 2, 3, 0, 1
_FROM_MEMORY = 4
_LMSW_MEMORY = CR_QUALIFICATION.mask("LMSW_MEMORY")


def on_control(p: "Processor") -> None:
    """Handle any access to a control register."""
    instruction = p.instruction()
    if instruction is None:
        return
    code = instruction.code
    if code == Code.CLTS:
        _clts(p, instruction)
    elif instruction.mnemonic == Mnemonic.LMSW:
        _lmsw(p, instruction)
    elif instruction.mnemonic == Mnemonic.SMSW:
        _smsw(p, instruction)
    elif instruction.op0_register in _CONTROL:
        _mov_to(p, instruction)
    elif instruction.op1_register in _CONTROL:
        _mov_from(p, instruction)
    else:
        p.raise_exception(Vector.UD)


def _cr_exit(
    p: "Processor", number: int, kind: int, register: int, length: int, source: int = 0
) -> None:
    qualification = CR_QUALIFICATION.make(
        NUMBER=number, ACCESS=kind & 3, REGISTER=register, LMSW_SOURCE=source
    )
    qualification |= _LMSW_MEMORY if kind & _FROM_MEMORY else 0
    vm_exit.exit_to_host(p, ExitReason.CR_ACCESS, qualification, length=length)


def _mov_to(p: "Processor", instruction: Instruction) -> None:
    number = _CONTROL[instruction.op0_register]
    register = gpr_number(instruction.op1_register)
    value = p.state.gpr[register]
    if not p.state.is_64bit:
        value &= 0xFFFF_FFFF
    if p.state.cpl:
        p.general_protection()
        return
    if p.guest is not None and _mov_to_exits(p.guest, number, value):
        _cr_exit(p, number, _MOV_TO, register, instruction.len)
        return
    refused = _write(p, number, value)
    if refused is not None:
        p.refuse(refused)
        return
    p.advance(instruction.len)


def _mov_to_exits(guest: GuestControls, number: int, value: int) -> bool:
    if number == 0:
        return bool((value ^ guest.cr0_shadow) & guest.cr0_mask)
    if number == 4:
        return bool((value ^ guest.cr4_shadow) & guest.cr4_mask)
    if number == 3:
        exiting = guest.has_primary(Primary.CR3_LOAD_EXITING)
        return exiting and value not in guest.cr3_targets
    if number == 8:
        return guest.has_primary(Primary.CR8_LOAD_EXITING)
    return False


def _write(p: "Processor", number: int, value: int) -> cr.Refusal:
    guest = p.guest
    if number == 0:
        if guest is not None:
            value = value & ~guest.cr0_mask | p.state.cr0 & guest.cr0_mask
        return _write_cr0(p, value)
    if number == 2:
        p.state.cr2 = value
        return None
    if number == 3:
        return cr.write_cr3(p, value)
    if number == 4:
        if guest is not None:
            value = value & ~guest.cr4_mask | p.state.cr4 & guest.cr4_mask
        return _write_cr4(p, value)
    return _write_cr8(p, value)


def _write_cr0(p: "Processor", value: int) -> cr.Refusal:
    """SDM 3C, "Restrictions on VMX Operation": fixed bits; unrestricted guests may clear PE, PG."""
    if p.vmx.in_operation:
        fixed0, fixed1 = p.capabilities.cr0_fixed0, p.capabilities.cr0_fixed1
        if p.guest is not None and p.guest.has_secondary(Secondary.UNRESTRICTED_GUEST):
            fixed0 &= ~(_PE | _PG)
        if ~value & fixed0 or value & ~fixed1:
            tell_refused_control_register(p, 0, value)
            return cr.GENERAL_PROTECTION
    return _followed(p, cr.write_cr0(p, value))


def _write_cr4(p: "Processor", value: int) -> cr.Refusal:
    if p.vmx.in_operation and not p.capabilities.accepts_cr4(value):
        tell_refused_control_register(p, 4, value)
        return cr.GENERAL_PROTECTION
    return _followed(p, cr.write_cr4(p, value))


def _followed(p: "Processor", refused: cr.Refusal) -> cr.Refusal:
    """A register has been written: let what depends on it trap or not."""
    if refused is None:
        update_intercepts(p)
    return refused


def _write_cr8(p: "Processor", value: int) -> cr.Refusal:
    if value >> 4:
        return cr.GENERAL_PROTECTION
    guest = p.guest
    if guest is not None and guest.has_primary(Primary.USE_TPR_SHADOW):
        write_tpr(p, value << 4)
        return None
    p.apic.tpr = value << 4
    p.attention = True
    return None


def _read(p: "Processor", number: int) -> int:
    guest, state = p.guest, p.state
    if number == 0:
        value = state.cr0
        if guest is not None:
            value = value & ~guest.cr0_mask | guest.cr0_shadow & guest.cr0_mask
        return value
    if number == 2:
        return state.cr2
    if number == 3:
        return state.cr3
    if number == 4:
        value = state.cr4
        if guest is not None:
            value = value & ~guest.cr4_mask | guest.cr4_shadow & guest.cr4_mask
        return value
    if guest is not None and guest.has_primary(Primary.USE_TPR_SHADOW):
        return p.memory.load(guest.virtual_apic + TPR, 4) >> 4 & 0xF
    return p.apic.tpr >> 4


def _mov_from(p: "Processor", instruction: Instruction) -> None:
    number = _CONTROL[instruction.op1_register]
    if p.state.cpl:
        p.general_protection()
        return
    guest = p.guest
    if guest is not None:
        exiting = number == 3 and guest.has_primary(Primary.CR3_STORE_EXITING)
        if exiting or (number == 8 and guest.has_primary(Primary.CR8_STORE_EXITING)):
            register = gpr_number(instruction.op0_register)
            _cr_exit(p, number, _MOV_FROM, register, instruction.len)
            return
    write_register(p.state, instruction.op0_register, _read(p, number))
    p.advance(instruction.len)


def _clts(p: "Processor", instruction: Instruction) -> None:
    if p.state.cpl:
        p.general_protection()
        return
    guest = p.guest
    value = p.state.cr0 & ~_TS
    if guest is not None and guest.cr0_mask & _TS:
        # "CLTS causes a VM exit if the bits in position 3 are set in both the CR0 guest/host mask
        # and the CR0 read shadow"; with the shadow clear it leaves CR0.TS alone.
        if guest.cr0_shadow & _TS:
            _cr_exit(p, 0, _CLTS, 0, instruction.len)
            return
        value = p.state.cr0
    refused = cr.write_cr0(p, value)
    if refused is not None:
        p.refuse(refused)
        return
    p.advance(instruction.len)


def _lmsw(p: "Processor", instruction: Instruction) -> None:
    if p.state.cpl:
        p.general_protection()
        return
    is_memory = instruction.op0_kind == OpKind.MEMORY
    if is_memory:
        operand = effective_address(p.state, instruction, p.state.rip)
        found = read_operand(p, operand, 2)
        if found is None:
            return
        source = found
    else:
        source = read_register(p.state, instruction.op0_register) & 0xFFFF
    guest, old = p.guest, p.state.cr0
    # LMSW cannot clear PE.
    value = old & ~_LMSW_BITS | source & _LMSW_BITS | old & _PE
    if guest is not None:
        if _lmsw_exits(guest, source):
            if is_memory:
                vm_exit.current_vmcs(p).write(f.GUEST_LINEAR_ADDRESS, operand.linear)
            kind = _LMSW | (_FROM_MEMORY if is_memory else 0)
            _cr_exit(p, 0, kind, 0, instruction.len, source)
            return
        value = value & ~guest.cr0_mask | old & guest.cr0_mask
    refused = _write_cr0(p, value)
    if refused is not None:
        p.refuse(refused)
        return
    p.advance(instruction.len)


def _lmsw_exits(guest: GuestControls, source: int) -> bool:
    """LMSW exits if it sets an owned PE that the shadow has clear, or if owned bits 3:1 differ."""
    owned = guest.cr0_mask
    if owned & source & ~guest.cr0_shadow & _PE:
        return True
    return bool(owned & (source ^ guest.cr0_shadow) & 0xE)


def _smsw(p: "Processor", instruction: Instruction) -> None:
    state = p.state
    if state.cr4 & _UMIP and state.cpl:
        p.general_protection()
        return
    value = _read(p, 0)
    if instruction.op0_kind == OpKind.MEMORY:
        operand = effective_address(state, instruction, state.rip)
        if not write_operand(p, operand, 2, value & 0xFFFF):
            return
    else:
        write_register(state, instruction.op0_register, value)
    p.advance(instruction.len)


def on_debug_register(p: "Processor") -> None:
    """Handle MOV to and from a debug register."""
    instruction = p.instruction()
    if instruction is None:
        return
    to_debug = instruction.op0_register in _DEBUG
    number = _DEBUG[instruction.op0_register if to_debug else instruction.op1_register]
    register = instruction.op1_register if to_debug else instruction.op0_register
    guest = p.guest
    if guest is not None and guest.has_primary(Primary.MOV_DR_EXITING):
        qualification = DR_QUALIFICATION.make(
            NUMBER=number, FROM=0 if to_debug else 1, REGISTER=gpr_number(register)
        )
        vm_exit.exit_to_host(p, ExitReason.MOV_DR, qualification, length=instruction.len)
        return
    if number in (4, 5):
        if p.state.cr4 & _DE:
            p.raise_exception(Vector.UD)
            return
        number += 2
    if p.state.cpl:
        p.general_protection()
        return
    if p.dr[7] & _GD:
        p.raise_event(exception(Vector.DB, payload=_BD))
        return
    if to_debug:
        value = read_register(p.state, register)
        if number >= 6 and value >> 32:
            p.general_protection()
            return
        p.dr[number] = _debug_value(number, value)
    else:
        write_register(p.state, register, p.dr[number])
    p.advance(instruction.len)


def _debug_value(number: int, value: int) -> int:
    if number == 6:
        return value & 0xE00F | 0xFFFF_0FF0
    if number == 7:
        return value & 0xFFFF_2BFF | 0x400
    return value


HANDLERS: "dict[int, Callable[[Processor], None]]" = {
    **{0x100 + n: on_control for n in range(0x20)},
    0x165: on_control,
    **{0x120 + n: on_debug_register for n in range(0x20)},
}
