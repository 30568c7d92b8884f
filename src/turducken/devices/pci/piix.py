"""The PC's own PCI functions: 440FX host bridge, PIIX3 ISA bridge, PIIX4 power management.

82441FX, 82371SB (PIIX3) and 82371AB (PIIX4) data sheets. The memory from C0000h to FFFFFh is always
RAM, whatever the host bridge's PAM registers say.
"""

from collections.abc import Sequence
from functools import partial

from turducken.devices.lines import LineDriver
from turducken.devices.pci.function import (
    COMMAND,
    COMMAND_REGISTER,
    PciFunction,
    PciIdentity,
)

HOST_BRIDGE, ISA_BRIDGE, IDE, POWER_MANAGEMENT = (0, 0), (1, 0), (1, 1), (1, 3)
"""Device and function numbers on bus 0."""

PAM = range(0x59, 0x60)
_SMRAM = 0x72
PIRQ_ROUTES = range(0x60, 0x64)
_PIRQ_OFF = 0x80
_ROUTABLE = frozenset({3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15})
PM_BASE_REGISTER, PM_ENABLE_REGISTER = 0x40, 0x80
_DEVICE_ACTIVITY_B = 0x58
_APMC_ENABLED = 1 << 25
"""SMIs on writes to port B2h are set up: firmware then sets up no handler, which never runs."""
_SMBUS_BASE, _SMBUS_CONFIGURATION = 0x90, 0xD2


def pci_line(device: int, pin: int) -> int:
    """Return which of the four lines (0: A) the interrupt ``pin`` (1: INTA#) is wired to."""
    return (device + pin - 2) % 4


def host_bridge() -> PciFunction:
    """Return the 82441FX."""
    writable = dict.fromkeys((*PAM, _SMRAM), 0xFF)
    always = {COMMAND: COMMAND_REGISTER.mask("MEMORY", "MASTER")}
    return PciFunction(PciIdentity(0x8086, 0x1237, 0x060000, 2), writable=writable, initial=always)


class IsaBridge(PciFunction):
    """The PIIX3's function 0: routes the four PCI interrupt lines to ISA lines.

    ``lines`` drive the ISA lines by number; ``pins`` are the I/O APIC's inputs that the four lines
    are wired to as well, whatever the routes. "PIRQRC[A:D]—PIRQX Route Control Registers".
    """

    def __init__(self, lines: dict[int, LineDriver], pins: Sequence[LineDriver]) -> None:
        super().__init__(
            PciIdentity(0x8086, 0x7000, 0x060100),
            writable=dict.fromkeys((*PIRQ_ROUTES, 0x4C, 0x4E, 0x4F, 0x69, 0x6A), 0xFF),
            initial={
                COMMAND: COMMAND_REGISTER.mask("IO", "MEMORY", "MASTER"),
                **dict.fromkeys(PIRQ_ROUTES, _PIRQ_OFF),
            },
            multifunction=True,
        )
        self._lines = {irq: line for irq, line in lines.items() if irq in _ROUTABLE}
        self._sources: set[tuple[int, int]] = set()
        """The request lines that are active: number, and who drives it."""
        self._pins = pins
        self._driven: frozenset[int] = frozenset()

    def input(self, device: int, pin: int) -> LineDriver:
        """Return the driver for the interrupt ``pin`` (1: INTA#) of a ``device`` on bus 0."""
        return partial(self._request, pci_line(device, pin), device * 4 + pin)

    def _request(self, request: int, source: int, *, level: bool) -> None:
        if level:
            self._sources.add((request, source))
        else:
            self._sources.discard((request, source))
        self._pins[request](level=any(one == request for one, _ in self._sources))
        self._update()

    def written(self, offset: int, size: int) -> None:
        """Route anew."""
        if offset < PIRQ_ROUTES.stop and offset + size > PIRQ_ROUTES.start:
            self._update()

    def _update(self) -> None:
        routes = [self.read(one, 1) for one in PIRQ_ROUTES]
        driven = frozenset(
            routes[request] & 0x0F
            for request, _ in self._sources
            if not routes[request] & _PIRQ_OFF and routes[request] & 0x0F in self._lines
        )
        before, self._driven = self._driven, driven
        for irq in sorted(before ^ driven):
            self._lines[irq](level=irq in driven)


def power_management(pm_base: int) -> PciFunction:
    """Return the PIIX4's function 3; the registers it places are at ``pm_base`` in any case."""
    writable = dict.fromkeys((*range(0x41, 0x44), *range(0x4C, 0x64), PM_ENABLE_REGISTER), 0xFF)
    writable |= {PM_BASE_REGISTER: 0xC0, _SMBUS_BASE: 0xF0, _SMBUS_BASE + 1: 0xFF}
    writable |= {_SMBUS_CONFIGURATION: 0x0F}
    initial = {PM_BASE_REGISTER: pm_base & 0xFF | 1, PM_BASE_REGISTER + 1: pm_base >> 8}
    initial |= {_DEVICE_ACTIVITY_B + 3: _APMC_ENABLED >> 24, _SMBUS_BASE: 1}
    return PciFunction(
        PciIdentity(0x8086, 0x7113, 0x068000, 3), writable=writable, initial=initial, pin=1
    )
