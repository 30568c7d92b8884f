"""Checks that the engine's private layout is the one that `turducken.cpu.engine.state` knows.

Once per process, a scratch engine is given a distinct value in every place that we read or write
behind its back, through its public interface or by the instructions VMLOAD and VMRUN. In several
modes it is run to its first intercept, and `State` must say then what was loaded.

AMD64 Architecture Programmer's Manual 2, "Layout of VMCB".
"""

import os
import struct
from dataclasses import dataclass

from unicorn import unicorn_const, x86_const

from turducken.cpu.engine import library
from turducken.cpu.engine.grants import Answer
from turducken.cpu.engine.segments import Segment, SegmentIndex
from turducken.cpu.engine.state import (
    CC_OP_EFLAGS,
    CC_OPERATION,
    CC_SOURCE,
    HEADER_BYTES,
    MSR_WORDS,
    STATE_BYTES,
    State,
)

_VMCB, _HOST_SAVE, _MAPS, _STUB, _GUEST, _SIZE = 0x1000, 0x2000, 0x3000, 0x8000, 0x9000, 0xA000
_VMLOAD_VMRUN = bytes.fromhex("0f01da 0f01d8")
_CODE = bytes.fromhex("84c0 fd 0fa2 8ed8 488b19")
"""TEST AL, AL; STD; CPUID; MOV DS, EAX - the same in every mode; MOV RBX, [RCX] in 64-bit mode.

CPUID is intercepted, the first MOV is #GP, and the second one's translation is refused.
"""
_CPUID_AT, _MOV_AT, _LOAD_AT = 3, 5, 7
_RIP_FIELD = 0x578
_CPUID_EXIT, _GP_EXIT = 0x172, 0x14D
_BAD_SELECTOR = 0x5674
_EFER, _VM_HSAVE_PA = 0xC000_0080, 0xC001_0117
_EFER_LONG_SVM = 0x1D01
_INTERCEPTS = 0x5A5_FFE0 | 1 << 18
_GP = 1 << 13
_FLAGS = 0x2 | 1 << 21
_CF_AF = 0x11
"""Arithmetic flags that are set while the engine stands at CPUID; TEST gave others."""
_AFTER = _FLAGS | _CF_AF | 1 << 10
"""RFLAGS after that and STD."""

_GPR = [0x1111_0000_0000_1111 * (n + 1) & (1 << 64) - 1 for n in range(16)]
_GPR_IDS = [getattr(x86_const, f"UC_X86_REG_{name}") for name in (
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
    "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15",
)]  # fmt: skip
_RAX, _RSP = 0, 4

_SAVE = {
    SegmentIndex.ES: 0x400,
    SegmentIndex.CS: 0x410,
    SegmentIndex.SS: 0x420,
    SegmentIndex.DS: 0x430,
    SegmentIndex.FS: 0x440,
    SegmentIndex.GS: 0x450,
    SegmentIndex.GDTR: 0x460,
    SegmentIndex.LDTR: 0x470,
    SegmentIndex.IDTR: 0x480,
    SegmentIndex.TR: 0x490,
}
_MSR_FIELDS = {
    0xC000_0081: 0x600,
    0xC000_0082: 0x608,
    0xC000_0083: 0x610,
    0xC000_0084: 0x618,
    0xC000_0102: 0x620,
    0x174: 0x628,
    0x175: 0x630,
    0x176: 0x638,
}
_TSC_AUX = 0xC000_0103
"""The one MSR of `MSR_WORDS` that VMLOAD does not load."""


@dataclass(frozen=True, slots=True)
class _Mode:
    """A mode to be entered: control registers and the access rights of CS, SS and the others."""

    name: str
    cr0: int
    cr4: int
    efer: int
    cpl: int
    rflags: int
    code: int
    data: int


_MODES = (
    _Mode("64-bit", 0x8000_0033, 0x20_0220, 0x1D01, 0, _FLAGS, 0xA09B, 0xC093),
    _Mode("compatibility", 0x8000_0031, 0x20, 0x1D01, 3, _FLAGS, 0xC0FB, 0xC0F3),
    _Mode("32-bit", 0x3D, 0x200, 0x1001, 0, _FLAGS, 0xC09B, 0xC093),
    _Mode("16-bit", 0x31, 0, 0x1000, 3, _FLAGS, 0x00FB, 0x00F3),
    _Mode("real", 0x30, 0, 0x1000, 0, _FLAGS, 0x009B, 0x0093),
    _Mode("virtual-8086", 0x31, 0, 0x1000, 3, _FLAGS | 1 << 17, 0x00F3, 0x00F3),
)

_WITH_XSAVE = _Mode("64-bit", 0x8000_0033, 0x4_0220, 0x1D01, 0, _FLAGS, 0xA09B, 0xC093)
_GET_XCR0, _SOME_XCR0 = bytes.fromhex("31c9 0f01d0 0fa2"), 0x1234_5603
"""XOR ECX, ECX; XGETBV; CPUID."""

_passed: list[bool] = []


def check_layout() -> None:
    """Check once per process; raises `EngineError` naming the first thing that is not in place."""
    if not _passed:
        probe = _Probe()
        for mode in _MODES:
            probe.check(mode)
        probe.check_refused_access()
        probe.check_xcr0()
        _passed.append(True)


def _fail(what: str, expected: int, found: int) -> None:
    raise library.EngineError(
        f"this build of unicorn cannot be used: {what} is {found:#x}, expected was {expected:#x}"
    )


class _Probe:
    """The scratch engine."""

    def __init__(self) -> None:
        self._engine, self._handle = library.open_engine()
        size = library.context_size(self._handle)
        if size != HEADER_BYTES + STATE_BYTES:
            _fail("the size of a context", HEADER_BYTES + STATE_BYTES, size)
        self._exit = 0
        self._fill = library.FILL_HOOK(self._on_fill)
        self._interrupt = library.INTERRUPT_HOOK(self._on_interrupt)
        library.add_hook(self._handle, unicorn_const.UC_HOOK_TLB_FILL, self._fill)
        library.add_hook(self._handle, unicorn_const.UC_HOOK_INTR, self._interrupt)
        engine = self._engine
        engine.mem_map(0, _SIZE)
        engine.mem_write(_MAPS, b"\xff" * (_STUB - _MAPS))
        engine.mem_write(_STUB, _VMLOAD_VMRUN)
        engine.mem_write(_GUEST, _CODE)
        for number, register in enumerate(_GPR_IDS):
            engine.reg_write(register, _GPR[number])
        self._check_place()
        engine.reg_write(x86_const.UC_X86_REG_CR2, 0x2222_0000)
        engine.msr_write(_TSC_AUX, 0x3333)
        engine.msr_write(_EFER, _EFER_LONG_SVM)
        engine.msr_write(_VM_HSAVE_PA, _HOST_SAVE)
        engine.reg_write(x86_const.UC_X86_REG_CR4, 0x20)  # or VMRUN would not turn paging on
        engine.reg_write(x86_const.UC_X86_REG_RAX, _VMCB)
        self._state = State(self._handle)
        self._host = bytes(self._state.words.cast("B"))

    def _check_place(self) -> None:
        """Look for the registers where they should be, without touching what may not exist."""
        with open("/proc/self/mem", "rb", buffering=0) as process:

            def read(address: int, length: int = 8) -> bytes:
                try:
                    return os.pread(process.fileno(), length, address)
                except (OSError, OverflowError):
                    return b""

            def follow(address: int) -> int:
                return int.from_bytes(read(address), "little")

            place = library.state_address(self._handle, follow)
            if read(place, 8 * len(_GPR)) != struct.pack(f"<{len(_GPR)}Q", *_GPR):
                raise library.EngineError(
                    "this build of unicorn cannot be used: its registers are not where expected"
                )

    def _on_fill(
        self,
        _engine: int,
        page: int,
        _kind: int,
        result: int,
        _data: int,
    ) -> bool:
        answer = Answer.at(result)
        answer.target, answer.rights = page, unicorn_const.UC_PROT_ALL
        return page < _SIZE

    def _on_interrupt(self, _engine: int, number: int, _data: int) -> None:
        self._exit = number
        words = self._state.words
        words[CC_SOURCE] = _CF_AF
        words[CC_OPERATION] = words[CC_OPERATION] & ~0xFFFF_FFFF | CC_OP_EFLAGS
        library.emu_stop(self._handle)

    def check(self, mode: _Mode) -> None:
        """Enter ``mode``, stop at an intercept and at an exception, and compare."""
        state = self._state
        segments = _segments(mode)
        self._engine.mem_write(_VMCB, _control_block(mode, segments))
        state.words.cast("B")[:] = self._host
        self._run(mode, "entry to", _STUB, _CPUID_EXIT)
        where = f"in {mode.name} mode"
        # Whatever `State` derives must be what the engine derives; then the registers themselves.
        summary = state.mode_summary
        state.update_mode(mode.cpl)
        self._same(f"the mode summary {where}", state.mode_summary, summary)
        self._compare_registers(mode, segments)
        state.forget_exception()
        state.rip = _GUEST - segments[SegmentIndex.CS].base + _MOV_AT
        state.gpr[0] = _BAD_SELECTOR
        if mode.cr0 & 1 and not mode.rflags >> 17 & 1:
            self._run(mode, "exception in", _GUEST + _MOV_AT, _GP_EXIT)
            self._same(f"the error code {where}", _BAD_SELECTOR, state.error_code)

    def check_refused_access(self) -> None:
        """Refuse a translation: the engine must name the address and not begin the instruction."""
        mode, state = _MODES[0], self._state
        block = _control_block(mode, _segments(mode))
        self._engine.mem_write(_VMCB, block)
        self._engine.mem_write(_VMCB + _RIP_FIELD, struct.pack("<Q", _GUEST + _LOAD_AT))
        for address in (_SIZE + 0x123, 0x5555_5678_9ABC):
            state.words.cast("B")[:] = self._host
            state.gpr[1] = address
            self._run(mode, "a refused access in", _STUB, 0)
            self._same("the refused address", address, library.refused_address(self._handle))
            self._same("RIP at a refused access", _GUEST + _LOAD_AT, state.rip)
            self._same("RBX at a refused access", _GPR[3], state.gpr[3])

    def check_xcr0(self) -> None:
        """XGETBV must give what `State` says XCR0 is."""
        mode, state = _WITH_XSAVE, self._state
        self._engine.mem_write(_VMCB, _control_block(mode, _segments(mode)))
        self._engine.mem_write(_GUEST, _GET_XCR0)
        state.words.cast("B")[:] = self._host
        state.xcr0 = _SOME_XCR0
        self._run(mode, "XGETBV in", _STUB, _CPUID_EXIT)
        self._same("XCR0", _SOME_XCR0, state.gpr[_RAX])

    def _run(self, mode: _Mode, what: str, start: int, expected: int) -> None:
        self._exit = 0
        library.flush_tlb(self._handle)
        library.emu_start(self._handle, self._state.rip if start != _STUB else start, 0, 0, 0)
        self._same(f"the exit code of {what} {mode.name} mode", expected, self._exit)

    @staticmethod
    def _same(what: str, expected: int, found: int) -> None:
        if expected != found:
            _fail(what, expected, found)

    def _compare_registers(self, mode: _Mode, segments: dict[SegmentIndex, Segment]) -> None:
        state, where = self._state, f"in {mode.name} mode"
        for number, value in enumerate(_GPR):
            self._same(f"general-purpose register {number} {where}", value, state.gpr[number])
        for name, value in (
            ("rip", _GUEST - segments[SegmentIndex.CS].base + _CPUID_AT),
            ("rflags", mode.rflags | _AFTER),
            ("cr0", mode.cr0),
            ("cr2", 0x2222_0000),
            ("cr3", 0xC000),
            ("cr4", mode.cr4),
            ("efer", mode.efer & ~(1 << 12)),
            ("cpl", mode.cpl),
            ("intercepts", _INTERCEPTS),
        ):
            self._same(f"{name} {where}", value, getattr(state, name))
        for index, segment in segments.items():
            if index in (SegmentIndex.GDTR, SegmentIndex.IDTR):
                found = Segment(0, *state.table(index), 0)
            else:
                found = state.segment(index)
            for name, value, other in zip(Segment._fields, segment, found, strict=True):
                self._same(f"{index.name}'s {name} {where}", value, other)
        for msr, word in MSR_WORDS.items():
            expected = 0x3333 if msr == _TSC_AUX else _msr_value(msr)
            self._same(f"MSR {msr:#x} {where}", expected, state.words[word])


def _segments(mode: _Mode) -> dict[SegmentIndex, Segment]:
    """Return a distinct value for every segment and table register."""
    flat = mode.code & 0x2000
    found = {}
    for index in _SAVE:
        base = 0x10_0000 * (index + 1)
        limit = 0xFFFF if mode.code & 0x4000 == 0 and not flat else 0xFFFF_FFFF
        access = mode.code if index is SegmentIndex.CS else mode.data
        selector = 0x1000 + 0x10 * index | mode.cpl
        if index is SegmentIndex.CS:
            base = 0 if flat else _GUEST - 0x100
        elif index in (SegmentIndex.GDTR, SegmentIndex.IDTR):
            selector = access = 0
            limit = 0x10 + index
        elif index in (SegmentIndex.LDTR, SegmentIndex.TR):
            limit, access = 0x100 + index, 0x82 if index is SegmentIndex.LDTR else 0x8B
        found[index] = Segment(selector, base, limit, access)
    return found


def _msr_value(msr: int) -> int:
    # SYSENTER_CS and STAR have their width; the addresses are canonical.
    return 0x7700 + (msr & 0xFF)


def _control_block(mode: _Mode, segments: dict[SegmentIndex, Segment]) -> bytes:
    """Return a VMCB that enters ``mode`` at `_CODE`, intercepting #GP and CPUID among others."""
    block = bytearray(0x1000)
    struct.pack_into("<IQ", block, 8, _GP, _INTERCEPTS)
    struct.pack_into("<QQ", block, 0x40, _MAPS, _MAPS)
    struct.pack_into("<I", block, 0x58, 1)
    for index, offset in _SAVE.items():
        selector, base, limit, access = segments[index]
        packed = access & 0xFF | access >> 4 & 0xF00
        struct.pack_into("<HHIQ", block, offset, selector, packed, limit, base)
    block[0x4CB] = mode.cpl
    struct.pack_into("<Q", block, 0x4D0, mode.efer)
    struct.pack_into("<QQQ", block, 0x548, mode.cr4, 0xC000, mode.cr0)
    rip = _GUEST - segments[SegmentIndex.CS].base
    struct.pack_into("<QQQQ", block, 0x560, 0x400, 0xFFFF_0FF0, mode.rflags, rip)
    struct.pack_into("<Q", block, 0x5D8, _GPR[_RSP])
    struct.pack_into("<Q", block, 0x5F8, _GPR[_RAX])
    for msr, offset in _MSR_FIELDS.items():
        struct.pack_into("<Q", block, offset, _msr_value(msr))
    struct.pack_into("<Q", block, 0x640, 0x2222_0000)
    return bytes(block)
