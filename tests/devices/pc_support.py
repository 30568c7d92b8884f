"""Stand-ins for what surrounds the devices."""

from dataclasses import dataclass, field

from turducken.address import MIB
from turducken.devices.chipset import Chipset, Outputs
from turducken.devices.clock import Clock
from turducken.devices.cmos import MemorySizes
from turducken.memory import PhysicalMemory

RAM_SIZE = 64 * MIB


@dataclass
class Line:
    """An interrupt line that remembers what happened on it."""

    level: bool = False
    rises: int = 0

    def __call__(self, *, level):
        self.rises += level and not self.level
        self.level = level


@dataclass
class Processor:
    """A processor that only notes what its APIC tells it."""

    log: list = field(default_factory=list)
    changes: int = 0

    def raise_init(self):
        self.log.append("init")

    def raise_sipi(self, vector):
        self.log.append(("sipi", vector))

    def raise_nmi(self):
        self.log.append("nmi")

    def interrupt_changed(self):
        self.changes += 1


@dataclass
class Host:
    """Keeps what leaves the devices."""

    console: bytearray = field(default_factory=bytearray)
    events: list = field(default_factory=list)

    def put(self, byte):
        self.console.append(byte)

    def debug_exit(self, value):
        self.events.append(("exit", value))

    def power_off(self):
        self.events.append("power off")

    def reset(self, port):
        self.events.append(("reset", port))

    def sleep(self, kind):
        self.events.append(("sleep", kind))

    def unclaimed(self, kind, address, size, value):
        self.events.append((kind.value, address, size, value))

    def outputs(self):
        return Outputs(
            console=self.put,
            debug_exit=self.debug_exit,
            power_off=self.power_off,
            reset=self.reset,
            sleep=self.sleep,
            unclaimed=self.unclaimed,
        )


class Pc:
    """A whole PC without processors that execute anything."""

    def __init__(self, processors=1):
        self.memory = PhysicalMemory(RAM_SIZE)
        self.clock = Clock()
        self.host = Host()
        self.processors = [Processor() for _ in range(processors)]
        self.chipset = Chipset(
            self.memory,
            MemorySizes(RAM_SIZE),
            self.clock,
            self.processors,
            outputs=self.host.outputs(),
        )
        self.ports = self.chipset.ports

    def out(self, port, value, size=1):
        self.ports.write(port, size, value)

    def inp(self, port, size=1):
        return self.ports.read(port, size)
