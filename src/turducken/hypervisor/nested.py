"""L2: entering it for L1, and giving L1 its VM exits.

The hot path is one VM exit of L2 that L1 gets and the VMRESUME that follows. What it moves are runs
of fields (`turducken.hypervisor.merge`); what it checks and computes, it remembers.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING

from turducken.address import PAGE_OFFSET_MASK, PAGE_SIZE, Gpa1, Hpa
from turducken.arch import msr
from turducken.arch.registers import CR0, CR3, CR4, EFER
from turducken.hypervisor import stopping
from turducken.hypervisor.context import INFORMATION, Context
from turducken.hypervisor.diagnosing import (
    note_interrupted,
    tell_abort,
    tell_failed,
    tell_failed_entry,
    tell_lost_event,
    tell_msr_loading,
    tell_refused_entry,
)
from turducken.hypervisor.events import GivenToL1, NestedEntry
from turducken.hypervisor.host_state import (
    host_image,
    load_host_image,
    set_own_host_state,
)
from turducken.hypervisor.merge import (
    COPIED_CONTROL_SLOTS,
    ENTRY_OWN,
    NO_LINK,
    TRANSLATED_FIELDS,
    Adjust,
    Controls12,
    Pages02,
    kept_by_exit,
    merge_controls,
)
from turducken.hypervisor.msr_lists import LIMIT, load_on_entry, load_on_exit, store_on_exit
from turducken.hypervisor.shadow.compose import EptView, Log12
from turducken.hypervisor.shadow.policy import Root12
from turducken.hypervisor.vmx_unit import CachedVmcs, GuestVmxUnit
from turducken.paging import entries as e
from turducken.paging.formats import EPT_5LEVEL, Features, ept_format
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks import EntryChecker
from turducken.vmx.checks.guest_state import LINK_RULES
from turducken.vmx.controls import Entry, PinBased, Primary, Secondary
from turducken.vmx.exit_information import (
    BLOCKING_BY_MOV_SS,
    BLOCKING_BY_NMI,
    INTERRUPTION_TYPE,
    INTERRUPTION_VALID,
    EventType,
    VmxAbort,
)
from turducken.vmx.exit_reasons import ENTRY_FAILURE, ExitReason
from turducken.vmx.explain import Operands
from turducken.vmx.gates import Instruction
from turducken.vmx.instructions import VmResult
from turducken.vmx.vmcs import Slots, Vmcs
from turducken.vmx.vmcs_fields import VmcsField

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Vcpu

_LMA, _LME = EFER.mask("LMA"), EFER.mask("LME")
_PG, _PAE = CR0.mask("PG"), CR4.mask("PAE")
_PAE_BASE = CR3.mask("PAE_ADDRESS")
_MAX_CONTEXTS = 64
_SPARE_FRAMES = 8
"""Frames that no new context takes: an old one gives way instead."""
_ALL_ONES = b"\xff" * PAGE_SIZE
_WRITTEN = frozenset({f.VIRTUAL_APIC_ADDRESS, f.POSTED_INTERRUPT_DESCRIPTOR, f.VMCS_LINK_POINTER})
"""Addresses of pages that the processor writes itself while L2 runs."""


class Nested:
    """One processor's L2s."""

    def __init__(self, vcpu: "Vcpu") -> None:
        self._vcpu = vcpu
        system = vcpu.system
        self._frames = system.frames
        self._memory = system.memory
        self._checker = EntryChecker(vcpu.capabilities12)
        self._contexts: OrderedDict[int, Context] = OrderedDict()
        self.current: Context | None = None
        """The context of the L2 that runs or ran last."""
        frame = self._frames.allocate
        self._scratch = Vmcs(self._memory, frame())
        self._pages = Pages02(
            frame(),
            frame(),
            frame(),
        )
        self._ones, self._nowhere = frame(), frame()
        self._memory.write(self._ones, _ALL_ONES)
        self._merged_bitmap = b""
        self._missing: dict[bool, int] = {}
        real = vcpu.capabilities
        self._adjust = Adjust(
            real.pin.adjust,
            real.primary.adjust,
            real.secondary.adjust,
            real.exit.adjust,
            real.entry.adjust,
        )
        self.generation = 0
        """Changes whenever translated addresses may have become wrong."""
        features = vcpu.ept_features12
        self._views = {
            (ad, mode_based, five): EptView(
                Features(
                    maxphyaddr=features.maxphyaddr,
                    pages_1gib=features.pages_1gib,
                    pages_2mib=features.pages_2mib,
                    execute_only=features.execute_only,
                    mode_based_execute=mode_based,
                ),
                accessed_dirty=ad,
                has_five_levels=five,
            )
            for ad in (False, True)
            for mode_based in (False, True)
            for five in (False, True)
        }
        self._launching = False

    @property
    def unit(self) -> GuestVmxUnit:
        """L1's VMX unit."""
        return self._vcpu.unit

    @property
    def cr3_of_l1(self) -> int:
        """CR3 as L1 has it."""
        return self._vcpu.vmcs01.read(f.GUEST_CR3)

    # Contexts

    def place(self, region12: int) -> CachedVmcs:
        """Return L0's frame for the VMCS12 at a Gpa1."""
        return self.context(region12).vmcs12

    def context(self, region12: int) -> Context:
        """Return the context of the VMCS12 at a Gpa1; make one where there is none."""
        context = self._contexts.get(region12)
        if context is None:
            context = self._make_context(region12)
        self._contexts.move_to_end(region12)
        return context

    def _make_context(self, region12: int) -> Context:
        vmcs12, vmcs02 = self._context_frames()
        self._memory.write(vmcs02.region, bytes(PAGE_SIZE))
        vmcs02.set_header(self._vcpu.capabilities.revision)
        self._vcpu.processor.vmclear(Hpa(vmcs02.region))
        set_own_host_state(vmcs02, self._vcpu.capabilities, self._vcpu.system.host_root, _PAT)
        vmcs02.write(f.VMCS_LINK_POINTER, NO_LINK)
        context = self._contexts[region12] = Context(region12, vmcs12, vmcs02)
        return context

    def _context_frames(self) -> tuple[CachedVmcs, Vmcs]:
        """Return frames for a VMCS12 and a VMCS02: new ones, or those of the oldest context."""
        has_room = len(self._contexts) < _MAX_CONTEXTS and self._frames.available > _SPARE_FRAMES
        if has_room or not self._contexts:
            vmcs12 = CachedVmcs(self._memory, self._frames.allocate())
            return vmcs12, Vmcs(self._memory, self._frames.allocate())
        _, oldest = self._contexts.popitem(last=False)
        self._vcpu.processor.vmclear(Hpa(oldest.vmcs02.region))
        self._vcpu.select(self._vcpu.current)
        if self.current is oldest:
            self.current = None
        return oldest.vmcs12, oldest.vmcs02

    # Entry

    def enter(self, *, is_launch: bool) -> VmResult | None:
        """VMLAUNCH or VMRESUME of L1: return how it failed, or None where L2 runs or an exit comes.

        With None, the current VMCS of the processor is the one to enter next.
        """
        vcpu = self._vcpu
        unit = vcpu.unit
        slots01 = vcpu.vmcs01.slots
        blocking = slots01[f.GUEST_INTERRUPTIBILITY.slot]
        refused = unit.entry_precondition(
            is_launch=is_launch, is_blocked_by_mov_ss=bool(blocking & BLOCKING_BY_MOV_SS)
        )
        if refused is not None:
            instruction = Instruction.VMLAUNCH if is_launch else Instruction.VMRESUME
            tell_failed(vcpu, instruction, Operands(), refused)
            return refused
        vmcs12 = unit.current12
        context = self._contexts[unit.pointer]
        is_ia32e = bool(slots01[f.GUEST_EFER.slot] & _LMA)
        failure = self._checker.check(
            vmcs12, vcpu.memory, is_ia32e_mode=is_ia32e, pointer=unit.pointer
        )
        if failure is not None:
            tell_refused_entry(vcpu, vmcs12, failure, is_launch=is_launch, is_ia32e_mode=is_ia32e)
            if failure.error is not None:
                return unit.fail(failure.error)
            self._prepare(context, vmcs12)
            self._fail_entry(context, ExitReason.ENTRY_FAILURE_GUEST_STATE, failure.qualification)
            return None
        if vcpu.interrupted is not None:
            tell_lost_event(vcpu, vmcs12)
        self._prepare(context, vmcs12)
        self._load_guest(context)
        wrong = load_on_entry(vcpu, vmcs12, context.vmcs02)
        if wrong:
            tell_msr_loading(vcpu, vmcs12, wrong, limit=LIMIT, is_launch=is_launch)
            reason = ExitReason.ENTRY_FAILURE_MSR_LOADING
            self._fail_entry(context, reason, wrong, after=context.vmcs02)
            return None
        self.flush_transition(context)
        for app in vcpu.system.apps:
            app.on_nested_entry(vcpu)
        self._start(context, is_launch=is_launch)
        if vcpu.init_pending:
            self._exit_for_init(context)
        return None

    def _exit_for_init(self, context: Context) -> None:
        """An INIT that L1's root operation blocked is taken as soon as L2 runs."""
        self._vcpu.init_pending = False
        slots = context.vmcs02.slots
        slots[f.EXIT_INTERRUPTION_INFORMATION.slot] = slots[f.IDT_VECTORING_INFORMATION.slot] = 0
        self.exit_to_l1(ExitReason.INIT, 0)

    def _prepare(self, context: Context, vmcs12: CachedVmcs) -> None:
        """Bring what depends on VMCS12's controls and host state up to date."""
        self.current = context
        controls = vmcs12.pack(f.CHECKED_CONTROL_SLOTS)
        if controls != context.merged or context.generation != self.generation:
            self._merge(context, vmcs12)
            context.merged = controls
        image = context.image
        key = vmcs12.pack(f.HOST_SLOTS), context.controls.exit
        if image is None or image.key != key:
            context.image = host_image(vmcs12, context.controls.exit, self._scratch)

    def _merge(self, context: Context, vmcs12: CachedVmcs) -> None:
        controls = context.controls = Controls12.of(vmcs12)
        vcpu = self._vcpu
        merge_controls(
            context.vmcs02,
            vmcs12,
            controls,
            self._adjust,
            translate=self._translate,
            pages=self._pages,
            vpid=vcpu.vpids.of(vmcs12.read(f.VPID) if controls.uses_vpid else 0),
        )
        context.kept = tuple(one.slot for one in kept_by_exit(controls))
        context.generation = self.generation
        context.root12 = None
        if controls.uses_ept:
            eptp12 = vmcs12.read(f.EPTP)
            context.root12 = self._root12(controls, eptp12)

    def _root12(self, controls: Controls12, eptp12: int) -> Root12:
        mode_based = controls.has_secondary(Secondary.MODE_BASED_EXECUTE)
        has_five_levels = ept_format(eptp12) is EPT_5LEVEL
        view = self._views[bool(eptp12 & e.EPTP_AD), mode_based, has_five_levels]
        return Root12(eptp12, view)

    def switch_ept12(self, eptp12: int) -> None:
        """L2 has switched to another EPT12 by VMFUNC, and goes on."""
        context = self.current
        assert context is not None
        context.root12 = self._root12(context.controls, eptp12)
        context.vmcs02.slots[f.EPTP.slot] = self._vcpu.shadow.enter(context.root12)

    def eptp02(self) -> int:
        """Return the EPTP that L2 runs under: EPT02's, or EPT01's for an L2 without EPT."""
        context = self.current
        assert context is not None
        root12 = context.root12
        return self._vcpu.eptp01 if root12 is None else self._vcpu.shadow.enter(root12)

    def _translate(self, field: VmcsField, address: int) -> int:
        """Return the host-physical address of ``address`` in a page of L1's, for the processor.

        Where L1 has none it is a page of ones, or another one that has to bear being written.
        """
        is_written = field in _WRITTEN
        frame = self._vcpu.memory.host_frame(Gpa1(address), write=is_written)
        if is_written:
            # EPT01 is not in the way of these writes.
            self._vcpu.system.watch_tables.unwatchable.add(Gpa1(address & -PAGE_SIZE))
            frame = self._nowhere if frame is None else frame
        else:
            frame = self._ones if frame is None else frame
        return frame | address & PAGE_OFFSET_MASK

    def ept01_changed(self) -> None:
        """Translate the addresses in VMCS02s again: at once for an L2 that runs."""
        self.generation += 1
        self.refresh()

    def refresh(self) -> None:
        """EPT01 has changed while L2 runs: translate what VMCS02 holds again."""
        context = self.current
        if context is not None and self._vcpu.in_l2 and context.generation != self.generation:
            for one in TRANSLATED_FIELDS:
                if context.vmcs02.read(one):
                    context.vmcs02.write(one, self._translate(one, context.vmcs12.read(one)))
            context.vmcs02.write(f.VMCS_LINK_POINTER, self._link(context))
            context.generation = self.generation

    def _load_guest(self, context: Context) -> None:
        """Copy L2's state and the controls that L1 changes from entry to entry."""
        vmcs12, vmcs02 = context.vmcs12, context.vmcs02
        for run in COPIED_CONTROL_SLOTS:
            vmcs02.unpack(run, vmcs12.pack(run))
        vmcs02.unpack(f.GUEST_SLOTS, vmcs12.pack(f.GUEST_SLOTS))
        slots, own = vmcs02.slots, self._vcpu.vmcs01.slots
        slots[f.VMCS_LINK_POINTER.slot] = self._link(context)
        slots[f.VM_INSTRUCTION_ERROR.slot] = vmcs12.slots[f.VM_INSTRUCTION_ERROR.slot]
        entry = context.controls.entry
        # "IA-32e mode guest" follows EFER.LMA at each exit of VMCS02; at an entry it is L1's.
        slots[f.ENTRY_CONTROLS.slot] = self._adjust.entry(entry | ENTRY_OWN)
        if not entry & Entry.LOAD_DEBUG_CONTROLS:
            slots[f.GUEST_DR7.slot] = own[f.GUEST_DR7.slot]
            slots[f.GUEST_DEBUGCTL.slot] = own[f.GUEST_DEBUGCTL.slot]
        if not entry & Entry.LOAD_PAT:
            slots[f.GUEST_PAT.slot] = own[f.GUEST_PAT.slot]
        if not entry & Entry.LOAD_EFER:
            slots[f.GUEST_EFER.slot] = _entered_efer(
                own[f.GUEST_EFER.slot], entry, slots[f.GUEST_CR0.slot]
            )
        slots[f.EPTP.slot] = self.eptp02()
        if context.root12 is None:
            self.load_pdptes(slots)
        else:
            self._vcpu.composer.log = self._log_of(context)
        if context.controls.primary & Primary.USE_MSR_BITMAPS:
            self._merge_bitmap(context)

    def _link(self, context: Context) -> int:
        """L1 lets its L2 use VMCS shadowing: the shadow VMCS in L1's memory, and the bitmaps."""
        if not context.controls.has_secondary(Secondary.VMCS_SHADOWING):
            return NO_LINK
        vmcs12, pages = context.vmcs12, self._pages
        for field, page, write in (
            (f.VMREAD_BITMAP, pages.vmread_bitmap, False),
            (f.VMWRITE_BITMAP, pages.vmwrite_bitmap, True),
        ):
            theirs = self._vcpu.memory.read(vmcs12.read(field), PAGE_SIZE)
            both = int.from_bytes(theirs, "little") | self._missing_fields(write=write)
            self._memory.write(page, both.to_bytes(PAGE_SIZE, "little"))
        link = vmcs12.read(f.VMCS_LINK_POINTER)
        return NO_LINK if link == NO_LINK else self._translate(f.VMCS_LINK_POINTER, link)

    def _missing_fields(self, *, write: bool) -> int:
        """Return a bitmap of the encodings that the processor has, but L1 is not offered."""
        known = self._missing.get(write)
        if known is None:
            known = 0
            for encoding in self._vcpu.capabilities.accesses:
                if not self._vcpu.unit.can_access(encoding, write=write):
                    known |= 1 << encoding
            self._missing[write] = known
        return known

    def _log_of(self, context: Context) -> Log12 | None:
        if not context.controls.has_secondary(Secondary.ENABLE_PML):
            return None
        vmcs12 = context.vmcs12
        return Log12(Gpa1(vmcs12.read(f.PML_ADDRESS)), vmcs12.read(f.PML_INDEX))

    def load_pdptes(self, words: Slots) -> None:
        """An L2 without EPT: VM entry loads the PDPTEs from memory, so L0 does."""
        is_pae = words[f.GUEST_CR0.slot] & _PG and words[f.GUEST_CR4.slot] & _PAE
        if not is_pae or words[f.GUEST_EFER.slot] & _LMA:
            return
        cr3 = words[f.GUEST_CR3.slot]
        for number, field in enumerate(f.GUEST_PDPTES):
            words[field.slot] = self._vcpu.memory.load((cr3 & _PAE_BASE) + 8 * number, 8)

    def _merge_bitmap(self, context: Context) -> None:
        """L2's accesses to MSRs exit where L1 or L0 wants them to."""
        theirs = self._vcpu.memory.read(context.vmcs12.read(f.MSR_BITMAPS), PAGE_SIZE)
        if theirs != self._merged_bitmap:
            self._merged_bitmap = theirs
            both = int.from_bytes(theirs, "little") | self._vcpu.system.msr_bitmap_number
            self._memory.write(self._pages.msr_bitmaps, both.to_bytes(PAGE_SIZE, "little"))

    def flush_transition(self, context: Context) -> None:
        """SDM 3C, "Operations that Invalidate Cached Mappings": a VM entry without VPID.

        Without VPIDs, L1 and its L2 share VPID 0, and each entry and exit drops its linear and
        combined mappings. L0 runs the two under VPIDs of its own, and drops both here, once for the
        entry and for the exit that led to it: in between neither was used.
        """
        vcpu = self._vcpu
        if context.controls.uses_vpid:
            return
        vcpu.flush_vpid(vcpu.vpids.own)
        vcpu.flush_vpid(vcpu.vpids.of(0))

    def _start(self, context: Context, *, is_launch: bool) -> None:
        vcpu = self._vcpu
        context.has_loads = bool(context.controls.entry & Entry.LOAD_PERF_GLOBAL_CTRL)
        self._launching = is_launch
        if is_launch:
            vcpu.unit.set_launched()
        vcpu.in_l2 = True
        vcpu.select(context.vmcs02)
        vcpu.statistics.entries += 1
        if vcpu.events.subscribers:
            root12 = context.root12
            eptp12 = root12.eptp if root12 else None
            vcpu.events.publish(NestedEntry(vcpu.index, context.region12, eptp12))

    def keep(self) -> None:
        """L0 handles the exit that has just happened: L2 goes on, it is not entered anew."""
        context = self.current
        assert context is not None
        self._launching = False
        if context.has_loads:
            context.has_loads = False
            slots = context.vmcs02.slots
            slots[f.ENTRY_CONTROLS.slot] &= ~Entry.LOAD_PERF_GLOBAL_CTRL

    def reentry_refused(self) -> bool:
        """The processor refuses to go on with L2: find out why; False where it is a fault of L0's.

        Another processor of L1's may have lowered the virtual TPR below its threshold while L2 ran.
        That is what L1 asked to be told of.
        """
        context = self.current
        assert context is not None
        if not context.controls.has_primary(Primary.USE_TPR_SHADOW):
            return False
        slots = context.vmcs02.slots
        slots[f.EXIT_INTERRUPTION_INFORMATION.slot] = slots[f.IDT_VECTORING_INFORMATION.slot] = 0
        slots[f.VM_INSTRUCTION_ERROR.slot] = context.vmcs12.slots[f.VM_INSTRUCTION_ERROR.slot]
        self._vcpu.count_reflected(ExitReason.TPR_BELOW_THRESHOLD)
        self.exit_to_l1(ExitReason.TPR_BELOW_THRESHOLD, 0)
        return True

    # Exits that L1 gets

    def exit_to_l1(self, reason: int, qualification: int) -> None:
        """Give L1 the VM exit that has just happened, with this reason and qualification."""
        vcpu, context = self._vcpu, self.current
        assert context is not None
        vmcs12, vmcs02 = context.vmcs12, context.vmcs02
        slots12, slots02 = vmcs12.slots, vmcs02.slots
        for app in vcpu.system.apps:
            app.on_nested_exit(vcpu, reason)
        slots12[f.EXIT_REASON.slot] = reason
        slots12[f.EXIT_QUALIFICATION.slot] = qualification
        for slot in INFORMATION.get(reason, ()):
            slots12[slot] = slots02[slot]
        # VMREAD and VMWRITE of L2 that fail without an exit write it.
        slots12[f.VM_INSTRUCTION_ERROR.slot] = slots02[f.VM_INSTRUCTION_ERROR.slot]
        if slots12[f.IDT_VECTORING_INFORMATION.slot] & INTERRUPTION_VALID:
            note_interrupted(vcpu, vmcs12, reason)
        self._save_guest(context)
        slots12[f.ENTRY_INTERRUPTION_INFORMATION.slot] &= ~INTERRUPTION_VALID
        stored = store_on_exit(vcpu, context.vmcs12)
        vcpu.shadow.leave()
        self._load_host(context, vmcs02, blocks_nmis=_blocks_nmis(context, reason))
        if not stored:
            tell_abort(vcpu, vmcs12, VmxAbort.SAVING_GUEST_MSRS)
            vcpu.stop_l1(stopping.vmx_abort(vcpu, "MSRs stored by a VM exit"))

    def _save_guest(self, context: Context) -> None:
        """SDM 3C, "Saving Guest State": what is not saved stays as L1 wrote it."""
        vmcs12, vmcs02 = context.vmcs12, context.vmcs02
        slots12 = vmcs12.slots
        kept = [slots12[slot] for slot in context.kept]
        vmcs12.unpack(f.GUEST_SLOTS, vmcs02.pack(f.GUEST_SLOTS))
        for slot, value in zip(context.kept, kept, strict=True):
            slots12[slot] = value
        long = vmcs02.slots[f.ENTRY_CONTROLS.slot] & Entry.IA32E_MODE_GUEST
        entry = slots12[f.ENTRY_CONTROLS.slot]
        if (entry ^ long) & Entry.IA32E_MODE_GUEST:
            slots12[f.ENTRY_CONTROLS.slot] = entry ^ Entry.IA32E_MODE_GUEST
        log = self._vcpu.composer.log
        if log is not None and context.root12 is not None:
            slots12[f.PML_INDEX.slot] = log.index

    def _load_host(self, context: Context, after: Vmcs, *, blocks_nmis: bool) -> None:
        """Let L1 go on where its host state says.

        ``after`` holds the registers that stay as they are. ``blocks_nmis``: NMIs are blocked then.
        """
        vcpu = self._vcpu
        image = context.image
        assert image is not None
        vmcs01, vmcs12 = vcpu.vmcs01, context.vmcs12
        if vcpu.events.subscribers:
            vcpu.events.publish(
                GivenToL1(
                    vcpu.index,
                    vmcs12.read(f.EXIT_REASON),
                    vmcs12.read(f.EXIT_QUALIFICATION),
                    vmcs12.read(f.GUEST_RIP),
                )
            )
        load_host_image(vmcs01, vmcs12, image, after)
        if blocks_nmis:
            vmcs01.slots[f.GUEST_INTERRUPTIBILITY.slot] = BLOCKING_BY_NMI
        entry = vmcs01.slots[f.ENTRY_CONTROLS.slot] & ~Entry.IA32E_MODE_GUEST
        if image.is_long:
            entry |= Entry.IA32E_MODE_GUEST
        vmcs01.slots[f.ENTRY_CONTROLS.slot] = entry
        if image.loads_perf:
            vcpu.processor.wrmsr(msr.IA32_PERF_GLOBAL_CTRL, vmcs12.read(f.HOST_PERF_GLOBAL_CTRL))
        vcpu.in_l2 = False
        vcpu.select(vmcs01)
        if image.is_pae and not vcpu.load_l1_pdptes(vmcs12.read(f.HOST_CR3)):
            tell_abort(vcpu, vmcs12, VmxAbort.HOST_PDPTE_CHECK)
            vcpu.stop_l1(stopping.vmx_abort(vcpu, "PDPTEs of the host state"))
            return
        if not load_on_exit(vcpu, vmcs12):
            tell_abort(vcpu, vmcs12, VmxAbort.LOADING_HOST_MSRS)
            vcpu.stop_l1(stopping.vmx_abort(vcpu, "MSRs loaded by a VM exit"))

    # Failed entries

    def _fail_entry(
        self, context: Context, reason: int, qualification: int, after: Vmcs | None = None
    ) -> None:
        """A VM exit instead of an entry, before L2 has run; ``after``: with L2's state loaded.

        SDM 3C, "VM-Entry Failures During or After Loading Guest State".
        """
        slots12 = context.vmcs12.slots
        slots12[f.EXIT_REASON.slot] = reason | ENTRY_FAILURE
        slots12[f.EXIT_QUALIFICATION.slot] = qualification
        self._vcpu.count_reflected(reason)
        vmcs01 = self._vcpu.vmcs01
        blocking = vmcs01.slots[f.GUEST_INTERRUPTIBILITY.slot]
        self._load_host(context, after or vmcs01, blocks_nmis=bool(blocking & BLOCKING_BY_NMI))

    def entry_failed(self, reason: int, qualification: int) -> None:
        """The processor refused VMCS02: L1 gets that failure where it is its doing.

        What only L0 has a hand in is a mistake of L0's, and ends L1.
        """
        vcpu, context = self._vcpu, self.current
        assert context is not None
        if not self._is_l1s_doing():
            vcpu.stop_l1(stopping.refused_entry(vcpu))
            return
        tell_failed_entry(
            self._vcpu,
            context.vmcs12,
            reason,
            qualification,
            limit=LIMIT,
            is_launch=self._launching,
        )
        if self._launching:
            context.vmcs12.set_clear()
        vcpu.shadow.leave()
        self._fail_entry(context, reason, qualification)

    def _is_l1s_doing(self) -> bool:
        """Tell whether L1 or L2 can have changed what a check of VM entry reads in memory."""
        broken = stopping.broken_rule(self._vcpu)
        return broken is not None and broken.rule in LINK_RULES


_PAT = 0x0007_0406_0007_0406


def _blocks_nmis(context: Context, reason: int) -> bool:
    """Tell whether NMIs are blocked after a VM exit: SDM 3C, "Updating Non-Register State"."""
    slots = context.vmcs02.slots
    if reason == ExitReason.EXCEPTION_OR_NMI:
        information = slots[f.EXIT_INTERRUPTION_INFORMATION.slot]
        if INTERRUPTION_TYPE.get(information) == EventType.NMI:
            return True
    if context.controls.pin & PinBased.VIRTUAL_NMIS:
        return False
    return bool(slots[f.GUEST_INTERRUPTIBILITY.slot] & BLOCKING_BY_NMI)


def _entered_efer(own: int, entry: int, cr0: int) -> int:
    """Return IA32_EFER after an entry that does not load it.

    SDM 3C, "Loading Guest Control Registers, Debug Registers, and MSRs".
    """
    long = bool(entry & Entry.IA32E_MODE_GUEST)
    efer = own & ~_LMA | (_LMA if long else 0)
    if cr0 & _PG:
        efer = efer & ~_LME | (_LME if long else 0)
    return efer
