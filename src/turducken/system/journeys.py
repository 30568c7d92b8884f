"""Where watched addresses of L2's lead: through EPT12, EPT01 and EPT02, or bare through the EPT.

An address that is watched is always explained, up to the entry that stops it. What L2 used earlier
is told besides the tables as they are, where these differ, and never in their place.
"""

from dataclasses import replace

from turducken.address import Gpa2
from turducken.hypervisor import Hypervisor, Vcpu
from turducken.hypervisor.explain import Explanation, Stage, explain, explain_now, read_stage
from turducken.machine.machine import Machine
from turducken.paging.formats import EPT, Features
from turducken.system.options import NOTED_ADDRESSES, SystemOptions
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Primary, Secondary
from turducken.vmx.vmcs import Vmcs


def journeys(
    machine: Machine, hypervisor: Hypervisor | None, options: SystemOptions
) -> list[Explanation]:
    """Explain the watched addresses; by default those of the notes that L2 used, or some others."""
    is_default = options.watch is NOTED_ADDRESSES
    if hypervisor is None:
        return [] if is_default else _bare(machine, options)
    if not is_default:
        return [one for address in options.watch for one in _watched(hypervisor, address)]
    used = [one for address in options.watch for one in _used(hypervisor, address)]
    return used or [
        explain(hypervisor, Gpa2(address), vcpu.index)
        for vcpu in hypervisor.vcpus[:1]
        for address in _some_addresses(vcpu)
    ]


def _used(hypervisor: Hypervisor, address: int) -> list[Explanation]:
    """Return the tables as they are for an address that L2 used, and as they were if they differ.

    Where only EPT02 has dropped the page since, the explanation is that of the last use.
    """
    vcpu = next((one for one in hypervisor.vcpus if address in one.explained), None)
    if vcpu is None:
        return []
    past, now = vcpu.explained[address], explain_now(vcpu, Gpa2(address))
    if _without_shadow(past) != _without_shadow(now):
        return [now, replace(past, is_past=True)]
    return [explain(hypervisor, Gpa2(address), vcpu.index)]


def _watched(hypervisor: Hypervisor, address: int) -> list[Explanation]:
    used = _used(hypervisor, address)
    if used:
        return used
    running = (one for one in hypervisor.vcpus if one.nested.current is not None)
    vcpu = next(running, None)
    if vcpu is None or not vcpu.statistics.entries:
        return [_nowhere(0, address, "EPT12", "no guest of L1's has run")]
    return [explain_now(vcpu, Gpa2(address))]


def _without_shadow(one: Explanation) -> tuple[Stage, ...]:
    return tuple(stage for stage in one.stages if stage.table != "EPT02")


def _nowhere(processor: int, address: int, table: str, why: str) -> Explanation:
    stage = Stage(table, 0, address, (), why, None, "---", "", 0)
    return Explanation(processor, Gpa2(address), (stage,))


def _some_addresses(vcpu: Vcpu) -> list[int]:
    """Return the first, a middle and the last address of what the last L2's EPT02 maps."""
    context = vcpu.nested.current
    root12 = context.root12 if context is not None else None
    table = vcpu.shadow.table_of(root12) if root12 is not None else None
    mapped = [gpa for gpa, entry in table.leaves() if entry.is_present] if table else []
    return sorted({mapped[0], mapped[len(mapped) // 2], mapped[-1]}) if mapped else []


# Bare: the image is the hypervisor


def _bare(machine: Machine, options: SystemOptions) -> list[Explanation]:
    found = next(
        (
            (one.index, one.vmx.current)
            for one in machine.processors
            if one.vmx.current is not None and uses_ept(one.vmx.current)
        ),
        None,
    )
    if found is None:
        why = "no processor has a current VMCS with EPT"
        return [_nowhere(0, address, "EPT", why) for address in options.watch]
    index, vmcs = found
    bits = options.profile.cpu.physical_address_bits
    mode_based = bool(vmcs.read(f.SECONDARY_CONTROLS) & Secondary.MODE_BASED_EXECUTE)
    fmt = EPT.bind(Features(maxphyaddr=bits, mode_based_execute=mode_based))
    eptp = vmcs.read(f.EPTP)
    return [
        Explanation(index, Gpa2(address), (read_stage("EPT", fmt, machine.memory, eptp, address),))
        for address in options.watch
    ]


def uses_ept(vmcs: Vmcs) -> bool:
    """Tell whether a VMCS has "enable EPT"."""
    if not vmcs.read(f.PRIMARY_CONTROLS) & Primary.ACTIVATE_SECONDARY_CONTROLS:
        return False
    return bool(vmcs.read(f.SECONDARY_CONTROLS) & Secondary.ENABLE_EPT)
