"""System instructions: CPUID, MSRs, time, HLT, caches and TLBs, XSETBV, descriptor tables.

Each handler checks privilege, then whether the guest's controls make a VM exit of it, then acts.
SDM 3C, "Relative Priority of Faults and VM Exits".
"""

from typing import TYPE_CHECKING

from turducken.arch import xcr0
from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, CR4, RFLAGS
from turducken.arch.segments import SegmentIndex
from turducken.cpu import apic_access, vm_exit
from turducken.cpu.decoder import (
    SEGMENT_NUMBERS,
    Code,
    Instruction,
    effective_address,
    gpr_number,
)
from turducken.cpu.diagnosing import tell_msr
from turducken.cpu.guest_controls import Primary, Secondary
from turducken.cpu.intercepts.operands import displacement, instruction_information
from turducken.cpu.operands import read, read_operand
from turducken.cpu.surroundings import Activity
from turducken.cpu.transfers import returns, steps, tasks
from turducken.cpu.vmx_operations import iret_leaves_blocking, pause_loop_exits
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import MWAIT_QUALIFICATION
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_LOW = 0xFFFF_FFFF
_TSD, _PCE, _OSXSAVE = CR4.mask("TSD"), CR4.mask("PCE"), CR4.mask("OSXSAVE")
_PCIDE = CR4.mask("PCIDE")
_PE = CR0.mask("PE")
_VM, _IF, _NT = RFLAGS.mask("VM"), RFLAGS.mask("IF"), RFLAGS.mask("NT")
_RAX, _RCX, _RDX, _RBX = 0, 1, 2, 3

PAUSE_NANOSECONDS = 1000
"""What PAUSE takes: who waits for time to pass need not execute many of them."""


def _exit(p: "Processor", reason: ExitReason, qualification: int = 0) -> None:
    vm_exit.exit_to_host(p, reason, qualification, length=p.instruction_length())


def _needs_ring0(p: "Processor") -> bool:
    """Cause #GP(0) unless at CPL 0; return whether it did."""
    if p.state.cpl:
        p.general_protection()
        return True
    return False


def on_cpuid(p: "Processor") -> None:
    """CPUID: always a VM exit in non-root operation."""
    if p.guest is not None:
        vm_exit.exit_to_host(p, ExitReason.CPUID, length=p.instruction_length())
        return
    gpr = p.state.gpr
    eax, ebx, ecx, edx = p.cpuid_leaf(gpr[_RAX] & _LOW, gpr[_RCX] & _LOW)
    gpr[_RAX], gpr[_RBX], gpr[_RCX], gpr[_RDX] = eax, ebx, ecx, edx
    p.advance(p.instruction_length())


def on_msr(p: "Processor") -> None:
    """RDMSR and WRMSR."""
    if _needs_ring0(p):
        return
    instruction = p.instruction()
    if instruction is None:
        return
    gpr = p.state.gpr
    index = gpr[_RCX] & _LOW
    write = instruction.code == Code.WRMSR
    if p.guest is not None and p.guest.exits_on_msr(index, write=write):
        reason = ExitReason.WRMSR if write else ExitReason.RDMSR
        vm_exit.exit_to_host(p, reason, length=instruction.len)
        return
    if write:
        wanted = gpr[_RDX] << 32 & ~_LOW & (1 << 64) - 1 | gpr[_RAX] & _LOW
        if not _write_msr(p, index, wanted):
            tell_msr(p, index, wanted)
            p.general_protection()
            return
        p.attention = True
    else:
        value = _read_msr(p, index)
        if value is None:
            tell_msr(p, index, None)
            p.general_protection()
            return
        if index == 0x10:
            value = guest_tsc(p)
        gpr[_RAX], gpr[_RDX] = value & _LOW, value >> 32
    p.advance(instruction.len)


def _virtualizes_x2apic(p: "Processor") -> bool:
    return p.guest is not None and p.guest.has_secondary(Secondary.VIRTUALIZE_X2APIC_MODE)


def _read_msr(p: "Processor", index: int) -> int | None:
    if _virtualizes_x2apic(p):
        value = apic_access.read_msr(p, index)
        if value is not None:
            return value
    return p.msrs.read(index)


def _write_msr(p: "Processor", index: int, value: int) -> bool:
    if _virtualizes_x2apic(p):
        written = apic_access.write_msr(p, index, value)
        if written is not None:
            return written
    return p.msrs.write(index, value)


def guest_tsc(p: "Processor") -> int:
    """Return the time-stamp counter as the running software sees it (offset and scaling)."""
    value = p.read_tsc()
    if p.guest is not None:
        value = (value * p.guest.tsc_multiplier >> 48) + p.guest.tsc_offset
    return value & 0xFFFF_FFFF_FFFF_FFFF


def on_rdtsc(p: "Processor") -> None:
    """RDTSC and RDTSCP."""
    instruction = p.instruction()
    if instruction is None:
        return
    is_rdtscp = instruction.code == Code.RDTSCP
    guest = p.guest
    if is_rdtscp and guest is not None and not guest.has_secondary(Secondary.ENABLE_RDTSCP):
        p.raise_exception(Vector.UD)
        return
    if p.state.cr4 & _TSD and p.state.cpl:
        p.general_protection()
        return
    if guest is not None and guest.has_primary(Primary.RDTSC_EXITING):
        reason = ExitReason.RDTSCP if is_rdtscp else ExitReason.RDTSC
        vm_exit.exit_to_host(p, reason, length=instruction.len)
        return
    value = guest_tsc(p)
    gpr = p.state.gpr
    gpr[_RAX], gpr[_RDX] = value & _LOW, value >> 32
    if is_rdtscp:
        gpr[_RCX] = (p.msrs.read(0xC000_0103) or 0) & _LOW
    p.advance(instruction.len)


def on_rdpmc(p: "Processor") -> None:
    """RDPMC."""
    if not p.state.cr4 & _PCE and p.state.cpl:
        p.general_protection()
    elif p.guest is not None and p.guest.has_primary(Primary.RDPMC_EXITING):
        _exit(p, ExitReason.RDPMC)
    else:
        gpr = p.state.gpr
        value = p.msrs.performance.read_counter(gpr[_RCX] & _LOW)
        if value is None:
            p.general_protection()
            return
        gpr[_RAX], gpr[_RDX] = value & _LOW, value >> 32
        p.advance(p.instruction_length())


def on_hlt(p: "Processor") -> None:
    """HLT: stop until an interrupt; a VM exit if the guest's controls say so."""
    if _needs_ring0(p):
        return
    if p.guest is not None and p.guest.has_primary(Primary.HLT_EXITING):
        _exit(p, ExitReason.HLT)
        return
    p.advance(p.instruction_length())
    p.activity = Activity.HLT
    p.attention = True


def on_pause(p: "Processor") -> None:
    """PAUSE: ends the processor's turn, for whoever it waits for."""
    if p.guest is not None:
        if p.guest.has_primary(Primary.PAUSE_EXITING):
            _exit(p, ExitReason.PAUSE)
            return
        if p.guest.has_secondary(Secondary.PAUSE_LOOP_EXITING) and pause_loop_exits(p):
            _exit(p, ExitReason.PAUSE)
            return
    p.platform.spend(p.index, PAUSE_NANOSECONDS)
    p.advance(p.instruction_length())
    p.yielded = True


def on_invlpg(p: "Processor") -> None:
    """INVLPG."""
    if _needs_ring0(p):
        return
    instruction = p.instruction()
    if instruction is None:
        return
    address = effective_address(p.state, instruction, p.state.rip).linear
    if p.guest is not None and p.guest.has_primary(Primary.INVLPG_EXITING):
        vm_exit.exit_to_host(p, ExitReason.INVLPG, address, length=instruction.len)
        return
    p.tlb.invlpg(p.vpid, p.mmu.tag.pcid, address & p.mmu.address_mask)
    p.advance(instruction.len)


def invpcid(p: "Processor", instruction: Instruction) -> None:
    """INVPCID (which the engine does not know): SDM 2A, "INVPCID"."""
    guest = p.guest
    if guest is not None and not guest.has_secondary(Secondary.ENABLE_INVPCID):
        p.raise_exception(Vector.UD)
        return
    if _needs_ring0(p):
        return
    operand = effective_address(p.state, instruction, p.state.rip)
    if guest is not None and guest.has_primary(Primary.INVLPG_EXITING):
        information = instruction_information(instruction, p.state, second=instruction.op0_register)
        vm_exit.current_vmcs(p).write(f.EXIT_INSTRUCTION_INFORMATION, information)
        vm_exit.exit_to_host(
            p, ExitReason.INVPCID, displacement(instruction, p.state.rip), length=instruction.len
        )
        return
    found = read_operand(p, operand, 16)
    if found is None:
        return
    kind = p.state.gpr[gpr_number(instruction.op0_register)]
    if not p.state.is_64bit:
        kind &= _LOW
    word, address = found & (1 << 64) - 1, found >> 64
    if not _invpcid(p, kind, word, address):
        p.general_protection()
        return
    p.advance(instruction.len)


def _invpcid(p: "Processor", kind: int, word: int, address: int) -> bool:
    pcid = word & 0xFFF
    if word >> 12 or kind > 3:
        return False
    if pcid and not p.state.cr4 & _PCIDE and kind < 2:
        return False
    if kind == 0:
        if not p.state.is_canonical(address):
            return False
        p.tlb.invpcid_address(p.vpid, pcid, address & p.mmu.address_mask)
    elif kind == 1:
        p.tlb.flush_pcid(p.vpid, pcid, "INVPCID")
    elif kind == 2:
        p.tlb.flush_vpid(p.vpid, "INVPCID")
    else:
        p.tlb.flush_non_global(p.vpid)
    return True


def on_invd(p: "Processor") -> None:
    """INVD: always a VM exit in non-root operation; caches are not modelled."""
    if _needs_ring0(p):
        return
    if p.guest is not None:
        _exit(p, ExitReason.INVD)
        return
    p.advance(p.instruction_length())


def on_wbinvd(p: "Processor") -> None:
    """WBINVD; caches are not modelled."""
    if _needs_ring0(p):
        return
    if p.guest is not None and p.guest.has_secondary(Secondary.WBINVD_EXITING):
        _exit(p, ExitReason.WBINVD)
        return
    p.advance(p.instruction_length())


def on_monitor(p: "Processor") -> None:
    """MONITOR: the monitored range is not modelled, so MWAIT does not wait for it."""
    if p.state.cpl or not p.profile.features.monitor:
        p.raise_exception(Vector.UD)
    elif p.guest is not None and p.guest.has_primary(Primary.MONITOR_EXITING):
        _exit(p, ExitReason.MONITOR)
    elif p.state.gpr[_RCX] & _LOW:
        p.general_protection()
    else:
        _monitor(p)


def _monitor(p: "Processor") -> None:
    """Arm MONITOR, whose range is an operand that is read."""
    instruction = p.instruction()
    if instruction is None:
        return
    segment = int(SEGMENT_NUMBERS.get(instruction.segment_prefix, SegmentIndex.DS))
    if p.state.is_64bit and segment < SegmentIndex.FS:
        segment = int(SegmentIndex.DS)
    offset = p.state.gpr[_RAX] & _MONITOR_ADDRESSES.get(instruction.code, _LOW)
    found = read(p, segment, offset, 1)
    if isinstance(found, bytes):
        p.is_monitoring = True
        p.advance(instruction.len)
    else:
        p.refuse(found)


_MONITOR_ADDRESSES = {Code.MONITORW: 0xFFFF, Code.MONITORQ: (1 << 64) - 1}


def on_mwait(p: "Processor") -> None:
    """MWAIT: returns at once, as a processor may; the turn ends."""
    if p.state.cpl or not p.profile.features.monitor:
        p.raise_exception(Vector.UD)
    elif p.guest is not None and p.guest.has_primary(Primary.MWAIT_EXITING):
        _exit(p, ExitReason.MWAIT, MWAIT_QUALIFICATION.make(ARMED=p.is_monitoring))
    elif p.state.gpr[_RCX] & _LOW & ~1:
        p.general_protection()
    else:
        p.is_monitoring = False
        p.advance(p.instruction_length())
        p.yielded = True


def on_xsetbv(p: "Processor") -> None:
    """XSETBV: always a VM exit in non-root operation."""
    if not p.state.cr4 & _OSXSAVE:
        p.raise_exception(Vector.UD)
        return
    if p.guest is not None:
        # "XSETBV causes a VM exit at CPL 0; #GP otherwise".
        if not _needs_ring0(p):
            _exit(p, ExitReason.XSETBV)
        return
    if _needs_ring0(p):
        return
    gpr = p.state.gpr
    if not p.set_xcr(gpr[_RCX], xcr0.operand(gpr[_RDX], gpr[_RAX])):
        p.general_protection()
        return
    p.advance(p.instruction_length())


def on_iret(p: "Processor") -> None:
    """IRET: perhaps a task switch; it ends the blocking of NMIs, even if it faults.

    SDM 3A, "Handling Multiple NMIs". A fault or EPT violation that it then meets is reported with
    the bit "NMI unblocking due to IRET".
    """
    instruction = p.instruction()
    if instruction is None:
        return
    state = p.state
    if p.nmi_blocked and not iret_leaves_blocking(p.guest):
        p.nmi_blocked = False
        p.unblocking_iret = state.rip
    stack = state.gpr[4]
    to_task = state.rflags & _NT and not steps.is_real_or_8086(state) and not steps.is_long(state)
    if to_task:
        refusal = tasks.interrupt_return_task(p, instruction.len)
    else:
        refusal = returns.interrupt_return(p, instruction)
    if refusal is not None:
        p.refuse(refusal)
    elif state.is_64bit and state.cpl == 0:
        # The engine may execute the next one itself, if it knows where these are.
        p.engine.prefetch(state.table(SegmentIndex.GDTR)[0])
        p.engine.prefetch(stack)
    p.unblocking_iret = None


HANDLERS: "dict[int, Callable[[Processor], None]]" = {
    0x172: on_cpuid,
    0x17C: on_msr,
    0x16E: on_rdtsc,
    0x187: on_rdtsc,
    0x16F: on_rdpmc,
    0x174: on_iret,
    0x178: on_hlt,
    0x177: on_pause,
    0x179: on_invlpg,
    0x176: on_invd,
    0x189: on_wbinvd,
    0x18A: on_monitor,
    0x18B: on_mwait,
    0x18C: on_mwait,
    0x18D: on_xsetbv,
}
