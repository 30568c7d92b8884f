"""L1's MSR lists: SDM 3C, "VM-Entry Controls for MSRs", "VM-Exit Controls for MSRs".

L0 goes through them itself, each at its moment, because L1 and L2 may write them until then. An MSR
that a VMCS holds is read and written there.
"""

from typing import TYPE_CHECKING

from turducken.arch import msr
from turducken.vmx import vmcs_fields as f
from turducken.vmx.msr_lists import load_msr_area, store_msr_area
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Vcpu

LIMIT = 512
"""Entries of a list: what IA32_VMX_MISC recommends as the most."""


def load_on_entry(vcpu: "Vcpu", vmcs12: Vmcs, vmcs02: Vmcs) -> int:
    """Load L2's MSRs; return the number of the entry that fails, or 0."""
    count = vmcs12.slots[f.ENTRY_MSR_LOAD_COUNT.slot]
    if not count:
        return 0

    def write(index: int, value: int) -> bool:
        if not vcpu.write_msr(index, value, vmcs02):
            return False
        if index == msr.IA32_PERF_GLOBAL_CTRL:
            # The list comes after the guest-state area.
            vmcs02.write(f.GUEST_PERF_GLOBAL_CTRL, value)
        return True

    address = vmcs12.read(f.ENTRY_MSR_LOAD_ADDRESS)
    return load_msr_area(vcpu.memory, address, count, LIMIT, write)


def store_on_exit(vcpu: "Vcpu", vmcs12: Vmcs) -> bool:
    """Store MSRs as L2 has left them; False is a VMX abort."""
    count = vmcs12.slots[f.EXIT_MSR_STORE_COUNT.slot]
    if not count:
        return True
    address = vmcs12.read(f.EXIT_MSR_STORE_ADDRESS)
    return store_msr_area(vcpu.memory, address, count, LIMIT, vcpu.read_msr)


def load_on_exit(vcpu: "Vcpu", vmcs12: Vmcs) -> bool:
    """Load L1's host MSRs; False is a VMX abort."""
    count = vmcs12.slots[f.EXIT_MSR_LOAD_COUNT.slot]
    if not count:
        return True
    address = vmcs12.read(f.EXIT_MSR_LOAD_ADDRESS)
    return not load_msr_area(vcpu.memory, address, count, LIMIT, vcpu.write_msr)
