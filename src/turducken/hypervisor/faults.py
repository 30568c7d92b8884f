"""Faults that tests plant in L0: each flag is one of the mistakes that broke real hypervisors.

All are off outside tests. Each is read on the code path that would have the mistake, so that a test
that plants it shows that some other test would notice.
"""

from dataclasses import dataclass

from turducken.arch.memory_types import MemoryType
from turducken.paging import entries as e

_R, _W, _X = (e.EPT_PTE.mask(one) for one in "RWX")
_LOW = 0xFFFF_FFFF


@dataclass(slots=True)
class Faults:
    """Which faults are planted."""

    wrong_memory_type: bool = False
    """EPT02's leaves are UC, whatever EPT12 says."""
    dropped_permission: bool = False
    """EPT02's leaves are not writable."""
    skipped_invept: bool = False
    """L1's INVEPT does nothing."""
    leaf_permissions_only: bool = False
    """Only the permissions of EPT12's leaf count, not those of the levels above."""
    write_only_is_violation: bool = False
    """An entry of EPT12 with W but not R is taken for a violation."""
    lost_vectoring: bool = False
    """IDT-vectoring information is dropped when L0 handles an exit."""
    lost_instruction_length: bool = False
    """A software event is injected again without its instruction length."""
    no_transition_flush: bool = False
    """Nothing is flushed at transitions where L1 uses no VPID."""
    shadow_left_behind: bool = False
    """EPT01 changes, but EPT02 stays as it is."""
    addresses_left_behind: bool = False
    """EPT01 changes, but the translated addresses in VMCS02 stay as they are."""
    forgotten_root: bool = False
    """Invalidating an EPT02 forgets EPT01's root too."""
    flush_of_wrong_root: bool = False
    """A dropped EPT02 is invalidated under EPT01's EPTP."""
    invept_of_current: bool = False
    """L1's INVEPT acts on the EPTP of the current VMCS12 instead of its operand."""
    one_of_several_shadows: bool = False
    """INVEPT drops one of the shadows that share an EPT12 root."""
    shared_vpid: bool = False
    """L2 runs under L1's own VPID."""
    canonical_lower_half_only: bool = False
    """INVVPID by address refuses addresses in the upper half."""
    pdptes_from_wrong_cr3: bool = False
    """PDPTEs of an L2 without EPT are read at L1's CR3."""
    injection_left: bool = False
    """The injection that an entry made stays in VMCS12."""
    narrow_type_setter: bool = False
    """What puts the memory type into EPT02's leaves returns 32 bits of them."""
    absence_kept: bool = False
    """What EPT12 did not map is remembered until INVEPT, which L1 need not execute for that."""
    shared_over_rights: bool = False
    """What was worked out for a table of EPT12 serves wherever the table is, whatever rights the
    entries above it give there."""
    execute_only_readable: bool = False
    """EPT02's entries have no way to say that R is missing where X is given."""
    walk_length_unchecked: bool = False
    """The walk length in L1's EPTP is not looked at."""
    invept_type_unchecked: bool = False
    """INVEPT of a type that does not exist succeeds, and does nothing."""
    invept_by_whole_eptp: bool = False
    """INVEPT compares all bits of its operand with the EPTP, not only bits 51:12."""
    store_done_twice: bool = False
    """A store that an application has completed is executed again, because EPT01 changed."""
    waits_for_nobody: bool = False
    """A change of EPT01 does not wait for the processors that it was announced to."""
    one_processor_only: bool = False
    """EPT01 changes on the processor that asks for it, and on no other."""
    pdpte_violation_is_gp: bool = False
    """Where L2's MOV to CR cannot read its PDPTEs through EPT12, L2 gets #GP."""

    def spoil_leaf(self, entry: int) -> int:
        """Return a leaf of EPT02 with what is wrong with it."""
        if self.wrong_memory_type:
            entry = e.EPT_MEMORY_TYPE.put(entry, MemoryType.UC)
        if self.dropped_permission:
            entry &= ~_W
        if self.execute_only_readable and entry & _X:
            entry |= _R
        if self.narrow_type_setter:
            entry &= _LOW
        return entry
