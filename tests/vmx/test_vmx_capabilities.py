import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vmx_support import EVERYTHING, capabilities

from turducken.arch import msr
from turducken.vmx import vmcs_fields as f
from turducken.vmx.capabilities import AllowedSettings, Capabilities, profile_facts
from turducken.vmx.capability_msrs import BASIC, EPT_CAPABILITIES, EPT_VPID_CAP, MISC, profile_msrs
from turducken.vmx.controls import (
    CONTROL_SETS,
    DEPENDENCIES,
    Primary,
    Secondary,
    control_bit,
)
from turducken.vmx.profile import list_profiles, load_profile
from turducken.vmx.restrict import Limits, restrict

NAMES = [*list_profiles(), str(EVERYTHING)]
PAIRS = {
    msr.IA32_VMX_PINBASED_CTLS: (msr.IA32_VMX_TRUE_PINBASED_CTLS, "pin"),
    msr.IA32_VMX_PROCBASED_CTLS: (msr.IA32_VMX_TRUE_PROCBASED_CTLS, "primary"),
    msr.IA32_VMX_EXIT_CTLS: (msr.IA32_VMX_TRUE_EXIT_CTLS, "exit"),
    msr.IA32_VMX_ENTRY_CTLS: (msr.IA32_VMX_TRUE_ENTRY_CTLS, "entry"),
}


@pytest.fixture(params=NAMES, ids=lambda name: name.rpartition("/")[2])
def caps(request):
    return capabilities(request.param)


def test_values_of_real_processors():
    """What Core i7-4770 and others report, as far as the profile offers what they have."""
    msrs = capabilities("haswell").msrs
    assert msrs[msr.IA32_VMX_BASIC] & 0x00DF_E000_7FFF_FFFF == 0x00D8_0000_0000_0012
    assert msrs[msr.IA32_VMX_PINBASED_CTLS] == 0x0000_007F_0000_0016
    assert msrs[msr.IA32_VMX_PROCBASED_CTLS] == 0xFFF9_FFFE_0401_E172
    assert msrs[msr.IA32_VMX_TRUE_PROCBASED_CTLS] == 0xFFF9_FFFE_0400_6172
    assert msrs[msr.IA32_VMX_EXIT_CTLS] == 0x007F_EFFF_0003_6DFF
    assert msrs[msr.IA32_VMX_TRUE_EXIT_CTLS] == 0x007F_EFFF_0003_6DFB
    assert msrs[msr.IA32_VMX_ENTRY_CTLS] == 0x0000_D3FF_0000_11FF
    assert msrs[msr.IA32_VMX_TRUE_ENTRY_CTLS] == 0x0000_D3FF_0000_11FB
    assert msrs[msr.IA32_VMX_EPT_VPID_CAP] == 0x0000_0F01_0633_4141
    assert msrs[msr.IA32_VMX_CR0_FIXED0] == 0x8000_0021
    assert msrs[msr.IA32_VMX_CR0_FIXED1] == 0xFFFF_FFFF
    assert msrs[msr.IA32_VMX_CR4_FIXED0] == 0x2000
    assert msrs[msr.IA32_VMX_CR4_FIXED1] == 0x1727FF
    assert msrs[msr.IA32_VMX_MISC] == 0x6004_01E5
    assert msrs[msr.IA32_VMX_VMFUNC] == 1


def test_basic(caps):
    basic = BASIC.decode(caps.msrs[msr.IA32_VMX_BASIC])
    assert 0 < basic["SIZE"] <= 4096
    assert basic["MEMORY_TYPE"] == 6
    assert basic["REVISION"] == caps.revision
    assert basic["ADDRESSES_32BIT"] == 0


def test_which_msrs_exist(caps):
    msrs = caps.msrs
    always = {*range(0x480, 0x48B)}
    assert always <= set(msrs) <= {*range(0x480, 0x492)}
    true_controls = bool(BASIC["TRUE_CONTROLS"].get(msrs[msr.IA32_VMX_BASIC]))
    assert {*range(0x48D, 0x491)} & set(msrs) == (
        {*range(0x48D, 0x491)} if true_controls else set()
    )
    secondary = caps.primary.allowed1 & Primary.ACTIVATE_SECONDARY_CONTROLS
    assert (msr.IA32_VMX_PROCBASED_CTLS2 in msrs) == bool(secondary)
    tagged = caps.secondary.allowed1 & (Secondary.ENABLE_EPT | Secondary.ENABLE_VPID)
    assert (msr.IA32_VMX_EPT_VPID_CAP in msrs) == bool(tagged)
    functions = caps.secondary.allowed1 & Secondary.ENABLE_VM_FUNCTIONS
    assert (msr.IA32_VMX_VMFUNC in msrs) == bool(functions)


@pytest.mark.parametrize("plain", PAIRS)
def test_control_msrs(caps, plain):
    true, key = PAIRS[plain]
    word = CONTROL_SETS[key]
    fixed1, allowed1 = caps.msrs[plain] & 0xFFFF_FFFF, caps.msrs[plain] >> 32
    assert fixed1 == word.default1
    assert not fixed1 & ~allowed1
    settings = getattr(caps, key)
    if true in caps.msrs:
        assert caps.msrs[true] >> 32 == allowed1
        assert not settings.fixed1 & ~fixed1
        assert settings.fixed1 == caps.msrs[true] & 0xFFFF_FFFF
        assert settings.fixed1 & word.reserved1 == word.reserved1
    else:
        assert settings.fixed1 == fixed1
    assert settings.allowed1 == allowed1


def test_no_capability_sets_a_reserved_bit(caps):
    assert not caps.msrs[msr.IA32_VMX_MISC] & MISC.reserved_mask
    assert not caps.ept_vpid & EPT_VPID_CAP.reserved_mask
    for key, word in CONTROL_SETS.items():
        assert not getattr(caps, key).allowed1 & ~(word.named | word.default1)


def test_enumeration_has_the_highest_index(caps):
    highest = max(access.field.encoding & 0x3FE for access in caps.accesses.values())
    assert caps.msrs[msr.IA32_VMX_VMCS_ENUM] == highest


def test_minimal_has_nothing_optional():
    caps = capabilities("minimal")
    assert not caps.secondary.allowed1
    assert not caps.ept_vpid
    assert caps.activity_states == 1
    assert not caps.writable_exit_information
    assert capabilities().activity_states == 0b1111


@given(st.integers(0, 2**32 - 1))
def test_accepts_and_adjust(value):
    settings = AllowedSettings(fixed1=0x16, allowed1=0x7F)
    naive = all(
        (value >> n & 1) in ({1} if 0x16 >> n & 1 else {0, 1} if 0x7F >> n & 1 else {0})
        for n in range(32)
    )
    assert settings.accepts(value) == naive
    assert settings.accepts(settings.adjust(value))


@pytest.mark.parametrize(
    ("profile", "eptp", "valid"),
    [
        ("default", 0x501E, True),
        ("default", 0x5018, True),
        ("default", 0x505E, True),
        ("sandybridge", 0x505E, False),
        ("default", 0x5019, False),
        ("default", 0x501F, False),
        ("default", 0x5016, False),
        ("default", 0x5026, False),
        ("default", 0x509E, False),
        ("default", 0x581E, False),
        ("default", 1 << 46 | 0x1E, False),
        ("default", 1 << 45 | 0x1E, True),
        ("haswell", 1 << 39 | 0x1E, False),
        ("minimal", 0x501E, False),
    ],
)
def test_eptp(profile, eptp, valid):
    assert capabilities(profile).accepts_eptp(eptp) is valid


def test_cr0_and_cr4():
    caps = capabilities("default")
    assert caps.accepts_cr0(0x8000_0021)
    assert caps.accepts_cr0(0xE000_0021)
    assert not caps.accepts_cr0(0x21)
    assert caps.accepts_cr0(0x20, unrestricted=True)
    assert not caps.accepts_cr0(0, unrestricted=True)
    assert not caps.accepts_cr0(1 << 32 | 0x8000_0021)
    assert caps.accepts_cr4(0x2020)
    assert not caps.accepts_cr4(0x20)
    assert not caps.accepts_cr4(1 << 23 | 0x2000)


@given(st.integers(0, 2**64 - 1))
def test_canonical(address):
    signed = address & (2**48 - 1)
    signed -= 2**48 if signed >> 47 else 0
    assert capabilities("default").is_canonical(address) == (signed % 2**64 == address)


# Restriction


def test_restricting_nothing_changes_nothing(caps):
    assert restrict(caps, Limits()).msrs == caps.msrs


def test_what_depends_on_ept_goes_with_it():
    caps = restrict(capabilities(), Limits(secondary=~Secondary.ENABLE_EPT))
    gone = (
        Secondary.UNRESTRICTED_GUEST
        | Secondary.ENABLE_PML
        | Secondary.EPT_VIOLATION_VE
        | Secondary.MODE_BASED_EXECUTE
    )
    assert not caps.secondary.allowed1 & gone
    assert not caps.ept_vpid & EPT_CAPABILITIES
    assert caps.ept_vpid
    assert not caps.vm_functions.allowed1
    assert f.EPTP.encoding not in caps.accesses


def test_hiding_accessed_and_dirty_flags():
    caps = restrict(capabilities(), Limits(ept_vpid=~EPT_VPID_CAP.mask("ACCESSED_DIRTY")))
    assert not caps.accepts_eptp(0x505E)
    assert caps.accepts_eptp(0x501E)
    assert not caps.secondary.allowed1 & Secondary.ENABLE_PML


def test_default1_controls_stay():
    caps = restrict(capabilities(), Limits(pin=0, primary=0, exit=0, entry=0))
    for key in ("pin", "primary", "exit", "entry"):
        assert getattr(caps, key).allowed1 == CONTROL_SETS[key].default1
    assert not caps.secondary.allowed1
    assert caps.cpu == capabilities().cpu


def test_without_true_controls():
    caps = restrict(capabilities(), Limits(basic=~BASIC.mask("TRUE_CONTROLS")))
    assert not {*range(0x48D, 0x491)} & set(caps.msrs)
    assert caps.primary.fixed1 == CONTROL_SETS["primary"].default1


MASK = st.integers(0, 2**64 - 1)


@given(MASK, MASK, MASK, MASK, MASK)
def test_restriction_takes_away_only_and_stays_consistent(pin, primary, secondary, exits, ept_vpid):
    caps = capabilities()
    limits = Limits(pin=pin, primary=primary, secondary=secondary, exit=exits, ept_vpid=ept_vpid)
    less = restrict(caps, limits)
    assert set(less.msrs) <= set(caps.msrs)
    assert set(less.accesses) <= set(caps.accesses)
    assert not less.ept_vpid & ~(caps.ept_vpid & ept_vpid)
    for key in CONTROL_SETS:
        assert not getattr(less, key).allowed1 & ~getattr(caps, key).allowed1
    for needing, needed in DEPENDENCIES:
        (word, mask), (other, bit) = control_bit(needing), control_bit(needed)
        if getattr(less, word).allowed1 & mask:
            assert getattr(less, other).allowed1 & bit
    assert restrict(less, Limits()).msrs == less.msrs


def test_a_hypervisor_can_make_capabilities_from_what_it_reads():
    profile = load_profile()
    made = Capabilities(profile_msrs(profile), profile_facts(profile))
    assert made.msrs == Capabilities.from_profile(profile).msrs
    assert dataclasses.replace(made.cpu) == made.cpu
