import pytest
from hypothesis import given
from hypothesis import strategies as st
from vmx_support import capabilities

from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs_fields import ACCESSES, ENCODING, FIELDS, FieldKind, VmcsField, Width

NAMED = {name: one for name, one in vars(f).items() if isinstance(one, VmcsField)}


def test_every_field_is_a_constant_and_in_the_table_once():
    assert {one.encoding for one in NAMED.values()} == set(FIELDS)
    assert len(NAMED) == len(FIELDS)


@pytest.mark.parametrize("field", FIELDS.values(), ids=lambda one: one.name)
def test_encoding_says_what_the_field_is(field):
    parts = ENCODING.decode(field.encoding)
    assert parts["HIGH"] == 0
    assert Width(parts["WIDTH"]) is field.width
    assert FieldKind(parts["KIND"]) is field.kind
    assert not field.encoding & ENCODING.reserved_mask
    assert f.encode(field.width, field.kind, parts["INDEX"]) == field.encoding
    assert field.mask == (1 << field.width.bits) - 1
    assert field.is_read_only == (field.kind is FieldKind.EXIT_INFORMATION)


def test_names_say_the_kind():
    for one in FIELDS.values():
        if one.name.startswith("Host "):
            assert one.kind is FieldKind.HOST
        if one.name.startswith("Guest ") and "address" not in one.name:
            assert one.kind is FieldKind.GUEST


def test_slots_are_distinct_and_each_kind_is_one_run():
    for kind, run in f.SLOT_RUNS.items():
        assert sorted(one.slot for one in FIELDS.values() if one.kind is kind) == list(run)
    assert min(one.slot for one in FIELDS.values()) > f.LAUNCH_SLOT
    assert f.END_SLOT * 8 <= 4096
    for one in FIELDS.values():
        assert f.SLOT_MASKS[one.slot] == one.mask


def test_high_accesses_exist_for_64_bit_fields_only():
    for encoding, access in ACCESSES.items():
        assert access.is_high == bool(encoding & 1)
        assert access.field is FIELDS[encoding & ~1]
        assert not access.is_high or access.field.width is Width.QUAD
    quads = sum(one.has_high for one in FIELDS.values())
    assert len(ACCESSES) == len(FIELDS) + quads


def test_the_segments_fields_are_their_own():
    for one in f.GUEST_SEGMENTS:
        for field in (one.selector, one.base, one.limit, one.access_rights):
            assert field.name.startswith(f"Guest {one.name} ")


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        (0x0000, "Virtual-processor identifier (VPID)"),
        (0x0802, "Guest CS selector"),
        (0x0C0C, "Host TR selector"),
        (0x201A, "EPT pointer (EPTP)"),
        (0x2400, "Guest-physical address"),
        (0x2800, "VMCS link pointer"),
        (0x2C00, "Host IA32_PAT"),
        (0x4016, "VM-entry interruption-information field"),
        (0x4402, "Exit reason"),
        (0x482E, "VMX-preemption timer value"),
        (0x6402, "I/O RCX"),
        (0x681E, "Guest RIP"),
        (0x6C16, "Host RIP"),
    ],
)
def test_encodings_of_the_manual(encoding, name):
    assert FIELDS[encoding].name == name


@pytest.mark.parametrize(
    ("profile", "present", "absent"),
    [
        ("default", (f.EPTP, f.VPID, f.PML_ADDRESS, f.TSC_MULTIPLIER), (f.GUEST_BNDCFGS,)),
        ("haswell", (f.EPTP_LIST_ADDRESS, f.VMREAD_BITMAP), (f.PML_INDEX, f.EPTP_INDEX)),
        ("sandybridge", (f.EPTP, f.GUEST_PDPTE0), (f.EPTP_LIST_ADDRESS, f.VMREAD_BITMAP)),
        (
            "minimal",
            (f.CR3_TARGET_VALUE_3, f.GUEST_DEBUGCTL, f.EXECUTIVE_VMCS_POINTER),
            (f.EPTP, f.SECONDARY_CONTROLS, f.MSR_BITMAPS, f.GUEST_EFER, f.TPR_THRESHOLD),
        ),
    ],
)
def test_fields_exist_with_their_capability(profile, present, absent):
    caps = capabilities(profile)
    assert all(one.exists(caps) for one in present)
    assert not any(one.exists(caps) for one in absent)
    assert {a.field for a in caps.accesses.values()} == {
        one for one in FIELDS.values() if one.exists(caps)
    }


@given(st.sampled_from(Width), st.sampled_from(FieldKind), st.integers(0, 511))
def test_encode_and_decode_agree(width, kind, index):
    parts = ENCODING.decode(f.encode(width, kind, index))
    assert parts == {"HIGH": 0, "INDEX": index, "KIND": kind, "WIDTH": width}
