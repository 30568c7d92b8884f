"""What the pieces of a program are made of: instructions and changes of a VMCS, as tables.

Nothing here depends on time, because time passes otherwise under L0.
"""

import random
from collections.abc import Callable

from turducken.fuzz.program import SLOTS, Level, Piece, Place, Write
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import CONTROL_SETS
from turducken.vmx.exit_information import EventType

_BOTH, _L2 = (Level.L1, Level.L2), (Level.L2,)
_OF_SCRATCH = Place.SCRATCH.value_in_program
_ADDRESSES = (
    *(Place.SCRATCH.value_in_program,) * 4,
    Place.SCRATCH.value_in_program + 0,
    Place.ACROSS_PAGES.value_in_program,
    0x7FFF_0000_0000,
    0x8000_0000_0000,
    0xFFFF_8000_0000_0000,
)
_OPERANDS = tuple(
    one.value_in_program for one in (Place.OTHER_REGION, Place.NOWHERE, Place.DESCRIPTOR)
)
_LEAVES = (
    0,
    1,
    2,
    4,
    5,
    6,
    7,
    0xA,
    0xB,
    0xD,
    0x15,
    0x4000_0000,
    0x8000_0000,
    0x8000_0001,
    0x8000_0008,
)
_MSRS = (
    *(0x1B, 0x3A, 0x8B, 0xFE, 0x174, 0x175, 0x176, 0x179, 0x17A, 0x1A0, 0x1D9, 0x200, 0x201, 0x250),
    *(0x277, 0x2FF, 0x345, 0x38F, *range(0x480, 0x493), 0x4C1, 0x600, 0x6E0, 0x802, 0x808, 0xDA0),
    *(0xC000_0080, 0xC000_0081, 0xC000_0084, 0xC000_0100, 0xC000_0102, 0xC000_0103, 0xC001_0015),
    *(0x1FFF, 0x2000, 0xBFFF_FFFF, 0xC000_2000),
)
_WRITTEN_MSRS = (
    *(0x3A, 0x8B, 0x174, 0x175, 0x176, 0x1D9, 0x277, 0x480, 0x485, 0x491, 0xDA0, 0xC000_0081),
    *(0xC000_0084, 0xC000_0100, 0xC000_0102, 0xC000_0103, 0x2000, 0xC000_2000),
)
_VALUES = (0, 1, 2, 0xFF, 0x1000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x7FFF_FFFF_FFFF)
_WIDE = (
    *_VALUES,
    0x8000_0000_0000,
    0xFFFF_8000_0000_0000,
    0x8000_0000_0000_0000,
    0xFFFF_FFFF_FFFF_FFFF,
)
_CR0_BITS = (1, 2, 3, 4, 5, 16, 17, 18, 29, 30, 31, 32)
_CR4_BITS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 22, 23, 33)
_FLAGS = (0, 2, 4, 6, 7, 8, 10, 11, 12, 13, 14, 16, 18, 21)

Pick = random.Random
Register = Callable[[Pick], int]


def _one_of(*values: int) -> Register:
    return lambda pick: pick.choice(values)


def _bit(*numbers: int) -> Register:
    return lambda pick: 1 << pick.choice(numbers)


def _any(pick: Pick) -> int:
    return pick.choice((pick.choice(_WIDE), pick.getrandbits(64), pick.getrandbits(32)))


_ADDRESS, _OPERAND, _VALUE = _one_of(*_ADDRESSES), _one_of(*_OPERANDS), _one_of(*_WIDE)
_FIELD = _one_of(*(one.encoding for one in f.FIELDS.values()), 0x6802, 0x4404, 0x1_0000_0000)
_RAX, _RCX, _RDX, _RBX, _RSI, _RDI = range(6)

Row = tuple[tuple[Level, ...], str, str, dict[int, Register]]
_NONE: dict[int, Register] = {}

INSTRUCTIONS: tuple[Row, ...] = (
    (_BOTH, "cpuid", "0fa2", {_RAX: _one_of(*_LEAVES), _RCX: _one_of(0, 1, 2, 3)}),
    (_BOTH, "rdmsr", "0f32", {_RCX: _one_of(*_MSRS)}),
    (_BOTH, "rdmsr; wrmsr", "0f32 0f30", {_RCX: _one_of(*_WRITTEN_MSRS)}),
    (
        _BOTH,
        "wrmsr",
        "0f30",
        {_RCX: _one_of(*_WRITTEN_MSRS), _RAX: _VALUE, _RDX: _one_of(0, 1, 0x8000)},
    ),
    (
        _BOTH,
        "mov rax, cr0; xor rax, rbx; mov cr0, rax",
        "0f20c0 4831d8 0f22c0",
        {_RBX: _bit(*_CR0_BITS)},
    ),
    (
        _BOTH,
        "mov rax, cr4; xor rax, rbx; mov cr4, rax",
        "0f20e0 4831d8 0f22e0",
        {_RBX: _bit(*_CR4_BITS)},
    ),
    (_BOTH, "mov rax, cr3; mov cr3, rax", "0f20d8 0f22d8", _NONE),
    (
        _BOTH,
        "mov rax, cr3; mov rcx, rax; xor rax, rbx; mov cr3, rax; mov cr3, rcx",
        "0f20d8 4889c1 4831d8 0f22d8 0f22d9",
        {_RBX: _bit(3, 4, 52, 62, 63)},
    ),
    (_BOTH, "mov rax, cr8", "440f20c0", _NONE),
    (_BOTH, "mov cr8, rbx; mov cr8, rcx", "440f22c3 440f22c1", {_RBX: _one_of(0, 1, 15, 16)}),
    (_BOTH, "lmsw bx; smsw eax", "0f01f3 0f01e0", {_RBX: _one_of(1, 3, 5, 9, 0xF, 0)}),
    (_BOTH, "clts", "0f06", _NONE),
    (_BOTH, "mov dr0, rbx; mov rax, dr0", "0f23c3 0f21c0", {_RBX: _VALUE}),
    (_BOTH, "mov dr6, rbx; mov rax, dr6", "0f23f3 0f21f0", {_RBX: _any}),
    (_BOTH, "mov dr4, rbx", "0f23e3", {_RBX: _any}),
    (
        _BOTH,
        "mov rax, dr7; xor rax, rbx; mov dr7, rax; mov rcx, dr7; mov dr7, rdx",
        "0f21f8 4831d8 0f23f8 0f21f9 0f23fa",
        {_RBX: _bit(8, 9, 10, 11, 12, 14, 33), _RDX: _one_of(0x400)},
    ),
    (
        _BOTH,
        "mov rax, cr4; bts rax, 18; mov cr4, rax; mov rax, rbx; xsetbv",
        "0f20e0 480fbae812 0f22e0 4889d8 0f01d1",
        {_RBX: _any, _RCX: _one_of(0, 0, 1, 1 << 32), _RDX: _one_of(0, 0, 1, 1 << 32)},
    ),
    (_BOTH, "xsetbv", "0f01d1", {_RAX: _one_of(1, 3)}),
    (_BOTH, "xgetbv", "0f01d0", {_RCX: _one_of(0, 1, 2)}),
    (_BOTH, "invlpg [rbx]", "0f013b", {_RBX: _ADDRESS}),
    (
        _BOTH,
        "invpcid rax, [rbx]",
        "660f388203",
        {_RAX: _one_of(0, 1, 2, 3, 4), _RBX: _one_of(*_OPERANDS, *_ADDRESSES)},
    ),
    (
        _BOTH,
        "invept rax, [rbx]",
        "660f388003",
        {_RAX: _one_of(0, 1, 2, 3), _RBX: _one_of(*_OPERANDS, *_ADDRESSES)},
    ),
    (
        _BOTH,
        "invvpid rax, [rbx]",
        "660f388103",
        {_RAX: _one_of(0, 1, 2, 3, 4), _RBX: _one_of(*_OPERANDS, *_ADDRESSES)},
    ),
    (_BOTH, "vmread rax, rbx", "0f78d8", {_RBX: _FIELD}),
    (_BOTH, "vmread [rcx], rbx", "0f7819", {_RBX: _FIELD, _RCX: _ADDRESS}),
    (_BOTH, "vmread rax, rbx; vmwrite rbx, rax", "0f78d8 0f79d8", {_RBX: _FIELD}),
    (_BOTH, "vmptrst [rbx]", "0fc73b", {_RBX: _ADDRESS}),
    (_BOTH, "vmptrld [rbx]", "0fc733", {_RBX: _OPERAND}),
    (_BOTH, "vmclear [rbx]", "660fc733", {_RBX: _OPERAND}),
    (_BOTH, "vmxon [rbx]", "f30fc733", {_RBX: _OPERAND}),
    (_BOTH, "vmfunc", "0f01d4", {_RAX: _one_of(0, 1, 63, 64), _RCX: _one_of(0, 1, 511, 512)}),
    (_L2, "vmlaunch", "0f01c2", _NONE),
    (_L2, "vmresume", "0f01c3", _NONE),
    (_L2, "vmxoff", "0f01c4", _NONE),
    ((Level.L1,), "vmcall", "0f01c1", _NONE),
    ((Level.L1,), "vmlaunch", "0f01c2", _NONE),
    (_BOTH, "rdpmc", "0f33", {_RCX: _one_of(0, 1, 0x4000_0000)}),
    (_BOTH, "sgdt [rbx]", "0f0103", {_RBX: _ADDRESS}),
    (_BOTH, "sldt eax; str ecx", "0f00c0 0f00c9", _NONE),
    (_BOTH, "lldt bx", "0f00d3", {_RBX: _one_of(0, 3, 8, 0x30, 0x100)}),
    (
        _BOTH,
        "lar eax, ebx; lsl ecx, ebx",
        "0f02c3 0f03cb",
        {_RBX: _one_of(0, 8, 0x10, 0x18, 0x30, 0x400)},
    ),
    (_BOTH, "verr bx; verw bx", "0f00e3 0f00eb", {_RBX: _one_of(0, 8, 0x10, 0x18)}),
    (_BOTH, "pushf; xor [rsp], rbx; popf", "9c 48311c24 9d", {_RBX: _bit(*_FLAGS)}),
    (
        _BOTH,
        "pushf; or [rsp], rbx; popf; nop",
        "9c 48091c24 9d 90",
        {_RBX: _one_of(0x100, 0x10100)},
    ),
    (_BOTH, "int3", "cc", _NONE),
    (_BOTH, "int1", "f1", _NONE),
    (_BOTH, "int 60h", "cd60", _NONE),
    (_BOTH, "ud2", "0f0b", _NONE),
    (_BOTH, "mov ss, ebx; nop", "8ed3 90", {_RBX: _one_of(0x10, 0x10, 0, 0x30)}),
    (_BOTH, "mov ds, ebx", "8edb", {_RBX: _one_of(0x10, 0, 8, 0x18, 0x30, 0x300)}),
    (_BOTH, "cli; sti; cli", "fa fb fa", _NONE),
    (_BOTH, "mov ss, ebx; cpuid", "8ed3 0fa2", {_RBX: _one_of(0x10)}),
    (_L2, "sti; cpuid; cli", "fb 0fa2 fa", _NONE),
    (_BOTH, "invd", "0f08", _NONE),
    (_BOTH, "wbinvd", "0f09", _NONE),
    (_BOTH, "pause", "f390", _NONE),
    (_BOTH, "getsec", "0f37", {_RAX: _one_of(0, 1)}),
    (_BOTH, "rsm", "0faa", _NONE),
    (_BOTH, "swapgs; swapgs", "0f01f8 0f01f8", _NONE),
    (_BOTH, "in al, 80h; out 80h, al", "e480 e680", _NONE),
    (_BOTH, "monitor", "0f01c8", {_RAX: _ADDRESS, _RCX: _one_of(0, 1)}),
    (_BOTH, "mov [rbx], rcx; mov rax, [rbx]", "48890b 488b03", {_RBX: _ADDRESS, _RCX: _any}),
    (_BOTH, "xchg [rbx], rcx", "48870b", {_RBX: _ADDRESS, _RCX: _any}),
    (_BOTH, "lock xadd [rbx], ecx", "f00fc10b", {_RBX: _ADDRESS, _RCX: _any}),
    (_BOTH, "rep stosb", "f3aa", {_RDI: _ADDRESS, _RCX: _one_of(0, 1, 4, 8, 40)}),
    (_BOTH, "div rbx", "48f7f3", {_RBX: _any, _RAX: _any, _RDX: _one_of(0, 1)}),
    (
        _BOTH,
        "add rax, rbx; adc rcx, rdx; imul rdx, rbx",
        "4801d8 4811d1 480fafd3",
        {_RAX: _any, _RBX: _any, _RCX: _any, _RDX: _any},
    ),
    (_BOTH, "push rbx; pop rcx", "53 59", {_RBX: _any}),
    (_BOTH, "fnop; fninit; movd xmm0, eax", "d9d0 dbe3 660f6ec0", _NONE),
    (_BOTH, "xchg bx, bx", "6687db", _NONE),
    (
        _BOTH,
        "rdfsbase rax; wrfsbase rbx; wrfsbase rax",
        "f3480faec0 f3480faed3 f3480faed0",
        {_RBX: _VALUE},
    ),
)
"""Where they may run, the instructions for people and in hexadecimal, and registers that matter."""

_TIMED = frozenset({"ACTIVATE_PREEMPTION_TIMER", "SAVE_PREEMPTION_TIMER", "PAUSE_LOOP_EXITING"})
_CONTROLS = {
    f.PIN_BASED_CONTROLS: "pin",
    f.PRIMARY_CONTROLS: "primary",
    f.SECONDARY_CONTROLS: "secondary",
    f.EXIT_CONTROLS: "exit",
    f.ENTRY_CONTROLS: "entry",
}
_FLIPPED = (
    *(f.EXCEPTION_BITMAP, f.PAGE_FAULT_ERROR_CODE_MASK, f.PAGE_FAULT_ERROR_CODE_MATCH),
    *(f.CR0_GUEST_HOST_MASK, f.CR0_READ_SHADOW, f.CR4_GUEST_HOST_MASK, f.CR4_READ_SHADOW),
    *(f.CR3_TARGET_COUNT, f.TPR_THRESHOLD, f.GUEST_CR0, f.GUEST_CR4, f.GUEST_RFLAGS, f.GUEST_DR7),
    *(f.GUEST_DEBUGCTL, f.GUEST_ACTIVITY, f.GUEST_INTERRUPTIBILITY, f.GUEST_PENDING_DEBUG),
    *(f.GUEST_EFER, f.GUEST_PAT, f.GUEST_SYSENTER_CS, f.GUEST_SYSENTER_EIP, f.VPID, f.EPTP),
    *(f.GUEST_CS_ACCESS_RIGHTS, f.GUEST_SS_ACCESS_RIGHTS, f.GUEST_DS_ACCESS_RIGHTS),
    *(f.GUEST_TR_ACCESS_RIGHTS, f.GUEST_LDTR_ACCESS_RIGHTS, f.GUEST_FS_BASE, f.GUEST_CS_LIMIT),
    *(f.GUEST_TR_LIMIT, f.GUEST_GDTR_LIMIT, f.GUEST_IDTR_BASE, f.GUEST_SS_SELECTOR),
    *(f.VM_FUNCTION_CONTROLS, f.VMCS_LINK_POINTER, f.ENTRY_MSR_LOAD_COUNT, f.EXIT_MSR_STORE_COUNT),
)
_FEW_BITS = frozenset({f.GUEST_ACTIVITY, f.GUEST_INTERRUPTIBILITY, f.CR3_TARGET_COUNT, f.VPID})


def _a_control(pick: Pick) -> Write:
    field, word = pick.choice(list(_CONTROLS.items()))
    masks = {name: bit for name, bit in CONTROL_SETS[word].masks.items() if name not in _TIMED}
    return Write(field.encoding, pick.choice(list(masks.values())))


def _an_exception_bit(pick: Pick) -> Write:
    return Write(f.EXCEPTION_BITMAP.encoding, pick.choice((1 << pick.randrange(32), 0xFFFF_FFFF)))


def _a_field(pick: Pick) -> Write:
    field = pick.choice(_FLIPPED)
    width = 4 if field in _FEW_BITS else field.mask.bit_length()
    return Write(field.encoding, 1 << pick.randrange(width))


def _an_event(pick: Pick) -> Write:
    kind = pick.choice(list(EventType))
    vector = pick.choice((1, 2, 3, 6, 8, 13, 14, 0x60, pick.randrange(256)))
    code = pick.choice((0, 0, 1 << 11))
    return Write(f.ENTRY_INTERRUPTION_INFORMATION.encoding, 1 << 31 | kind << 8 | code | vector)


_WRITES = (_a_control, _a_control, _a_control, _an_exception_bit, _a_field, _an_event)


def make_piece(pick: Pick) -> Piece:
    """Return a piece at random."""
    levels, text, code, wanted = pick.choice(INSTRUCTIONS)
    registers = [_any(pick) if not pick.randrange(8) else 0 for _ in range(8)]
    for number, choose in wanted.items():
        registers[number] = choose(pick)
    level = pick.choice(levels)
    writes: tuple[Write, ...] = ()
    if level is Level.L2:
        writes = tuple(pick.choice(_WRITES)(pick) for _ in range(pick.choice((0, 0, 1, 1, 2))))
    return Piece(level, text, bytes.fromhex(code), tuple(registers), writes)


def make_program(seed: int, length: int = SLOTS) -> list[Piece]:
    """Return the program of a seed."""
    pick = random.Random(seed)
    return [make_piece(pick) for _ in range(length)]
