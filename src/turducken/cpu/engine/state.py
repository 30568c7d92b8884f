"""The engine's processor state, addressed in place as 64-bit words.

Between runs, this is the processor's register file. The layout is private to the engine's build;
`turducken.cpu.engine.selfcheck` compares it with the build at start-up.
"""

import ctypes

from unicorn import x86_const

from turducken.address import is_canonical
from turducken.arch.registers import CR0, CR4, EFER, RFLAGS
from turducken.cpu.engine import library
from turducken.cpu.engine.segments import Segment, SegmentIndex, flags_of, rights_of

HEADER_BYTES = 40
STATE_BYTES = 5568
"""What a saved context begins with, and what follows: all that `State` is about."""

RIP = 16
EFLAGS = 17
CC_SOURCE = 19
CC_OPERATION = 21
CC_OP_EFLAGS = 1
"""The low half of `CC_OPERATION` in the middle of a run, if the flags are in `CC_SOURCE`."""
HFLAGS = 22
_SEGMENTS = 23
CS_BASE = _SEGMENTS + 3 + 1
_CR0, _CR2, _CR3, _CR4 = 53, 55, 56, 57
_EFER = 74
_INTERCEPTS = 690
_XCR0 = 613
EXCEPTION = 673
"""Error code (low half) and a flag that the engine must not see set (high half)."""

MSR_WORDS = {
    0x174: 600,
    0x175: 601,
    0x176: 602,
    0xC000_0081: 603,
    0xC000_0082: 605,
    0xC000_0083: 606,
    0xC000_0084: 607,
    0xC000_0102: 608,
    0xC000_0103: 612,
}
"""MSRs that instructions run by the engine itself use (SYSCALL, SWAPGS, RDTSCP ...)."""

# The engine's summary of mode and segments ("hflags"), which must agree with the registers.
H_CPL = 3
H_SHADOW = 1 << 3
_H_CS32, _H_SS32, _H_ADDSEG, H_PE = 1 << 4, 1 << 5, 1 << 6, 1 << 7
_H_FPU_SHIFT = 8
H_LMA, H_CS64 = 1 << 14, 1 << 15
_H_SVME, _H_GUEST = 1 << 20, 1 << 21
_H_OSFXSR, _H_SMAP = 1 << 22, 1 << 23

_VM = RFLAGS.mask("VM")
_PE, _FPU_BITS = CR0.mask("PE"), CR0.mask("MP", "EM", "TS")
_OSFXSR, _SMAP, _LA57 = CR4.mask("OSFXSR"), CR4.mask("SMAP"), CR4.mask("LA57")
_LMA = EFER.mask("LMA")


class State:
    """The registers of one processor."""

    def __init__(self, handle: int) -> None:
        self.address = library.state_address(handle)
        raw = (ctypes.c_char * STATE_BYTES).from_address(self.address)
        self.words = memoryview(raw).cast("B").cast("Q")
        self.gpr = self.words[:16]
        self._segments = self.words[_SEGMENTS : _SEGMENTS + 3 * 8]
        self._segment_bytes = self._segments.cast("B")
        self._system = self.words[_SEGMENTS : _CR0 + 1].cast("B")

    @property
    def flags_address(self) -> int:
        """Where RFLAGS is in this process."""
        return self.address + 8 * EFLAGS

    @property
    def rip(self) -> int:
        """The instruction pointer."""
        return self.words[RIP]

    @rip.setter
    def rip(self, value: int) -> None:
        self.words[RIP] = value

    @property
    def rflags(self) -> int:
        """RFLAGS (while the engine runs, the arithmetic flags and DF are stale)."""
        return self.words[EFLAGS]

    @rflags.setter
    def rflags(self, value: int) -> None:
        self.words[EFLAGS] = value & 0xFFFF_FFFF | 2

    @property
    def cr0(self) -> int:
        """CR0 as it is in force."""
        return self.words[_CR0]

    @cr0.setter
    def cr0(self, value: int) -> None:
        self.words[_CR0] = value

    @property
    def cr2(self) -> int:
        """CR2."""
        return self.words[_CR2]

    @cr2.setter
    def cr2(self, value: int) -> None:
        self.words[_CR2] = value

    @property
    def cr3(self) -> int:
        """CR3."""
        return self.words[_CR3]

    @cr3.setter
    def cr3(self, value: int) -> None:
        self.words[_CR3] = value

    @property
    def cr4(self) -> int:
        """CR4 as it is in force."""
        return self.words[_CR4]

    @cr4.setter
    def cr4(self, value: int) -> None:
        self.words[_CR4] = value

    @property
    def xcr0(self) -> int:
        """XCR0, which XSAVE and XRSTOR obey."""
        return self.words[_XCR0]

    @xcr0.setter
    def xcr0(self, value: int) -> None:
        self.words[_XCR0] = value

    def is_canonical(self, address: int) -> bool:
        """Tell whether an address is one that 4-level or, with CR4.LA57, 5-level paging has."""
        return is_canonical(address, width=57 if self.words[_CR4] & _LA57 else 48)

    @property
    def efer(self) -> int:
        """IA32_EFER (without the engine's own enable bit)."""
        return self.words[_EFER] & ~(1 << 12)

    @efer.setter
    def efer(self, value: int) -> None:
        self.words[_EFER] = value | 1 << 12

    @property
    def cpl(self) -> int:
        """The current privilege level."""
        return self.words[HFLAGS] & H_CPL

    @cpl.setter
    def cpl(self, value: int) -> None:
        self.words[HFLAGS] = self.words[HFLAGS] & ~H_CPL | value

    @property
    def mode_summary(self) -> int:
        """What `update_mode` keeps true."""
        return self.words[HFLAGS] & 0xFFFF_FFFF

    @mode_summary.setter
    def mode_summary(self, value: int) -> None:
        self.words[HFLAGS] = self.words[HFLAGS] & ~0xFFFF_FFFF | value

    @property
    def is_64bit(self) -> bool:
        """In 64-bit mode (IA-32e mode with CS.L = 1)."""
        return bool(self.words[HFLAGS] & H_CS64)

    @property
    def is_32bit_code(self) -> bool:
        """CS.D = 1 (false in 64-bit mode as CS.D is 0 there)."""
        return bool(self.words[HFLAGS] & _H_CS32) and not self.is_64bit

    @property
    def in_shadow(self) -> bool:
        """Interrupts are blocked for one instruction (STI, MOV SS, POP SS)."""
        return bool(self.words[HFLAGS] & H_SHADOW)

    @in_shadow.setter
    def in_shadow(self, value: bool) -> None:
        self.words[HFLAGS] = self.words[HFLAGS] & ~H_SHADOW | (H_SHADOW if value else 0)

    @property
    def error_code(self) -> int:
        """The error code of the exception that the engine stopped at."""
        return self.words[EXCEPTION] & 0xFFFF_FFFF

    def advance(self, length: int) -> int:
        """Move RIP behind an instruction and end the interrupt shadow; return RFLAGS."""
        words = self.words
        summary = words[HFLAGS]
        rip = words[RIP] + length
        words[RIP] = rip & (0xFFFF_FFFF_FFFF_FFFF if summary & H_CS64 else 0xFFFF_FFFF)
        if summary & H_SHADOW:
            words[HFLAGS] = summary & ~H_SHADOW
        return words[EFLAGS]

    def forget_exception(self) -> None:
        """Clear what the engine would otherwise carry over from the last exception."""
        self.words[EXCEPTION] = 0

    @property
    def intercepts(self) -> int:
        """The SVM intercepts of instructions, as the VMCB has them at offset 0Ch."""
        return self.words[_INTERCEPTS]

    @intercepts.setter
    def intercepts(self, value: int) -> None:
        self.words[_INTERCEPTS] = value

    @property
    def segment_words(self) -> bytes:
        """The eight segment registers as the engine holds them (compare, keep, give back)."""
        return self._segments.tobytes()

    @segment_words.setter
    def segment_words(self, value: bytes) -> None:
        self._segment_bytes[:] = value

    @property
    def system_image(self) -> bytes:
        """All segment and descriptor-table registers and CR0, as the engine holds them."""
        return self._system.tobytes()

    @system_image.setter
    def system_image(self, value: bytes) -> None:
        self._system[:] = value

    def segment(self, index: int) -> Segment:
        """Return a segment register (any but GDTR and IDTR) as a processor would have it."""
        at = _SEGMENTS + 3 * index
        words = self.words
        packed = words[at + 2]
        access = rights_of(index, packed >> 32, words[HFLAGS] & H_CPL)
        return Segment(words[at] & 0xFFFF, words[at + 1], packed & 0xFFFF_FFFF, access)

    def set_segment(self, index: int, segment: Segment) -> None:
        """Load a segment register with its hidden part; call `update_mode` when all are loaded."""
        at = _SEGMENTS + 3 * index
        words = self.words
        words[at] = segment.selector
        words[at + 1] = segment.base
        words[at + 2] = segment.limit | flags_of(index, segment.access) << 32

    def table(self, index: int) -> tuple[int, int]:
        """Return base and limit of GDTR or IDTR."""
        at = _SEGMENTS + 3 * index
        return self.words[at + 1], self.words[at + 2] & 0xFFFF_FFFF

    def set_table(self, index: int, base: int, limit: int) -> None:
        """Load GDTR or IDTR."""
        at = _SEGMENTS + 3 * index
        self.words[at + 1] = base
        self.words[at + 2] = limit

    def segment_base(self, index: int) -> int:
        """Return a segment register's base."""
        return self.words[_SEGMENTS + 3 * index + 1]

    def set_segment_base(self, index: int, base: int) -> None:
        """Set a segment register's base alone."""
        self.words[_SEGMENTS + 3 * index + 1] = base

    def update_mode(self, cpl: int | None = None) -> None:
        """Make the engine's summary agree with CR0, CR4, EFER, RFLAGS.VM and the segments.

        ``cpl`` is the new privilege level; without it the current one stays.
        """
        words = self.words
        cr0, cr4 = words[_CR0], words[_CR4]
        level = words[HFLAGS] & H_CPL if cpl is None else cpl
        flags = level | words[HFLAGS] & H_SHADOW | _H_SVME | _H_GUEST
        flags |= (cr0 & _FPU_BITS) << _H_FPU_SHIFT
        if cr4 & _OSFXSR:
            flags |= _H_OSFXSR
        if cr4 & _SMAP:
            flags |= _H_SMAP
        code = self._descriptor(SegmentIndex.CS)
        if cr0 & _PE:
            flags |= H_PE
        if words[_EFER] & _LMA:
            flags |= H_LMA
            if code >> 21 & 1:
                flags |= H_CS64
        if code >> 22 & 1 or flags & H_CS64:
            flags |= _H_CS32
        if self._descriptor(SegmentIndex.SS) >> 22 & 1 or flags & H_CS64:
            flags |= _H_SS32
        if not flags & H_CS64 and self._needs_bases(cr0, flags):
            flags |= _H_ADDSEG
        words[HFLAGS] = flags | words[HFLAGS] & ~0xFFFF_FFFF

    def _descriptor(self, index: int) -> int:
        return self.words[_SEGMENTS + 3 * index + 2] >> 32

    def _needs_bases(self, cr0: int, flags: int) -> bool:
        if not cr0 & _PE or self.words[EFLAGS] & _VM or not flags & _H_CS32:
            return True
        return any(
            self.segment_base(one) for one in (SegmentIndex.DS, SegmentIndex.ES, SegmentIndex.SS)
        )


class Checkpoint:
    """The registers as they are at a moment in the middle of a run, to go back to after it."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        pointer = ctypes.c_void_p()
        library.context_alloc(handle, ctypes.byref(pointer))
        assert pointer.value is not None
        self._context = pointer.value
        raw = (ctypes.c_char * (HEADER_BYTES + STATE_BYTES)).from_address(pointer.value)
        self.words = memoryview(raw).cast("B")[HEADER_BYTES:].cast("Q")
        self._flags = ctypes.c_uint64()
        self._flags_pointer = ctypes.addressof(self._flags)

    def take(self) -> None:
        """Remember the registers.

        The engine keeps the arithmetic flags and DF apart while it runs; it takes them from RFLAGS
        when a run begins, and puts them back there when one ends.
        """
        library.context_save(self._handle, self._context)
        library.context_reg_read(self._context, x86_const.UC_X86_REG_RFLAGS, self._flags_pointer)
        self.words[EFLAGS] = self._flags.value

    def restore(self) -> None:
        """Go back."""
        library.context_restore(self._handle, self._context)
