"""Which level runs on a processor, and memory as each level's addresses give it.

Reading goes through the tables in memory and changes nothing: no translation is cached, no accessed
flag is set.
"""

from turducken.arch.registers import CR0, CR4, EFER
from turducken.cpu.processor import Processor
from turducken.inspect.chain import Stage, Through
from turducken.memory import MemoryHoleError
from turducken.paging.formats import FORMATS, Features
from turducken.system import System
from turducken.system.options import Mode
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Primary, Secondary
from turducken.vmx.vmcs import Vmcs

LEVELS = ("L1", "L2")
_PG, _PAE, _LA57 = CR0.mask("PG"), CR4.mask("PAE"), CR4.mask("LA57")
_LMA = EFER.mask("LMA")
_HOST_64 = 1 << 9
"""VM-exit control "host address-space size"."""


class Levels:
    """The levels of a system that runs."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._machine = system.machine
        self.is_nested = system.options.mode is Mode.NESTED

    def running(self, cpu: int) -> str:
        """Return the level that runs on a processor: ``L1`` or ``L2``."""
        if self._system.hypervisor is not None:
            return "L2" if self._system.hypervisor.vcpus[cpu].in_l2 else "L1"
        return "L1" if self._machine.processors[cpu].guest is None else "L2"

    def vmcs_of_l2(self, cpu: int) -> Vmcs | None:
        """Return the VMCS in which L1 keeps its guest on a processor, if there is one."""
        if self._system.hypervisor is not None:
            context = self._system.hypervisor.vcpus[cpu].nested.current
            return None if context is None else context.vmcs12
        return self._machine.processors[cpu].vmx.current

    def stages(self, cpu: int, level: str) -> list[Stage]:
        """Return the translations of a level's linear addresses, inner to outer."""
        p = self._machine.processors[cpu]
        if level == self.running(cpu):
            state = p.state
            paging = self._paging(p, state.cr0, state.cr3, state.cr4, bool(state.efer & _LMA))
        else:
            paging = self._saved_paging(p, level)
        return [*paging, *self.physical_stages(cpu, level)]

    def physical_stages(self, cpu: int, level: str) -> list[Stage]:
        """Return the translations of a level's physical addresses: its EPTs."""
        p = self._machine.processors[cpu]
        stages = []
        if level == "L2":
            vmcs = self.vmcs_of_l2(cpu)
            if vmcs is not None and _has_ept(vmcs):
                stages.append(_ept("ept12" if self.is_nested else "ept", vmcs.read(f.EPTP), p))
        if self._system.hypervisor is not None:
            stages.append(_ept("ept01", self._system.hypervisor.vcpus[cpu].eptp01, p))
        return stages

    def _saved_paging(self, p: Processor, level: str) -> list[Stage]:
        """Return the paging of a level that does not run, as the VMCS between them has it."""
        vmcs = self.vmcs_of_l2(p.index)
        if vmcs is None:
            return []
        read = vmcs.read
        if level == "L1":
            is_long = bool(read(f.EXIT_CONTROLS) & _HOST_64)
            return self._paging(p, read(f.HOST_CR0), read(f.HOST_CR3), read(f.HOST_CR4), is_long)
        is_long = bool(read(f.ENTRY_CONTROLS) & _HOST_64)
        return self._paging(p, read(f.GUEST_CR0), read(f.GUEST_CR3), read(f.GUEST_CR4), is_long)

    def _paging(self, p: Processor, cr0: int, cr3: int, cr4: int, is_long: bool) -> list[Stage]:
        if not cr0 & _PG:
            return []
        if not cr4 & _PAE:
            name = "32-bit"
        elif not is_long:
            name = "PAE"
        else:
            name = "5-level" if cr4 & _LA57 else "4-level"
        features = Features(maxphyaddr=p.maxphyaddr)
        return [Stage("cr3", FORMATS[name].bind(features), cr3)]

    # Memory

    def read(self, cpu: int, level: str, address: int, length: int) -> bytes:
        """Return what a level has at a linear address, as far as it is mapped."""
        return self._read(self.stages(cpu, level), address, length)

    def read_physical(self, cpu: int, level: str, address: int, length: int) -> bytes:
        """Return what a level has at a physical address of its own, as far as it is mapped."""
        return self._read(self.physical_stages(cpu, level), address, length)

    def _read(self, stages: list[Stage], address: int, length: int) -> bytes:
        memory = self._machine.memory
        parts = []
        while length > 0:
            count = min(length, 4096 - address % 4096)
            place = self._locate(stages, address)
            if place is None or not memory.is_readable(place, count):
                break
            parts.append(memory.read(place, count))
            address, length = address + count, length - count
        return b"".join(parts)

    def write(self, cpu: int, level: str, address: int, data: bytes) -> bool:
        """Write at a level's linear address, whatever rights it has there; False where it cannot.

        All of it or nothing is written.
        """
        return self._write(self.stages(cpu, level), address, data)

    def write_physical(self, cpu: int, level: str, address: int, data: bytes) -> bool:
        """Write at a level's physical address."""
        return self._write(self.physical_stages(cpu, level), address, data)

    def _write(self, stages: list[Stage], address: int, data: bytes) -> bool:
        memory = self._machine.memory
        places = []
        at = 0
        while at < len(data):
            count = min(len(data) - at, 4096 - (address + at) % 4096)
            place = self._locate(stages, address + at)
            if place is None or not memory.is_ram(place, count):
                return False
            places.append((place, data[at : at + count]))
            at += count
        for place, part in places:
            memory.write(place, part)
        self.code_changed()
        return True

    def code_changed(self) -> None:
        """Make every processor look at its code again."""
        for one in self._machine.processors:
            one.engine.is_code_stale = True

    def _locate(self, stages: list[Stage], address: int) -> int | None:
        if not stages:
            return address
        try:
            return Through(self._machine.memory, stages).translate(address)
        except MemoryHoleError:
            return None


def _has_ept(vmcs: Vmcs) -> bool:
    return bool(
        vmcs.read(f.PRIMARY_CONTROLS) & Primary.ACTIVATE_SECONDARY_CONTROLS
        and vmcs.read(f.SECONDARY_CONTROLS) & Secondary.ENABLE_EPT
    )


def _ept(name: str, eptp: int, p: Processor) -> Stage:
    return Stage(name, FORMATS["EPT"].bind(p.ept_features), eptp)
