"""What a VM exit saves, a VM entry accepts: any state that code can reach, at any instruction.

Code of random fragments runs in every mode. After each instruction the guest-state area is saved as
an exit would save it, and judged by the checks of VM entry.
"""

import random

import pytest
from cpu_support import (
    ABSENT,
    CODE,
    CODE16,
    CODE32,
    CODE64,
    CONFORMING,
    CS,
    DATA16,
    DATA32,
    GDT,
    HANDLERS,
    LAST,
    LDT_SELECTOR,
    READ_ONLY,
    RING1_CODE,
    RING1_DATA,
    TASK,
    TSS,
    USER_CODE32,
    USER_CODE64,
    USER_DATA,
    Pc,
    descriptor,
)

from turducken.cpu.surroundings import Activity
from turducken.cpu.vm_exit import save_guest
from turducken.cpu.vmx_operations import controls_of, update_intercepts
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks import EntryChecker
from turducken.vmx.controls import Entry, Exit, PinBased, Primary, Secondary
from turducken.vmx.vmcs import Vmcs

REGION = 0x30_0000
SECOND_TASK = 0x6000
UNMARKED_CODE, UNMARKED_DATA, GATE, OTHER_TSS, SMALL = (LAST + 8 * n for n in (0, 1, 2, 4, 5))
SELECTORS = [
    0, 3, CODE32, DATA32, CODE64, CODE16, DATA16, USER_CODE32, USER_DATA, USER_CODE64, CONFORMING,
    ABSENT, READ_ONLY, TSS, LDT_SELECTOR, RING1_CODE, RING1_DATA, UNMARKED_CODE, UNMARKED_DATA,
    GATE, OTHER_TSS, SMALL,
]  # fmt: skip
SEEDS = 25
FOLLOWING = 0x0BAD_F00D
NE, VMXE = 1 << 5, 1 << 13


def le(value: int, size: int = 4) -> str:
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little").hex()


def fragment(rng: random.Random, bits: int) -> str:
    """Return some instructions; transfers of control go to `FOLLOWING`, what is behind them."""
    selector = rng.choice(SELECTORS)
    wide = "66" if bits == 16 else ""
    load = f"66b8{le(selector, 2)}" if bits > 16 else f"b8{le(selector, 2)}"  # mov ax, selector
    push = "68" if bits == 16 else "66 68"
    simple = [
        "90", "40 90" if bits < 64 else "ffc0", "fa", "fb", "fb90", "fc", "f8",
        "9c 58",
        load + "8ed8", load + "8ec0", load + "8ee0", load + "8ee8", load + "8ed0", load + "8ed090",
        load + "0f00d0", load + "0f00d8",  # lldt ax; ltr ax
        f"{wide}b8{le(0x102)} {wide if bits == 16 else ''}50 {wide}9d",  # mov eax, 102h; push; popf
        f"{wide}b8{le(0x2)} {wide if bits == 16 else ''}50 {wide}9d",
        f"{wide}b8{le(0x1_4202)} {wide if bits == 16 else ''}50 {wide}9d",
        "31c0 0fa2", "cd80", "f4", "0fa1" if bits < 64 else "90", "0f06",
        push + le(selector, 2) + ("1f" if bits < 64 else "58"),
    ]  # fmt: skip
    if bits == 32:
        place = le(FOLLOWING)
        simple += [
            "ea" + place + le(selector, 2),
            "9a" + place + le(selector, 2),
            "6a02" + "68" + le(selector) + "68" + place + "cf",
            "68" + le(rng.choice(SELECTORS)) + "68" + le(0x2_7000) + "6802000000" + "68"
            + le(selector) + "68" + place + "cf",
            "68" + le(selector) + "68" + place + "cb",
            load + "8ed0" + "6a02 9d",
        ]  # fmt: skip
    if bits == 64:
        place = le(FOLLOWING)
        simple += [
            "68" + le(rng.choice(SELECTORS)) + "68" + le(0x2_7000) + "6802000000" + "68"
            + le(selector) + "68" + place + "48cf",
            "68" + le(selector) + "68" + place + "48cb",
            "f3480faed0",
        ]  # fmt: skip
    return rng.choice(simple).replace(" ", "")


def program(rng: random.Random, bits: int) -> str:
    code = ""
    for _ in range(12):
        made = fragment(rng, bits)
        code += made.replace(le(FOLLOWING), le(CODE + (len(code) + len(made)) // 2))
    return code + "f4"


def prepare(mode: str, code: str) -> tuple[Pc, int]:
    pc = Pc()
    if mode == "real":
        pc.real(code)
    elif mode == "8086":
        pc.virtual_8086(code)
    elif mode == "long":
        pc.long(code)
    elif mode == "compatibility":
        pc.long(code, compatibility=True)
    elif mode == "user":
        pc.protected(code, cpl=3)
    elif mode == "16":
        pc.protected(code, bits=16)
    else:
        pc.protected(code, paging="" if mode == "32" else mode)
    state = pc.state
    state.cr0, state.cr4 = state.cr0 | NE, state.cr4 | VMXE
    for selector, value in {
        UNMARKED_CODE: descriptor(0xA09A if mode == "long" else 0xC09A),
        UNMARKED_DATA: descriptor(0xC092),
        GATE: (HANDLERS + 16 * 128) & 0xFFFF | CODE32 << 16 | 0xEC << 40 | (HANDLERS >> 16) << 48,
        OTHER_TSS: descriptor(0x89, base=SECOND_TASK, limit=0x67),
        SMALL: descriptor(0x4093, limit=0xFFF),
    }.items():
        pc.memory.store(GDT + selector, 8, value)
    if mode not in ("real",):
        state.set_table(8, GDT, LAST + 0x3F)
    pc.memory.write(SECOND_TASK, bytes(0x68))
    for place, value in ((0x20, CODE), (0x24, 2), (0x38, 0x3_0000), (0x1C, state.cr3)):
        pc.memory.store(SECOND_TASK + place, 4, value)
    for place in range(0x48, 0x60, 4):
        pc.memory.store(SECOND_TASK + place, 4, CODE32 if place == 0x4C else DATA32)
    pc.memory.store(TASK + 0x1C, 4, state.cr3)
    update_intercepts(pc.p)
    return pc, 64 if mode == "long" else 16 if mode in ("real", "8086", "16") else 32


def controls(pc: Pc) -> Vmcs:
    caps = pc.p.capabilities
    vmcs = Vmcs(pc.memory, REGION)
    vmcs.set_header(caps.revision)
    values = {
        f.PIN_BASED_CONTROLS: caps.pin.adjust(PinBased.NMI_EXITING),
        f.PRIMARY_CONTROLS: caps.primary.adjust(Primary.ACTIVATE_SECONDARY_CONTROLS),
        f.SECONDARY_CONTROLS: Secondary.ENABLE_EPT | Secondary.UNRESTRICTED_GUEST,
        f.EXIT_CONTROLS: caps.exit.adjust(
            Exit.HOST_ADDRESS_SPACE_SIZE | Exit.SAVE_EFER | Exit.SAVE_DEBUG_CONTROLS
        ),
        f.ENTRY_CONTROLS: caps.entry.adjust(Entry.LOAD_EFER | Entry.LOAD_DEBUG_CONTROLS),
        f.EPTP: 0x5000 | 0x1E,
        f.VMCS_LINK_POINTER: (1 << 64) - 1,
        f.HOST_CR0: 0x8001_0031,
        f.HOST_CR4: 0x2020,
        f.HOST_CR3: 0x9000,
        f.HOST_CS_SELECTOR: 8,
        f.HOST_TR_SELECTOR: 24,
        f.HOST_EFER: 0x500,
        f.HOST_RIP: 0x1000,
    }
    for field, value in values.items():
        vmcs.write(field, value)
    return vmcs


def refused_state(pc: Pc, vmcs: Vmcs, checker: EntryChecker) -> object:
    """Save the guest as an exit would; return what a VM entry says against it."""
    p = pc.p
    pending = p.pending.debug
    p.guest = controls_of(p, vmcs)
    save_guest(p, vmcs)
    p.guest, p.pending.debug = None, pending
    failure = checker.check(vmcs, pc.memory, is_ia32e_mode=True)
    return None if failure is None else (failure, f"at {pc.state.rip:#x}", pc.state.segment(CS))


MODES = ["real", "8086", "16", "32", "PAE", "user", "compatibility", "long"]


@pytest.mark.parametrize("mode", MODES)
def test_a_state_that_code_reaches_enters_again(mode: str) -> None:
    seen = 0
    for seed in range(SEEDS):
        rng = random.Random(f"{mode} {seed}")
        _, bits = prepare(mode, "f4")
        code = program(rng, bits)
        pc, _ = prepare(mode, code)
        vmcs, checker = controls(pc), EntryChecker(pc.p.capabilities)
        pc.p.is_exact = True
        for _ in range(40):
            refused = refused_state(pc, vmcs, checker)
            assert refused is None, (mode, seed, code, refused)
            seen += 1
            if pc.p.activity is not Activity.ACTIVE:
                break
            pc.p.run(1)
    assert seen > 4 * SEEDS


def test_the_judge_sees_a_state_that_does_not_enter() -> None:
    pc, _ = prepare("32", "90")
    vmcs, checker = controls(pc), EntryChecker(pc.p.capabilities)
    pc.state.rflags |= 1 << 5  # reserved
    assert refused_state(pc, vmcs, checker) is not None
