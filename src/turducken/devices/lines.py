"""Interrupt lines of an ISA PC, and who listens to them."""

from functools import partial
from typing import Protocol

ISA_LINES = 16
TIMER_IRQ = 0
KEYBOARD_IRQ = 1
CASCADE_IRQ = 2
COM2_IRQ = 3
COM1_IRQ = 4
RTC_IRQ = 8
SCI_IRQ = 9
MOUSE_IRQ = 12
IDE_IRQS = (14, 15)
PCI_IRQS = (10, 10, 11, 11)
"""Where a BIOS routes the PCI interrupt lines A to D."""
PCI_PINS = (16, 17, 18, 19)
"""The I/O APIC pins that they are wired to."""

TIMER_PIN = 2
"""The I/O APIC pin that the timer is wired to; every other ISA line has its own number."""


class LineDriver(Protocol):
    """How a device drives its line: called with the level (True: the interrupt is requested)."""

    def __call__(self, *, level: bool) -> None:
        """Drive the line."""


class LineInput(Protocol):
    """An interrupt controller, as a line sees it."""

    def set_line(self, number: int, *, level: bool) -> None:
        """Learn that the input ``number`` now has ``level``."""


class IsaLine:
    """One ISA interrupt line: it reaches both the 8259 pair and the I/O APIC."""

    def __init__(self, irq: int, pics: LineInput, io_apic: LineInput) -> None:
        self._irq = irq
        self._pin = TIMER_PIN if irq == TIMER_IRQ else irq
        self._pics = pics
        self._io_apic = io_apic

    def __call__(self, *, level: bool) -> None:
        """Drive the line."""
        self._pics.set_line(self._irq, level=level)
        self._io_apic.set_line(self._pin, level=level)


class SharedLine:
    """A line that several devices drive: it is active while one of them drives it."""

    def __init__(self, line: LineDriver) -> None:
        self._line = line
        self._drivers = 0
        self._active: set[int] = set()

    def driver(self) -> LineDriver:
        """Return a driver for one more device."""
        self._drivers += 1
        return partial(self._drive, self._drivers)

    def _drive(self, driver: int, *, level: bool) -> None:
        if level:
            self._active.add(driver)
        else:
            self._active.discard(driver)
        self._line(level=bool(self._active))


def unconnected(*, level: bool) -> None:
    """Drive a line that leads nowhere."""
