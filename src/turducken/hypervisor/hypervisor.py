"""L0: what its processors share, and where they begin."""

from collections.abc import Callable, Generator, Sequence
from typing import ClassVar, Literal

from turducken.address import PAGE_SIZE, Gpa1, Hpa
from turducken.arch import msr
from turducken.hypervisor import l1_exits, l2_exits
from turducken.hypervisor.boot import BootRegisters
from turducken.hypervisor.capabilities import CAPABILITY_MSRS, Offer
from turducken.hypervisor.ept01 import W
from turducken.hypervisor.events import Events, L1Stopped
from turducken.hypervisor.frames import FrameAllocator
from turducken.hypervisor.hypapp import Ept01Sharing, Hypapp
from turducken.hypervisor.interprocessor import start_processor
from turducken.hypervisor.memory_control import MemoryControl
from turducken.hypervisor.mtrr import mtrr_numbers
from turducken.hypervisor.shadow import ShadowPolicyName
from turducken.hypervisor.table_watch import TableWatch
from turducken.hypervisor.vcpu import Handling, Vcpu
from turducken.hypervisor.vmx_unit import GuestVmxUnit
from turducken.memory import PhysicalMemory
from turducken.vmx.interface import VmxProcessor, Wait
from turducken.vmx.vmcs_fields import ACCESSES

_LOW_WRITE, _HIGH_READ, _HIGH_WRITE = 2048, 1024, 3072
_GIVE_OTHERS_TIME = 4
"""Turns that the boot processor waits for the others before it sends them a startup IPI."""


class Hypervisor:
    """L0 for ``processors`` processors: a `turducken.vmx.interface.RootSoftware`.

    ``private`` (host-physical, whole frames of RAM) is L0's own. ``boot`` is where L1 begins. Of
    the private memory each processor's EPT02s may use ``shadow_frames`` frames (default: a share
    of what is there).
    """

    vcpu_type: ClassVar[type[Vcpu]] = Vcpu
    control_type: ClassVar[type[MemoryControl]] = MemoryControl

    def __init__(
        self,
        memory: PhysicalMemory,
        private: range,
        processors: int,
        boot: BootRegisters,
        *,
        shadow: ShadowPolicyName = "cached",
        offer: Offer | None = None,
        apps: Sequence[Hypapp] = (),
        shadow_frames: int | None = None,
    ) -> None:
        self.memory = memory
        self.frames = FrameAllocator(memory, private)
        self.count = processors
        self.boot = boot
        self.shadow_policy = shadow
        self.offer = offer or Offer()
        self.apps = tuple(apps)
        self.events = Events()
        self.vcpus: list[Vcpu] = []
        self.watched: set[int] = set()
        self.control = self.control_type(self)
        """The API that changes EPT01."""
        self.watch_tables = TableWatch(self)
        total = len(private) // PAGE_SIZE
        self.shadow_frames = shadow_frames or max(16, total // (2 * processors))
        self.host_root = self.frames.allocate()
        self.answered_msrs = frozenset(CAPABILITY_MSRS)
        """MSRs that L0 answers for L1."""
        self.guarded_msrs = frozenset({*mtrr_numbers(32), msr.IA32_APIC_BASE})
        """MSRs whose writes L0 looks at."""
        self.msr_bitmap = self.frames.allocate()
        self.msr_bitmap_number = self._make_msr_bitmap()
        self._access_bitmaps: tuple[Hpa, Hpa] | None = None
        self.l1_handlers: dict[int, Callable[[Vcpu], Handling]] = l1_exits.HANDLERS
        self.l2_handler: Callable[[Vcpu], Handling] = l2_exits.on_exit

    @property
    def ept01_sharing(self) -> Ept01Sharing:
        """How the processors share EPT01: as the first application says that says anything."""
        wanted = (one.ept01_sharing for one in self.apps if one.ept01_sharing is not None)
        return next(wanted, Ept01Sharing.OWN)

    def _make_msr_bitmap(self) -> int:
        """SDM 3C, "MSR-Bitmap Address": reads of low MSRs from byte 0, writes from 2048."""
        number = 0
        for index in self.answered_msrs:
            number |= 1 << index
        for index in self.guarded_msrs:
            number |= 1 << 8 * _LOW_WRITE + index
        self.memory.write(self.msr_bitmap, number.to_bytes(PAGE_SIZE, "little"))
        return number

    def access_bitmaps(self, unit: GuestVmxUnit) -> tuple[Hpa, Hpa]:
        """Return the VMREAD and VMWRITE bitmaps: a bit is set where the access must exit.

        SDM 3C, "VMCS Shadowing Bitmap Addresses". They are the same for all processors.
        """
        if self._access_bitmaps is None:
            pages = []
            for write in (False, True):
                number = (1 << 8 * PAGE_SIZE) - 1
                for encoding in ACCESSES:
                    if unit.can_access(encoding, write=write):
                        number &= ~(1 << encoding)
                page = self.frames.allocate()
                self.memory.write(page, number.to_bytes(PAGE_SIZE, "little"))
                pages.append(page)
            self._access_bitmaps = pages[0], pages[1]
        return self._access_bitmaps

    @property
    def stopped(self) -> tuple[L1Stopped, ...]:
        """What ended processors of L1's for good."""
        return tuple(one.stopped for one in self.vcpus if one.stopped is not None)

    # The program

    def run(self, processor: VmxProcessor) -> Generator[Wait, None, None]:
        """Run on one processor, from reset or from a startup IPI on."""
        vcpu = self.vcpu_type(self, processor)
        self.vcpus.append(vcpu)
        self.vcpus.sort(key=lambda one: one.index)
        if processor.index == 0:
            for number, value in enumerate(self.boot.general()):
                processor.gpr[number] = value
            yield from self._start_others(processor)
            for app in self.apps:
                app.on_start(self)
        yield from vcpu.run()

    def _start_others(self, processor: VmxProcessor) -> Generator[Wait, None, None]:
        turns = 0
        while len(self.vcpus) < self.count:
            if turns == _GIVE_OTHERS_TIME:
                for index in range(self.count):
                    if all(one.index != index for one in self.vcpus):
                        start_processor(processor, index)
            turns += 1
            yield Wait.OTHERS

    def watch(self, gpa2: int) -> None:
        """Keep how this L2 address was translated whenever L2 uses it, for `explain`."""
        self.watched.add(gpa2)

    # Hypapps

    def hypercall(self, vcpu: Vcpu) -> "Handling | Literal[False]":
        """Offer a guest's VMCALL to the hypapps."""
        for app in self.apps:
            handling = app.on_hypercall(vcpu)
            if handling is not False:
                return handling
        return False

    def app_violation(self, vcpu: Vcpu, gpa1: Gpa1, access: int) -> "Handling | Literal[False]":
        """Offer an access that EPT01 does not allow to the hypapps."""
        for app in self.apps:
            handling = app.on_violation(vcpu, gpa1, access)
            if handling is not False:
                return handling
        return False

    def refuse_access(self, vcpu: Vcpu, gpa1: Gpa1, access: int) -> Handling:
        """Let L1 write a table that a shadow follows; offer other accesses to the hypapps."""
        if vcpu.ept01.is_withheld(gpa1) and access & W:
            vcpu.inject_again()
            return self.watch_tables.release(vcpu, frozenset({Gpa1(gpa1 & -PAGE_SIZE)}))
        handling = self.app_violation(vcpu, gpa1, access)
        if handling is False:
            return l1_exits.refuse(vcpu)
        if handling is None:
            vcpu.inject_again()
        return handling
