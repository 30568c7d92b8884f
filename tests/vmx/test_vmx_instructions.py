import pytest
from vmx_support import EVERYTHING, capabilities

from turducken.address import MIB
from turducken.memory import PhysicalMemory
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Primary, Secondary
from turducken.vmx.gates import Outcome
from turducken.vmx.instructions import FAIL_INVALID, NO_POINTER, SUCCEED, VmxUnit
from turducken.vmx.interface import VmStatus

REVISION = 0x12
ON, A, B, SHADOW = 0x1000, 0x2000, 0x3000, 0x4000
BEYOND = 1 << 46
UNALIGNED = 0x2008


def make(profile="default"):
    unit = VmxUnit(capabilities(profile), PhysicalMemory(MIB))
    for region in (ON, A, B):
        unit.memory.store(region, 4, REVISION)
    unit.memory.store(SHADOW, 4, 1 << 31 | REVISION)
    return unit


@pytest.fixture
def unit():
    """In VMX operation, without a current VMCS."""
    one = make()
    assert one.vmxon(ON) == SUCCEED
    return one


@pytest.fixture
def loaded(unit):
    assert unit.vmptrld(A) == SUCCEED
    return unit


def error(result):
    assert result.status is VmStatus.FAIL_VALID
    return result.error


# VMXON, VMXOFF


def test_vmxon_and_vmxoff():
    unit = make()
    assert not unit.in_operation
    assert unit.vmxon(ON) == SUCCEED
    assert unit.in_operation
    assert unit.vmptrst() == NO_POINTER
    unit.vmptrld(A)
    assert unit.vmxoff() == SUCCEED
    assert not unit.in_operation
    assert unit.vmxon(ON) == SUCCEED
    assert unit.vmptrst() == NO_POINTER


@pytest.mark.parametrize("pointer", [UNALIGNED, BEYOND | ON, SHADOW, 0x5000, 0xF0_0000])
def test_vmxon_with_a_bad_region(pointer):
    unit = make()
    assert unit.vmxon(pointer) == FAIL_INVALID
    assert not unit.in_operation


def test_vmxon_in_root_operation(unit):
    assert unit.vmxon(ON) == FAIL_INVALID
    unit.vmptrld(A)
    assert error(unit.vmxon(UNALIGNED)) == 15
    assert unit.current.read(f.VM_INSTRUCTION_ERROR) == 15


# VMCLEAR, VMPTRLD, VMPTRST


@pytest.mark.parametrize(
    ("pointer", "number"), [(UNALIGNED, 2), (BEYOND | A, 2), (ON, 3), (1 << 63, 2)]
)
def test_vmclear_errors(unit, pointer, number):
    assert unit.vmclear(pointer) == FAIL_INVALID
    unit.vmptrld(A)
    assert error(unit.vmclear(pointer)) == number
    assert unit.current_pointer == A


def test_vmclear(loaded):
    loaded.set_launched()
    assert loaded.vmclear(B) == SUCCEED
    assert loaded.vmptrst() == A
    assert loaded.vmclear(A) == SUCCEED
    assert loaded.vmptrst() == NO_POINTER
    loaded.vmptrld(A)
    assert not loaded.current.is_launched


def test_vmclear_needs_no_revision(unit):
    assert unit.vmclear(0x7000) == SUCCEED


@pytest.mark.parametrize(
    ("pointer", "number"), [(UNALIGNED, 9), (BEYOND | A, 9), (ON, 10), (0x5000, 11), (0x1F0000, 11)]
)
def test_vmptrld_errors(unit, pointer, number):
    assert unit.vmptrld(pointer) == FAIL_INVALID
    unit.vmptrld(A)
    assert error(unit.vmptrld(pointer)) == number
    assert unit.current_pointer == A


def test_vmptrld_of_a_shadow_vmcs_needs_shadowing():
    for profile, number in (("default", 0), ("sandybridge", 11)):
        unit = make(profile)
        unit.vmxon(ON)
        unit.vmptrld(A)
        assert unit.vmptrld(SHADOW).error == number


def test_vmcss_keep_their_fields(loaded):
    loaded.vmwrite(f.GUEST_RIP.encoding, 1)
    loaded.vmptrld(B)
    loaded.vmwrite(f.GUEST_RIP.encoding, 2)
    loaded.vmptrld(A)
    assert loaded.vmread(f.GUEST_RIP.encoding) == 1
    loaded.vmxoff()
    loaded.vmxon(ON)
    loaded.vmptrld(B)
    assert loaded.vmread(f.GUEST_RIP.encoding) == 2


def test_garbage_in_a_region_is_cut_to_the_fields(unit):
    unit.memory.write(B + 4, b"\xff" * 4092)
    unit.vmclear(B)
    unit.vmptrld(B)
    for encoding, access in unit.capabilities.accesses.items():
        assert unit.vmread(encoding) == access.mask
    assert unit.current.slots[f.GUEST_ES_SELECTOR.slot] == 0xFFFF


# VMREAD, VMWRITE


def test_vmread_and_vmwrite_without_a_vmcs(unit):
    assert unit.vmread(f.GUEST_RIP.encoding) == FAIL_INVALID
    assert unit.vmwrite(f.GUEST_RIP.encoding, 0) == FAIL_INVALID
    assert unit.vmread(0x7777) == FAIL_INVALID


@pytest.mark.parametrize("profile", ["default", "minimal", str(EVERYTHING)])
def test_every_field_reads_back_what_was_written(profile):
    unit = make(profile)
    unit.vmxon(ON)
    unit.vmptrld(A)
    pattern = 0x5A5A_1234_A5A5_9876
    for encoding, access in unit.capabilities.accesses.items():
        result = unit.vmwrite(encoding, pattern)
        if access.field.is_read_only and not unit.capabilities.writable_exit_information:
            assert error(result) == 13
            continue
        assert result == SUCCEED
        assert unit.vmread(encoding) == pattern & access.mask


@pytest.mark.parametrize("profile", ["default", "minimal"])
def test_unsupported_components(profile):
    unit = make(profile)
    unit.vmxon(ON)
    unit.vmptrld(A)
    known = unit.capabilities.accesses
    for encoding in [*range(0x8000), 1 << 15, 1 << 32 | 0x681E, 2**64 - 1]:
        if encoding in known:
            assert isinstance(unit.vmread(encoding), int)
        else:
            assert error(unit.vmread(encoding)) == 12
            assert error(unit.vmwrite(encoding, 0)) == 12


def test_vmread_of_the_error_field(loaded):
    loaded.vmread(0x7FFE)
    assert loaded.vmread(f.VM_INSTRUCTION_ERROR.encoding) == 12
    loaded.vmwrite(f.GUEST_RIP.encoding, 0)
    assert loaded.vmread(f.VM_INSTRUCTION_ERROR.encoding) == 12


# VMLAUNCH, VMRESUME


def precondition(unit, *, launch, mov_ss=False):
    return unit.entry_precondition(is_launch=launch, is_blocked_by_mov_ss=mov_ss)


def test_vm_entry_preconditions(unit):
    assert precondition(unit, launch=True) == FAIL_INVALID
    unit.vmptrld(A)
    assert error(precondition(unit, launch=False)) == 5
    assert precondition(unit, launch=True) is None
    assert error(precondition(unit, launch=True, mov_ss=True)) == 26
    unit.set_launched()
    assert error(precondition(unit, launch=True)) == 4
    assert precondition(unit, launch=False) is None
    assert error(precondition(unit, launch=False, mov_ss=True)) == 26


def test_a_shadow_vmcs_cannot_be_entered(unit):
    unit.vmptrld(SHADOW)
    assert precondition(unit, launch=True) == FAIL_INVALID


@pytest.mark.parametrize(("profile", "number"), [("default", 0), (str(EVERYTHING), 6)])
def test_vmresume_after_vmxoff(profile, number):
    unit = make(profile)
    unit.vmxon(ON)
    unit.vmptrld(A)
    unit.set_launched()
    unit.vmxoff()
    unit.vmxon(ON)
    unit.vmptrld(A)
    result = precondition(unit, launch=False)
    assert (result.error if result else 0) == number


def test_vmcall_in_root(unit):
    assert unit.vmcall_in_root() == FAIL_INVALID
    unit.vmptrld(A)
    assert error(unit.vmcall_in_root()) == 1


# INVEPT, INVVPID


@pytest.mark.parametrize(
    ("kind", "eptp", "reserved", "number"),
    [
        (1, 0x501E, 0, 0),
        (2, 0, 0, 0),
        (2, 0xFFFF, 0, 0),
        (0, 0x501E, 0, 28),
        (3, 0x501E, 0, 28),
        (1 << 32 | 1, 0x501E, 0, 28),
        (1, 0x501F, 0, 28),
        (1, 0, 0, 28),
        (1, BEYOND | 0x501E, 0, 28),
        (1, 0x501E, 1, 28),
        (2, 0, 1, 28),
    ],
)
def test_invept_operands(loaded, kind, eptp, reserved, number):
    assert loaded.check_invept(kind, eptp, reserved).error == number


@pytest.mark.parametrize(
    ("kind", "descriptor", "address", "number"),
    [
        (0, 1, 0x1000, 0),
        (0, 1, 0xFFFF_8000_0000_0000, 0),
        (0, 0, 0x1000, 28),
        (0, 1, 0x8000_0000_0000, 28),
        (0, 0x1_0001, 0, 28),
        (1, 5, 1 << 60, 0),
        (1, 0, 0, 28),
        (2, 0, 0, 0),
        (2, 7, 0, 0),
        (2, 0x1_0000, 0, 28),
        (3, 1, 0, 0),
        (3, 0, 0, 28),
        (4, 1, 0, 28),
        (1 << 32, 1, 0, 28),
    ],
)
def test_invvpid_operands(loaded, kind, descriptor, address, number):
    assert loaded.check_invvpid(kind, descriptor, address).error == number


def test_types_are_refused_without_their_descriptors(loaded):
    assert [loaded.refuse_invept_type(kind) is None for kind in range(4)] == [
        False,
        True,
        True,
        False,
    ]
    assert all(loaded.refuse_invvpid_type(kind) is None for kind in range(4))
    assert error(loaded.refuse_invvpid_type(4)) == 28
    assert error(loaded.refuse_invept_type(-1)) == 28


def test_invalidations_without_a_vmcs_or_type(unit):
    assert unit.check_invept(0, 0) == FAIL_INVALID
    assert unit.check_invvpid(9, 1, 0) == FAIL_INVALID
    less = make("minimal")
    less.vmxon(ON)
    less.vmptrld(A)
    assert error(less.check_invept(2, 0)) == 28
    assert error(less.check_invvpid(2, 0, 0)) == 28


# VMFUNC


@pytest.fixture
def switching(loaded):
    vmcs = loaded.current
    vmcs.write(f.PRIMARY_CONTROLS, Primary.ACTIVATE_SECONDARY_CONTROLS)
    vmcs.write(f.SECONDARY_CONTROLS, Secondary.ENABLE_VM_FUNCTIONS)
    vmcs.write(f.VM_FUNCTION_CONTROLS, 1)
    vmcs.write(f.EPTP_LIST_ADDRESS, 0x8000)
    vmcs.write(f.EPTP, 0x501E)
    loaded.memory.store(0x8000 + 8 * 511, 8, 0x601E)
    return loaded


def test_eptp_switching(switching):
    assert switching.vmfunc(0, 511) == 0x601E
    assert switching.current.read(f.EPTP) == 0x601E
    assert switching.current.read(f.EPTP_INDEX) == 511


@pytest.mark.parametrize(
    ("function", "index", "expected"),
    [
        (0, 512, Outcome.EXIT),
        (0, 0, Outcome.EXIT),
        (1, 511, Outcome.EXIT),
        (63, 511, Outcome.EXIT),
        (64, 511, Outcome.UD),
        (0xFFFF_FFFF, 0, Outcome.UD),
    ],
)
def test_vmfunc_that_fails_changes_nothing(switching, function, index, expected):
    assert switching.vmfunc(function, index) is expected
    assert switching.current.read(f.EPTP) == 0x501E


def test_vmfunc_that_is_not_enabled(switching):
    switching.current.write(f.VM_FUNCTION_CONTROLS, 0)
    assert switching.vmfunc(0, 511) is Outcome.EXIT
    switching.current.write(f.SECONDARY_CONTROLS, 0)
    assert switching.vmfunc(0, 511) is Outcome.UD
    switching.current.write(f.SECONDARY_CONTROLS, Secondary.ENABLE_VM_FUNCTIONS)
    switching.current.write(f.PRIMARY_CONTROLS, 0)
    assert switching.vmfunc(0, 511) is Outcome.UD


# VMCS shadowing


@pytest.fixture
def shadowing(loaded):
    vmcs = loaded.current
    vmcs.write(f.PRIMARY_CONTROLS, Primary.ACTIVATE_SECONDARY_CONTROLS)
    vmcs.write(f.SECONDARY_CONTROLS, Secondary.VMCS_SHADOWING)
    vmcs.write(f.VMREAD_BITMAP, 0x8000)
    vmcs.write(f.VMWRITE_BITMAP, 0x9000)
    vmcs.write(f.VMCS_LINK_POINTER, SHADOW)
    return loaded


def test_shadow_accesses_follow_the_bitmaps(shadowing):
    rip = f.GUEST_RIP.encoding
    assert not shadowing.shadow_access_exits(rip, is_write=False)
    shadowing.memory.write(0x8000 + rip // 8, bytes([1 << rip % 8]))
    assert shadowing.shadow_access_exits(rip, is_write=False)
    assert not shadowing.shadow_access_exits(rip, is_write=True)
    assert not shadowing.shadow_access_exits(rip ^ 1, is_write=False)
    assert shadowing.shadow_access_exits(rip | 1 << 15, is_write=True)
    assert shadowing.shadow_access_exits(rip | 1 << 40, is_write=True)


def test_without_the_control_every_access_exits(shadowing):
    shadowing.current.write(f.SECONDARY_CONTROLS, 0)
    assert shadowing.shadow_access_exits(f.GUEST_RIP.encoding, is_write=False)
    shadowing.current.write(f.SECONDARY_CONTROLS, Secondary.VMCS_SHADOWING)
    shadowing.current.write(f.PRIMARY_CONTROLS, 0)
    assert shadowing.shadow_access_exits(f.GUEST_RIP.encoding, is_write=False)


def test_shadow_accesses_reach_the_linked_vmcs(shadowing):
    rip = f.GUEST_RIP.encoding
    assert shadowing.shadow_vmwrite(rip, 0x77) == SUCCEED
    assert shadowing.shadow_vmread(rip) == 0x77
    assert shadowing.current_pointer == A
    assert shadowing.vmread(rip) == 0


def test_errors_of_shadow_accesses_are_in_the_current_vmcs(shadowing):
    shadowing.fail(2)
    assert error(shadowing.shadow_vmread(0x7FFE)) == 12
    assert shadowing.vmread(f.VM_INSTRUCTION_ERROR.encoding) == 12
    assert error(shadowing.shadow_vmwrite(0x7FFE, 0)) == 12
    assert shadowing.shadow_vmread(f.VM_INSTRUCTION_ERROR.encoding) == 0


def test_shadow_accesses_without_a_link(shadowing):
    shadowing.current.write(f.VMCS_LINK_POINTER, NO_POINTER)
    assert shadowing.shadow_vmread(f.GUEST_RIP.encoding) == FAIL_INVALID
    assert shadowing.shadow_vmwrite(f.GUEST_RIP.encoding, 0) == FAIL_INVALID
