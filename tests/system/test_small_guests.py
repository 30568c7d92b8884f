"""Guests of some instructions that do what seldom is done, bare and under L0, by the manual.

Each says by its debug-exit value what it found. Their code stands here as bytes.
"""

import struct

import pytest
from tiny_images import LOAD, tiny

from turducken.system import Mode, Outcome, Stops, System, SystemOptions

BOTH = pytest.mark.parametrize("mode", list(Mode), ids=lambda one: one.value)
DATA = 0x400
"""Offset of the image's data: GDTR, then the GDT from `GDT` on."""
GDT = LOAD + DATA + 8
CODE32, DATA32 = 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
_HEADER = 32

ENTER = "0f0115 00041000  ea 2e001000 0800"
"""lgdt [100400h]; jmp 8:$+7"""


def found_by(mode: Mode, code: str, *descriptors: int, cpus: int = 1) -> int:
    """Run ``code`` with a GDT of the null descriptor and these; return its debug-exit value."""
    table = struct.pack(f"<{len(descriptors) + 1}Q", 0, *descriptors)
    text = bytes.fromhex(code).ljust(DATA - _HEADER, b"\xf4")
    image = tiny(text + struct.pack("<HI", len(table) - 1, GDT).ljust(8, b"\0") + table)
    system = System(SystemOptions(image, mode=mode, memory=16 << 20, cpus=cpus))
    result = system.run(Stops(max_instructions=2_000_000))
    assert result.outcome is Outcome.GUEST_EXIT
    assert result.code is not None
    return result.code


@BOTH
def test_segments_that_are_loaded_are_accessed(mode: Mode) -> None:
    """Far JMP to, MOV SS from descriptors that are not; CPUID; their access rights then."""
    code = (
        ENTER + "b910000000 8ed1 31c0 0fa2"  # mov ecx, 10h; mov ss, ecx; xor eax, eax; cpuid
        "0fb605 15041000 0fb61d 1d041000"  # movzx eax, byte [100415h]; movzx ebx, byte [10041dh]
        "c1e008 09d8 baf4000000 ef"  # shl eax, 8; or eax, ebx; mov edx, 0f4h; out dx, eax
    )
    assert found_by(mode, code, CODE32 ^ 1 << 40, DATA32 ^ 1 << 40) == 0x9B93
