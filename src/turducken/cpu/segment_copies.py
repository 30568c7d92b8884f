"""Segment registers between the engine's form and the VMCS's; they seldom change.

The engine holds a segment register as three words, the VMCS as four fields; all eight registers are
one run in each. A translation that was made once is a copy of bytes the next time.
"""

import struct

from turducken.cpu.engine import State
from turducken.cpu.engine.segments import flags_of, rights_of
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs import Vmcs

_ENGINE = struct.Struct("<" + "QQII" * 8)
_VMCS = struct.Struct("<32Q")
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
    rights = [rights_of(number, one, cpl) for number, one in enumerate(flags)]
    return _VMCS.pack(*(one & 0xFFFF for one in selectors), *bases, *limits, *rights)


def _to_engine(image: bytes) -> bytes:
    fields = _VMCS.unpack(image)
    words: list[int] = []
    for number in range(8):
        selector, base, limit, access = fields[number::8]
        words += (selector & 0xFFFF, base, limit & 0xFFFF_FFFF, flags_of(number, access))
    return _ENGINE.pack(*words)
