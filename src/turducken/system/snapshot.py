"""A system's memory and roots as a snapshot file, for `turducken pt` and other tools."""

from typing import IO

from turducken.cpu.processor import Processor
from turducken.inspect.source import EPT_ABILITIES
from turducken.inspect.writers import write_snapshot
from turducken.system.assembly import System
from turducken.system.journeys import uses_ept
from turducken.vmx import vmcs_fields as f

_EPTP_WRITE_BACK_WALK_4 = 0x1E


def save_snapshot(system: System, stream: IO[bytes]) -> None:
    """Write the machine's RAM to ``stream``, with the roots that `pt --via` can name."""
    machine = system.machine
    regions = [(one.base, one.size) for one in machine.memory.regions]
    bits = system.options.profile.cpu.physical_address_bits
    types = machine.mtrrs[0].ranges()
    mtrrs = [(start, end - start, int(kind)) for start, end, kind in types]
    able = system.options.profile.ept
    write_snapshot(
        stream,
        machine.memory,
        regions,
        roots=roots_of(system),
        maxphyaddr=bits,
        mtrrs=mtrrs,
        lacks=[name for name in EPT_ABILITIES if not getattr(able, name)],
    )


def roots_of(system: System) -> dict[str, int]:
    """Return the roots of tables by name.

    ``cpuN.cr3`` is what the processor translates with at present; in nested mode ``cpuN.ept01`` is
    L1's, and once L1 has run a guest with EPT there, ``cpuN.ept12`` and ``cpuN.ept02``; bare,
    ``cpuN.ept`` is the EPT of the guest that runs or ran last. ``cpuN.vmcs``, ``cpuN.vmcs01``,
    ``cpuN.vmcs12`` and ``cpuN.vmcs02`` are host-physical addresses of VMCSs, for `turducken vmcs`
    (of a VMCS12 it is L0's copy: it holds the fields while the VMCS12 is current).
    """
    machine = system.machine
    roots = {f"cpu{one.index}.cr3": one.state.cr3 for one in machine.processors}
    if system.hypervisor is None:
        for processor in machine.processors:
            roots.update(_roots_of_bare(processor))
    vcpus = system.hypervisor.vcpus if system.hypervisor is not None else ()
    for vcpu in vcpus:
        name = f"cpu{vcpu.index}"
        roots[f"{name}.ept01"] = vcpu.eptp01
        roots[f"{name}.vmcs01"] = vcpu.vmcs01.region
        if vcpu.nested.current is not None:
            roots[f"{name}.vmcs02"] = vcpu.nested.current.vmcs02.region
        if vcpu.unit.current is not None:
            roots[f"{name}.vmcs12"] = vcpu.unit.current.region
        context = vcpu.nested.current
        root12 = context.root12 if context is not None else None
        if root12 is None:
            continue
        roots[f"{name}.ept12"] = root12.eptp
        table = vcpu.shadow.table_of(root12)
        if table is not None:
            roots[f"{name}.ept02"] = table.root | _EPTP_WRITE_BACK_WALK_4
    return roots


def _roots_of_bare(processor: Processor) -> dict[str, int]:
    current = processor.vmx.current
    if current is None:
        return {}
    name = f"cpu{processor.index}"
    roots = {f"{name}.vmcs": int(current.region)}
    if uses_ept(current):
        roots[f"{name}.ept"] = current.read(f.EPTP)
    return roots
