"""#VE: EPT violations that L1 lets its L2 handle. SDM 3C, "Virtualization Exceptions".

The processor cannot do it for L2: what looks to it like a violation of EPT02 may be only a leaf
that has not been filled in yet. So VMCS02 has the control off, and L0 converts what is left.
"""

from typing import TYPE_CHECKING

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Secondary
from turducken.vmx.exit_information import INTERRUPTION_VALID
from turducken.vmx.virtualization_exception import is_busy, write_information

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Vcpu

_PE = CR0.mask("PE")


def convert_to_ve(vcpu: "Vcpu", qualification: int) -> bool:
    """Turn the violation of EPT12 that has just happened into a #VE; False where L1 gets it.

    SDM 3C, "Convertible EPT Violations": protected mode, not during event delivery, and the
    information area is free. (Bit 63 of EPT12's entry has been looked at before.)
    """
    context = vcpu.nested.current
    assert context is not None
    if not context.controls.has_secondary(Secondary.EPT_VIOLATION_VE):
        return False
    slots, vmcs12 = context.vmcs02.slots, context.vmcs12
    area = vmcs12.read(f.VE_INFORMATION_ADDRESS)
    if (
        not slots[f.GUEST_CR0.slot] & _PE
        or slots[f.IDT_VECTORING_INFORMATION.slot] & INTERRUPTION_VALID
        or is_busy(vcpu.memory, area)
    ):
        return False
    write_information(
        vcpu.memory,
        area,
        qualification=qualification,
        linear=slots[f.GUEST_LINEAR_ADDRESS.slot],
        physical=slots[f.GUEST_PHYSICAL_ADDRESS.slot],
        eptp_index=vmcs12.read(f.EPTP_INDEX),
    )
    vcpu.nested.keep()
    vcpu.inject(Vector.VE)
    return True
