"""Interrupt lines of an ISA PC, and who listens to them."""

from typing import Protocol

ISA_LINES = 16
TIMER_IRQ = 0
KEYBOARD_IRQ = 1
CASCADE_IRQ = 2
COM1_IRQ = 4
RTC_IRQ = 8
SCI_IRQ = 9
MOUSE_IRQ = 12

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


def unconnected(*, level: bool) -> None:
    """Drive a line that leads nowhere."""
