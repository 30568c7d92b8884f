"""One processor under L0: the loop of VM entries and VM exits, and L1's processor in it."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, ClassVar

from turducken.address import Gpa1, Gpa2, Hpa
from turducken.arch import msr
from turducken.arch.registers import CR0, CR3, EFER
from turducken.hypervisor import boot, guest_msrs, resuming, stopping, vmcs01
from turducken.hypervisor.capabilities import check_suitable, offered_to_l1, read_capabilities
from turducken.hypervisor.ept01 import Ept01
from turducken.hypervisor.ept_table import EptTable
from turducken.hypervisor.events import Exited, Handler, L1Stopped, ShadowDropped
from turducken.hypervisor.explain import Explanation, explain_now
from turducken.hypervisor.frames import FrameShare
from turducken.hypervisor.guest_memory import GuestMemory
from turducken.hypervisor.host_state import set_own_host_state
from turducken.hypervisor.hypapp import AppGuest, Ept01Sharing
from turducken.hypervisor.interprocessor import reset_apic
from turducken.hypervisor.linear import LinearMemory
from turducken.hypervisor.merge import ENTRY_OWN, NO_LINK
from turducken.hypervisor.mtrr import Mtrrs
from turducken.hypervisor.nested import Nested
from turducken.hypervisor.shadow import make_shadow
from turducken.hypervisor.shadow.compose import Composer
from turducken.hypervisor.shadow.policy import ShadowParts
from turducken.hypervisor.statistics import VcpuStatistics
from turducken.hypervisor.vmx_unit import GuestVmxUnit
from turducken.hypervisor.vpids import Vpids
from turducken.paging import entries as e
from turducken.paging.entries import PAE_PDPTE
from turducken.paging.formats import PAGING_PAE, Features
from turducken.vmx import vmcs_fields as f
from turducken.vmx.capability_msrs import EPT_VPID_CAP
from turducken.vmx.controls import Primary, Secondary
from turducken.vmx.exit_information import (
    Activity,
)
from turducken.vmx.exit_reasons import ENTRY_FAILURE, ExitReason
from turducken.vmx.instructions import INVEPT_SINGLE_CONTEXT, INVVPID_SINGLE_CONTEXT
from turducken.vmx.interface import VmStatus, VmxProcessor, Wait
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.hypervisor.hypervisor import Hypervisor

_PE, _PG, _NE = CR0.mask("PE"), CR0.mask("PG"), CR0.mask("NE")
_LME, _LMA = EFER.mask("LME"), EFER.mask("LMA")
_RCX = 1
_PAE_BASE = CR3.mask("PAE_ADDRESS")

Handling = Generator[Wait, None, None] | None
"""What a handler of a VM exit returns: what is left to do where it has to wait, or None."""


class HypervisorError(Exception):
    """L0 met something that cannot happen: a bug of ours."""


class Vcpu:
    """L0's part of one processor: L1's processor on it, and the L2s of that."""

    nested_type: ClassVar[type[Nested]] = Nested
    unit_type: ClassVar[type[GuestVmxUnit]] = GuestVmxUnit
    composer_type: ClassVar[type[Composer]] = Composer
    vpids_type: ClassVar[type[Vpids]] = Vpids
    make_shadow = staticmethod(make_shadow)

    def __init__(self, system: "Hypervisor", processor: VmxProcessor) -> None:
        self.system = system
        self.processor = processor
        self.index = processor.index
        self.events = system.events
        self.statistics = VcpuStatistics()
        self.capabilities = read_capabilities(processor)
        check_suitable(self.capabilities)
        self.capabilities12 = offered_to_l1(self.capabilities, system.offer)
        self.maxphyaddr = self.capabilities.cpu.physical_address_bits
        self.pages_1gib = bool(processor.cpuid(0x8000_0001, 0)[3] & 1 << 26)
        self.mtrrs = Mtrrs(processor.rdmsr, self.maxphyaddr)
        self._make_memory()
        self.vpids = self.vpids_type(self._recycle_vpid)
        self.in_l2 = False
        self.in_guest = False
        """The processor runs a guest at this moment, not L0."""
        self.init_pending = False
        self.is_kicked = False
        """L0 has sent this processor an INIT that has not arrived yet."""
        self.before_trap: tuple[int, int] | None = None
        """With the monitor trap flag, RIP and RCX at the VM entry; None: it injects the trap."""
        self.stopped: L1Stopped | None = None
        """What ended L1's processor for good."""
        self.interrupted: tuple[int, int, int] | None = None
        """Until L1 enters L2 again: VMCS12, IDT-vectoring information and reason of a VM exit."""
        self.explained: dict[int, Explanation] = {}
        """For watched addresses of L2's: through which entries each went last."""
        self.has_open_tables = False
        """It may be writing tables that were watched (`turducken.hypervisor.table_watch`)."""
        self.app_table: EptTable | None = None
        """A hypapp's table, under which the guest runs at present."""
        self.app_guest: AppGuest | None = None
        """A hypapp's own guest, which runs at present in the place of L1 or L2."""
        self.requests: list[Callable[[Vcpu], None]] = []
        """What other processors want done here before a guest runs again."""
        self.is_held = False
        """Another processor wants no guest to run here (`MemoryControl.quiesce`)."""
        self.vmcs01 = self._make_vmcs01()
        self.current = self.vmcs01
        self.is_launched01 = False
        self.linear = LinearMemory(
            self.vmcs01, self.memory, self.maxphyaddr, pages_1gib=self.pages_1gib
        )
        self.nested = self.nested_type(self)
        self.unit = self.unit_type(
            self.capabilities12,
            self.memory,
            system.memory,
            system.frames.allocate(),
            self.nested.place,
        )
        self._follow_shadowing()
        self._uses_requests = system.count > 1

    def _make_memory(self) -> None:
        system, real = self.system, self.capabilities
        sizes = [
            *([30] if real.has(EPT_VPID_CAP.mask("PAGES_1GIB")) else []),
            *([21] if real.has(EPT_VPID_CAP.mask("PAGES_2MIB")) else []),
            12,
        ]
        self.is_ept01_stale = False
        """EPT01 has changed, and this processor does not follow it yet."""
        sharing = system.ept01_sharing
        if sharing is Ept01Sharing.OWN or not system.vcpus:
            self.ept01 = Ept01(
                system.memory,
                system.frames,
                self.mtrrs.map(),
                physical_bits=self.maxphyaddr,
                pages_1gib=30 in sizes,
                pages_2mib=21 in sizes,
            )
        else:
            self.ept01 = system.vcpus[0].ept01
        copies = sharing is Ept01Sharing.COPIED and bool(system.vcpus)
        self.eptp01 = self.ept01.replicate() if copies else self.ept01.eptp
        """The EPTP of EPT01 on this processor."""
        self._follow(self.ept01)
        self.memory = GuestMemory(system.memory, self.ept01)
        offered = self.capabilities12
        self.ept_features12 = Features(
            maxphyaddr=self.maxphyaddr,
            pages_1gib=offered.has(EPT_VPID_CAP.mask("PAGES_1GIB")),
            pages_2mib=offered.has(EPT_VPID_CAP.mask("PAGES_2MIB")),
            execute_only=offered.has(EPT_VPID_CAP.mask("EXECUTE_ONLY")),
        )
        self.composer = self.composer_type(
            self.ept01,
            self.memory,
            sizes=tuple(sizes),
            execute_only=real.has(EPT_VPID_CAP.mask("EXECUTE_ONLY")),
        )
        parts = ShadowParts(
            system.memory,
            FrameShare(system.frames, system.shadow_frames),
            self.composer,
            self._drop_shadow,
            system.watch_tables,
        )
        self.shadow_parts = parts
        self.shadow = self.make_shadow(system.shadow_policy, parts)

    def _drop_shadow(self, eptp02: int) -> None:
        """Let the processor forget an EPT02 that has lost its entries."""
        if self.events.subscribers:
            self.events.publish(ShadowDropped(self.index, eptp02))
        self.invept(eptp02)

    def _follow(self, ept01: Ept01) -> None:
        """Notice changes of EPT01, as every processor that shares it does."""
        earlier = ept01.changed

        def changed() -> None:
            self.is_ept01_stale = True
            earlier()

        ept01.changed = changed

    # VMCS01

    def make_vmcs(self) -> Vmcs:
        """Return a new VMCS with L0's host state, active on this processor but not current."""
        vmcs = Vmcs(self.system.memory, self.system.frames.allocate())
        vmcs.set_header(self.capabilities.revision)
        self._succeed(self.processor.vmclear(Hpa(vmcs.region)), "VMCLEAR")
        pat = self.processor.rdmsr(msr.IA32_PAT) or 0
        set_own_host_state(vmcs, self.capabilities, self.system.host_root, pat)
        vmcs.write(f.VMCS_LINK_POINTER, NO_LINK)
        return vmcs

    def _make_vmcs01(self) -> Vmcs:
        processor, system = self.processor, self.system
        revision = self.capabilities.revision
        vmxon = system.frames.allocate()
        system.memory.store(vmxon, 4, revision)
        self._succeed(processor.vmxon(vmxon), "VMXON")
        vmcs = self.make_vmcs()
        self._succeed(processor.vmptrld(Hpa(vmcs.region)), "VMPTRLD")
        vmcs01.set_controls(self, vmcs)
        vmcs.write(f.GUEST_PAT, vmcs.read(f.HOST_PAT))
        if self.index == 0 and system.boot.is_reset:
            cr0 = boot.set_reset_state(vmcs)
        elif self.index == 0:
            cr0 = boot.set_loaded_state(vmcs, system.boot)
        else:
            cr0 = boot.set_waiting_state(vmcs)
        vmcs01.set_cr0_and_cr4(self, vmcs, cr0)
        return vmcs

    @staticmethod
    def _succeed(status: VmStatus, what: str) -> None:
        if status is not VmStatus.SUCCEED:
            raise HypervisorError(f"{what}: {status.value}")

    def own_fixed_bits(self, *, all_of_them: bool) -> None:
        """Let writes of CR0 exit where they would change what VMX operation fixes for L1."""
        vmcs01.own_fixed_bits(self, all_of_them=all_of_them)

    @property
    def cr0_of_l1(self) -> int:
        """CR0 as L1 reads it."""
        read = self.vmcs01.read
        mask = read(f.CR0_GUEST_HOST_MASK)
        return read(f.GUEST_CR0) & ~mask | read(f.CR0_READ_SHADOW) & mask

    @property
    def cr4_of_l1(self) -> int:
        """CR4 as L1 reads it."""
        read = self.vmcs01.read
        mask = read(f.CR4_GUEST_HOST_MASK)
        return read(f.GUEST_CR4) & ~mask | read(f.CR4_READ_SHADOW) & mask

    # The loop

    def run(self) -> Generator[Wait, None, None]:
        """Run L1 (and its L2s) until L1's processor stops for good."""
        system = self.system
        l1_handlers, l2_handler = system.l1_handlers, system.l2_handler
        slots01 = self.vmcs01.slots
        reason_slot = f.EXIT_REASON.slot
        while self.stopped is None:
            if self._uses_requests:
                while self.is_held:
                    self.serve_requests()
                    yield Wait.OTHERS
                self._before_entry()
            if not self._enter():
                break
            self.in_guest = True
            yield Wait.GUEST
            self.in_guest = False
            if self.has_open_tables:
                system.watch_tables.close(self)
            if self.app_guest is not None:
                handling = self.app_guest.on_exit(self)
            elif self.in_l2:
                handling = l2_handler(self)
            else:
                reason = slots01[reason_slot]
                counts = self.statistics.exits_l1
                counts[reason] = counts.get(reason, 0) + 1
                if reason & ENTRY_FAILURE:
                    self.stop_l1(stopping.refused_entry(self))
                    break
                self.is_launched01 = True
                if self.events.subscribers:
                    self.publish_exit(1, "L0")
                handling = l1_handlers[reason](self)
            if handling is not None:
                yield from handling
            if self.ept01.written:
                yield from self._release_written()
        self.processor.vmxoff()

    def _release_written(self) -> Generator[Wait, None, None]:
        """L0 has written pages for L1 that a shadow follows."""
        pages = frozenset(self.ept01.written)
        self.ept01.written.clear()
        yield from self.system.watch_tables.release(self, pages)

    def _enter(self) -> bool:
        """Enter the guest of the current VMCS; False where that has ended L1's processor."""
        if self.app_guest is not None:
            is_launched = self.app_guest.is_launched
        elif self.in_l2:
            context = self.nested.current
            assert context is not None
            is_launched = context.is_launched
        else:
            is_launched = self.is_launched01
        processor = self.processor
        status = processor.vmresume() if is_launched else processor.vmlaunch()
        if status is VmStatus.SUCCEED:
            return True
        is_l2s = self.in_l2 and self.app_guest is None
        if is_l2s and self.nested.reentry_refused():
            return self._enter()
        self.stop_l1(stopping.refused_entry(self, status))
        return False

    def _before_entry(self) -> None:
        """Do what other processors have asked for, and get ready to be made to leave the guest."""
        self.serve_requests()
        slots = self.current.slots
        if slots[f.GUEST_ACTIVITY.slot] == Activity.WAIT_FOR_SIPI:
            self.is_kicked = False  # INIT is lost in this state
        if slots[f.PRIMARY_CONTROLS.slot] & Primary.MONITOR_TRAP_FLAG:
            is_trap = slots[f.ENTRY_INTERRUPTION_INFORMATION.slot] == resuming.MONITOR_TRAP
            state = slots[f.GUEST_RIP.slot], self.processor.gpr[_RCX]
            self.before_trap = None if is_trap else state

    def was_kicked(self) -> bool:
        """INIT has made a guest exit: tell whether it is L0's own. It arrives once."""
        was, self.is_kicked = self.is_kicked, False
        return was

    def trap_again(self) -> None:
        """L0's own INIT has come before a monitor trap, which is lost thereby: renew it.

        SDM 3C, "Monitor Trap Flag": INIT signals take priority over MTF VM exits. The guest has
        executed an instruction, or one iteration of it, where RIP or RCX has changed.
        """
        resuming.trap_again(self)

    def serve_requests(self) -> None:
        """Do what other processors have asked for."""
        while self.requests:
            self.requests.pop(0)(self)

    def select(self, vmcs: Vmcs) -> None:
        """Make a VMCS the processor's current one."""
        self.current = vmcs
        self.processor.vmptrld(Hpa(vmcs.region))

    def count_reflected(self, reason: int) -> None:
        """Count an exit that L1 gets."""
        counts = self.statistics.reflected
        counts[reason] = counts.get(reason, 0) + 1

    def publish_exit(self, level: int, handler: Handler) -> None:
        """Tell subscribers of the exit that has just happened."""
        read = self.current.read
        self.events.publish(
            Exited(
                self.index,
                1 if level == 1 else 2,
                read(f.EXIT_REASON),
                read(f.EXIT_QUALIFICATION),
                read(f.GUEST_RIP),
                handler,
            )
        )

    @property
    def runs_guest_code(self) -> bool:
        """The processor may be using translations of a guest at this moment."""
        if not self.in_guest:
            return False
        # In these states nothing is executed before the next VM exit.
        return self.current.slots[f.GUEST_ACTIVITY.slot] not in (
            Activity.SHUTDOWN,
            Activity.WAIT_FOR_SIPI,
        )

    # VMCS shadowing: L1's VMREAD and VMWRITE reach VMCS12's fields without an exit

    def _follow_shadowing(self) -> None:
        system = self.system
        offered = self.capabilities.secondary.allowed1 & Secondary.VMCS_SHADOWING
        self._uses_shadowing = bool(offered) and system.offer.vmcs_shadowing
        if self._uses_shadowing:
            reads, writes = system.access_bitmaps(self.unit)
            self.vmcs01.write(f.VMREAD_BITMAP, reads)
            self.vmcs01.write(f.VMWRITE_BITMAP, writes)

    def follow_vmcs12(self) -> None:
        """L1's current VMCS or VMX operation may have changed: link VMCS12 to VMCS01, or nothing.

        Outside VMX operation VMREAD must exit (it is #UD); without a current VMCS it fails through
        the missing link as it would without L0.
        """
        if not self._uses_shadowing:
            return
        unit = self.unit
        current = unit.current
        link = NO_LINK if current is None else unit.current12.region
        self.vmcs01.write(f.VMCS_LINK_POINTER, link)
        secondary = self.vmcs01.read(f.SECONDARY_CONTROLS) & ~Secondary.VMCS_SHADOWING
        if unit.in_operation:
            secondary |= Secondary.VMCS_SHADOWING
        self.vmcs01.write(f.SECONDARY_CONTROLS, secondary)

    # Completing and failing L1's instructions

    def skip(self) -> None:
        """Complete the instruction that caused the exit."""
        resuming.skip(self)

    def inject(self, vector: int, error_code: int | None = None) -> None:
        """Raise a hardware exception in the guest that exited, at the instruction that did.

        L1 gets it where it wants the exceptions of its L2.
        """
        resuming.inject(self, vector, error_code)

    def inject_again(self) -> None:
        """Let an event go on whose delivery the exit interrupted.

        SDM 3C, "Information for VM Exits That Occur During Event Delivery".
        """
        resuming.inject_again(self)

    def load_l1_pdptes(self, cr3: int) -> bool:
        """Load L1's PDPTEs from ``cr3``; False where one has a reserved bit set."""
        level = PAGING_PAE.bind(Features(maxphyaddr=self.maxphyaddr)).levels[0]
        present = PAE_PDPTE.mask("P")
        entries = [self.memory.load((cr3 & _PAE_BASE) + 8 * number, 8) for number in range(4)]
        if any(one & present and one & level.table_reserved for one in entries):
            return False
        for field, entry in zip(f.GUEST_PDPTES, entries, strict=True):
            self.vmcs01.write(field, entry)
        return True

    def triple_fault(self) -> None:
        """The guest that exited has come to a triple fault."""
        if self.in_l2:
            slots = self.current.slots
            slots[f.EXIT_INTERRUPTION_INFORMATION.slot] = 0
            slots[f.IDT_VECTORING_INFORMATION.slot] = 0
            self.count_reflected(ExitReason.TRIPLE_FAULT)
            self.nested.exit_to_l1(ExitReason.TRIPLE_FAULT, 0)
        else:
            self.stop_l1(stopping.triple_fault(self))

    def stop_l1(self, what: L1Stopped) -> None:
        """L1's processor is at its end, for a reason of `turducken.hypervisor.stopping`."""
        if self.stopped is not None:
            return
        self.stopped = what
        for app in self.system.apps:
            app.on_shutdown(self, what.why)
        if self.events.subscribers:
            self.events.publish(what)

    def reset_l1(self) -> None:
        """INIT outside VMX operation: L1's processor waits for a SIPI."""
        processor = self.processor
        cr0 = boot.set_waiting_state(self.vmcs01)
        vmcs01.set_cr0_and_cr4(self, self.vmcs01, cr0)
        self.vmcs01.write(f.ENTRY_CONTROLS, self.capabilities.entry.adjust(ENTRY_OWN))
        self.vmcs01.write(f.ENTRY_INTERRUPTION_INFORMATION, 0)
        for number in range(16):
            processor.gpr[number] = 0
        processor.gpr[2] = processor.cpuid(1, 0)[0]
        processor.cr2 = 0
        for number, value in ((0, 0), (1, 0), (2, 0), (3, 0), (6, 0xFFFF_0FF0), (7, 0x400)):
            processor.dr[number] = value
        reset_apic(processor)
        self.flush_vpid(self.vpids.own)

    # MSRs

    def read_msr(self, index: int) -> int | None:
        """Return an MSR as L1 reads it; None for #GP."""
        return guest_msrs.read_msr(self, index)

    def write_msr(self, index: int, value: int, vmcs: Vmcs | None = None) -> bool:
        """Write an MSR for L1 (or for an L2 to which L1 leaves it); False for #GP.

        What a VMCS holds is written to ``vmcs`` (default: the current one).
        """
        return guest_msrs.write_msr(self, index, value, vmcs)

    # Translations

    def note_fill(self, gpa2: int) -> None:
        """EPT02 has got a leaf: keep what led to it, for addresses that somebody watches."""
        for address in self.system.watched:
            if address >> 12 == gpa2 >> 12:
                self.explained[address] = explain_now(self, Gpa2(address))

    def invept(self, eptp: int) -> None:
        """Drop what this processor holds for an EPTP."""
        self.statistics.invept += 1
        self._succeed(self.processor.invept(INVEPT_SINGLE_CONTEXT, eptp), "INVEPT")

    def invalidate_ept12(self, kind: int, eptp: int) -> None:
        """L1 has executed INVEPT with operands that the processor accepts."""
        single = kind == INVEPT_SINGLE_CONTEXT
        self.shadow.invept(eptp & e.EP4TA_MASK if single else None)

    def flush_vpid(self, vpid: int) -> None:
        """Drop what this processor holds for a VPID."""
        self.statistics.invvpid += 1
        self._succeed(self.processor.invvpid(INVVPID_SINGLE_CONTEXT, vpid, 0), "INVVPID")

    def run_under(self, table: EptTable | None) -> None:
        """Let the guest that exited go on under a table of a hypapp's; None: under L0's own again.

        What it refuses goes to `Hypapp.on_violation`. Nothing is invalidated: translations are
        tagged with the table's root.
        """
        self.app_table = table
        if table is not None:
            eptp = table.root | self.eptp01 & 0xFFF
        elif self.in_l2:
            eptp = self.nested.eptp02()
        else:
            eptp = self.eptp01
        self.current.write(f.EPTP, eptp)

    def run_app_guest(self, guest: "AppGuest") -> None:
        """Let a hypapp's own guest run in the place of the guest that exited."""
        self.app_guest = guest
        self.select(guest.vmcs)

    def end_app_guest(self) -> None:
        """Let the guest go on that a hypapp's own has stood in for."""
        self.app_guest = None
        context = self.nested.current
        self.select(context.vmcs02 if self.in_l2 and context is not None else self.vmcs01)

    @property
    def blocks_init(self) -> bool:
        """L1 is in VMX root operation, where an INIT has to wait."""
        return not self.in_l2 and self.unit.in_operation

    def take_init(self) -> None:
        """INIT arrived while a hypapp's own guest ran: it is for L1, or ends L2's turn."""
        self.end_app_guest()
        if not self.in_l2:
            self.system.l1_handlers[ExitReason.INIT](self)
            return
        slots = self.current.slots
        slots[f.EXIT_INTERRUPTION_INFORMATION.slot] = slots[f.IDT_VECTORING_INFORMATION.slot] = 0
        self.count_reflected(ExitReason.INIT)
        self.nested.exit_to_l1(ExitReason.INIT, 0)

    def _recycle_vpid(self, vpid: int) -> None:
        self.flush_vpid(vpid)
        self.nested.generation += 1

    def settle_ept01(self) -> None:
        """Make everything on this processor follow EPT01, which has changed."""
        if not self.is_ept01_stale:
            return
        self.is_ept01_stale = False
        self.invept(self.eptp01)
        self.shadow.ept01_changed()
        self.nested.ept01_changed()

    def settle_withheld(self, pages: frozenset[Gpa1]) -> None:
        """Make this processor follow the loss of L1's write right to ``pages``."""
        self.invept(self.eptp01)
        self.shadow.writing_withheld(pages)

    def reason_of_exit(self) -> ExitReason:
        """Return the basic reason of the exit that has just happened."""
        return ExitReason(self.current.read(f.EXIT_REASON) & 0xFFFF)
