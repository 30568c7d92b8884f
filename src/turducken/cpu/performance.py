"""Performance-monitoring counters that a profile may have.

SDM 3B, "Architectural Performance Monitoring". CPUID reports that no architectural event is
available, so the counters keep what is written to them: nothing that could be chosen counts.
"""

from turducken.arch.msr import IA32_PERF_GLOBAL_CTRL
from turducken.vmx.profile import Profile

_PMC, _SELECT, _FIXED, _FIXED_CONTROL = 0xC1, 0x186, 0x309, 0x38D
_GLOBAL_STATUS, _GLOBAL_OVERFLOW_CONTROL = 0x38E, 0x390
_WIDTH = 48
_ALL = (1 << _WIDTH) - 1
_LOW = 0xFFFF_FFFF
_FIXED_READ = 1 << 30
"""What RDPMC's ECX adds to the number of a fixed-function counter."""
_EVENTS = 7
"""Architectural events that CPUID knows: a 1 in EBX tells that one is not available."""


class PerformanceMonitor:
    """One processor's counters; a processor without general-purpose ones has none of the MSRs."""

    def __init__(self, profile: Profile) -> None:
        self._general = profile.cpu.performance_counters
        self._fixed = profile.cpu.fixed_counters if self._general else 0
        counters = (1 << self._general) - 1 | ((1 << self._fixed) - 1) << 32
        self._writable: dict[int, int] = {}
        if self._general:
            self._writable = {
                **{_PMC + number: _LOW for number in range(self._general)},
                **{_SELECT + number: _LOW for number in range(self._general)},
                **{_FIXED + number: _ALL for number in range(self._fixed)},
                _FIXED_CONTROL: sum(0xB << 4 * number for number in range(self._fixed)),
                _GLOBAL_STATUS: 0,
                IA32_PERF_GLOBAL_CTRL: counters,
                _GLOBAL_OVERFLOW_CONTROL: counters | 3 << 62,
            }
        self.values = dict.fromkeys(self._writable, 0)
        """The MSRs, by index."""

    def leaf(self) -> tuple[int, int, int, int]:
        """Return what CPUID leaf 0AH reports: version 2, or nothing."""
        if not self._general:
            return 0, 0, 0, 0
        eax = 2 | self._general << 8 | _WIDTH << 16 | _EVENTS << 24
        return eax, (1 << _EVENTS) - 1, 0, self._fixed | _WIDTH << 5

    def write(self, index: int, value: int) -> bool:
        """WRMSR of one of ``values``; False for #GP."""
        is_general = _PMC <= index < _PMC + self._general
        if is_general:
            # "bit 31 is sign-extended to the counter's width", and what is above is not looked at.
            value = ((value & _LOW) ^ 1 << 31) - (1 << 31) & _ALL
        elif index == _GLOBAL_STATUS or value & ~self._writable[index]:
            return False
        self.values[index] = 0 if index == _GLOBAL_OVERFLOW_CONTROL else value
        return True

    def read_counter(self, number: int) -> int | None:
        """RDPMC: return the counter that ECX names; None for #GP."""
        if number & _FIXED_READ:
            number &= ~_FIXED_READ
            return self.values[_FIXED + number] if number < self._fixed else None
        return self.values[_PMC + number] if number < self._general else None
