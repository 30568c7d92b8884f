"""Faults that tests plant in L0: each flag is one of the mistakes that broke real hypervisors.

All are off outside tests. Each is read on the code path that would have the mistake, so that a test
that plants it shows that some other test would notice.
"""

from dataclasses import dataclass

from turducken.arch.memory_types import MemoryType
from turducken.paging import entries as e

_W = e.EPT_PTE.mask("W")


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

    def spoil_leaf(self, entry: int) -> int:
        """Return a leaf of EPT02 with what is wrong with it."""
        if self.wrong_memory_type:
            entry = e.EPT_MEMORY_TYPE.put(entry, MemoryType.UC)
        if self.dropped_permission:
            entry &= ~_W
        return entry
