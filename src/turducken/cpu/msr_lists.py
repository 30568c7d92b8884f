"""MSR lists as VM entries and VM exits go through them: SDM 3C, "Loading MSRs", "Saving MSRs"."""

from typing import TYPE_CHECKING

from turducken.arch.msr import IA32_EFER, IA32_PAT
from turducken.vmx import vmcs_fields as f
from turducken.vmx.msr_lists import load_msr_area, store_msr_area
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor


def load_msrs(p: "Processor", vmcs: Vmcs, address: f.VmcsField, count: f.VmcsField) -> int | None:
    """Load MSRs from a list; return the number (from 1) of the entry that fails, or None."""

    def write(index: int, value: int) -> bool:
        is_written = p.msrs.write(index, value)
        if index in (IA32_EFER, IA32_PAT):
            p.state.update_mode()
        return is_written

    limit = p.profile.misc.msr_list_limit
    return load_msr_area(p.memory, vmcs.read(address), vmcs.read(count), limit, write) or None


def store_msrs(p: "Processor", vmcs: Vmcs) -> bool:
    """Store what the list of the VM exit names; False is a VMX abort."""
    address, count = vmcs.read(f.EXIT_MSR_STORE_ADDRESS), vmcs.read(f.EXIT_MSR_STORE_COUNT)
    return store_msr_area(p.memory, address, count, p.profile.misc.msr_list_limit, p.msrs.read)
