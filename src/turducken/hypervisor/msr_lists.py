"""L1's MSR lists: SDM 3C, "VM-Entry Controls for MSRs", "VM-Exit Controls for MSRs".

The processor works through L0's copies, so that what it loads and stores is exactly what it would
be without L0, in the right order; what L0 must answer for itself is changed in the copy.
"""

from typing import TYPE_CHECKING

from turducken.vmx import vmcs_fields as f
from turducken.vmx.msr_lists import ENTRY_SIZE, read_msr_area
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.hypervisor.merge import Pages02
    from turducken.hypervisor.vcpu import Vcpu

LIMIT = 512
"""Entries that fit L0's copies: what IA32_VMX_MISC recommends as the most."""


class MsrLists:
    """One processor's copies of the lists in use."""

    def __init__(self, vcpu: "Vcpu", pages: "Pages02") -> None:
        self._vcpu = vcpu
        self._entry = pages.entry_msrs
        self._exit = pages.exit_msrs
        self._stores = True

    def prepare_entry(self, vmcs12: Vmcs, vmcs02: Vmcs) -> int:
        """Copy the lists that the processor uses; return the number of a failing entry, or 0."""
        self._stores = True
        loads = vmcs12.slots[f.ENTRY_MSR_LOAD_COUNT.slot]
        stores = vmcs12.slots[f.EXIT_MSR_STORE_COUNT.slot]
        if loads:
            wrong = self._copy_loads(vmcs12, loads)
            if wrong:
                return wrong
        if stores:
            self._stores = self._copy_stores(vmcs12, stores)
            stores = stores if self._stores else 0
        vmcs02.slots[f.ENTRY_MSR_LOAD_COUNT.slot] = loads
        vmcs02.slots[f.EXIT_MSR_STORE_COUNT.slot] = stores
        return 0

    def _copy_loads(self, vmcs12: Vmcs, count: int) -> int:
        if count > LIMIT:
            return LIMIT + 1
        vcpu = self._vcpu
        address = vmcs12.read(f.ENTRY_MSR_LOAD_ADDRESS)
        data = vcpu.memory.read(address, count * ENTRY_SIZE)
        vcpu.system.memory.write(self._entry, data)
        for number, one in enumerate(read_msr_area(vcpu.system.memory, self._entry, count)):
            # The processor will write the same value once more, which then does no harm.
            if one.index in vcpu.system.guarded_msrs and not vcpu.write_msr(one.index, one.data):
                return number + 1
        return 0

    def _copy_stores(self, vmcs12: Vmcs, count: int) -> bool:
        """Copy the list; False where storing it would be a VMX abort."""
        if count > LIMIT:
            return False
        vcpu = self._vcpu
        address = vmcs12.read(f.EXIT_MSR_STORE_ADDRESS)
        vcpu.system.memory.write(self._exit, vcpu.memory.read(address, count * ENTRY_SIZE))
        return all(
            one.is_storable and vcpu.read_msr(one.index) is not None
            for one in read_msr_area(vcpu.system.memory, self._exit, count)
        )

    def store_on_exit(self, vmcs12: Vmcs) -> bool:
        """Give L1 what the processor stored for it; False is a VMX abort."""
        count = vmcs12.slots[f.EXIT_MSR_STORE_COUNT.slot]
        if not count or not self._stores:
            return self._stores
        vcpu = self._vcpu
        address = vmcs12.read(f.EXIT_MSR_STORE_ADDRESS)
        for number, one in enumerate(read_msr_area(vcpu.system.memory, self._exit, count)):
            value = one.data
            if one.index in vcpu.system.answered_msrs:
                value = vcpu.read_msr(one.index) or 0
            vcpu.memory.store(address + ENTRY_SIZE * number + 8, 8, value)
        return True

    def load_on_exit(self, vmcs12: Vmcs) -> bool:
        """Load L1's host MSRs; False is a VMX abort."""
        count = vmcs12.slots[f.EXIT_MSR_LOAD_COUNT.slot]
        if not count:
            return True
        vcpu = self._vcpu
        address = vmcs12.read(f.EXIT_MSR_LOAD_ADDRESS)
        for one in read_msr_area(vcpu.memory, address, min(count, LIMIT)):
            if not one.is_loadable or not vcpu.write_msr(one.index, one.data):
                return False
        return count <= LIMIT
