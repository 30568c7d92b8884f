"""What L0 keeps for one VMCS12, and which exit information each exit reason saves in it."""

from turducken.hypervisor.host_state import HostImage
from turducken.hypervisor.merge import Controls12
from turducken.hypervisor.shadow.policy import Root12
from turducken.hypervisor.vmx_unit import CachedVmcs
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_fields import EXIT_FIELDS
from turducken.vmx.vmcs import Vmcs


def _information_slots() -> dict[int, tuple[int, ...]]:
    """For each exit reason, the slots of the exit information that it saves."""
    table = {}
    for reason, fields in EXIT_FIELDS.items():
        slots = [f.EXIT_INTERRUPTION_INFORMATION.slot, f.IDT_VECTORING_INFORMATION.slot]
        if fields.linear:
            slots.append(f.GUEST_LINEAR_ADDRESS.slot)
        if fields.physical:
            slots.append(f.GUEST_PHYSICAL_ADDRESS.slot)
        if fields.length:
            slots.append(f.EXIT_INSTRUCTION_LENGTH.slot)
        if fields.information:
            slots.append(f.EXIT_INSTRUCTION_INFORMATION.slot)
        if fields.interruption:
            slots.append(f.EXIT_INTERRUPTION_ERROR_CODE.slot)
        if fields.vectoring:
            slots.append(f.IDT_VECTORING_ERROR_CODE.slot)
        table[int(reason)] = tuple(slots)
    return table


INFORMATION = _information_slots()
"""By exit reason: the slots of the exit information that it saves."""


class Context:
    """What L0 keeps for one VMCS12: its fields, its VMCS02, and what it has worked out."""

    __slots__ = (
        "controls",
        "generation",
        "has_loads",
        "image",
        "is_launched",
        "kept",
        "merged",
        "region12",
        "root12",
        "vmcs02",
        "vmcs12",
    )

    def __init__(self, region12: int, vmcs12: CachedVmcs, vmcs02: Vmcs) -> None:
        self.region12 = region12
        self.vmcs12 = vmcs12
        self.vmcs02 = vmcs02
        self.is_launched = False
        """VMCS02 has been launched."""
        self.has_loads = False
        """VMCS02 is about to load an MSR that L1's entry loads, which must not be loaded again."""
        self.merged = b""
        """VMCS12's controls as they were when VMCS02's were worked out."""
        self.generation = -1
        self.controls = Controls12(0, 0, 0, 0, 0)
        self.kept: tuple[int, ...] = ()
        self.image: HostImage | None = None
        self.root12: Root12 | None = None
