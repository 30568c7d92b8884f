"""VMREAD and VMWRITE that the engine executes itself: outcomes as of those that go the long way."""

import pytest
from cpu_support import CODE, MIB, RAX, RBX, RCX, RDX, Pc

from turducken.cpu.vmx_operations import update_field_access
from turducken.vmx import vmcs_fields as f
from turducken.vmx.interface import VmStatus

_VMXON, _VMCS = 3 * MIB, 3 * MIB + 0x1000
_HLT = "f4"
_VMXE = 1 << 13
_ALL_FLAGS = 0x8D5
R8, R9 = 8, 9


def _prepare(code: str, *, bits: int, native: bool, **more: str) -> Pc:
    """Return a machine in VMX root operation with a current VMCS, before ``code``."""
    pc = Pc(native=native, **more)  # type: ignore[arg-type]
    if bits == 64:
        pc.long(code + _HLT)
    else:
        pc.protected(code + _HLT, bits=bits)
    pc.state.cr4 |= _VMXE
    unit = pc.p.vmx
    for region in (_VMXON, _VMCS):
        pc.memory.store(region, 4, unit.capabilities.revision)
    assert unit.vmxon(_VMXON).status is unit.vmptrld(_VMCS).status is VmStatus.SUCCEED
    update_field_access(pc.p)
    return pc


def _fill(pc: Pc, registers: dict[int, int], fields: dict[f.VmcsField, int]) -> None:
    for number, value in registers.items():
        pc.state.gpr[number] = value
    current = pc.p.vmx.current
    assert current is not None
    for field, value in fields.items():
        current.write(field, value)


def _outcome(pc: Pc) -> dict[str, object]:
    state = pc.state
    return {
        "registers": list(state.gpr),
        "rip": state.rip,
        "flags": state.rflags,
        "executed": pc.p.engine.executed,
        "vmcs": pc.memory.read(_VMCS, 0x1000),
        "handler": pc.vector(),
    }


def both(
    code: str,
    registers: dict[int, int],
    fields: dict[f.VmcsField, int] | None = None,
    *,
    bits: int = 64,
    flags: int = 2,
) -> tuple[dict[str, object], int]:
    """Run ``code`` both ways; return the outcome, and the traps that the short way saved."""
    outcomes, traps = [], []
    for native in (True, False):
        pc = _prepare(code, bits=bits, native=native)
        _fill(pc, registers, fields or {})
        pc.state.rflags = flags
        pc.run(10_000)
        outcomes.append(_outcome(pc))
        traps.append(pc.p.statistics.traps)
    assert outcomes[0] == outcomes[1]
    return outcomes[0], traps[1] - traps[0]


_READ = "0f78d9"  # vmread rcx, rbx
_WRITE = "0f79d9"  # vmwrite rbx, rcx


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    "field",
    [f.VPID, f.PIN_BASED_CONTROLS, f.GUEST_CR3, f.TSC_OFFSET, f.HOST_RIP, f.EXIT_REASON],
    ids=lambda one: one.name,
)
def test_a_field_is_read(field: f.VmcsField, bits: int) -> None:
    value = 0x1234_5678_9ABC_DEF0 & field.mask
    found, saved = both(_READ, {RBX: field.encoding, RCX: 7}, {field: value}, bits=bits)
    assert found["registers"][RCX] == value & (1 << bits) - 1  # type: ignore[index]
    assert saved == 1


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    "field", [f.VPID, f.PIN_BASED_CONTROLS, f.GUEST_CR3, f.TSC_OFFSET], ids=lambda one: one.name
)
def test_a_field_is_written(field: f.VmcsField, bits: int) -> None:
    value = 0xFEDC_BA98_7654_3210
    both(_WRITE, {RBX: field.encoding, RCX: value}, {field: 1}, bits=bits)
    pc = _prepare(_WRITE, bits=bits, native=True)
    _fill(pc, {RBX: field.encoding, RCX: value}, {})
    pc.run(100)
    assert pc.p.vmx.current is not None
    assert pc.p.vmx.current.read(field) == value & field.mask & (1 << bits) - 1


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("code", [_READ, _WRITE])
def test_the_high_half_of_a_field(code: str, bits: int) -> None:
    encoding = f.TSC_OFFSET.encoding | 1
    _, saved = both(code, {RBX: encoding, RCX: 0xAAAA_BBBB}, {f.TSC_OFFSET: 1 << 63 | 5}, bits=bits)
    assert saved == 1


def test_registers_that_need_a_prefix() -> None:
    code = "450f78c1 4c0f78c2 410f78c9"  # vmread r9, r8; vmread rdx, r8; vmread r9, rcx
    found, saved = both(
        code,
        {R8: f.GUEST_RIP.encoding, RCX: f.GUEST_RSP.encoding},
        {f.GUEST_RIP: 0x11, f.GUEST_RSP: 0x22},
    )
    registers = found["registers"]
    assert (registers[R9], registers[RDX]) == (0x22, 0x11)  # type: ignore[index]
    assert saved == 3


@pytest.mark.parametrize("first", ["f9", "fd", "84c0", "31c0"], ids=["stc", "std", "test", "xor"])
def test_arithmetic_flags_are_cleared_and_no_other(first: str) -> None:
    found, _ = both(first + _READ, {RBX: f.VPID.encoding, RAX: 0x80}, flags=2 | _ALL_FLAGS)
    assert found["flags"] == 2 | (0x400 if first == "fd" else 0)


@pytest.mark.parametrize(
    ("code", "registers"),
    [
        (_READ, {RBX: 0x7FFE}),  # no such field
        (_READ, {RBX: 1 << 40 | f.VPID.encoding}),
        (_WRITE, {RBX: f.EXIT_REASON.encoding + 0x1000}),
        ("0f7819", {RBX: f.VPID.encoding, RCX: 0x8000}),  # vmread [rcx], rbx
        ("0f7919", {RBX: f.VPID.encoding, RCX: 0x8000}),  # vmwrite rbx, [rcx]
        ("2e" + _READ, {RBX: f.VPID.encoding}),  # a prefix without effect
        ("66" + _READ, {RBX: f.VPID.encoding}),  # another instruction: EXTRQ
        ("fb" + _READ, {RBX: f.VPID.encoding}),  # behind STI
    ],
)
def test_what_is_not_plain_goes_the_long_way(code: str, registers: dict[int, int]) -> None:
    _, saved = both(code, registers)
    assert saved == 0


def test_single_stepping_sees_every_instruction() -> None:
    found, saved = both(_READ + _READ, {RBX: f.VPID.encoding}, flags=0x102)
    assert found["handler"] == 1
    assert saved == 0


def test_sixteen_bit_code_has_them_too() -> None:
    both(_READ, {RBX: f.VPID.encoding}, {f.VPID: 3}, bits=16)


def test_without_a_current_vmcs_they_fail() -> None:
    for native in (True, False):
        pc = _prepare(_READ, bits=64, native=native)
        pc.p.vmx.vmclear(_VMCS)
        update_field_access(pc.p)
        pc.state.gpr[RBX] = f.VPID.encoding
        pc.run(100)
        assert pc.state.rflags & _ALL_FLAGS == 1


def test_a_run_ends_at_the_same_instruction() -> None:
    """The budget is looked at between two of them, as it is at each trap."""
    for budget in range(1, 9):
        places = []
        for native in (True, False):
            pc = _prepare(_READ * 8, bits=64, native=native)
            pc.state.gpr[RBX] = f.VPID.encoding
            pc.p.run(budget)
            places.append((pc.state.rip, pc.p.engine.executed))
        assert places[0] == places[1]
        assert places[0][0] == CODE + 3 * budget


@pytest.mark.parametrize("tlb", ["drop", "random"])
def test_a_policy_that_acts_at_every_stop_sees_every_stop(tlb: str) -> None:
    pc = _prepare(_READ * 8, bits=64, native=True, tlb=tlb)
    pc.state.gpr[RBX] = f.VPID.encoding
    pc.run(100)
    assert pc.p.statistics.traps >= 9


def test_code_that_has_changed_is_executed_as_it_is() -> None:
    """A store replaces the VMREAD behind it by VMWRITE."""
    place = (CODE + 9).to_bytes(4, "little").hex()
    store = f"c60425{place}79"  # mov byte [CODE + 9], 79h
    found, _ = both(store + _READ, {RBX: f.VPID.encoding, RCX: 0x77})
    vmcs = found["vmcs"]
    assert isinstance(vmcs, bytes)
    assert vmcs[8 * f.VPID.slot] == 0x77
