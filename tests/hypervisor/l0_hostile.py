"""A hostile L1 and L2: noise in VMCS12s, EPT12s, lists and bitmaps of a real L1, from a seed."""

import random
from collections.abc import Callable

from nested_rig import Rig, Run

from turducken.address import PAGE_SIZE
from turducken.hypervisor import ShadowPolicyName
from turducken.hypervisor.ept_table import EptTable, page_of
from turducken.hypervisor.vcpu import Handling, Vcpu
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import CONTROL_SETS
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.vmcs_fields import FIELDS

CANARY = b"\xc5" * PAGE_SIZE
TESTS = (
    "ept-identity,ept-remap-invept,vmcall,msr-lists,io-bitmap*,tpr-shadow,pml-*,vmfunc-*,"
    "shadow-vmcs*,event-injection,vpid-*,ept-accessed-dirty,msr-bitmap*,apic-access*"
)
CONTROLS = {
    f.PIN_BASED_CONTROLS: "pin",
    f.PRIMARY_CONTROLS: "primary",
    f.SECONDARY_CONTROLS: "secondary",
    f.EXIT_CONTROLS: "exit",
    f.ENTRY_CONTROLS: "entry",
}
ADDRESSES = [
    one
    for one in FIELDS.values()
    if "address" in one.name.lower() or "bitmap" in one.name.lower() or one is f.EPTP
]


class Hostile:
    def __init__(self, seed: int, shadow: ShadowPolicyName, cpus: int = 1) -> None:
        self.random = random.Random(seed)
        test = self.random.choice(TESTS.split(","))
        run = Run(text=f"tests={test}", shadow=shadow, cpus=cpus, private=2 << 20)
        self.rig = Rig(run)
        self.hypervisor = self.rig.hypervisor
        self.memory = self.hypervisor.memory
        self.private = self.hypervisor.frames.region
        self.canaries = [self.hypervisor.frames.allocate() for _ in range(4)]
        for one in self.canaries:
            self.memory.write(one, CANARY)
        handlers = dict(self.hypervisor.l1_handlers)
        for reason in (ExitReason.VMLAUNCH, ExitReason.VMRESUME):
            handlers[reason] = self._after_noise(handlers[reason])
        self.hypervisor.l1_handlers = handlers
        self.entries = 0

    def _after_noise(self, handler: Callable[[Vcpu], Handling]) -> Callable[[Vcpu], Handling]:
        def handle(vcpu: Vcpu) -> Handling:
            self.entries += 1
            if vcpu.unit.current is not None and self.random.randrange(3):
                self.disturb(vcpu)
            return handler(vcpu)

        return handle

    # Noise

    def address(self) -> int:
        choice = self.random.randrange(7)
        private = self.private
        return [
            self.random.randrange(private.start, private.stop) & -PAGE_SIZE,
            private.start - PAGE_SIZE,
            private.stop - 16,
            self.random.randrange(1 << 46) & -PAGE_SIZE,
            self.random.randrange(64 << 20) & -PAGE_SIZE,
            self.random.getrandbits(64),
            0xFEE0_0000,
        ][choice]

    def disturb(self, vcpu: Vcpu) -> None:
        for _ in range(self.random.choice((1, 1, 2, 5))):
            self.random.choice(
                (self._a_field, self._a_control, self._an_address, self._an_entry, self._a_page)
            )(vcpu)

    def _a_field(self, vcpu: Vcpu) -> None:
        field = self.random.choice(list(FIELDS.values()))
        old = vcpu.unit.current12.read(field)
        value = self.random.choice(
            (0, field.mask, self.random.getrandbits(64), old ^ 1 << self.random.randrange(64))
        )
        vcpu.unit.current12.write(field, value)

    def _a_control(self, vcpu: Vcpu) -> None:
        field, key = self.random.choice(list(CONTROLS.items()))
        settings = getattr(vcpu.capabilities12, key)
        bit = self.random.choice(list(CONTROL_SETS[key].masks.values()))
        value = vcpu.unit.current12.read(field) ^ bit
        vcpu.unit.current12.write(field, settings.adjust(value))

    def _an_address(self, vcpu: Vcpu) -> None:
        field = self.random.choice(ADDRESSES)
        value = self.address() & -PAGE_SIZE & (1 << 46) - 1
        if field is f.EPTP:
            value |= 0x1E | self.random.choice((0, 0x40))
        vcpu.unit.current12.write(field, value)

    def _an_entry(self, vcpu: Vcpu) -> None:
        """An entry somewhere in EPT12."""
        table = vcpu.unit.current12.read(f.EPTP) & (1 << 46) - 1 & -PAGE_SIZE
        for _ in range(self.random.randrange(4)):
            entry = vcpu.memory.load(table + 8 * self.random.choice((0, 0, 0, 1, 145)), 8)
            if entry & 7 and not entry & 0x80:
                table = entry & (1 << 46) - 1 & -PAGE_SIZE
        where = table + 8 * self.random.choice((0, 1, 256, 511, self.random.randrange(512)))
        low = self.random.choice((7, 7, 0x37, 0xB7, 0x77, self.random.getrandbits(12)))
        target = self.random.choice((table, self.address() & -PAGE_SIZE))
        vcpu.memory.store(where, 8, target & (1 << 52) - 1 | low)

    def _a_page(self, vcpu: Vcpu) -> None:
        """What some address in VMCS12 points to."""
        field = self.random.choice(ADDRESSES)
        page = vcpu.unit.current12.read(field) & -PAGE_SIZE & (1 << 46) - 1
        if page > 1 << 20:
            vcpu.memory.write(page, self.random.randbytes(PAGE_SIZE))

    # Judgement

    def run(self, limit: int) -> None:
        self.rig.watch_exits(20_000)
        self.rig.run(limit)
        self.check()

    def check(self) -> None:
        for one in self.canaries:
            assert self.memory.read(one, PAGE_SIZE) == CANARY
        for vcpu in self.hypervisor.vcpus:
            self._leads_nowhere(vcpu.ept01.table)
            context = vcpu.nested.current
            if context is not None and context.root12 is not None:
                table = vcpu.shadow.table_of(context.root12)
                if table is not None:
                    self._leads_nowhere(table)

    def _leads_nowhere(self, table: EptTable) -> None:
        """No leaf reaches L0's memory."""
        for _, entry in table.leaves():
            if entry.is_present:
                page = page_of(entry.value, entry.shift)
                size = 1 << entry.shift
                assert page + size <= self.private.start or page >= self.private.stop
