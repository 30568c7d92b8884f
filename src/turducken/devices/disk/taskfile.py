"""What a controller tells a drive, and what it gets back: ATA/ATAPI Command Set, "Registers"."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from turducken.bits import Layout, bit, bits

STATUS = Layout(
    "ATA status",
    8,
    bit("ERR", 0, "the error register says why"),
    bits("OBSOLETE", 2, 1),
    bit("DRQ", 3, "data is to be transferred"),
    bit("SEEK", 4, "seek complete"),
    bit("FAULT", 5),
    bit("READY", 6),
    bit("BUSY", 7),
)
ERR, DRQ, SEEK, READY, BUSY = (
    STATUS.mask(name) for name in ("ERR", "DRQ", "SEEK", "READY", "BUSY")
)

ABORTED, NOT_FOUND, UNCORRECTABLE = 0x04, 0x10, 0x40
"""Bits of the error register."""

LBA_MODE, SLAVE = 0x40, 0x10
"""Bits of the device register."""

SECTOR = 512


@dataclass(slots=True)
class Taskfile:
    """The command block: each register with the byte that was in it before, for 48-bit commands."""

    features: int = 0
    count: int = 0
    lba: int = 0
    """48 bits: the three registers, their previous bytes above."""
    device: int = 0
    command: int = 0


@dataclass(slots=True)
class Transfer:
    """The data phase of a command.

    ``data`` is what the guest gets, or as many bytes as it is to send, which ``commit`` then takes:
    it returns the error register, 0 for success. By programmed I/O it goes in blocks of ``block``
    bytes. ``failed`` is the error (0: none) with which the command ends after the data.
    """

    to_guest: bool
    data: bytearray
    block: int = SECTOR
    commit: Callable[[bytes], int] | None = None
    is_dma: bool = False
    failed: int = 0


@dataclass(slots=True)
class Completion:
    """How a command ended: status and error register, and registers that it changes."""

    status: int = READY | SEEK
    error: int = 0
    registers: dict[str, int] = field(default_factory=dict)

    @property
    def is_error(self) -> bool:
        """Whether it failed."""
        return bool(self.status & ERR)


def failure(error: int) -> Completion:
    """Return the end of a command that failed."""
    return Completion(READY | SEEK | ERR, error)


class Drive(Protocol):
    """A drive as its controller sees it."""

    signature: int
    """What the LBA registers hold after a reset (with a count of 1)."""
    takes_packets: bool

    def execute(self, taskfile: Taskfile) -> Completion | Transfer:
        """Begin a command (but PACKET): it is over, or data is to be transferred."""

    def packet(self, command: bytes, limit: int, *, is_dma: bool) -> Completion | Transfer:
        """Begin a packet command; programmed I/O goes in blocks of at most ``limit`` bytes."""

    def reset(self) -> None:
        """Reset the drive."""
