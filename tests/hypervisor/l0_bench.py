"""An L0 that has run a small L1, stopped so that tests can work its parts by hand."""

from collections.abc import Generator
from contextlib import suppress

from nested_rig import Rig, Run, StuckError

from turducken.address import PAGE_SIZE, Gpa1, Gpa2
from turducken.arch.memory_types import MemoryType
from turducken.hypervisor import Hypervisor, ShadowPolicyName
from turducken.hypervisor.ept01 import RWX
from turducken.hypervisor.ept_table import leaf_for
from turducken.hypervisor.shadow.compose import Composition, EptView, Filled
from turducken.hypervisor.shadow.policy import Root12
from turducken.memory import PhysicalMemory
from turducken.paging import entries as e
from turducken.paging import rights
from turducken.paging.formats import EPT, Features
from turducken.paging.walker import Stop, walk
from turducken.vmx.interface import Wait

EPT12_ROOT = Gpa1(0x200_0000)
MOST_EXITS = 2_000
_EPTP = 3 << 3 | MemoryType.WB


class Bench:
    def __init__(
        self,
        shadow: ShadowPolicyName = "cached",
        l0: type[Hypervisor] = Hypervisor,
        text: str = "tests=ept-identity",
        cpus: int = 1,
    ) -> None:
        self.rig = Rig(Run(text=text, shadow=shadow, l0=l0, cpus=cpus))
        self.hypervisor = self.rig.hypervisor
        handler = self.hypervisor.l2_handler
        self.rig.watch_exits(MOST_EXITS)
        with suppress(StuckError):  # a faulty L0 need not come to the test's end
            self.rig.run()
        self.hypervisor.l2_handler = handler
        self.vcpu = self.hypervisor.vcpus[0]
        self.memory: PhysicalMemory = self.hypervisor.memory
        self.control = self.hypervisor.control
        self.ept12 = EPT12_ROOT
        self._next = EPT12_ROOT + PAGE_SIZE
        self.use_ept12()

    def use_ept12(self, *, root: int | None = None, accessed_dirty: bool = False) -> Root12:
        features = self.vcpu.ept_features12
        view = EptView(features, accessed_dirty=accessed_dirty)
        eptp = (self.ept12 if root is None else root) | _EPTP
        self.root12 = Root12(eptp | (e.EPTP_AD if accessed_dirty else 0), view)
        context = self.vcpu.nested.current
        assert context is not None
        context.root12 = self.root12
        self.eptp02 = self.vcpu.shadow.enter(self.root12)
        return self.root12

    def _table(self) -> int:
        table, self._next = self._next, self._next + PAGE_SIZE
        self.memory.write(table, bytes(PAGE_SIZE))
        return table

    def entry12(self, gpa2: int, shift: int) -> int:
        """Return where EPT12's entry of a level is, making the tables above it."""
        table = int(self.ept12)
        for level in (39, 30, 21, 12):
            where = table + (gpa2 >> level & 511) * 8
            if level == shift:
                return where
            entry = self.memory.load(where, 8)
            if not entry & RWX:
                entry = self._table() | RWX
                self.memory.store(where, 8, entry)
            table = entry & e.EPT_PML4E.mask("ADDRESS")
        raise AssertionError

    def map12(
        self,
        gpa2: int,
        gpa1: int,
        right: int = RWX,
        kind: int = MemoryType.WB,
        shift: int = 12,
    ) -> None:
        entry = leaf_for(e.EPT_MEMORY_TYPE.put(gpa1 | right, kind), shift)
        self.memory.store(self.entry12(gpa2, shift), 8, entry)

    def compose(self, gpa2: Gpa2, access: int = 1) -> Composition:
        return self.vcpu.shadow.fill(gpa2, access)

    def fill(self, gpa2: Gpa2, access: int = 1) -> int | None:
        """Do what a violation does; return where the address leads then."""
        found = self.compose(gpa2, access)
        return self.lookup02(gpa2) if isinstance(found, Filled) else None

    def lookup02(self, gpa2: Gpa2) -> int | None:
        """Walk EPT02 as the processor does."""
        fmt = EPT.bind(Features(maxphyaddr=self.vcpu.maxphyaddr))
        eptp = self.vcpu.shadow.enter(self.root12)
        found = walk(fmt, self.memory, eptp, gpa2)
        assert found.stop is not Stop.MALFORMED
        return found.output(gpa2) if found.stop is Stop.PAGE else None

    def attributes02(self, gpa2: Gpa2) -> int:
        self.fill(gpa2)
        fmt = EPT.bind(Features(maxphyaddr=self.vcpu.maxphyaddr))
        return rights.attributes_of(fmt, walk(fmt, self.memory, self.eptp02, gpa2))

    @staticmethod
    def run(waiting: Generator[Wait, None, None]) -> None:
        """Run something that has nobody to wait for."""
        for _ in waiting:
            raise AssertionError("nobody is there to wait for")
