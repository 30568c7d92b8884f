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


USER_CODE, USER_DATA = 0x00CF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF
TASK, OTHER_TASK = LOAD + 0x500, LOAD + 0x580
MODES = pytest.mark.parametrize(
    ("mode", "cpus"), [(mode, cpus) for mode in Mode for cpus in (1, 2)]
)


def task_at(place: int) -> int:
    """Return the descriptor of an available TSS."""
    return 0x67 | (place & 0xFF_FFFF) << 16 | 0x89 << 40 | (place >> 24) << 56


def found_by(
    mode: Mode, code: str, *descriptors: int, cpus: int = 1, more: dict[int, bytes] | None = None
) -> int:
    """Run ``code`` with a GDT of the null descriptor and these; return its debug-exit value.

    ``more`` is put into the image at linear addresses.
    """
    table = struct.pack(f"<{len(descriptors) + 1}Q", 0, *descriptors)
    text = bytes.fromhex(code).ljust(DATA - _HEADER, b"\xf4")
    body = text + struct.pack("<HI", len(table) - 1, GDT).ljust(8, b"\0") + table
    image = bytearray(body.ljust(0x1000, b"\0"))
    for place, data in (more or {}).items():
        begin = place - LOAD - _HEADER
        image[begin : begin + len(data)] = data
    system = System(SystemOptions(tiny(bytes(image)), mode=mode, memory=16 << 20, cpus=cpus))
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


DATA_SEGMENTS = "66b81000 8ed8 8ec0 8ed0"
"""mov ax, 10h; mov ds, ax; mov es, ax; mov ss, ax"""


@MODES
def test_a_call_gate_to_an_inner_level(mode: Mode, cpus: int) -> None:
    """IRET to level 3, CALL 33h:0 to 10005bh, which finds CS = 8."""
    code = (
        ENTER + DATA_SEGMENTS + "66b82800 0f00d8 31c0 0fa2"  # mov ax, 28h; ltr ax; cpuid
        "6a23 6800001800 6a02 6a1b 6854001000 cf"  # push 23h, 180000h, 2, 1bh, 100054h; iret
        "9a 00000000 3300 baf4000000 8cc8 ef"  # call 33h:0; mov edx, 0f4h; mov eax, cs; out
    )
    gate = 0x5B | 8 << 16 | 0xEC << 40 | 0x10 << 48
    task = struct.pack("<3I", 0, LOAD + 0x8_0000, 0x10)
    found = found_by(
        mode, code, CODE32, DATA32, USER_CODE, USER_DATA, task_at(TASK), gate,
        cpus=cpus, more={TASK: task},
    )  # fmt: skip
    assert found == 8


@MODES
def test_a_load_of_ss_is_not_taken_for_sti(mode: Mode, cpus: int) -> None:
    """MOV SS, [EBP - 5] ends in FBH, and L0 looks before the next instruction is complete."""
    code = (
        ENTER + "66b81000 8ed8 bd15041000 66c705 10041000 1000"  # mov ebp, 100415h; [100410h] = 10h
        "0f20c0 83f020 fa 8e55fb 0f22c0"  # mov eax, cr0; xor eax, 20h; cli; mov ss, ..; mov cr0
        "baf4000000 31c0 ef"
    )
    assert found_by(mode, code, CODE32, DATA32, cpus=cpus) == 0


@MODES
def test_a_jump_to_another_task(mode: Mode, cpus: int) -> None:
    """JMP 20h:0; the new task exits with its EBX."""
    code = (
        ENTER + DATA_SEGMENTS + "66b81800 0f00d8 ea 00000000 2000"  # mov ax, 18h; ltr ax; jmp
        "baf4000000 89d8 ef"  # 100046h: mov edx, 0f4h; mov eax, ebx; out dx, eax
    )
    fields = [0] * 26
    fields[8:10] = LOAD + 0x46, 2  # EIP, EFLAGS
    fields[13:15] = 0x55, LOAD + 0x8_0000  # EBX, ESP
    fields[18:24] = 0x10, 8, 0x10, 0x10, 0x10, 0x10
    found = found_by(
        mode, code, CODE32, DATA32, task_at(TASK), task_at(OTHER_TASK),
        cpus=cpus, more={OTHER_TASK: struct.pack("<26I", *fields)},
    )  # fmt: skip
    assert found == 0x55
