"""Follows what one processor invalidates and enters, and what L1 does on the one that it sees."""

from typing import TYPE_CHECKING, Any

from turducken.check.changes import Actor
from turducken.check.examiner import Examiner
from turducken.check.findings import Finding
from turducken.check.rules import INVEPT_GUIDELINES, INVVPID_GUIDELINES
from turducken.check.views import View
from turducken.check.virtual import VirtualView
from turducken.cpu.processor import Processor
from turducken.hypervisor.events import Event, GivenToL1, Invalidated, NestedEntry
from turducken.mmu.followed import FollowedTlb, apply
from turducken.mmu.tlb import NO_EPT
from turducken.paging import entries as e
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.instructions import (
    INVEPT_SINGLE_CONTEXT,
    INVVPID_ALL_CONTEXTS,
    INVVPID_INDIVIDUAL_ADDRESS,
    INVVPID_SINGLE_CONTEXT,
)
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.check.sanitizer import Sanitizer

_CANONICAL = (1 << 48) - 1
_ALL = -1
_OF_EPT = frozenset({"invept_single", "invept_all", "ept_violation"})


class HardwareFollower:
    """Lets one processor's views do what its TLB does."""

    def __init__(self, sanitizer: "Sanitizer", examiner: Examiner, processor: Processor) -> None:
        self._s = sanitizer
        self._examiner = examiner
        self._p = processor
        assert isinstance(processor.tlb, FollowedTlb)
        processor.tlb.followers.append(self._follow)
        self._next = processor.on_event
        processor.on_event = self._on_event

    def _on_event(self, name: str, processor: Processor, told: tuple[object, ...]) -> None:
        if name == "vm-entry":
            tag = processor.mmu.tag
            note_use(self._examiner.hardware, tag.vpid, tag.ep4ta)
            self._s.watch.close()
            self._s.entered(processor.index, by_l1=False)
        if self._next is not None:
            self._next(name, processor, told)

    def _follow(self, name: str, operands: tuple[Any, ...]) -> None:
        hardware = self._examiner.hardware
        self._s.watch.close()
        if not is_useful(hardware, name, operands):
            useless(self._s, self._s.actor(self._p), name, hardware)
        apply(hardware.tlb, name, operands)
        if name in _OF_EPT:
            hardware.invalidated_ept()
        virtual = self._examiner.virtual
        if virtual is not None:
            self._follow_virtually(virtual, name, operands)

    def _follow_virtually(self, virtual: VirtualView, name: str, operands: tuple[Any, ...]) -> None:
        """What a guest does itself holds for the processor that L1 sees too."""
        if self._p.guest is None:
            if name == "flush_vpid" and operands[0] == virtual.vcpu.vpids.own:
                virtual.tlb.flush_vpid(0, operands[1])  # for L1: an instruction that L0 emulates
            return
        if name == "ept_violation":
            return  # EPT02's; EPT12's are followed where L1 gets them
        self._examiner.aim()
        if virtual.regime is None:
            return
        if name == "page_fault":
            apply(virtual.tlb, name, (virtual.regime.tag, operands[1]))
        else:
            apply(virtual.tlb, name, (virtual.regime.tag.vpid, *operands[1:]))


class L1Follower:
    """Lets the views of the processors that L1 sees do what L1 does: subscribe `on_event`."""

    def __init__(self, sanitizer: "Sanitizer") -> None:
        self._s = sanitizer

    def on_event(self, event: Event) -> None:
        """Follow an event of L0's."""
        if not isinstance(event, NestedEntry | GivenToL1 | Invalidated):
            return
        virtual = self._s.virtual(event.processor)
        if virtual is None:
            return
        self._s.watch.close()
        if isinstance(event, NestedEntry):
            self._entered(virtual, event)
        elif isinstance(event, GivenToL1):
            self._exited(virtual, event)
        else:
            self._invalidated(virtual, event)

    def _entered(self, virtual: VirtualView, event: NestedEntry) -> None:
        self._cross(virtual)
        ep4ta = NO_EPT if event.eptp12 is None else event.eptp12 & e.EP4TA_MASK
        note_use(virtual, virtual.vpid, ep4ta)
        self._s.entered(event.processor, by_l1=True)

    @staticmethod
    def _cross(virtual: VirtualView) -> None:
        """SDM 3C, "Operations that Invalidate Cached Mappings": a transition without VPID."""
        context = virtual.vcpu.nested.current
        if context is not None and not context.controls.uses_vpid:
            virtual.tlb.flush_vpid(0, "VM transition")

    def _exited(self, virtual: VirtualView, event: GivenToL1) -> None:
        regime = virtual.regime
        if event.reason == ExitReason.EPT_VIOLATION and regime is not None and regime.ept:
            context = virtual.vcpu.nested.current
            assert context is not None
            gpa, linear = violation(context.vmcs12)
            virtual.tlb.ept_violation(regime.tag, gpa, linear)
            virtual.invalidated_ept()
        self._cross(virtual)

    def _invalidated(self, virtual: VirtualView, event: Invalidated) -> None:
        name, operands = _operation(event)
        if not is_useful(virtual, name, operands):
            useless(self._s, self._s.actor_in_l1(event.processor), name, virtual)
        apply(virtual.tlb, name, operands)
        if event.instruction == "INVEPT":
            virtual.invalidated_ept()
            ep4ta = operands[0] if operands else _ALL
            virtual.invalidated[ep4ta] = self._s.watch.moment
            # Whatever L0 makes of it: the next use has to be seen.
            self._s.watch.epoch += 1
            self._s.watch.forget_grants(event.processor)


def violation(vmcs12: Vmcs) -> tuple[int, int | None]:
    """Return the guest-physical address of an EPT violation that L1 gets, and the linear one."""
    final = vmcs12.read(f.EXIT_QUALIFICATION) & 0x180 == 0x180
    linear = vmcs12.read(f.GUEST_LINEAR_ADDRESS) if final else None
    return vmcs12.read(f.GUEST_PHYSICAL_ADDRESS), linear


def _operation(event: Invalidated) -> tuple[str, tuple[Any, ...]]:
    """Return L1's INVEPT or INVVPID as an operation of `Tlb`."""
    if event.instruction == "INVEPT":
        if event.kind == INVEPT_SINGLE_CONTEXT:
            return "invept_single", (event.operand & e.EP4TA_MASK,)
        return "invept_all", ()
    if event.kind == INVVPID_INDIVIDUAL_ADDRESS:
        return "invvpid_address", (event.operand, event.address & _CANONICAL)
    if event.kind == INVVPID_SINGLE_CONTEXT:
        return "flush_vpid", (event.operand, "INVVPID")
    if event.kind == INVVPID_ALL_CONTEXTS:
        return "invvpid_all", ()
    return "invvpid_retaining_globals", (event.operand,)


# Invalidations without effect


def note_use(view: View, vpid: int, ep4ta: int) -> None:
    """Note that translations may be cached under these tags from now on."""
    view.uses_vpid.add(vpid)
    if ep4ta != NO_EPT:
        view.uses_ept.add(ep4ta)


def is_useful(view: View, name: str, operands: tuple[Any, ...]) -> bool:
    """Tell whether INVEPT or INVVPID can have an effect: the tag was in force since the last one.

    A processor caches for the EPTP and VPID in force only, also when it does so ahead of any use.
    """
    ept, vpids = view.uses_ept, view.uses_vpid
    if name == "invept_single":
        used = operands[0] in ept
        ept.discard(operands[0])
        return used
    if name == "invept_all":
        used = bool(ept)
        ept.clear()
        return used
    if name == "flush_vpid" and operands[1] == "INVVPID":
        used = operands[0] in vpids
        vpids.discard(operands[0])
        return used
    if name == "invvpid_all":
        used = bool(vpids - {0})
        vpids.intersection_update({0})
        return used
    if name in ("invvpid_address", "invvpid_retaining_globals"):
        return operands[0] in vpids
    return True


def useless(sanitizer: "Sanitizer", by: Actor, name: str, view: View) -> None:
    """Report an invalidation that could not have had an effect."""
    is_ept = name.startswith("invept")
    stage = _stage(sanitizer, view) if is_ept else "guest"
    citation = INVEPT_GUIDELINES if is_ept else INVVPID_GUIDELINES
    what = "INVEPT" if is_ept else "INVVPID"
    sanitizer.report(Finding("useless", "nothing-cached", stage, by, what, citation))


def _stage(sanitizer: "Sanitizer", view: View) -> str:
    if isinstance(view, VirtualView) or not sanitizer.is_nested:
        return "ept12"
    return "ept01"
