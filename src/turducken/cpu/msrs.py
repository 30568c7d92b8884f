"""Model-specific registers: which exist, where their values live, which values are refused.

SDM 4, "Architectural MSRs". An MSR that does not exist, or a value it refuses, is #GP.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from turducken.arch import msr
from turducken.arch.memory_types import PAT_RESET
from turducken.cpu.control_registers import write_efer
from turducken.cpu.engine import SegmentIndex
from turducken.cpu.engine.state import MSR_WORDS
from turducken.cpu.performance import PerformanceMonitor

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

FEATURE_CONTROL_LOCKED_VMX = 0b101
"""IA32_FEATURE_CONTROL as a BIOS leaves it: locked, VMX outside SMX enabled."""

_PAT_TYPES = frozenset({0, 1, 4, 5, 6, 7})
_MISC_ENABLE = 1 | 1 << 11 | 1 << 12
_CANONICAL = frozenset(
    {
        msr.IA32_SYSENTER_ESP,
        msr.IA32_SYSENTER_EIP,
        msr.IA32_LSTAR,
        msr.IA32_CSTAR,
        msr.IA32_FS_BASE,
        msr.IA32_GS_BASE,
        msr.IA32_KERNEL_GS_BASE,
    }
)
_DEBUGCTL_WRITABLE = 0xFFC3
_READ_ONLY = frozenset(
    {msr.IA32_PLATFORM_ID, msr.IA32_MTRRCAP, msr.IA32_MCG_CAP, *range(0x480, 0x492)}
)


def is_valid_pat(value: int) -> bool:
    """Tell whether every byte of an IA32_PAT value is a memory type."""
    return all(value >> 8 * n & 0xFF in _PAT_TYPES for n in range(8))


class MsrFile:
    """One processor's MSRs. ``machine_read`` and ``machine_write`` reach the MTRRs."""

    def __init__(self, processor: "Processor") -> None:
        self._p = processor
        self.feature_control = FEATURE_CONTROL_LOCKED_VMX
        self.pat = PAT_RESET
        self.tsc_adjust = 0
        self.debugctl = 0
        self.performance = PerformanceMonitor(processor.profile)
        self._plain = {
            msr.IA32_PLATFORM_ID: 0,
            msr.IA32_BIOS_SIGN_ID: processor.profile.cpu.microcode << 32,
            msr.IA32_MCG_CAP: 0,
            msr.IA32_MCG_STATUS: 0,
            msr.IA32_MISC_ENABLE: _MISC_ENABLE,
            msr.IA32_SMM_MONITOR_CTL: 0,
        }
        self._has_deadline = processor.profile.features.tsc_deadline
        self._readers: dict[int, Callable[[], int]] = {
            msr.IA32_TIME_STAMP_COUNTER: processor.read_tsc,
            msr.IA32_TSC_ADJUST: lambda: self.tsc_adjust,
            msr.IA32_FEATURE_CONTROL: lambda: self.feature_control,
            msr.IA32_PAT: lambda: self.pat,
            msr.IA32_DEBUGCTL: lambda: self.debugctl,
            msr.IA32_EFER: lambda: processor.state.efer,
            msr.IA32_FS_BASE: lambda: processor.state.segment_base(SegmentIndex.FS),
            msr.IA32_GS_BASE: lambda: processor.state.segment_base(SegmentIndex.GS),
        }
        self._writers: dict[int, Callable[[int], bool]] = {
            msr.IA32_TIME_STAMP_COUNTER: self._write_tsc,
            msr.IA32_TSC_ADJUST: self._write_tsc_adjust,
            msr.IA32_FEATURE_CONTROL: self._write_feature_control,
            msr.IA32_PAT: self._write_pat,
            msr.IA32_DEBUGCTL: self._write_debugctl,
            msr.IA32_EFER: lambda value: write_efer(processor, value),
            msr.IA32_FS_BASE: lambda value: self._write_base(SegmentIndex.FS, value),
            msr.IA32_GS_BASE: lambda value: self._write_base(SegmentIndex.GS, value),
            msr.IA32_BIOS_UPDT_TRIG: lambda _value: True,
            msr.IA32_BIOS_SIGN_ID: lambda _value: True,
        }
        if not processor.profile.features.tsc_adjust:
            del self._readers[msr.IA32_TSC_ADJUST], self._writers[msr.IA32_TSC_ADJUST]

    @property
    def perf_global_ctrl(self) -> int:
        """IA32_PERF_GLOBAL_CTRL, where it exists."""
        return self.performance.values[msr.IA32_PERF_GLOBAL_CTRL]

    @perf_global_ctrl.setter
    def perf_global_ctrl(self, value: int) -> None:
        self.performance.values[msr.IA32_PERF_GLOBAL_CTRL] = value

    def read(self, index: int) -> int | None:
        """Return the value, or None where RDMSR causes #GP."""
        word = MSR_WORDS.get(index)
        if word is not None:
            return self._p.state.words[word]
        reader = self._readers.get(index)
        if reader is not None:
            return reader()
        if self._is_of_apic(index):
            self._p.platform.spend(self._p.index, 0)
            return self._p.apic.read_msr(index)
        if index in self.performance.values:
            return self.performance.values[index]
        if 0x480 <= index <= 0x491:
            return self._p.capabilities.msrs.get(index)
        if index in self._plain:
            return self._plain[index]
        return self._p.mtrrs.read_msr(index)

    def write(self, index: int, value: int) -> bool:
        """Write; False where WRMSR causes #GP."""
        if index in _READ_ONLY or (
            index in _CANONICAL and not self._p.capabilities.is_canonical(value)
        ):
            return False
        word = MSR_WORDS.get(index)
        if word is not None:
            self._p.state.words[word] = value
            return True
        writer = self._writers.get(index)
        if writer is not None:
            return writer(value)
        if self._is_of_apic(index):
            self._p.platform.spend(self._p.index, 0)
            return self._p.apic.write_msr(index, value)
        if index in self.performance.values:
            return self.performance.write(index, value)
        if index in self._plain:
            self._plain[index] = value
            return True
        return self._p.mtrrs.write_msr(index, value)

    def _write_tsc(self, value: int) -> bool:
        self.tsc_adjust += value - self._p.read_tsc()
        self.tsc_adjust &= (1 << 64) - 1
        return True

    def _write_tsc_adjust(self, value: int) -> bool:
        self.tsc_adjust = value
        return True

    def _write_feature_control(self, value: int) -> bool:
        if self.feature_control & 1:
            return False
        self.feature_control = value
        return True

    def _write_pat(self, value: int) -> bool:
        if not is_valid_pat(value):
            return False
        self.pat = value
        return True

    def _write_debugctl(self, value: int) -> bool:
        if value & ~_DEBUGCTL_WRITABLE:
            return False
        self.debugctl = value
        return True

    def _write_base(self, index: SegmentIndex, value: int) -> bool:
        segment = self._p.state.segment(index)
        self._p.state.set_segment(index, segment._replace(base=value))
        return True

    def _is_of_apic(self, index: int) -> bool:
        """Tell whether an MSR is the local APIC's, for which time matters."""
        if index == msr.IA32_TSC_DEADLINE:
            return self._has_deadline
        return msr.X2APIC_FIRST <= index <= msr.X2APIC_LAST or index == msr.IA32_APIC_BASE
