"""What translates linear addresses at a time, and under which tags: prepared once, used often."""

from typing import TYPE_CHECKING

from turducken.mmu.rewalk import Rewalks
from turducken.mmu.rights import AccessMode
from turducken.mmu.tlb import GLOBAL, NO_EPT, LinearTag, Space, Tlb
from turducken.paging.formats import BoundFormat

if TYPE_CHECKING:
    from turducken.mmu.mmu import EptSetup


class Context:
    """One combination of paging format, access rights, tags and EPT, with its part of the TLB.

    ``paging`` is None while CR0.PG = 0, ``ept`` while EPT is off; ``rewalks`` where walks are not
    to be remembered.
    """

    __slots__ = (
        "address_mask",
        "ept",
        "global_space",
        "has_32bit_addresses",
        "is_pae",
        "mode",
        "paging",
        "physical_space",
        "rewalks",
        "space",
        "tag",
    )

    def __init__(
        self,
        tlb: Tlb,
        paging: BoundFormat | None,
        mode: AccessMode,
        tag: LinearTag,
        ept: "EptSetup | None",
        rewalks: Rewalks | None,
    ) -> None:
        self.paging, self.mode, self.tag, self.ept, self.rewalks = paging, mode, tag, ept, rewalks
        self.is_pae = paging is not None and paging.name == "PAE"
        self.address_mask = (1 << (paging.address_bits if paging else 48)) - 1
        self.has_32bit_addresses = paging is None or paging.address_bits == 32
        self.space: Space = tlb.linear_space(tag)
        self.global_space: Space = tlb.linear_space(tag._replace(pcid=GLOBAL))
        has_ept = tag.ep4ta != NO_EPT
        self.physical_space = tlb.guest_physical_space(tag.ep4ta) if has_ept else None
