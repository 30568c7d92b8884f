"""Every trap of the engine stops exactly before (or behind) its instruction; nothing is lost."""

import pytest
from engine_rig import CODE, DATA, FETCH, READ, STACK, WRITE, EngineRig

from turducken.cpu.engine import SegmentIndex, Trap

IO, FAULT, SPECIAL = int(Trap.IO), int(Trap.FAULT), int(Trap.SPECIAL)
INT = int(Trap.SOFTWARE_INTERRUPT)

BEFORE = "b8 ffffffff 83c001 d1d9"
"""mov eax, -1; add eax, 1; rcr ecx, 1 - with ECX = 1."""
BEFORE_LENGTH = 10
EAX, ECX, FLAGS = 0, 0x8000_0000, 0x857
AFTER = "c70425 00800000 77777777 f4"
"""mov dword [DATA], 77777777h; hlt: the rest of the block, which must have no effect."""

SENSITIVE_64 = {
    "cpuid": ("0fa2", 0x172),
    "rdmsr": ("0f32", 0x17C),
    "wrmsr": ("0f30", 0x17C),
    "hlt": ("f4", 0x178),
    "rdtsc": ("0f31", 0x16E),
    "rdtscp": ("0f01f9", 0x16E),
    "rdpmc": ("0f33", 0x16F),
    "pause": ("f390", 0x177),
    "invlpg [rcx]": ("0f0139", 0x179),
    "wbinvd": ("0f09", 0x189),
    "mov rdx, cr0": ("0f20c2", 0x100),
    "mov rdx, cr2": ("0f20d2", 0x102),
    "mov rdx, cr3": ("0f20da", 0x103),
    "mov rdx, cr4": ("0f20e2", 0x104),
    "mov rdx, cr8": ("440f20c2", 0x108),
    "mov cr0, rdx": ("0f22c2", 0x110),
    "mov cr2, rdx": ("0f22d2", 0x112),
    "mov cr3, rdx": ("0f22da", 0x113),
    "mov cr4, rdx": ("0f22e2", 0x114),
    "mov cr8, rdx": ("440f22c2", 0x118),
    "clts": ("0f06", 0x110),
    "lmsw dx": ("0f01f2", 0x110),
    "smsw edx": ("0f01e2", 0x100),
    "mov rdx, dr0": ("0f21c2", 0x120),
    "mov rdx, dr7": ("0f21fa", 0x127),
    "mov dr3, rdx": ("0f23da", 0x133),
    "mov dr6, rdx": ("0f23f2", 0x136),
    "ud2": ("0f0b", 0x146),
    "vmcall": ("0f01c1", 0x146),
    "vmlaunch": ("0f01c2", 0x146),
    "vmresume": ("0f01c3", 0x146),
    "vmxoff": ("0f01c4", 0x146),
    "vmfunc": ("0f01d4", 0x146),
    "vmread rdx, rcx": ("0f78ca", 0x146),
    "vmwrite rdx, rcx": ("0f79d1", 0x146),
    "vmptrld [rcx]": ("0fc731", 0x146),
    "vmptrst [rcx]": ("0fc739", 0x146),
    "vmclear [rcx]": ("660fc731", 0x146),
    "vmxon [rcx]": ("f30fc731", 0x146),
    "invept rdx, [rcx]": ("660f388011", 0x146),
    "invvpid rdx, [rcx]": ("660f388111", 0x146),
    "invpcid rdx, [rcx]": ("660f388211", 0x146),
    "vmrun": ("0f01d8", 0x180),
    "vmmcall": ("0f01d9", 0x181),
    "vmload": ("0f01da", 0x182),
    "vmsave": ("0f01db", 0x183),
    "stgi": ("0f01dc", 0x184),
    "clgi": ("0f01dd", 0x185),
    "div ecx by 0": ("f7f3", 0x140),
    "mov ds, a selector beyond the GDT": ("66ba3412 8eda", 0x14D),
    "in al, dx": ("ec", IO),
    "out dx, eax": ("ef", IO),
    "in eax, 80h": ("e580", IO),
    "out 80h, al": ("e680", IO),
    "outsb": ("6e", IO),
}


SENSITIVE_32 = {
    "cpuid": ("0fa2", 0x172),
    "mov cr0, edx": ("0f22c2", 0x110),
    "in eax, dx": ("ed", IO),
    "into": ("ce", INT + 4),
    "bound": ("62 05 00400000", 0x145),
    "vmxon [ecx]": ("f30fc731", 0x146),
    "hlt": ("f4", 0x178),
}
BEHIND = {"int 30h": ("cd30", INT + 0x30), "int3": ("cc", INT + 3), "int 80h": ("cd80", INT + 0x80)}
"""Software interrupts stop behind the instruction."""


def check_state(rig: EngineRig, rip: int) -> None:
    state = rig.state
    assert (state.rip, state.gpr[4]) == (rip, STACK)
    assert (state.gpr[0], state.gpr[1], state.rflags & ~(1 << 16)) == (EAX, ECX, FLAGS)
    assert rig.memory.load(DATA, 4) == 0
    assert not state.in_shadow


@pytest.mark.parametrize("name", SENSITIVE_64)
def test_an_instruction_that_is_ours_has_not_begun(name: str) -> None:
    code, expected = SENSITIVE_64[name]
    rig = EngineRig(BEFORE + code + AFTER)
    rig.host.closed_ports = True
    rig.state.set_table(SegmentIndex.GDTR, 0, 7)
    rig.state.gpr[1] = 1
    rig.state.gpr[6] = DATA
    assert rig.run() == expected
    length = 4 if expected == 0x14D else 0
    check_state(rig, CODE + BEFORE_LENGTH + length)


@pytest.mark.parametrize("name", SENSITIVE_32)
def test_in_32_bit_code_too(name: str) -> None:
    code, expected = SENSITIVE_32[name]
    rig = EngineRig(BEFORE + code + "c705 00800000 77777777 f4", bits=32)
    rig.host.closed_ports = True
    rig.state.gpr[1] = 1
    rig.memory.store(0x4000, 8, 0)
    if name == "bound":
        rig.memory.store(0x4000, 8, 5 << 32 | 1)
    assert rig.run() == expected
    check_state(rig, CODE + BEFORE_LENGTH + (1 if name == "into" else 0))


@pytest.mark.parametrize("name", BEHIND)
def test_a_software_interrupt_stops_behind_its_instruction(name: str) -> None:
    code, expected = BEHIND[name]
    rig = EngineRig(BEFORE + code + AFTER)
    rig.state.gpr[1] = 1
    assert rig.run() == expected
    check_state(rig, CODE + BEFORE_LENGTH + len(bytes.fromhex(code)))


def test_the_error_code_of_an_exception() -> None:
    rig = EngineRig("66ba 7556 8eda")
    rig.state.set_table(SegmentIndex.GDTR, 0, 7)
    assert rig.run() == 0x14D
    assert rig.state.error_code == 0x5674
    assert rig.run() == 0x14D  # it is met again, by itself and not as a double fault
    assert rig.state.error_code == 0x5674


def test_device_not_available() -> None:
    rig = EngineRig("d9e8 f4")
    rig.state.cr0 |= 8
    rig.state.update_mode()
    assert rig.run() == 0x147
    rig.state.cr0 &= ~8
    rig.state.update_mode()
    assert rig.run() == 0x178


# Accesses that the host refuses


REFUSED = {
    "mov eax, [m]": ("8b0425 08800000", READ, 0x8008),
    "mov [m], eax": ("890425 0c800000", WRITE, 0x800C),
    "mov al, [m]": ("8a0425 ff8f0000", READ, 0x8FFF),
    "mov [m], rax": ("48890425 f8800000", WRITE, 0x80F8),
    "movaps xmm0, [m]": ("0f280425 10800000", READ, 0x8010),
    "add dword [m], 1": ("830425 10800000 01", READ, 0x8010),
    "lock add [m], eax": ("f0010425 10800000", READ, 0x8010),
    "xchg [m], eax": ("870425 10800000", READ, 0x8010),
    "push qword [m]": ("ff3425 10800000", READ, 0x8010),
    "pop qword [m]": ("8f0425 10800000", WRITE, 0x8010),
    "lodsb": ("ac", READ, 0x8000),
    "movsb": ("a4", READ, 0x8000),
    "stosb": ("aa", WRITE, 0x8100),
    "fxsave": ("0fae0425 00800000", WRITE, 0x8000),
    "fxrstor": ("0fae0c25 00800000", READ, 0x8000),
    "fstp tword [m]": ("db3c25 20800000", WRITE, 0x8020),
    "cmpxchg16b": ("480fc70c25 10800000", WRITE, 0x8010),
    "lar from a GDT there": ("410f02c0", READ, 0x8100),
}
"""The operand is in page 8000h, of which nothing may be done that the instruction does."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_access(name: str) -> None:
    code, kind, address = REFUSED[name]
    rig = EngineRig(BEFORE + code + AFTER)
    rig.host.refused = {(0x8000, kind), (0x8000, WRITE)}
    rig.state.set_table(SegmentIndex.GDTR, 0x8000, 0xFFF)
    rig.state.gpr[1], rig.state.gpr[6], rig.state.gpr[7] = 1, 0x8000, 0x8100
    rig.state.gpr[8] = 0x100
    assert rig.run() == FAULT
    assert (rig.engine.fault_kind, rig.engine.fault_address) == (kind, address)
    check_state(rig, CODE + BEFORE_LENGTH)
    assert rig.memory.read(0x8000, 0x1000) == bytes(0x1000)
    rig.engine.flush_tlb()
    assert rig.run() == FAULT  # and again, for as long as it is refused
    check_state(rig, CODE + BEFORE_LENGTH)


SECOND_PAGE = {
    "fxsave": ("0fae03", WRITE, 0x9000, 0x8F80),
    "fstp tword": ("db3b", WRITE, 0x9000, 0x8FFC),
    "movups": ("0f1103", WRITE, 0x9000, 0x8FF4),
    "cmpxchg8b": ("0fc70b", WRITE, 0x9000, 0x8FFC),
    "push": ("50", WRITE, 0x9000, 0x9004),
    "far call": ("ff1c25 10800000", WRITE, 0x9000, 0x9004),
}


@pytest.mark.parametrize("name", SECOND_PAGE)
def test_an_instruction_with_several_accesses_of_which_one_is_refused(name: str) -> None:
    """No register has changed, and nothing that comes after it has happened."""
    code, kind, address, operand = SECOND_PAGE[name]
    rig = EngineRig(BEFORE + code + AFTER)
    rig.state.set_table(SegmentIndex.GDTR, 0xA000, 0xF)
    rig.memory.store(0xA008, 8, 0x00AF_9B00_0000_FFFF)
    rig.memory.store(0x8010, 8, 0x0008_0000_2000)
    rig.host.refused = {(0x9000, kind)}
    stack = operand if name in ("push", "far call") else STACK
    rig.state.gpr[1], rig.state.gpr[3], rig.state.gpr[4] = 1, operand, stack
    assert rig.run() == FAULT
    engine, state = rig.engine, rig.state
    assert (engine.fault_kind, engine.fault_address & ~0xFFF) == (kind, address)
    assert (state.rip, state.gpr[4], state.gpr[0], state.gpr[1]) == (
        CODE + BEFORE_LENGTH,
        stack,
        EAX,
        ECX,
    )
    assert state.segment(SegmentIndex.CS).selector == 8
    assert rig.memory.load(DATA, 4) == 0


def test_monitor_and_mwait() -> None:
    for code, expected in (("0f01c8", 0x18A), ("0f01c9", 0x18B)):
        rig = EngineRig(code)
        assert (rig.run(), rig.state.rip) == (expected, CODE)
        rig.state.gpr[1] = 2
        assert (rig.run(), rig.state.rip) == (0x14D, CODE)


def test_a_refused_write_of_a_read_modify_write_has_changed_nothing() -> None:
    rig = EngineRig("830425 10800000 01 f4")
    rig.host.refused = {(0x8000, WRITE)}
    rig.state.rflags = 0x8D7
    assert rig.run() == FAULT
    assert (rig.engine.fault_kind, rig.state.rip, rig.state.rflags) == (WRITE, CODE, 0x8D7)
    rig.host.refused.clear()
    assert rig.run() == 0x178
    assert rig.memory.load(DATA + 0x10, 4) == 1


@pytest.mark.parametrize("first", [1, 4, 7])
def test_a_write_into_two_pages_of_which_the_second_is_refused(first: int) -> None:
    """Nothing is written to the first page: the instruction has not been executed."""
    rig = EngineRig("48 8903 f4")
    rig.state.gpr[0] = (1 << 64) - 1
    rig.state.gpr[3] = 0x9000 - first
    rig.host.refused = {(0x9000, WRITE)}
    assert rig.run() == FAULT
    assert (rig.engine.fault_address, rig.state.rip) == (0x9000, CODE)
    assert rig.memory.read(0x8FF0, 16) == bytes(16)
    rig.host.refused.clear()
    assert rig.run() == 0x178
    assert rig.memory.read(0x9000 - first, 8) == b"\xff" * 8


@pytest.mark.parametrize("is_cached", [False, True])
def test_an_addition_into_two_pages_is_done_once(is_cached: bool) -> None:
    """Its write fails at the second page, and it is repeated as a whole."""
    rig = EngineRig(("8a03 8803" if is_cached else "9090 9090") + "830301 f4")
    rig.memory.store(0x8FFE, 2, 0xFFFF)
    rig.state.gpr[3] = 0x8FFE
    rig.host.refused = {(0x9000, WRITE)}
    assert rig.run() == FAULT
    assert (rig.engine.fault_address, rig.state.rip) == (0x9000, CODE + 4)
    rig.host.refused.clear()
    assert rig.run() == 0x178
    assert rig.memory.read(0x8FFE, 4) == b"\0\0\x01\0"


def test_a_read_from_two_pages_of_which_the_second_is_refused() -> None:
    rig = EngineRig("48 8b03 f4")
    rig.state.gpr[3] = 0x8FFD
    rig.host.refused = {(0x9000, READ)}
    assert rig.run() == FAULT
    assert (rig.engine.fault_address, rig.state.rip, rig.state.gpr[0]) == (0x9000, CODE, 0)


def test_a_push_that_is_refused_leaves_the_stack_pointer() -> None:
    rig = EngineRig("50 f4")
    rig.host.refused = {(0x6000, WRITE)}
    assert rig.run() == FAULT
    assert (rig.state.gpr[4], rig.engine.fault_address) == (STACK, STACK - 8)


def test_a_string_instruction_is_refused_in_the_middle() -> None:
    """The iterations before the refused one are complete, as the registers tell."""
    rig = EngineRig("f3a4 f4")  # rep movsb
    rig.memory.write(0xA000, bytes(range(1, 33)))
    rig.state.gpr[6], rig.state.gpr[7], rig.state.gpr[1] = 0xA000, 0x8FF8, 32
    rig.host.refused = {(0x9000, WRITE)}
    assert rig.run() == FAULT
    state = rig.state
    assert (state.rip, rig.engine.fault_address) == (CODE, 0x9000)
    assert (state.gpr[6], state.gpr[7], state.gpr[1]) == (0xA008, 0x9000, 24)
    rig.host.refused.clear()
    assert rig.run() == 0x178
    assert rig.memory.read(0x8FF8, 32) == bytes(range(1, 33))


def test_a_refused_fetch() -> None:
    rig = EngineRig("e9 fb0f0000")  # jmp 2000h
    rig.host.refused = {(0x2000, FETCH)}
    assert rig.run() == FAULT
    engine = rig.engine
    assert (engine.fault_kind, engine.fault_address, rig.state.rip) == (FETCH, 0x2000, 0x2000)


def test_an_instruction_whose_end_is_refused() -> None:
    rig = EngineRig()
    rig.put(0x1FFE, "b8 01000000 f4")
    rig.state.rip = 0x1FFE
    rig.host.refused = {(0x2000, FETCH)}
    assert rig.run() == FAULT
    assert (rig.engine.fault_address, rig.state.rip, rig.state.gpr[0]) == (0x2000, 0x1FFE, 0)
    rig.host.refused.clear()
    assert rig.run() == 0x178
    assert rig.state.gpr[0] == 1


# IN and OUT


def test_in_gives_what_the_host_says() -> None:
    rig = EngineRig("b8 ffffffff 66baf803 ec 66ed f4")
    rig.state.gpr[0] = (1 << 64) - 1
    assert rig.run() == 0x178
    assert rig.host.ports == [("in", 0x3F8, 1, 0), ("in", 0x3F8, 2, 0)]
    assert rig.state.gpr[0] == 0xFFFF_3344


def test_out_says_what_it_has() -> None:
    rig = EngineRig("b8 44332211 e680 66e781 e782 f4")
    assert rig.run() == 0x178
    assert rig.host.ports == [
        ("out", 0x80, 1, 0x44),
        ("out", 0x81, 2, 0x3344),
        ("out", 0x82, 4, 0x1122_3344),
    ]


def test_a_refused_in_has_no_effect_at_all() -> None:
    rig = EngineRig("ec 8803 50 ffc1 f4")  # in al, dx; mov [rbx], al; push rax; inc ecx
    rig.host.closed_ports = True
    rig.state.gpr[3] = DATA
    assert rig.run() == IO
    state = rig.state
    assert (state.rip, state.gpr[0], state.gpr[1], state.gpr[4]) == (CODE, 0, 0, STACK)
    assert rig.memory.load(DATA, 1) == 0
    assert rig.host.ports == [("in", 0, 1, 0)]
    rig.host.closed_ports = False
    assert rig.run() == 0x178
    assert rig.memory.load(DATA, 1) == 0x44


def test_refused_outs_stops_with_the_iterations_before_it_complete() -> None:
    rig = EngineRig("f36e f4")  # rep outsb
    rig.state.gpr[6], rig.state.gpr[1] = 0xA000, 4
    assert rig.run() == 0x178
    assert len(rig.host.ports) == 4
    rig.state.rip = CODE
    rig.state.gpr[6], rig.state.gpr[1] = 0xA000, 4
    rig.host.closed_ports = True
    assert rig.run() == IO
    assert (rig.state.rip, rig.state.gpr[1], rig.state.gpr[6]) == (CODE, 4, 0xA000)


# Device memory

DEVICE = 0x50_0000


def test_device_memory_asks_the_host_with_size_and_value() -> None:
    rig = EngineRig("8b03 884301 6689430a 488b7b10 f4")
    rig.state.gpr[3] = DEVICE
    assert rig.run() == 0x178
    assert rig.host.mmio == [
        ("read", DEVICE, 4, 0),
        ("write", DEVICE + 1, 1, 0x11),
        ("write", DEVICE + 10, 2, 0x2211),
        ("read", DEVICE + 16, 4, 0),
        ("read", DEVICE + 20, 4, 0),
    ]
    assert rig.state.gpr[0] == 0x4433_2211
    assert rig.state.gpr[7] == 0x4433_2211_4433_2211


# Special blocks


def test_a_special_block_has_not_begun() -> None:
    rig = EngineRig("ffc1 ffc1 0f31")
    rig.host.special = {CODE + 2}
    assert rig.run() == SPECIAL
    assert (rig.state.rip, rig.state.gpr[1]) == (CODE, 0)
    assert rig.engine.step() == Trap.BUDGET
    assert (rig.state.rip, rig.state.gpr[1]) == (CODE + 2, 1)


# Errors of ours


@pytest.mark.parametrize("native", [False, True])
def test_an_error_in_a_callback_comes_out_of_run(native: bool) -> None:
    rig = EngineRig("8b03 f4", native=native)
    rig.host.error = ValueError("planted")
    with pytest.raises(ValueError, match="planted"):
        rig.run()
    rig.host.error = None
    rig.engine.flush_tlb()
    rig.state.rip = CODE
    assert rig.run() == 0x178


# The floating-point and vector state


def test_the_state_that_we_never_look_at_survives_traps() -> None:
    rig = EngineRig(
        "d9eb d9e8"  # fldpi; fld1
        "b8 78563412 660f6ec0 660f70c8 00"  # movd xmm0, eax; pshufd xmm1, xmm0, 0
        "0fa2"  # cpuid: a trap
        "d9c9"  # fxch
        "dd1c25 00800000 dd1c25 08800000"  # fstp qword [DATA]; fstp qword [DATA + 8]
        "0f110c25 10800000"  # movups [DATA + 16], xmm1
        "f4"
    )
    assert rig.run() == 0x172
    rig.engine.is_code_stale = True
    rig.state.rip += 2
    rig.state.update_mode(0)
    assert rig.run() == 0x178
    assert rig.memory.load(DATA, 8) == 0x4009_21FB_5444_2D18
    assert rig.memory.load(DATA + 8, 8) == 0x3FF0_0000_0000_0000
    assert rig.memory.read(DATA + 16, 16) == bytes.fromhex("78563412") * 4


@pytest.mark.parametrize("native", [True, False])
def test_code_where_there_is_no_ram_is_ones(native: bool) -> None:
    """An empty bus reads as ones, and FFh FFh is no instruction."""
    rig = EngineRig(native=native)
    rig.state.rip = 0x6000_0000
    assert rig.run() == 0x146
    assert rig.state.rip == 0x6000_0000
