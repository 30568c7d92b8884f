"""A machine with L0 in it: what `turducken.system` assembles, with L0's parts in reach."""

from dataclasses import dataclass, field

from turducken.cpu.processor import Processor
from turducken.cpu.root import RootView
from turducken.hypervisor import BootRegisters, Hypervisor, Offer, ShadowPolicyName
from turducken.hypervisor.vcpu import Handling, Vcpu
from turducken.machine.boot import BootImage
from turducken.machine.machine import Machine, MachineOptions
from turducken.system import start
from turducken.system.console import Console
from turducken.system.images import find_image
from turducken.system.options import SystemOptions
from turducken.vmx.profile import load_profile

MIB = 1 << 20
LIMIT = 400_000_000
MOST_EXITS = 20_000


class StuckError(Exception):
    """Nothing but VM exits happens."""


@dataclass
class Run:
    image: str = "lhv-amd64"
    text: str = ""
    cpus: int = 1
    shadow: ShadowPolicyName = "cached"
    tlb: str = "keep"
    memory: int = 64 * MIB
    private: int = 16 * MIB
    seed: int = 0
    profile: str = "default"
    l0: type[Hypervisor] = Hypervisor
    offer: Offer = field(default_factory=Offer)
    nested: bool = True
    native: bool = True


class RootMemory:
    """Host-physical memory as root software sees it: device registers are part of it."""

    def __init__(self, processor: Processor) -> None:
        self._p = processor

    def load(self, address: int, size: int) -> int:
        if self._p.memory.is_ram(address, size):
            return self._p.memory.load(address, size)
        return self._p.platform.mmio_read(self._p.index, address, size)

    def store(self, address: int, size: int, value: int) -> None:
        if self._p.memory.is_ram(address, size):
            self._p.memory.store(address, size, value)
        else:
            self._p.platform.mmio_write(self._p.index, address, size, value)

    def read(self, address: int, length: int) -> bytes:
        return self._p.memory.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        self._p.memory.write(address, data)


def root_view(processor: Processor) -> RootView:
    view = RootView(processor)
    view.memory = RootMemory(processor)
    return view


class Rig:
    def __init__(self, run: Run) -> None:
        image: BootImage = find_image(run.image)
        profile = load_profile(run.profile)
        self.options = SystemOptions(
            image, cpus=run.cpus, memory=run.memory, text=run.text, profile=profile
        )
        self.console = Console()
        extra = run.private if run.nested else 0
        self.machine = Machine(
            MachineOptions(
                profile=profile,
                memory=run.memory + extra,
                cpus=run.cpus,
                tlb=run.tlb,
                seed=run.seed,
                native=run.native,
            ),
            self.console.put,
        )
        firmware = start.run_firmware(self.machine, run.memory)
        self.boot = start.load(self.machine, image, firmware, self.options)
        if run.nested:
            self.hypervisor = self._make_hypervisor(run)
            for one in self.machine.processors:
                one.root = self.hypervisor.run(root_view(one))
        else:
            start.start(self.machine.processors[0], self.boot)

    def _make_hypervisor(self, run: Run) -> Hypervisor:
        state = self.boot
        return run.l0(
            self.machine.memory,
            range(run.memory, run.memory + run.private),
            run.cpus,
            BootRegisters(
                eip=state.eip,
                eax=state.eax,
                ebx=state.ebx,
                esp=state.esp,
                ebp=state.ebp,
                eflags=state.eflags,
                cr0=state.cr0,
                gdt_base=state.gdt_base,
                gdt_limit=state.gdt_limit,
            ),
            shadow=run.shadow,
            offer=run.offer,
        )

    def watch_exits(self, most: int = MOST_EXITS) -> None:
        """Raise `StuckError` where a faulty L0 handles one exit for ever."""
        hypervisor = self.hypervisor
        handle = hypervisor.l2_handler
        count = 0

        def counted(vcpu: Vcpu) -> Handling:
            nonlocal count
            count += 1
            if count > most:
                raise StuckError
            return handle(vcpu)

        hypervisor.l2_handler = counted

    def run(self, limit: int | None = LIMIT) -> str:
        self.outcome = self.machine.run(limit)
        return self.console.text
