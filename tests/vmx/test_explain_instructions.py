"""Whatever operand a VMX instruction fails for, there is a rule that says why."""

import random

from vmx_support import capabilities

from turducken.address import MIB
from turducken.memory import PhysicalMemory
from turducken.vmx.explain import Operands, failed_instruction, refused_by_gate
from turducken.vmx.gates import GATES, Instruction, Mode, Outcome
from turducken.vmx.instructions import VmResult, VmxUnit
from turducken.vmx.interface import VmStatus

GOOD, OTHER, SHADOW = 0x1000, 0x2000, 0x3000


def unit(*, on: bool = True, current: bool = True) -> VmxUnit:
    memory = PhysicalMemory(MIB)
    made = VmxUnit(capabilities(), memory)
    revision = made.capabilities.revision
    for region in (GOOD, OTHER):
        memory.store(region, 4, revision)
    memory.store(SHADOW, 4, (revision + 1) | 1 << 31)
    if on:
        made.vmxon(GOOD)
    if on and current:
        made.vmptrld(OTHER)
    return made


POINTERS = (GOOD, OTHER, SHADOW, 0x1008, 0x4000, 1 << 46, 1 << 63 | 1, 0xFFFF_F000)


def check(made: VmxUnit, instruction: Instruction, operands: Operands, result: VmResult) -> None:
    if result.status is VmStatus.SUCCEED:
        return
    diagnosis = failed_instruction(made, instruction, operands, result)
    rule = diagnosis.rule
    assert rule is not None, (instruction, operands, result)
    assert rule is diagnosis.rules[0]
    assert rule.citation.startswith("SDM 3C")
    assert rule.readings
    assert rule.allowed


def test_pointers() -> None:
    for current in (False, True):
        for pointer in POINTERS:
            made = unit(current=current)
            check(made, Instruction.VMCLEAR, Operands(pointer), made.vmclear(pointer))
            made = unit(current=current)
            check(made, Instruction.VMPTRLD, Operands(pointer), made.vmptrld(pointer))
            made = unit(on=False)
            operands = Operands(pointer, was_in_operation=False)
            check(made, Instruction.VMXON, operands, made.vmxon(pointer))
    made = unit()
    check(made, Instruction.VMXON, Operands(), made.vmxon(0))


def test_fields() -> None:
    choose = random.Random(5)
    for current in (False, True):
        made = unit(current=current)
        for encoding in (0x6C20, 0x4402, 0x681E, *(choose.getrandbits(32) for _ in range(50))):
            value = made.vmread(encoding)
            if not isinstance(value, int):
                check(made, Instruction.VMREAD, Operands(encoding), value)
            check(made, Instruction.VMWRITE, Operands(encoding), made.vmwrite(encoding, 0))


def test_invalidations() -> None:
    words = (0, 1, 0x501E, 0x5000, 1 << 16, 1 << 46 | 0x1E, (1 << 64) - 1)
    for current in (False, True):
        made = unit(current=current)
        for kind in range(6):
            for low in words:
                for high in words:
                    operands = Operands(kind, (low, high))
                    result = made.check_invept(kind, low, high)
                    check(made, Instruction.INVEPT, operands, result)
                    result = made.check_invvpid(kind, low, high)
                    check(made, Instruction.INVVPID, operands, result)


def test_entries() -> None:
    for is_launch in (False, True):
        instruction = Instruction.VMLAUNCH if is_launch else Instruction.VMRESUME
        for current in (False, True):
            for launched in (False, True):
                for blocked in (False, True):
                    made = unit(current=current)
                    if current and launched:
                        made.set_launched()
                    result = made.entry_precondition(
                        is_launch=is_launch, is_blocked_by_mov_ss=blocked
                    )
                    if result is not None:
                        check(made, instruction, Operands(), result)
    made = unit()
    check(made, Instruction.VMCALL, Operands(), made.vmcall_in_root())


def test_every_gate_says_what_it_demands() -> None:
    mode = Mode(
        cr0=0,
        cr4=0,
        rflags=1 << 17,
        efer=0,
        cpl=3,
        is_cs_long=False,
        in_operation=False,
        in_guest=False,
    )
    for gate in GATES:
        if gate.outcome is Outcome.EXIT:
            continue
        instruction = min(gate.instructions, key=lambda one: one.value)
        rule = refused_by_gate(gate, instruction, mode, capabilities()).rule
        assert rule is not None
        assert rule.id == gate.id
        assert rule.text
        assert rule.citation.startswith("SDM 3C")
