"""What a BIOS does to PCI: base addresses, interrupt routes and lines."""

from turducken.devices.chipset import Chipset
from turducken.devices.lines import PCI_IRQS
from turducken.devices.pci.function import BARS as FIRST_BAR
from turducken.devices.pci.function import (
    COMMAND,
    COMMAND_REGISTER,
    INTERRUPT_LINE,
    IoBar,
    PciFunction,
)
from turducken.devices.pci.piix import PIRQ_ROUTES, pci_line

MEMORY_BASE, IO_BASE = 0xE000_0000, 0xC000
"""Where base addresses are given out from."""

_ELCR = 0x4D0


def set_up_pci(chipset: Chipset) -> None:
    """Give every function on bus 0 its addresses and its interrupt, and let it answer."""
    for route, irq in zip(PIRQ_ROUTES, PCI_IRQS, strict=True):
        chipset.isa_bridge.write(route, 1, irq)
    level = chipset.ports.read(_ELCR, 2)
    for irq in PCI_IRQS:
        level |= 1 << irq
    chipset.ports.write(_ELCR, 2, level)
    memory, ports = MEMORY_BASE, IO_BASE
    for (_, device, _), function in sorted(chipset.pci.functions.items()):
        memory, ports = _place(function, memory, ports)
        if function.pin:
            irq = PCI_IRQS[pci_line(device, function.pin)]
            function.write(INTERRUPT_LINE, 1, irq)


def _place(function: PciFunction, memory: int, ports: int) -> tuple[int, int]:
    """Place a function's base addresses; return what is free behind them."""
    for number, bar in sorted(function.bars.items()):
        is_io = isinstance(bar, IoBar)
        base = -(-(ports if is_io else memory) // bar.size) * bar.size
        function.write(FIRST_BAR + 4 * number, 4, base)
        if is_io:
            ports = base + bar.size
        else:
            memory = base + bar.size
    command = function.read(COMMAND, 2) | COMMAND_REGISTER.mask("IO", "MEMORY")
    function.write(COMMAND, 2, command)
    return memory, ports
