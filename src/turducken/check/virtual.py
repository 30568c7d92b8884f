"""The processor that L1 believes it has: its EPT is EPT12, its VPIDs are those of VMCS12.

What our hypervisor invalidates does not count here, only what L1 does, so that an L1 is judged
nested as it is bare.
"""

from typing import TYPE_CHECKING

from turducken.address import Gpa1
from turducken.check.records import Record, Regime
from turducken.check.views import View
from turducken.check.watch import EntryWatch
from turducken.hypervisor import Vcpu
from turducken.mmu.mmu import EptSetup, Mmu
from turducken.mmu.tlb import NO_EPT, LinearTag
from turducken.paging import entries as e
from turducken.paging.formats import BoundFormat
from turducken.vmx import vmcs_fields as f

if TYPE_CHECKING:
    from turducken.hypervisor.shadow.policy import Root12


class VirtualView(View):
    """See the module's text."""

    def __init__(self, watch: EntryWatch, vcpu: Vcpu) -> None:
        super().__init__(watch, vcpu.memory)
        self.vcpu = vcpu
        self._formats: dict[object, BoundFormat] = {}
        self.invalidated: dict[int, int] = {}
        """When L1 last executed INVEPT, by EP4TA (-1: for all)."""

    def place(self, address: int) -> int | None:
        """Return where EPT01 leads."""
        frame = self.vcpu.memory.host_frame(Gpa1(address), write=False)
        return None if frame is None else frame | address & 0xFFF

    @property
    def root12(self) -> "Root12 | None":
        """The EPT12 in force, while L2 runs."""
        vcpu = self.vcpu
        context = vcpu.nested.current
        return context.root12 if vcpu.in_l2 and context is not None else None

    @property
    def vpid(self) -> int:
        """The VPID in force: 0 for L1, and for an L2 to which L1 gives none."""
        vcpu = self.vcpu
        context = vcpu.nested.current
        if not vcpu.in_l2 or context is None or not context.controls.uses_vpid:
            return 0
        return context.vmcs12.read(f.VPID)

    def aim(self, mmu: Mmu, *, has_globals: bool) -> None:
        """Follow the registers."""
        if self.vcpu.app_table is not None or self.vcpu.app_guest is not None:
            self.regime = None  # neither L1 nor L2 runs, but something of a hypapp's
            return
        ept = None
        root12 = self.root12
        if root12 is not None:
            ept = EptSetup(
                self._format(root12), root12.eptp & e.EP4TA_MASK, bool(root12.eptp & e.EPTP_AD)
            )
        tag = LinearTag(self.vpid, mmu.tag.pcid, NO_EPT if ept is None else ept.ep4ta)
        pdptes = mmu.pdptes if mmu.is_pae else None
        self.regime = Regime(mmu.paging, mmu.root, pdptes, tag, ept, "ept12", has_globals)

    def _format(self, root12: "Root12") -> BoundFormat:
        known = self._formats.get(root12.view)
        if known is None:
            known = self._formats[root12.view] = root12.view.format
        return known

    def invalidated_since(self, ep4ta: int, moment: int) -> bool:
        """Tell whether L1 has invalidated an EPT12 after ``moment``."""
        last = max(self.invalidated.get(ep4ta, -1), self.invalidated.get(-1, -1))
        return last > moment

    def output(self, record: Record, address: int) -> Gpa1:
        """Return the L1-physical page that a translation of L2's leads to."""
        return Gpa1((record.page + (address & (1 << record.shift) - 1)) & -4096)
