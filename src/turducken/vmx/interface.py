"""What software in VMX root operation can do with a processor: the whole view that L0 has of one.

The machine's processor implements `VmxProcessor`; the hypervisor is written against it and against
physical memory, and sees nothing else of the machine. `RootSoftware` is the other direction: a
program in Python that stands where machine code would run in VMX root operation.
"""

from collections.abc import Generator
from enum import Enum
from typing import Protocol, SupportsIndex

from turducken.address import Hpa
from turducken.memory import Memory


class Wait(Enum):
    """Why software in root operation gives up the processor for a while."""

    GUEST = "guest"
    """VMLAUNCH or VMRESUME succeeded: resume when a VM exit has happened."""
    OTHERS = "others"
    """Spin-waiting for another processor: resume when the others have had a turn."""
    HALT = "halt"
    """HLT in root operation: resume when an interrupt, NMI, INIT or SIPI arrives."""


class VmStatus(Enum):
    """How a VMX instruction ended: SDM 3C, "Conventions" (of the VMX instruction reference)."""

    SUCCEED = "VMsucceed"
    FAIL_INVALID = "VMfailInvalid"
    FAIL_VALID = "VMfailValid"
    """The error number is in the VM-instruction error field of the current VMCS."""


class Registers(Protocol):
    """Registers by number."""

    def __getitem__(self, number: SupportsIndex, /) -> int: ...

    def __setitem__(self, number: SupportsIndex, value: int, /) -> None: ...


class VmxProcessor(Protocol):
    """One logical processor, as software in VMX root operation at CPL 0 can use it."""

    index: int
    """The processor's number; 0 is the boot processor. Also its APIC ID."""
    memory: Memory
    """Host-physical memory."""
    cr2: int
    xcr0: int

    @property
    def gpr(self) -> Registers:
        """The 16 general-purpose registers in encoding order (after a VM exit: the guest's).

        Slot 4 (RSP) is switched by VMX and has no meaning here: use the VMCS field.
        """

    @property
    def dr(self) -> Registers:
        """DR0 to DR3, DR6 and DR7 at their own numbers (slots 4 and 5 unused)."""

    def vmxon(self, region: Hpa) -> VmStatus:
        """Enter VMX operation with the VMXON region at ``region``."""

    def vmxoff(self) -> VmStatus:
        """Leave VMX operation."""

    def vmclear(self, region: Hpa) -> VmStatus:
        """Write back and deactivate the VMCS at ``region``; its launch state becomes clear."""

    def vmptrld(self, region: Hpa) -> VmStatus:
        """Make the VMCS at ``region`` current and active."""

    def vmread(self, encoding: int) -> int:
        """Return a field of the current VMCS (whose existence the caller vouches for)."""

    def vmwrite(self, encoding: int, value: int) -> None:
        """Write a field of the current VMCS (whose existence the caller vouches for)."""

    def vmlaunch(self) -> VmStatus:
        """Enter the guest of the current VMCS; on SUCCEED yield `Wait.GUEST` next.

        A failure after the checks of controls and host state is a VM exit (reason 33, 34 or 41), as
        on hardware: also SUCCEED, and the exit is seen when the program is resumed.
        """

    def vmresume(self) -> VmStatus:
        """As `vmlaunch`, for a VMCS that is launched."""

    def invept(self, kind: int, eptp: int) -> VmStatus:
        """Execute INVEPT of type ``kind`` with ``eptp`` in its descriptor."""

    def invvpid(self, kind: int, vpid: int, address: int) -> VmStatus:
        """Execute INVVPID of type ``kind`` with VPID and linear ``address`` in its descriptor."""

    def rdmsr(self, index: int) -> int | None:
        """Return an MSR (as root operation sees it), or None where RDMSR would cause #GP."""

    def wrmsr(self, index: int, value: int) -> bool:
        """Write an MSR; False where WRMSR would cause #GP. x2APIC MSRs send IPIs."""

    def load_cr0(self, value: int) -> None:
        """MOV to CR0: only its bits CD and NW outlive a VM entry, which leaves them alone.

        SDM 3C, "Loading Guest Control Registers, Debug Registers, and MSRs".
        """

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """Return EAX, EBX, ECX and EDX."""

    def port_in(self, port: int, size: int) -> int:
        """Return what IN of ``size`` (1, 2 or 4) bytes reads."""

    def port_out(self, port: int, size: int, value: int) -> None:
        """Execute OUT."""

    def acknowledge_interrupt(self) -> int | None:
        """Take the highest pending external interrupt's vector, as delivery in root mode would."""


class RootSoftware(Protocol):
    """A program that runs in VMX root operation on each processor."""

    def run(self, processor: VmxProcessor) -> Generator[Wait, None, None]:
        """Run from reset (boot processor) or SIPI on; yield to wait."""
