"""Who tells of failures in a system, and where: bare the processors, nested L0 as well.

In nested mode the processors' own view of VMX is L0's affair: what L1 did wrong is what L0 says.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from turducken.cpu.processor import Processor
from turducken.diagnosis import Diagnoses, Diagnosis, Key, Report
from turducken.hypervisor import Hypervisor
from turducken.machine.machine import Machine
from turducken.system.places import place_of, place_of_vcpu
from turducken.vmx.explain import Operands, failed_instruction, refused_vmfunc
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
    if hypervisor is not None and key[0] == "VMFUNC":
        unit, function = hypervisor.vcpus[processor.index].unit, key[1]
        assert isinstance(function, int)
        make = partial(refused_vmfunc, unit, function)
    elif hypervisor is not None and place.level == 1 and isinstance(key[-1], Operands):
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
