"""All the devices of the PC, wired together.

The machine gives memory, a clock, one `ProcessorInputs` for each processor and the callbacks of
`Outputs`, and attaches the processors' accesses to `Chipset.ports` and `Chipset.mmio_of`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from turducken.devices.acpi_pm import PM_BASE, AcpiPm
from turducken.devices.apic_core import ApicFeatures, ProcessorInputs
from turducken.devices.apic_fabric import ApicFabric
from turducken.devices.apic_timer import TimeStampCounter
from turducken.devices.bus import MmioBus, MmioDevice, PortBus, PortDevice, UnclaimedHandler
from turducken.devices.clock import Clock
from turducken.devices.cmos import Cmos, MemorySizes
from turducken.devices.disk.channel import COMMAND_BLOCKS, CONTROLS, IdeChannel
from turducken.devices.disk.piix_ide import PiixIde
from turducken.devices.disk.taskfile import Drive
from turducken.devices.dma import DmaMemory
from turducken.devices.fw_cfg import FwCfg
from turducken.devices.hpet import Hpet, Replaceable
from turducken.devices.interrupt_test import InterruptTestPorts
from turducken.devices.io_apic import PINS, IoApic
from turducken.devices.keyboard_controller import COMMAND_PORT, KeyboardController
from turducken.devices.lines import (
    COM1_IRQ,
    COM2_IRQ,
    IDE_IRQS,
    ISA_LINES,
    KEYBOARD_IRQ,
    MOUSE_IRQ,
    PCI_PINS,
    RTC_IRQ,
    SCI_IRQ,
    TIMER_IRQ,
    IsaLine,
    SharedLine,
)
from turducken.devices.local_apic import LocalApic
from turducken.devices.pc_testdev import PcTestPorts, PcTestWindow
from turducken.devices.pci import RESET_PORT, IoBar, MemoryBar, PciConfiguration, PciFunction
from turducken.devices.pci.piix import (
    HOST_BRIDGE,
    IDE,
    ISA_BRIDGE,
    POWER_MANAGEMENT,
    IsaBridge,
    host_bridge,
    power_management,
)
from turducken.devices.pic import PicPair
from turducken.devices.pit import Pit
from turducken.devices.system_ports import (
    DEBUG_EXIT_PORT,
    DMA_PORTS,
    FIRMWARE_LOG_PORT,
    SYSTEM_CONTROL_A,
    DebugConsole,
    DebugExit,
    Latches,
    PostCodes,
    ShutdownPort,
    StaleUseMark,
    SystemControlA,
)
from turducken.devices.uart import COM_PORTS, Uart
from turducken.devices.vga import VgaText
from turducken.memory import Memory

EXTINT_PIN = 0
"""The I/O APIC pin that the 8259 pair's output is wired to, besides LINT0."""

OLD_PM_BASE = 0xB000
"""Where older PCs had the ACPI registers; many programs write their power-off request there."""


def _discard(value: int) -> None:
    """Take a value that nobody wants."""


def _ignore() -> None:
    """Take an event that nobody wants."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What leaves the devices for the host."""

    console: Callable[[int], None] = _discard
    """A byte from COM1."""
    serial: Sequence[Callable[[int], None]] = ()
    """Bytes from COM2, COM3 and COM4, which are there as far as somebody wants them."""
    debug_console: Callable[[int], None] = _discard
    """A byte from port E9h."""
    firmware_log: Callable[[int], None] | None = None
    """A byte from port 402h, which is there only if somebody wants it: firmware then logs there."""
    post_code: Callable[[int], None] = _discard
    """A value written to port 80h."""
    debug_exit: Callable[[int], None] = _discard
    """The guest ends the run with this value."""
    stale_use_mark: Callable[[int], None] = _discard
    """The guest begins (1) or ends (0) changes of tables that it invalidates nothing after."""
    power_off: Callable[[], None] = _ignore
    """The guest switches the machine off (ACPI, or the letters at port 8900h)."""
    reset: Callable[[int], None] = _discard
    """The guest resets the machine through this port (64h of the i8042, 92h, CF9h)."""
    sleep: Callable[[int], None] = _discard
    """The guest lets the machine sleep, with this ACPI sleep type (not soft-off's)."""
    wait: Callable[[int], None] | None = None
    """Lets nanoseconds pass within an access; None: on the clock alone."""
    unclaimed: UnclaimedHandler | None = None
    """An access that no device answers, once for each address and direction."""


@dataclass(frozen=True, slots=True)
class ChipsetOptions:
    """What of the devices a user can choose."""

    debug_exit_port: int = DEBUG_EXIT_PORT
    ide: Sequence[Drive | None] = ()
    """Drives of the two IDE channels: primary master, primary slave, and so on."""
    apic: ApicFeatures = field(default_factory=ApicFeatures)


class PicOutput:
    """The INTR output of the 8259 pair: LINT0 of the boot processor and an I/O APIC pin."""

    def __init__(self, io_apic: IoApic) -> None:
        self._io_apic = io_apic
        self.boot_apic: LocalApic | None = None

    def __call__(self, *, level: bool) -> None:
        """Drive the output."""
        if self.boot_apic is not None:
            self.boot_apic.set_lint(0, level=level)
        self._io_apic.set_line(EXTINT_PIN, level=level)


class Chipset:
    """The devices, each reachable as an attribute.

    ``tscs`` are the processors' time-stamp counters for the APIC timers (None: nominal ones).
    """

    def __init__(
        self,
        memory: Memory,
        sizes: MemorySizes,
        clock: Clock,
        processors: Sequence[ProcessorInputs],
        *,
        outputs: Outputs | None = None,
        options: ChipsetOptions | None = None,
        tscs: Sequence[TimeStampCounter] | None = None,
    ) -> None:
        self._outputs = outputs or Outputs()
        self._options = options or ChipsetOptions()
        self.clock = clock
        self._connect_interrupts(processors, tscs)
        self.dma = DmaMemory(memory)
        self._make_devices(memory, sizes, len(processors))
        self._attach()
        self.attach_memory(self.hpet)
        self._make_pci()

    def _connect_interrupts(
        self,
        processors: Sequence[ProcessorInputs],
        tscs: Sequence[TimeStampCounter] | None,
    ) -> None:
        self.fabric = ApicFabric()
        self.io_apic = IoApic(self.fabric)
        output = PicOutput(self.io_apic)
        self.pics = PicPair(output)
        self.apics = [
            LocalApic(
                index,
                processor,
                self.fabric,
                self.clock,
                features=self._options.apic,
                tsc=None if tscs is None else tscs[index],
                external=self.pics if index == 0 else None,
            )
            for index, processor in enumerate(processors)
        ]
        output.boot_apic = self.apics[0]

    def _line(self, irq: int) -> IsaLine:
        return IsaLine(irq, self.pics, self.io_apic)

    def _make_devices(self, memory: Memory, sizes: MemorySizes, processors: int) -> None:
        out = self._outputs
        self._serial_lines = [SharedLine(self._line(irq)) for irq in (COM1_IRQ, COM2_IRQ)]
        self.uart = Uart(out.console, self._serial_lines[0].driver())
        self.uarts = [self.uart, *self._further_uarts()]
        pins = [partial(self.io_apic.set_line, pin) for pin in range(PINS)]
        timer, rtc = self._line(TIMER_IRQ), self._line(RTC_IRQ)
        self.hpet = Hpet(self.clock, pins, (timer, rtc))
        self.pit = Pit(self.clock, Replaceable(timer, self.hpet))
        self.cmos = Cmos(self.clock, Replaceable(rtc, self.hpet))
        self.cmos.set_memory(sizes, processors)
        self.keyboard = KeyboardController(
            partial(out.reset, COMMAND_PORT), self._line(KEYBOARD_IRQ), self._line(MOUSE_IRQ)
        )
        self.vga = VgaText(memory)
        self.pci = PciConfiguration(partial(out.reset, RESET_PORT))
        self.fw_cfg = FwCfg(ram_size=sizes.low + sizes.high, processors=processors, memory=self.dma)
        self.acpi_pm = AcpiPm(
            self.clock, out.power_off, self._line(SCI_IRQ), wait=out.wait, on_sleep=out.sleep
        )
        self.old_pm = AcpiPm(
            self.clock, out.power_off, base=OLD_PM_BASE, wait=out.wait, on_sleep=out.sleep
        )
        self.post = PostCodes(out.post_code)
        self.debug_console = DebugConsole(out.debug_console)
        self.debug_exit = DebugExit(out.debug_exit, self._options.debug_exit_port)
        self.stale_use_mark = StaleUseMark(out.stale_use_mark)
        self.shutdown = ShutdownPort(out.power_off)
        self.system_control = SystemControlA(partial(out.reset, SYSTEM_CONTROL_A))
        self.isa_dma = Latches(DMA_PORTS)
        self.test_ports = PcTestPorts()
        self.test_window = PcTestWindow()
        self.interrupt_test = InterruptTestPorts([self._line(irq) for irq in range(ISA_LINES)])

    def _further_uarts(self) -> Iterator[Uart]:
        """Make COM2 to COM4; two of the four share each line."""
        for number, output in enumerate(self._outputs.serial[: len(COM_PORTS) - 1], 1):
            line = self._serial_lines[number % 2].driver()
            yield Uart(output, line, base=COM_PORTS[number])

    def _attach(self) -> None:
        self.ports = PortBus(self._outputs.unclaimed)
        devices: list[PortDevice] = [
            *self.uarts,
            self.pics,
            self.pit,
            self.cmos,
            self.keyboard,
            self.vga,
            self.pci,
            self.fw_cfg,
            self.acpi_pm,
            self.old_pm,
            self.post,
            self.debug_console,
            self.debug_exit,
            self.stale_use_mark,
            self.shutdown,
            self.system_control,
            self.isa_dma,
            self.test_ports,
            self.interrupt_test,
        ]
        for device in devices:
            self.ports.attach(device)
        if self._outputs.firmware_log is not None:
            self.ports.attach(DebugConsole(self._outputs.firmware_log, FIRMWARE_LOG_PORT))
        self._mmio = [self._mmio_bus(apic) for apic in self.apics]

    def _make_pci(self) -> None:
        pins = [partial(self.io_apic.set_line, pin) for pin in PCI_PINS]
        self.isa_bridge = IsaBridge({irq: self._line(irq) for irq in range(ISA_LINES)}, pins)
        drives = [*self._options.ide, None, None, None, None]
        self.ide_channels = [
            IdeChannel(
                (drives[2 * number], drives[2 * number + 1]),
                self._line(IDE_IRQS[number]),
                base=COMMAND_BLOCKS[number],
                control=CONTROLS[number],
            )
            for number in range(2)
        ]
        for channel in self.ide_channels:
            self.ports.attach(channel)
        for place, function in (
            (HOST_BRIDGE, host_bridge()),
            (ISA_BRIDGE, self.isa_bridge),
            (IDE, PiixIde(self.ide_channels, self.dma)),
            (POWER_MANAGEMENT, power_management(PM_BASE)),
        ):
            self.add_function(place, function)

    def add_function(self, place: tuple[int, int], function: PciFunction) -> None:
        """Put a PCI function at ``place`` (device and function number) on bus 0."""
        device, number = place
        self.pci.add(0, device, number, function)
        if function.pin:
            function.line = self.isa_bridge.input(device, function.pin)
        function.on_bars = self.ports.move
        for bar in function.bars.values():
            if isinstance(bar, IoBar):
                self.ports.attach_movable(bar)
            elif isinstance(bar, MemoryBar):
                self.attach_memory(bar)

    def attach_memory(self, device: MmioDevice) -> None:
        """Put a device into the memory space of every processor."""
        for bus in self._mmio:
            bus.attach(device)

    def _mmio_bus(self, apic: LocalApic) -> MmioBus:
        bus = MmioBus(self._outputs.unclaimed)
        bus.attach(apic)
        bus.attach(self.io_apic)
        bus.attach(self.test_window)
        return bus

    def mmio_of(self, processor: int) -> MmioBus:
        """Return the memory-mapped devices as this processor sees them."""
        return self._mmio[processor]
