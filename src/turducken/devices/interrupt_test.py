"""Interrupt lines that a guest drives itself: a part of QEMU's ``pc-testdev``, for test suites."""

from collections.abc import Sequence

from turducken.devices.bus import all_ones
from turducken.devices.lines import LineDriver

FIRST_PORT = 0x2000


class InterruptTestPorts:
    """One port for each ISA line, from 2000h on: what is written there, 0 or not, is its level."""

    widest_access = 1

    def __init__(self, lines: Sequence[LineDriver]) -> None:
        self.ports = (range(FIRST_PORT, FIRST_PORT + len(lines)),)
        self._lines = tuple(lines)

    def port_read(self, port: int, size: int) -> int:
        """Return all ones: the ports cannot be read."""
        return all_ones(size)

    def port_write(self, port: int, size: int, value: int) -> None:
        """Drive a line."""
        self._lines[port - FIRST_PORT](level=bool(value))
