"""Who tells of failures in a system, and where: bare the processors, nested L0 as well.

In nested mode the processors' own view of VMX is L0's affair: what L1 did wrong is what L0 says.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from turducken.cpu.decoder import linear_address
from turducken.cpu.engine import SegmentIndex
from turducken.cpu.processor import Processor
from turducken.diagnosis import Diagnoses, Diagnosis, Key, Place, Report
from turducken.hypervisor import Hypervisor, Vcpu
from turducken.machine.machine import Machine
from turducken.vmx import vmcs_fields as f
from turducken.vmx.explain import Operands, failed_instruction
from turducken.vmx.gates import Instruction
from turducken.vmx.instructions import VmResult, VmxUnit


def collect(machine: Machine, hypervisor: Hypervisor | None) -> Diagnoses:
    """Subscribe to everything that tells of failures; return where they are collected."""
    diagnoses = Diagnoses()
    for processor in machine.processors:
        processor.on_diagnosis = reporter(diagnoses, machine, hypervisor, processor)
    if hypervisor is not None:

        def told(index: int, key: Key, make: Callable[[], Diagnosis]) -> None:
            place = place_of_vcpu(hypervisor.vcpus[index])
            diagnoses.report(place, machine.now, key, make)

        hypervisor.events.on_diagnosis = told
    return diagnoses


def reporter(
    diagnoses: Diagnoses, machine: Machine, hypervisor: Hypervisor | None, processor: Processor
) -> Report:
    """Return what a processor calls to tell of a failure."""
    return partial(_told, diagnoses, machine, hypervisor, processor)


def _told(
    diagnoses: Diagnoses,
    machine: Machine,
    hypervisor: Hypervisor | None,
    processor: Processor,
    key: Key,
    make: Callable[[], Diagnosis],
) -> None:
    place = place_of(processor, hypervisor)
    if hypervisor is not None and place.level == 1 and isinstance(key[-1], Operands):
        # L1 reaches its VMCS12 through VMCS shadowing, which it knows nothing of.
        unit = hypervisor.vcpus[processor.index].unit
        make = partial(_through_shadowing, unit, key)
    diagnoses.report(place, machine.now, key, make)


def _through_shadowing(unit: VmxUnit, key: Key) -> Diagnosis:
    name, result, operands = key
    assert isinstance(result, VmResult)
    assert isinstance(operands, Operands)
    operands = replace(operands, is_shadowed=False)
    return failed_instruction(unit, Instruction[str(name)], operands, result)


def place_of(processor: Processor, hypervisor: Hypervisor | None) -> Place:
    """Return who runs guest code on a processor, and where."""
    state = processor.state
    linear = linear_address(state, SegmentIndex.CS, state.rip)
    if hypervisor is None:
        return Place(processor.index, 1 if processor.guest is None else 2, state.rip, linear)
    vcpu = next((one for one in hypervisor.vcpus if one.index == processor.index), None)
    level = 2 if vcpu is not None and vcpu.in_l2 else 1
    return Place(processor.index, level, state.rip, linear)


def place_of_vcpu(vcpu: Vcpu) -> Place:
    """Return where the guest is whose exit L0 handles."""
    read = vcpu.current.read
    rip = read(f.GUEST_RIP)
    is_64bit = read(f.GUEST_CS_ACCESS_RIGHTS) & _LONG and read(f.GUEST_EFER) & _LMA
    linear = rip if is_64bit else rip + read(f.GUEST_CS_BASE) & 0xFFFF_FFFF
    return Place(vcpu.index, 2 if vcpu.in_l2 else 1, rip, linear)


_LONG = 1 << 13
_LMA = 1 << 10
