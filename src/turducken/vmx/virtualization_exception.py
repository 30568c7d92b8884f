"""The virtualization-exception information area.

SDM 3C, "Virtualization-Exception Information".
"""

from typing import Protocol

from turducken.vmx.exit_reasons import ExitReason

BUSY_OFFSET = 4
_BUSY = 0xFFFF_FFFF
_QUALIFICATION, _LINEAR, _PHYSICAL, _INDEX = 8, 16, 24, 32


class AreaMemory(Protocol):
    """Memory that has the area, in whatever addresses its owner uses."""

    def load(self, address: int, size: int) -> int | None:
        """Return a word."""

    def store(self, address: int, size: int, value: int) -> None:
        """Replace a word."""


def is_busy(memory: AreaMemory, area: int) -> bool:
    """Tell whether software has not yet released the area: then a violation is a VM exit."""
    return bool(memory.load(area + BUSY_OFFSET, 4))


def write_information(
    memory: AreaMemory,
    area: int,
    *,
    qualification: int,
    linear: int,
    physical: int,
    eptp_index: int,
) -> None:
    """Record a convertible EPT violation in the area and make it busy."""
    store = memory.store
    store(area, 4, ExitReason.EPT_VIOLATION)
    store(area + BUSY_OFFSET, 4, _BUSY)
    store(area + _QUALIFICATION, 8, qualification)
    store(area + _LINEAR, 8, linear)
    store(area + _PHYSICAL, 8, physical)
    store(area + _INDEX, 2, eptp_index)
