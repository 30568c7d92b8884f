"""Segment registers between the engine's form and the VMCS's; they seldom change.

The engine holds a segment register as three words, the VMCS as four fields; all eight registers are
one run in each. A translation that was made once is a copy of bytes the next time.
"""

import struct

from turducken.cpu.engine import State
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs import Vmcs

_ENGINE = struct.Struct("<" + "QQII" * 8)
_VMCS = struct.Struct("<32Q")
_PRESENT, _UNUSABLE = 0x80, 1 << 16
_SS, _TR = 2, 7
_BUSY = 2
_LIMIT = 1024

_saved: dict[tuple[bytes, int], bytes] = {}
_loaded: dict[bytes, bytes] = {}


def save_segments(state: State, vmcs: Vmcs) -> None:
    """Write the segment registers to the guest-state area."""
    key = (state.segment_words, state.cpl)
    image = _saved.get(key)
    if image is None:
        if len(_saved) >= _LIMIT:
            _saved.clear()
        image = _saved[key] = _to_vmcs(*key)
    vmcs.unpack(f.GUEST_SEGMENT_SLOTS, image)


def load_segments(state: State, vmcs: Vmcs) -> None:
    """Load the segment registers from the guest-state area."""
    key = vmcs.pack(f.GUEST_SEGMENT_SLOTS)
    image = _loaded.get(key)
    if image is None:
        if len(_loaded) >= _LIMIT:
            _loaded.clear()
        image = _loaded[key] = _to_engine(key)
    state.segment_words = image


def _to_vmcs(words: bytes, cpl: int) -> bytes:
    parts = _ENGINE.unpack(words)
    selectors, bases, limits, flags = (parts[n::4] for n in range(4))
    rights = []
    for number, one in enumerate(flags):
        access = one >> 8 & 0xF0FF
        if not access & _PRESENT:
            access |= _UNUSABLE
        if number == _SS:
            # The DPL of SS is the CPL, even where SS is unusable.
            access = access & ~0x60 | cpl << 5
        if number == _TR:
            access |= _BUSY  # LTR loads it so; the engine keeps the descriptor as it was before
        rights.append(access)
    return _VMCS.pack(*(one & 0xFFFF for one in selectors), *bases, *limits, *rights)


def _to_engine(image: bytes) -> bytes:
    fields = _VMCS.unpack(image)
    words: list[int] = []
    for number in range(8):
        selector, base, limit, access = fields[number::8]
        flags = (access & 0xF0FF) << 8
        if access & _UNUSABLE:
            flags = flags & ~(_PRESENT << 8) if number == _SS else 0
        words += (selector & 0xFFFF, base, limit & 0xFFFF_FFFF, flags)
    return _ENGINE.pack(*words)
