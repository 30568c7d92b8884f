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


@BOTH
def test_the_boot_processor_begins_with_its_caches_on(mode: Mode) -> None:
    code = "0f20c0 2500000060 baf4000000 ef"  # mov eax, cr0; and eax, CD | NW; out 0f4h, eax
    assert found_by(mode, code) == 0


INIT_TWICE = (
    "be92001000 bf00800000 b990000000 fc f3a4"  # copy the other processor's code to 8000h
    "bd0000e0fe c785f0000000ff010000"  # APIC on
    "e81b000000 e816000000"  # call send; call send
    "f390 803d0090000002 75f5"  # wait for its second turn
    "a104900000 baf4000000 ef"  # what it found then
    "c7851003000000000001 c7850003000000450000 b9c8000000 f390e2fc"  # send: INIT
    "c7850003000008460000 b9c8000000 f390e2fc c3"  # start-up IPI, page 8
    "fa31c08ed8 660f01168a80 0f20c0 6689c3 0c01 0f22c0 b908008ec1 24fe 0f22c0"  # ES flat
    "66bf0000e0fe 2667668b8780000000 2667668b8ff0000000 66c1e108 6609c8"  # TPR, SVR
    "6681e300000060 6609d8 66a30490 fe060090"  # CR0's CD and NW
    "266766c7878000000020000000 266766c787f0000000ff010000"  # TPR 20h, SVR 1ffh
    "0f20c0 6625ffffff9f 0f22c0 f4ebfd"  # caches on
    "0000000000000000 ffff00000093cf00 0f00 7a800000"
)


@BOTH
def test_init_resets_the_local_apic_and_turns_caches_off(mode: Mode) -> None:
    """The other processor changes TPR, SVR and CR0, and reads them again after a second INIT."""
    assert found_by(mode, INIT_TWICE, cpus=2) == 0x6000_FF00


CR0_NE_THEN_PG = (
    "bf00003000 b883000000 b900040000 8907 83c704 0500004000 e2f4"  # a page directory at 3 MiB
    "b800003000 0f22d8 b810200000 0f22e0"  # CR3; CR4: PSE, VMXE
    "0f20c0 83c820 0f22c0 0d00000080 0f22c0 eb00"  # NE, then PG
    "b980040000 0f32 25ffffff7f a300003100"  # the revision of a VMXON region
    "c70500f01f0000003100 c70504f01f0000000000 f30fc73500f01f00 7614"  # vmxon
    "0f20c0 c1e81f baf4000000 ef"
)


@BOTH
def test_cr0_reads_as_written_after_vmxon(mode: Mode) -> None:
    assert found_by(mode, CR0_NE_THEN_PG) == 1


@BOTH
def test_control_words_of_the_floating_point_units_after_reset(mode: Mode) -> None:
    """FNSTCW, STMXCSR with CR4.OSFXSR; MXCSR * 65536 + FCW."""
    code = (
        "0f20e0 0d00020000 0f22e0 d93d 00051000 0fae1d 04051000"  # or cr4, 200h; fnstcw; stmxcsr
        "a1 04051000 c1e010 66a1 00051000 baf4000000 ef"  # mov eax, ..; shl eax, 16; mov ax, ..
    )
    assert found_by(mode, code, more={LOAD + 0x500: b"\xff" * 8}) == 0x1F80_0040


@MODES
def test_a_step_behind_a_load_of_ss_goes_through_l0(mode: Mode, cpus: int) -> None:
    """POPF sets TF; MOV SS holds the step back; MOV CR0 exits to L0. #DB is behind it: 10005ah."""
    code = (
        ENTER + "66b81000 8ed8 8ed0 bc00001800 0f011d 20041000"  # mov esp, 180000h; lidt [100420h]
        "0f20c0 83f020 b910000000 31f6 6802010000 9d 8ed1 0f22c0 90"  # push 102h; popf; mov ss, ecx
    )
    handler = bytes.fromhex("58 baf4000000 ef")  # pop eax; mov edx, 0f4h; out dx, eax
    gate = 0x0300 | 8 << 16 | 0x8E << 40 | 0x10 << 48
    idt = struct.pack("<HIHQQ", 15, LOAD + 0x428, 0, 0, gate)
    more = {LOAD + 0x420: idt, LOAD + 0x300: handler}
    assert found_by(mode, code, CODE32, DATA32, cpus=cpus, more=more) == 0x10_005A


@MODES
def test_code_stored_through_one_linear_address_and_run_at_another(mode: Mode, cpus: int) -> None:
    """4 MiB pages map 400000h to 0: MOV EAX, n; RET stored at 200000h, CPUID, CALL 600000h."""

    def round_of(number: str) -> str:
        check = "31c0 0fa2 ffd7 83f8" + number + "0f95c0 0fb6c0 01c5"
        return f"c705 00002000 b8{number}0000" + check  # mov [200000h], ..; cpuid; call edi

    code = (
        "bc00001f00 c705 00003000 83000000 c705 04003000 83000000"  # the page directory at 300000h
        "b800003000 0f22d8 b810000000 0f22e0 0f20c0 0d00000080 0f22c0"  # CR3, CR4.PSE, CR0.PG
        "31ed be14000000 bf00006000 66c705 04002000 00c3"  # mov esi, 20; mov word [200004h], ..
        + round_of("01")
        + round_of("02")
        + "4e 75c7 89e8 baf4000000 ef"  # dec esi; jnz; mov eax, ebp; out
    )
    assert found_by(mode, code, cpus=cpus) == 0
