"""What a profile can offer is refused when it is read, or there is code that asks for it.

The walk is over declarations: every control, every key of the records, every capability bit. What
counts as code that asks is an attribute or a string of that name in the machine's own modules.
"""

import ast
from dataclasses import fields, replace
from pathlib import Path

import pytest

import turducken
from turducken.vmx import profile_rules
from turducken.vmx.capability_msrs import EPT_VPID_CAP, MISC
from turducken.vmx.controls import CONTROL_SETS
from turducken.vmx.profile import ProfileError, Setting, load_profile
from turducken.vmx.profile_records import Choices, Cpu, Ept, Features, Misc, Profile, Vpid
from turducken.vmx.profile_rules import NOT_MODELLED, check_modelled

SOURCE = Path(turducken.__file__).parent
MACHINE = ("cpu", "mmu", "machine", "devices")
CHECKS = ("vmx/checks", "vmx/capabilities.py", "vmx/instructions.py", "vmx/gates.py")
RECORDS = {
    "cpu": Cpu,
    "features": Features,
    "vmx.misc": Misc,
    "vmx.ept": Ept,
    "vmx.vpid": Vpid,
    "vmx.choices": Choices,
}
ONLY_REPORTED = {
    "features.erms": "a promise of speed",
    "vmx.vpid.invvpid": "gates ask for the capability bit",
    "vmx.ept.invept": "gates ask for the capability bit",
    "features.prefetchw": "without it the same bytes are a NOP",
    "vmx.misc.true_controls": "whether four capability MSRs exist",
    "vmx.misc.activity_shutdown": "read with the other activity states",
    "vmx.misc.activity_wait_for_sipi": "read with the other activity states",
    "vmx.ept.walk_length_4": "cannot be false where there is EPT",
}
"""Keys that only CPUID or a capability MSR has to do with, and why that is all there is to do."""


def names_in(folders: tuple[str, ...]) -> frozenset[str]:
    """Return every name, attribute, keyword and word of a string in the modules of the folders."""
    found: set[str] = set()
    for folder in folders:
        place = SOURCE / folder
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if path.name == "cpuid.py" and path != place:
                continue  # it reports; somebody else has to ask
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute):
                    found.add(node.attr)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return frozenset(found)


ASKED = names_in(MACHINE)
REPORTED = names_in(("cpu/cpuid.py",))
CHECKED = names_in(CHECKS)


def keys() -> list[str]:
    """Return every key of a profile's file that can be true, or a number."""
    plain = [f"{table}.{one.name}" for table, kind in RECORDS.items() for one in fields(kind)]
    controls = [
        f"vmx.controls.{word}.{name.lower()}"
        for word, one in CONTROL_SETS.items()
        for name in one.masks
    ]
    return plain + controls


def is_asked_for(key: str, asked: frozenset[str] = ASKED) -> bool:
    if key in ONLY_REPORTED:
        return True
    name = key.rpartition(".")[2]
    if key.startswith("vmx.controls."):
        return name.upper() in (asked | CHECKED if ".vm_functions." in key else asked)
    if key.startswith(("vmx.ept.", "vmx.vpid.", "vmx.misc.", "vmx.choices.")):
        return name in asked | CHECKED or name.upper() in asked | CHECKED
    if key.startswith("cpu."):
        return name in asked | REPORTED
    return name in asked


@pytest.mark.parametrize("key", keys())
def test_what_can_be_offered_is_refused_or_asked_for(key: str) -> None:
    assert key in NOT_MODELLED or is_asked_for(key)


def test_the_walk_would_find_something_that_nobody_asks_for() -> None:
    assert not is_asked_for("vmx.controls.secondary.enable_ept", frozenset())
    assert not is_asked_for("features.smep", ASKED - {"smep"})


def offering(key: str) -> Profile:
    """Return the default profile with one more key true."""
    profile = load_profile()
    table, _, name = key.rpartition(".")
    word = table.removeprefix("vmx.controls.")
    if word in CONTROL_SETS:
        settings = {**profile.controls[word], name.upper(): Setting.OPTIONAL}
        return replace(profile, controls={**profile.controls, word: settings})
    attribute = table.removeprefix("vmx.")
    return replace(profile, **{attribute: replace(getattr(profile, attribute), **{name: True})})


@pytest.mark.parametrize("key", NOT_MODELLED)
def test_what_is_not_modelled_cannot_be_offered(key: str) -> None:
    with pytest.raises(ProfileError, match=f": {key}: not modelled: {NOT_MODELLED[key]}"):
        check_modelled(offering(key))


def test_a_user_who_asks_for_avx_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "default"\n[features]\navx = true\n')
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path}: features.avx: not modelled: ")
    assert "\n" not in str(caught.value)


def test_every_refusal_names_a_key_of_the_file() -> None:
    assert set(profile_rules.NOT_MODELLED) <= set(keys())


def test_every_capability_bit_has_a_key_or_is_never_reported() -> None:
    """IA32_VMX_MISC and IA32_VMX_EPT_VPID_CAP report nothing that no key of a profile offers."""
    profile = load_profile()
    named = {one.name.upper() for kind in (Misc, Ept, Vpid) for one in fields(kind)}
    never = {"INTEL_PT", "VMXOFF_SMI", "MSEG_REVISION"}
    for layout in (MISC, EPT_VPID_CAP):
        assert set(layout.decode(0)) <= named | never
    assert not MISC.decode(profile_msr(profile, 0x485)).keys() & never - set(MISC.decode(0))
    assert all(MISC[name].get(profile_msr(profile, 0x485)) == 0 for name in never)


def profile_msr(profile: Profile, index: int) -> int:
    from turducken.vmx.capability_msrs import profile_msrs

    return profile_msrs(profile)[index]
