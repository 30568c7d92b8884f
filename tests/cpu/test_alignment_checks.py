"""#AC: misaligned accesses in user mode where CR0.AM and RFLAGS.AC are set."""

import pytest
from cpu_support import CODE, MIB, RCX, RDI, RSI, RSP, STACK3, USER_CODE64, USER_DATA, Pc

AC, GP, NM, PF = 17, 13, 7, 14
AM, TS, SMAP = 1 << 18, 1 << 3, 1 << 21
FLAG = 1 << 18
HLT = "f4"  # #GP in user mode: nothing before it faulted


def user(code, *, mode="long", am=True, flag=True, odd=1, **more):
    pc = getattr(Pc(), mode)(f"{code} {HLT}", cpl=3, **more)
    pc.state.cr0 |= AM * am
    pc.state.rflags |= FLAG * flag
    pc.state.gpr[RDI] = pc.state.gpr[RSI] = 0x3_0000 + odd
    return pc


@pytest.mark.parametrize(
    ("code", "odd", "vector"),
    [
        ("8b07", 1, AC),  # mov eax, [rdi]
        ("8b07", 2, AC),
        ("8b07", 4, GP),
        ("488b07", 4, AC),
        ("66 8b07", 1, AC),
        ("66 8b07", 2, GP),
        ("8a07", 1, GP),
        ("48c70700000000", 4, AC),  # mov qword [rdi], 0
        ("f0480fc70f", 4, GP),  # lock cmpxchg16b: #GP for another reason
        ("0fc70f", 4, AC),  # cmpxchg8b
        ("8d4701", 1, GP),  # lea: no access
        ("0f1f07", 1, GP),  # nop [rdi]
        ("0f1807", 1, GP),  # prefetchnta [rdi]
        ("a5", 2, AC),  # movsd
        ("f348a5", 4, GP),  # rep movsq with RCX = 0
        ("d907", 2, AC),  # fld dword
        ("dd07", 4, AC),  # fld qword
        ("db2f", 4, AC),  # fld tbyte
        ("d937", 4, GP),  # fnstenv: 28 bytes
        ("d937", 2, AC),
        ("f30f1007", 2, AC),  # movss
        ("0f1007", 1, GP),  # movups
        ("8b05fb1f0000", 0, AC),  # mov eax, [rip + 1ffbh]: address 12001h
        ("8b05fa1f0000", 0, GP),
        ("488b1c251c000300", 0, AC),  # mov rbx, [3001ch]
        ("488b1c2518000300", 0, GP),
        ("488b5cb704", 4, GP),  # mov rbx, [rdi + rsi * 4 + 4]: 30004h + c0010h + 4
    ],
)
def test_operands_in_64_bit_mode(code, odd, vector):
    pc = user(code, odd=odd)
    assert pc.event() == vector
    if vector == AC:
        frame = pc.words(pc.state.gpr[RSP], 6, 8)
        assert frame[:2] == [0, CODE]
        assert frame[3] & FLAG


def test_the_stack():
    pc = user("50")
    pc.state.gpr[RSP] = STACK3 - 4
    assert pc.event() == AC


def test_what_an_instruction_before_it_did_stays():
    pc = user("ffc1 8907 ffc1", odd=1)
    assert pc.event() == AC
    assert pc.state.gpr[RCX] == 1
    assert pc.words(0x3_0000, 2, 4) == [0, 0]


@pytest.mark.parametrize(("am", "flag"), [(False, True), (True, False)])
def test_both_bits_must_be_set(am, flag):
    assert user("8b07", am=am, flag=flag).event() == GP


@pytest.mark.parametrize("more", [{"mode": "protected"}, {"compatibility": True}])
@pytest.mark.parametrize(("odd", "vector"), [(1, AC), (4, GP)])
def test_32_bit_code(more, odd, vector):
    assert user("8b07", odd=odd, **more).event() == vector


def test_a_rep_counter_is_looked_at():
    pc = user("f348a5", odd=4)
    pc.state.gpr[RCX] = 1
    assert pc.event() == AC


def test_other_faults_come_first():
    assert user("db2f", odd=1).event() == AC
    pc = user("db2f", odd=1)
    pc.state.cr0 |= TS
    pc.state.update_mode(3)
    assert pc.event() == NM
    pc = user("8b07")
    pc.state.gpr[RDI] = 1 << 50 | 1
    assert pc.event() == GP


def test_the_kernel_is_not_checked():
    pc = Pc().long("8b07 f4")
    pc.state.cr0 |= AM
    pc.state.rflags |= FLAG
    pc.state.gpr[RDI] = 0x3_0001
    assert pc.event() is None
    assert pc.state.rip == CODE + 3


def test_virtual_8086_mode():
    pc = Pc().virtual_8086("668b05 f4")
    pc.state.cr0 |= AM
    pc.state.rflags |= FLAG
    pc.state.gpr[RDI] = 2
    assert pc.event() == AC


@pytest.mark.parametrize("smap", [False, True])
def test_popf_in_user_mode_sets_the_flag(smap):
    # pushfq; or dword [rsp], 40000h; popfq; then with SMAP something that stops the engine
    stop = "0fa2" if smap else ""
    pc = user(f"9c 810c2400000400 9d {stop} 8b07", flag=False)
    pc.state.cr4 |= SMAP * smap
    assert pc.event() == AC


def test_iret_to_user_mode_with_the_flag():
    frame = f"6a{USER_DATA:02x} 57 9c 810c2400000400 6a{USER_CODE64:02x} 68{'00200100'} 48cf"
    pc = Pc().long(frame)  # push SS, RDI, flags, CS, RIP = 12000h; iretq
    pc.state.cr0 |= AM
    pc.state.gpr[RDI] = STACK3
    pc.put(0x1_2000, "c74424fe01000000 f4")  # mov dword [rsp - 2], 1
    assert pc.event() == AC
    assert pc.words(pc.state.gpr[RSP], 2, 8) == [0, 0x1_2000]
    assert pc.words(STACK3 - 4, 2, 4) == [0, 0]


def test_a_page_that_is_not_there_comes_second():
    pc = user("8b07")
    pc.state.gpr[RDI] = 5 * MIB + 1
    assert pc.event() == AC
    pc = user("8b07")
    pc.state.gpr[RDI] = 5 * MIB
    assert pc.event() == PF
