"""CPUID: what the processor says of itself: SDM 2A, "CPUID - CPU Identification"."""

from math import gcd

from turducken.arch.registers import CR4
from turducken.cpu.performance import PerformanceMonitor
from turducken.vmx.profile import Profile

Leaf = tuple[int, int, int, int]

_MAX_BASIC, _MAX_EXTENDED = 0x16, 0x8000_0008
TSC_HERTZ = 1_000_000_000
_ECX_1 = {
    "sse3": 0,
    "pclmulqdq": 1,
    "monitor": 3,
    "ssse3": 9,
    "fma": 12,
    "cx16": 13,
    "pcid": 17,
    "sse4_1": 19,
    "sse4_2": 20,
    "x2apic": 21,
    "movbe": 22,
    "popcnt": 23,
    "tsc_deadline": 24,
    "aes": 25,
    "xsave": 26,
    "avx": 28,
    "f16c": 29,
    "rdrand": 30,
}
_VMX, _OSXSAVE = 1 << 5, 1 << 27
# FPU VME DE PSE TSC MSR PAE MCE CX8 SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2
_EDX_1 = sum(1 << n for n in (*range(9), *range(11, 18), 19, 23, 24, 25, 26))
_APIC = 1 << 9
_EBX_7 = {
    "fsgsbase": 0,
    "tsc_adjust": 1,
    "bmi1": 3,
    "avx2": 5,
    "smep": 7,
    "bmi2": 8,
    "erms": 9,
    "invpcid": 10,
    "rtm": 11,
    "mpx": 14,
    "rdseed": 18,
    "adx": 19,
    "smap": 20,
    "clflushopt": 23,
}
_OSPKE = 1 << 4
_ECX_7 = {"umip": 2, "pku": 3, "la57": 16}
_EDX_EXTENDED = {"nx": 20, "pages_1gib": 26, "rdtscp": 27}
_ECX_EXTENDED = {"lzcnt": 5, "prefetchw": 8}
_SYSCALL, _LONG_MODE, _LAHF = 1 << 11, 1 << 29, 1
_XSAVE_STATES, _XSAVE_SIZE = 3, 576
"""x87 and SSE state: the legacy region and the header."""
_EAX_XSAVE = {"xsaveopt": 0, "xsavec": 1, "xsaves": 3}


def _bits(profile: Profile, table: dict[str, int]) -> int:
    return sum(1 << place for name, place in table.items() if getattr(profile.features, name))


def _text(text: str) -> int:
    return int.from_bytes(text.encode("ascii", "replace").ljust(4, b"\0")[:4], "little")


class Cpuid:
    """Answers CPUID for one processor: ``number`` of ``count`` (its number is its APIC ID)."""

    def __init__(self, profile: Profile, number: int, count: int, *, has_vmx: bool = True) -> None:
        self._profile = profile
        self._number = number
        self._count = count
        self._has_vmx = has_vmx

    def leaf(self, eax: int, ecx: int, *, cr4: int, is_apic_enabled: bool = True) -> Leaf:
        """Return EAX, EBX, ECX and EDX; leaves beyond the last give the last basic leaf's data."""
        known = {
            0: self._vendor,
            1: lambda: self._version(cr4, is_apic_enabled=is_apic_enabled),
            2: lambda: (0x7603_6301, 0x00F0_B5FF, 0, 0x00C1_0000),
            4: lambda: self._caches(ecx),
            5: lambda: (64, 64, 3, 0),
            7: lambda: self._structured(ecx, cr4),
            0xA: PerformanceMonitor(self._profile).leaf,
            0xB: lambda: self._topology(ecx),
            0xD: lambda: self._xsave(ecx),
            0x15: self._crystal,
            0x16: lambda: (1000, 1000, 100, 0),
            0x8000_0000: lambda: (_MAX_EXTENDED, 0, 0, 0),
            0x8000_0001: self._extended,
            0x8000_0002: lambda: self._brand(0),
            0x8000_0003: lambda: self._brand(16),
            0x8000_0004: lambda: self._brand(32),
            0x8000_0006: lambda: (0, 0, 256 << 16 | 6 << 12 | 64, 0),
            0x8000_0007: lambda: (0, 0, 0, 1 << 8),
            0x8000_0008: self._addresses,
        }
        if eax <= _MAX_BASIC or 0x8000_0000 <= eax <= _MAX_EXTENDED:
            answer = known.get(eax)
            return answer() if answer else (0, 0, 0, 0)
        return known[0x16]()

    def _crystal(self) -> Leaf:
        """Core crystal clock: its ratio to the TSC, and its frequency, which the APIC timer has."""
        crystal = self._profile.cpu.apic_timer_hertz
        common = gcd(TSC_HERTZ, crystal)
        return crystal // common, TSC_HERTZ // common, crystal, 0

    def _vendor(self) -> Leaf:
        vendor = self._profile.cpu.vendor
        return _MAX_BASIC, _text(vendor[:4]), _text(vendor[8:12]), _text(vendor[4:8])

    def signature(self) -> int:
        """Return family, model and stepping as leaf 1 has them in EAX."""
        cpu = self._profile.cpu
        return cpu.stepping | (cpu.model & 15) << 4 | cpu.family << 8 | cpu.model >> 4 << 16

    def _version(self, cr4: int, *, is_apic_enabled: bool) -> Leaf:
        ebx = 8 << 8 | min(self._count, 255) << 16 | (self._number & 0xFF) << 24
        ecx = _bits(self._profile, _ECX_1)
        if self._has_vmx:
            ecx |= _VMX
        if cr4 & CR4.mask("OSXSAVE"):
            ecx |= _OSXSAVE
        edx = _EDX_1 | (1 << 28 if self._count > 1 else 0)
        # SDM 3A, "Enabling or Disabling the Local APIC".
        edx |= _APIC if is_apic_enabled else 0
        return self.signature(), ebx, ecx, edx

    def _caches(self, level: int) -> Leaf:
        """Deterministic cache parameters: two 32-KiB first-level caches and a 256-KiB second."""
        kinds = {0: (1, 1, 8, 64), 1: (2, 1, 8, 64), 2: (3, 2, 8, 512)}
        if level not in kinds:
            return 0, 0, 0, 0
        kind, depth, ways, sets = kinds[level]
        return kind | depth << 5 | 1 << 8, (ways - 1) << 22 | 63, sets - 1, 0

    def _structured(self, subleaf: int, cr4: int) -> Leaf:
        if subleaf:
            return 0, 0, 0, 0
        ecx = _bits(self._profile, _ECX_7)
        if cr4 & CR4.mask("PKE"):
            ecx |= _OSPKE
        return 0, _bits(self._profile, _EBX_7), ecx, 0

    def _topology(self, level: int) -> Leaf:
        """One thread in each core, all cores in one package."""
        width = max(self._count - 1, 0).bit_length()
        kinds = {0: (0, 1, 1), 1: (width, self._count, 2)}
        shift, count, kind = kinds.get(level, (0, 0, 0))
        return shift, count, level & 0xFF | kind << 8, self._number

    def _xsave(self, subleaf: int) -> Leaf:
        if not self._profile.features.xsave:
            return 0, 0, 0, 0
        if subleaf == 0:
            return _XSAVE_STATES, _XSAVE_SIZE, _XSAVE_SIZE, 0
        if subleaf == 1:
            return _bits(self._profile, _EAX_XSAVE), 0, 0, 0
        return 0, 0, 0, 0

    def _extended(self) -> Leaf:
        edx = _SYSCALL | _LONG_MODE | _bits(self._profile, _EDX_EXTENDED)
        return 0, 0, _LAHF | _bits(self._profile, _ECX_EXTENDED), edx

    def _brand(self, start: int) -> Leaf:
        text = self._profile.cpu.brand.ljust(48, "\0")[start : start + 16]
        a, b, c, d = (_text(text[n : n + 4]) for n in range(0, 16, 4))
        return a, b, c, d

    def _addresses(self) -> Leaf:
        cpu = self._profile.cpu
        return cpu.physical_address_bits | cpu.linear_address_bits << 8, 0, 0, 0
