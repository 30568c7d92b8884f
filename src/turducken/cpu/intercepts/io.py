"""IN, OUT, INS and OUTS that the processor refused to execute: #GP, or a VM exit.

SDM 3C, "Exit Qualification for I/O Instructions".
"""

from typing import TYPE_CHECKING

from iced_x86 import Mnemonic, OpKind, Register

from turducken.cpu import vm_exit
from turducken.cpu.decoder import Instruction, linear_address, operand_segment
from turducken.cpu.engine import SegmentIndex, Trap
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import IO_QUALIFICATION, STRING_IO_INFORMATION
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_IN = frozenset({Mnemonic.IN, Mnemonic.INSB, Mnemonic.INSW, Mnemonic.INSD})
STRING_SIZES = {
    Mnemonic.INSB: 1,
    Mnemonic.INSW: 2,
    Mnemonic.INSD: 4,
    Mnemonic.OUTSB: 1,
    Mnemonic.OUTSW: 2,
    Mnemonic.OUTSD: 4,
}
_ACCUMULATOR_SIZES = {Register.AL: 1, Register.AX: 2, Register.EAX: 4}
ADDRESS_BYTES = {
    OpKind.MEMORY_SEG_SI: 2,
    OpKind.MEMORY_SEG_ESI: 4,
    OpKind.MEMORY_SEG_RSI: 8,
    OpKind.MEMORY_ESDI: 2,
    OpKind.MEMORY_ESEDI: 4,
    OpKind.MEMORY_ESRDI: 8,
}


def on_io(p: "Processor") -> None:
    """Handle `Trap.IO`."""
    if p.accesses.io_refused is not None:
        refused, p.accesses.io_refused = p.accesses.io_refused, None
        p.raise_event(refused)
        return
    instruction = p.instruction()
    if instruction is None:
        return
    is_in = instruction.mnemonic in _IN
    size = STRING_SIZES.get(instruction.mnemonic)
    is_string = size is not None
    if size is None:
        register = instruction.op0_register if is_in else instruction.op1_register
        size = _ACCUMULATOR_SIZES[register]
    operand = 1 if is_in else 0
    has_immediate = instruction.op_kind(operand) == OpKind.IMMEDIATE8
    port = instruction.immediate8 if has_immediate else p.state.gpr[2] & 0xFFFF
    qualification = IO_QUALIFICATION.make(
        SIZE=size - 1,
        IN=is_in,
        STRING=is_string,
        REP=is_string and (instruction.has_rep_prefix or instruction.has_repne_prefix),
        IMMEDIATE=has_immediate,
        PORT=port,
    )
    if is_string:
        _record_string(p, instruction, is_in=is_in)
    vm_exit.exit_to_host(p, ExitReason.IO_INSTRUCTION, qualification, length=instruction.len)


def _record_string(p: "Processor", instruction: Instruction, *, is_in: bool) -> None:
    """Record the guest-linear address and, where the processor offers it, the information field."""
    kind = instruction.op0_kind if is_in else instruction.op1_kind
    width = ADDRESS_BYTES[kind]
    segment = int(SegmentIndex.ES) if is_in else operand_segment(p.state, instruction)
    number = 7 if is_in else 6
    offset = p.state.gpr[number] & (1 << 8 * width) - 1
    vmcs = vm_exit.current_vmcs(p)
    vmcs.write(f.GUEST_LINEAR_ADDRESS, linear_address(p.state, segment, offset))
    if p.capabilities.string_io_information:
        information = STRING_IO_INFORMATION.make(
            ADDRESS_SIZE={2: 0, 4: 1, 8: 2}[width], SEGMENT=segment
        )
        vmcs.write(f.EXIT_INSTRUCTION_INFORMATION, information)


HANDLERS: "dict[int, Callable[[Processor], None]]" = {int(Trap.IO): on_io}
