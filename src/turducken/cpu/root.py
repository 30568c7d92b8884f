"""The processor as software in VMX root operation uses it: implements `VmxProcessor`."""

from typing import TYPE_CHECKING

from turducken.address import Hpa
from turducken.arch.registers import CR0
from turducken.cpu import vm_entry
from turducken.cpu.vmx_operations import invalidate_ept, invalidate_vpid
from turducken.memory import Memory
from turducken.vmx.instructions import VmResult
from turducken.vmx.interface import VmStatus

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor


_CACHING = CR0.mask("CD", "NW")


class RootMemory:
    """Host-physical memory as root software sees it: device registers are part of it."""

    def __init__(self, processor: "Processor") -> None:
        self._p = processor
        self._ram = processor.memory

    def load(self, address: int, size: int) -> int:
        """Return a naturally aligned word of RAM or of a device."""
        if self._ram.is_readable(address, size):
            return self._ram.load(address, size)
        return self._p.platform.mmio_read(self._p.index, address, size)

    def store(self, address: int, size: int, value: int) -> None:
        """Replace a naturally aligned word of RAM or of a device."""
        if self._ram.is_ram(address, size):
            self._ram.store(address, size, value)
        else:
            self._p.platform.mmio_write(self._p.index, address, size, value)

    def read(self, address: int, length: int) -> bytes:
        """Return bytes of RAM."""
        return self._ram.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """Replace bytes of RAM."""
        self._ram.write(address, data)


class RootView:
    """What `turducken.vmx.interface.VmxProcessor` promises, of one processor."""

    def __init__(self, processor: "Processor") -> None:
        self._p = processor
        self.index = processor.index
        self.memory: Memory = RootMemory(processor)
        self.gpr = processor.state.gpr
        self.dr = processor.dr

    @property
    def cr2(self) -> int:
        """CR2."""
        return self._p.state.cr2

    @cr2.setter
    def cr2(self, value: int) -> None:
        self._p.state.cr2 = value

    @property
    def xcr0(self) -> int:
        """XCR0."""
        return self._p.state.xcr0

    @xcr0.setter
    def xcr0(self, value: int) -> None:
        self._p.state.xcr0 = value

    def vmxon(self, region: Hpa) -> VmStatus:
        """VMXON."""
        return self._p.vmx.vmxon(region).status

    def vmxoff(self) -> VmStatus:
        """VMXOFF."""
        self._p.attention = True
        return self._p.vmx.vmxoff().status

    def vmclear(self, region: Hpa) -> VmStatus:
        """VMCLEAR."""
        return self._p.vmx.vmclear(region).status

    def vmptrld(self, region: Hpa) -> VmStatus:
        """VMPTRLD."""
        return self._p.vmx.vmptrld(region).status

    def vmread(self, encoding: int) -> int:
        """VMREAD of a field that exists."""
        value = self._p.vmx.vmread(encoding)
        if isinstance(value, VmResult):
            raise AssertionError(f"VMREAD of {encoding:#x}: {value.status.value}")
        return value

    def vmwrite(self, encoding: int, value: int) -> None:
        """VMWRITE of a field that exists."""
        result = self._p.vmx.vmwrite(encoding, value)
        if result.status is not VmStatus.SUCCEED:
            raise AssertionError(f"VMWRITE of {encoding:#x}: {result.status.value}")

    def vmlaunch(self) -> VmStatus:
        """VMLAUNCH."""
        return self._enter(is_launch=True)

    def vmresume(self) -> VmStatus:
        """VMRESUME."""
        return self._enter(is_launch=False)

    def _enter(self, *, is_launch: bool) -> VmStatus:
        result = vm_entry.enter(self._p, is_launch=is_launch)
        return VmStatus.SUCCEED if result is None else result.status

    def invept(self, kind: int, eptp: int) -> VmStatus:
        """INVEPT."""
        return invalidate_ept(self._p, kind, eptp).status

    def invvpid(self, kind: int, vpid: int, address: int) -> VmStatus:
        """INVVPID."""
        return invalidate_vpid(self._p, kind, vpid, address).status

    def rdmsr(self, index: int) -> int | None:
        """RDMSR."""
        return self._p.msrs.read(index)

    def wrmsr(self, index: int, value: int) -> bool:
        """WRMSR."""
        return self._p.msrs.write(index, value)

    def load_cr0(self, value: int) -> None:
        """MOV to CR0."""
        state = self._p.state
        state.cr0 = state.cr0 & ~_CACHING | value & _CACHING

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID."""
        return self._p.cpuid_leaf(leaf, subleaf)

    def port_in(self, port: int, size: int) -> int:
        """IN."""
        return self._p.platform.port_in(self.index, port, size)

    def port_out(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self._p.platform.port_out(self.index, port, size, value)

    def acknowledge_interrupt(self) -> int | None:
        """Take the highest pending external interrupt's vector."""
        return self._p.apic.acknowledge() if self._p.apic.pending_vector() is not None else None
