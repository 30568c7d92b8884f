"""MSR lists as VM entries and VM exits go through them: SDM 3C, "Loading MSRs", "Saving MSRs".

More entries than the recommended maximum have an undefined outcome (SDM 3D, "Miscellaneous Data"):
here the first beyond it fails.
"""

from typing import TYPE_CHECKING

from turducken.arch.msr import IA32_EFER, IA32_PAT
from turducken.vmx import vmcs_fields as f
from turducken.vmx.msr_lists import read_msr_area
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor


def load_msrs(p: "Processor", vmcs: Vmcs, address: f.VmcsField, count: f.VmcsField) -> int | None:
    """Load MSRs from a list; return the number (from 1) of the entry that fails, or None."""
    wanted, limit = vmcs.read(count), p.profile.misc.msr_list_limit
    entries = read_msr_area(p.memory, vmcs.read(address), min(wanted, limit))
    for number, entry in enumerate(entries, 1):
        if not entry.is_loadable or not p.msrs.write(entry.index, entry.data):
            return number
        if entry.index in (IA32_EFER, IA32_PAT):
            p.state.update_mode()
    return limit + 1 if wanted > limit else None


def store_msrs(p: "Processor", vmcs: Vmcs) -> bool:
    """Store what the list of the VM exit names; False is a VMX abort."""
    count = vmcs.read(f.EXIT_MSR_STORE_COUNT)
    if count > p.profile.misc.msr_list_limit:
        return False
    for entry in read_msr_area(p.memory, vmcs.read(f.EXIT_MSR_STORE_ADDRESS), count):
        value = p.msrs.read(entry.index) if entry.is_storable else None
        if value is None:
            return False
        p.memory.write(entry.data_address, value.to_bytes(8, "little"))
    return True
