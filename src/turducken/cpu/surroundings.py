"""What a processor is connected to: buses, its local APIC, time."""

from enum import IntEnum
from typing import Protocol


class Platform(Protocol):
    """The board: ports, device memory and time, as one processor sees them."""

    def port_in(self, processor: int, port: int, size: int) -> int:
        """Return what IN reads."""

    def port_out(self, processor: int, port: int, size: int, value: int) -> None:
        """Execute OUT."""

    def port_in_block(self, processor: int, port: int, size: int, count: int) -> bytes:
        """Return what up to ``count`` INs of ``size`` bytes read, at least one."""

    def port_out_block(self, processor: int, port: int, size: int, data: bytes) -> int:
        """Execute OUTs of ``data``, at least one; return how many bytes they took."""

    def mmio_read(self, processor: int, address: int, size: int) -> int:
        """Read a host-physical address that is not RAM."""

    def mmio_write(self, processor: int, address: int, size: int, value: int) -> None:
        """Write a host-physical address that is not RAM."""

    def tsc(self, processor: int) -> int:
        """Return the time-stamp counter before the processor's own adjustment."""

    def spend(self, processor: int, nanoseconds: int) -> None:
        """Let time pass that an operation takes beyond its instruction."""

    @property
    def ticks_per_instruction(self) -> int:
        """How far the time-stamp counter advances with each instruction."""


class DebuggerPort(Protocol):
    """Somebody who watches a processor between two instructions."""

    def before_code(self, processor: int) -> bool:
        """Learn that code is about to run, and take as long as is wanted.

        True: run one instruction, then ask again.
        """

    def before_alone(self, processor: int) -> None:
        """Learn that one instruction is about to run alone, whatever the reason."""

    def covers(self, processor: int, address: int, size: int) -> bool:
        """Tell whether a block of code, at a linear address, must run one instruction at a time."""

    def guards(self, processor: int, page: int) -> bool:
        """Tell whether an access to the linear page must make its instruction run alone."""

    @property
    def guards_any(self) -> bool:
        """Some page is guarded."""


class LocalApicPort(Protocol):
    """The processor's local APIC, as the processor uses it."""

    def pending_vector(self) -> int | None:
        """Return the vector of the interrupt to deliver next, if any."""

    def acknowledge(self) -> int | None:
        """Take that interrupt (it is in service from now on); None if there is none any more."""

    def end_of_interrupt(self) -> None:
        """End the service of the interrupt with the highest priority."""

    def read_msr(self, index: int) -> int | None:
        """Return IA32_APIC_BASE or an x2APIC MSR; None for #GP."""

    def write_msr(self, index: int, value: int) -> bool:
        """Write one of them; False for #GP."""

    def init_reset(self) -> None:
        """Learn that the processor was reset by INIT."""

    @property
    def tpr(self) -> int:
        """The task-priority register."""

    @tpr.setter
    def tpr(self, value: int) -> None: ...


class NoApic:
    """Stands for the local APIC until one is connected: never an interrupt, no MSRs."""

    tpr = 0

    def pending_vector(self) -> int | None:
        """Nothing is pending."""
        return None

    def acknowledge(self) -> int | None:
        """Nothing is pending."""
        return None

    def end_of_interrupt(self) -> None:
        """Nothing is in service."""

    def read_msr(self, index: int) -> int | None:
        """There are no APIC MSRs."""
        return None

    def write_msr(self, index: int, value: int) -> bool:
        """There are no APIC MSRs."""
        return False

    def init_reset(self) -> None:
        """Nothing to reset."""


class MtrrPort(Protocol):
    """The memory-type range registers, and whatever other MSRs the board answers for."""

    def read_msr(self, index: int) -> int | None:
        """Return the MSR, or None where there is none."""

    def write_msr(self, index: int, value: int) -> bool:
        """Write the MSR; False for #GP."""


class Activity(IntEnum):
    """SDM 3C, "Guest Non-Register State": activity states, with the VMCS's numbers."""

    ACTIVE = 0
    HLT = 1
    SHUTDOWN = 2
    WAIT_FOR_SIPI = 3
